"""The derivative of a graph as a graph."""
