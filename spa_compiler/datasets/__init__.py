"""Inputs that people have: files, folders, scripts and Python objects, read row by row as a model takes them."""
