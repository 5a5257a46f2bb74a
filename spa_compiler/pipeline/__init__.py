"""Passes, their state, the text form of pipelines, and the options that stand for them."""
