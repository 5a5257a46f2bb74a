"""Every branch of an If takes its turn: what random inputs do not reach is not proven by them.

    for choice in choices(model):           # {path of the first branch: is it taken?}
        forced(model, choice)               # the same model with these conditions

An If inside a Loop is left alone. A condition that is left is decided by data; here it becomes a constant, in the
dense, the masked and the pruned model alike.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.model import Model
from spa_compiler.nesting import Chain, chains, is_control, is_marker

Choice = dict[str, bool]


def choices(model: Model) -> list[Choice]:
    """As few choices as reach every branch, nested ones too; none for a model without an If."""
    found = _conditions(model)
    left = {p for paths, _ in found for p in paths}
    out: list[Choice] = []
    while left:
        wanted = left | {c for paths, chain in found if left & set(paths) for c in chain}
        out.append({paths[0]: paths[0] in wanted for paths, _ in found})
        left -= reached(model, out[-1])
    return out


def reached(model: Model, choice: Choice) -> set[str]:
    """The branches that run under a choice."""
    found = _conditions(model)
    refused = {paths[choice[paths[0]]] for paths, _ in found}
    return {p for paths, chain in found for p in paths if p not in refused and not refused & set(chain)}


def _conditions(model: Model) -> list[tuple[list[str], Chain]]:
    """The branches of every If outside of Loops, and what it lies in."""
    return [(paths, chain) for paths, chain, repeated in _ifs(model) if not repeated]


def repeated(model: Model) -> set[str]:
    """Branches of every If inside a Loop: it may decide when the Loop ends, so that forcing it might never end."""
    return {p for paths, _, inside in _ifs(model) if inside for p in paths}


def _ifs(model: Model) -> list[tuple[list[str], Chain, bool]]:
    """The branches of every If, what it lies in, and whether a Loop is among that."""
    nodes = model.graph.nodes
    loops = {p for n in nodes if is_control(n) and n.op == "Loop" for p in n.attrs["paths"]}
    lies = zip(nodes, chains(nodes), strict=True)
    return [(n.attrs["paths"], c, bool(loops & set(c))) for n, c in lies if is_control(n) and n.op == "If"]


def forced(model: Model, choice: Choice) -> Model:
    """A copy of a model in which conditions are what `choice` says."""
    out = model.copy()
    for node in out.graph.nodes:
        path = node.attrs["path"] if is_marker(node) else node.attrs["paths"][0] if is_control(node) else ""
        if path in choice and node.inputs:
            cond = node.inputs[0]
            shape = [1] * len(_shape(model, cond))
            node.inputs[0] = out.new_constant(f"{path}/forced{is_marker(node)}", np.full(shape, choice[path]))
    return out


def _shape(model: Model, cond: gs.Tensor) -> tuple[int, ...]:
    known = model.shapes.shape if model.shapes is not None else {}
    return known.get(cond.name, ())
