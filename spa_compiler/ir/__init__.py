"""A model and its file: reading, checking, the graph and its bodies, names, symbols, editing, writing."""
