"""Edits of weights that nothing else reads: the copy of a model in which linear maps are folded.

edit = WeightEdit(graph)
if edit.is_own(tensor): edit.write({tensor.name: 2 * edit.read(tensor)})
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.analysis.channel_rows import EXACT_TYPES
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.ir.control_flow import is_control, is_marker
from spa_compiler.ir.model import find_element_type, make_constant
from spa_compiler.operators.site import Site, Value

Array = NDArray[Any]
Edits = dict[str, Array]
"""New numbers of constants, by name."""


class WeightEdit:
    """The copy of the model, as far as it has been edited."""

    def __init__(self, graph: DependencyGraph) -> None:
        self.graph, self.model = graph, graph.model.copy()
        self.sites = {id(n): s for n, s in zip(self.model.graph.nodes, graph.sites, strict=True)}
        self.fixed = {t.name for t in self.model.graph.outputs} | set(self.model.captured)
        self.tied = set(self.model.copies) | set(self.model.copies.values())

    def find_site(self, node: gs.Node) -> Site | None:
        """The site of a node of the main graph that this edit has not made."""
        site = self.sites.get(id(node))
        return site if site is not None and not site.path and not (is_marker(node) or is_control(node)) else None

    def is_own(self, t: gs.Tensor) -> bool:
        """Is it a constant with a fraction that one node reads, and nothing else?"""
        is_used_once = len(t.outputs) == 1 and t.name not in self.fixed and t.name not in self.tied
        return isinstance(t, gs.Constant) and is_used_once and find_element_type(t) in EXACT_TYPES

    def is_passed_on(self, t: gs.Tensor) -> bool:
        """Is it a computed value that one input of one node reads, and nothing else?"""
        is_computed = not isinstance(t, gs.Constant) and len(t.inputs) == 1
        return is_computed and len(t.outputs) == 1 and t.name not in self.fixed

    def read(self, t: gs.Constant) -> Array:
        """Its numbers, in double precision."""
        return np.asarray(self.model.array(t), np.float64)

    def round(self, edits: Edits | None) -> Edits | None:
        """New numbers in the types that the constants have; None where one overflows."""
        tensors = self.model.constants() if edits else {}
        with np.errstate(over="ignore"):
            made = {n: a.astype(np.asarray(self.model.array(tensors[n])).dtype) for n, a in (edits or {}).items()}
        return made if made and all(np.isfinite(a).all() for a in made.values()) else None

    def write(self, edits: Edits) -> None:
        """Give constants other numbers."""
        tensors = self.model.constants()
        for name, array in edits.items():
            tensors[name]._values = make_constant(name, array)._values

    def drop(self, *nodes: gs.Node) -> None:
        """Take nodes out of the graph."""
        gone = {id(n) for n in nodes}
        for node in nodes:
            node.inputs.clear()
            node.outputs.clear()
        self.model.graph.nodes[:] = [n for n in self.model.graph.nodes if id(n) not in gone]


def is_same_size(a: Value, b: Value) -> bool:
    """Have two values the same shape at every size of the inputs?"""
    return len(a.shape) == len(b.shape) and all(a.size(i) == b.size(i) for i in range(len(a.shape)))


def find_axis(site: Site, value: Value | None, axis: int, other: Value | None) -> int | None:
    """The axis of `other` that holds the channels of this axis of a value, by the node's rule; None where none does."""
    for scope in site.scopes:
        rows = {id(v): row for v, _, row in scope.tensors}
        own, held = rows.get(id(value)), rows.get(id(other))
        if own is None or held is None or len(own) <= axis:
            continue
        wide = {n for n, e in scope.env.items() if e.size > 1}
        wanted = own[axis] & wide
        found = [i for i, names in enumerate(held) if wanted and names & wide == wanted]
        if len(found) == 1:
            return found[0]
    return None


__all__ = ["Array", "Edits", "WeightEdit", "find_axis", "is_same_size"]
