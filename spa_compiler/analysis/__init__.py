"""The dependency graph and what follows from it: groups, blocks, costs, dead channels."""
