"""Rewrites that change no result and make the axes of a graph free, before the analysis sees it."""
