"""Choices of branches: each branch of an If is forced once, because random inputs may not reach it.

    for choice in list_choices(model):           # {path of the first branch: is it taken?}
        force_branches(model, choice)               # the same model with these conditions

An If inside a Loop is left alone. A condition that data decides becomes a constant here, in the dense, the masked and
the pruned model alike. What sizes alone decide is not forced: `find_taken` says which branches run at some.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.ir.control_flow import Chain, find_chains, is_control, is_marker
from spa_compiler.ir.model import Model
from spa_compiler.shape_inference.control_flow import find_condition
from spa_compiler.shape_inference.evaluator import evaluate

Choice = dict[str, bool]


def list_choices(model: Model) -> list[Choice]:
    """As few choices as reach every branch, nested ones too; none for a model without an If."""
    found = _list_conditions(model)
    left = {p for paths, _ in found for p in paths}
    out: list[Choice] = []
    while left:
        wanted = left | {c for paths, chain in found if left & set(paths) for c in chain}
        out.append({paths[0]: paths[0] in wanted for paths, _ in found})
        left -= find_reached(model, out[-1])
    return out


def find_reached(model: Model, choice: Choice) -> set[str]:
    """The branches that run under a choice."""
    found = _list_conditions(model)
    refused = {paths[choice[paths[0]]] for paths, _ in found}
    return {p for paths, chain in found for p in paths if p not in refused and not refused & set(chain)}


def _list_conditions(model: Model) -> list[tuple[list[str], Chain]]:
    """The branches of every If outside of Loops that data decides, and what it lies in."""
    return [(f.paths, f.chain) for f in _list_ifs(model) if not f.repeated and not f.by_size]


def find_repeated(model: Model) -> set[str]:
    """Branches of every If inside a Loop: it may decide when the Loop ends, so that forcing it might never end."""
    return {p for f in _list_ifs(model) if f.repeated and not f.by_size for p in f.paths}


def find_sized(model: Model) -> set[str]:
    """Branches of every If that sizes of the inputs decide alone: forcing one at another size proves nothing."""
    return {p for f in _list_ifs(model) if f.by_size for p in f.paths}


def find_taken(model: Model, sizes: dict[str, int]) -> set[str]:
    """Of the branches that sizes decide, those that run at these."""
    facts, taken, refused = evaluate(model, sizes), set[str](), set[str]()
    for f in (f for f in _list_ifs(model) if f.by_size):
        found = find_condition(facts.values, f.condition)
        if found is not None:
            refused.add(f.paths[found])
            taken.add(f.paths[not found])
    chains_of = {p: f.chain for f in _list_ifs(model) for p in f.paths}
    return {p for p in taken if refused.isdisjoint(chains_of[p])}


@dataclass(frozen=True)
class _If:
    """The branches of an If, what it lies in, what decides it, and whether a Loop repeats it."""

    paths: list[str]
    chain: Chain
    condition: str
    by_size: bool
    repeated: bool


def _list_ifs(model: Model) -> list[_If]:
    nodes = model.graph.nodes
    loops = {p for n in nodes if is_control(n) and n.op == "Loop" for p in n.attrs["paths"]}
    by_size = model.shapes.entries if model.shapes is not None else {}
    conditions = {n.attrs["path"]: n.inputs[0].name for n in nodes if is_marker(n) and n.attrs["kind"] == "If"}
    lies = [(n, c) for n, c in zip(nodes, find_chains(nodes), strict=True) if is_control(n) and n.op == "If"]
    return [
        _If(n.attrs["paths"], c, name := conditions[n.attrs["paths"][0]], name in by_size, bool(loops & set(c)))
        for n, c in lies
    ]


def force_branches(model: Model, choice: Choice) -> Model:
    """A copy of a model in which conditions are what `choice` says."""
    out = model.copy()
    for node in out.graph.nodes:
        path = node.attrs["path"] if is_marker(node) else node.attrs["paths"][0] if is_control(node) else ""
        if path in choice and node.inputs:
            cond = node.inputs[0]
            shape = [1] * len(_find_shape(model, cond))
            node.inputs[0] = out.new_constant(f"{path}/forced{is_marker(node)}", np.full(shape, choice[path]))
    return out


def _find_shape(model: Model, cond: gs.Tensor) -> tuple[int, ...]:
    shapes = model.shapes.shape if model.shapes is not None else {}
    return shapes.get(cond.name, ())
