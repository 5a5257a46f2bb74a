"""A plan applied to the graph: physically, or as masks that the physical one must equal."""
