"""A model file behind one door: reading, checking, the graph and its bodies, names, symbols, editing, writing."""
