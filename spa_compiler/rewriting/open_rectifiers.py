"""Rectifiers that change nothing, because no input of the model makes what they read negative, are left out.

found = open_rectifiers(graph, ranges)      # (an edited copy of the model, how many), or None where there are none
"""

from __future__ import annotations

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.value_ranges import Ranges
from spa_compiler.ir.model import Model
from spa_compiler.operators import build


def open_rectifiers(graph: DependencyGraph, ranges: Ranges) -> tuple[Model, int] | None:
    """A copy of the model without the rectifiers that let all pass for inputs within these ranges."""
    at = [k for k, s in enumerate(graph.sites) if s.traits.rectifies and not s.path and ranges.is_untouched(s)]
    if not at:
        return None
    model = graph.model.copy()
    nodes = list(model.graph.nodes)
    for k in at:
        build.replace_node(nodes[k], build.identity(nodes[k].inputs[0]))
    return model, len(at)


__all__ = ["open_rectifiers"]
