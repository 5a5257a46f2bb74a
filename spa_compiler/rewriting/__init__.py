"""A plan applied to the graph: by slicing weights, or as the masked model that the result must equal."""
