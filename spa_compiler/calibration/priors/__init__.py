"""Synthetic inputs, one prior per kind of input."""
