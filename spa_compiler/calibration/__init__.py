"""Inputs of the dense model, drawn or given, and how many of them."""
