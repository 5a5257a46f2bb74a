"""Moments of what contractions read, and what can be solved from them."""
