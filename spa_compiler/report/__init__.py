"""The report of a run: JSON and terminal."""
