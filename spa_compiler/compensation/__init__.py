"""Updates of the remaining weights that absorb what was removed."""
