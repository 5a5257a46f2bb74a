"""Control nodes that decide nothing: the branch that is always taken, or the body that runs once, replaces them.

    made = inline(model, general, find_untaken(model, general, sides))

The condition of an If (or the count of a Loop) has to be the same for every binding of the symbols, or one of its
branches is such that no run takes it that succeeds (`impossible_branches`).
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.ir.control_flow import Chain, find_chains, is_control, is_marker
from spa_compiler.ir.model import Model
from spa_compiler.operators import build
from spa_compiler.operators.build import unnamed_node
from spa_compiler.shape_inference.control_flow import count_trips, find_condition
from spa_compiler.shape_inference.environment import Facts


def inline(model: Model, general: Facts, untaken: Set[str] = frozenset()) -> int:
    """Replace every such node by what it does; returns how many. Changes the model. `untaken`: paths of branches."""
    made = 0
    while found := _find_decided(model, general, untaken):
        made += len(found)
        rewritten: dict[int, list[gs.Node]] = {}  # what takes the place of a node, by its id
        for node, path, _ in found:
            if node.op == "If":
                rewritten[id(node)] = _take_branch(node, path)
            else:
                rewritten[id(node)] = _unroll_loop(model, node)
        _replace(model, found, rewritten)
        _lift(model, {path: outside for _, path, outside in found})
        _rename_nodes(model)
    return made


Decided = tuple[gs.Node, str, Chain]
"""A control node that decides nothing, the path of the body that stays, and what the node lies in."""


def _find_decided(model: Model, general: Facts, untaken: Set[str]) -> list[Decided]:
    """All that lie in no other one."""
    markers = {n.attrs["path"]: n for n in model.graph.nodes if is_marker(n)}
    found: list[Decided] = []
    for node, chain in zip(model.graph.nodes, find_chains(model.graph.nodes), strict=True):
        if is_control(node):
            path = _find_path(node, markers, general, untaken)
            if path is not None:
                found.append((node, path, chain))
    bodies = {p for node, _, _ in found for p in node.attrs["paths"]}
    return [f for f in found if bodies.isdisjoint(f[2])]


def _find_path(node: gs.Node, markers: dict[str, gs.Node], facts: Facts, untaken: Set[str]) -> str | None:
    paths: list[str] = node.attrs["paths"]
    if node.op == "If":
        cond = find_condition(facts.values, node.inputs[0].name)
        if cond is None and not untaken.isdisjoint(paths):
            cond = paths[0] not in untaken
        return None if cond is None else paths[not cond]
    return paths[0] if count_trips(facts.values, node, markers[paths[0]]) == 1 else None


def _replace(model: Model, found: list[Decided], rewritten: dict[int, list[gs.Node]]) -> None:
    """Put what the nodes do in their place; their markers and the branches that are never taken go."""
    ends = {p for node, _, _ in found for p in node.attrs["paths"]}
    never = ends - {path for _, path, _ in found}
    nodes: list[gs.Node] = []
    for node, chain in zip(model.graph.nodes, find_chains(model.graph.nodes), strict=True):
        if id(node) in rewritten:
            nodes += rewritten[id(node)]
        elif (is_marker(node) and node.attrs["path"] in ends) or not never.isdisjoint(chain):
            node.inputs.clear()
            node.outputs.clear()
        else:
            nodes.append(node)
    model.graph.nodes[:] = nodes


def _lift(model: Model, outside: dict[str, Chain]) -> None:
    """Bodies inside ones that are gone are called as if these had never been: a compiled file reads the same."""
    names: dict[str, str] = {}
    taken = set(model.bodies)
    for p in model.bodies:
        path = next((p[:k] for k, c in enumerate(p) if c == "/" and p[:k] in outside), None)
        if path is not None:
            new = (f"{outside[path][-1]}/" if outside[path] else "") + p[len(path) + 1 :]
            if new not in taken:
                taken.add(new)
                names[p] = new
    model.bodies = {names.get(p, p): frame for p, frame in model.bodies.items()}
    for node in model.graph.nodes:
        if is_marker(node):
            node.name = node.attrs["path"] = names.get(node.attrs["path"], node.attrs["path"])
        elif is_control(node):
            node.attrs["paths"] = [names.get(p, p) for p in node.attrs["paths"]]


def _rename_nodes(model: Model) -> None:
    """Nodes of one scope have different names: those that came out of a body were in a scope of their own."""
    seen: set[tuple[Chain, str]] = set()
    for node, chain in zip(model.graph.nodes, find_chains(model.graph.nodes), strict=True):
        if node.name and not is_marker(node):
            if (chain, node.name) in seen:
                node.name = model.names.node(node.name)
            seen.add((chain, node.name))


def _make_identities(node: gs.Node, sources: list[gs.Tensor]) -> list[gs.Node]:
    """Identities that give the outputs of a control node, which is cut off."""
    results = list(node.outputs)
    node.inputs.clear()
    node.outputs.clear()
    return [unnamed_node(build.identity(a), [b]) for a, b in zip(sources, results, strict=True) if b.name]


def _take_branch(node: gs.Node, path: str) -> list[gs.Node]:
    """The nodes that replace an If whose branch at `path` is always taken."""
    paths, count = node.attrs["paths"], len(node.outputs)
    sources = list(node.inputs)[1:]
    return _make_identities(node, sources[:count] if path == paths[0] else sources[count:])


def _unroll_loop(model: Model, node: gs.Node) -> list[gs.Node]:
    """The nodes that replace a Loop that runs once: its states are its inputs, slices get an axis of size 1."""
    path, states = node.attrs["paths"][0], int(node.attrs["states"])
    marker = next(n for n in model.graph.nodes if is_marker(n) and n.attrs["path"] == path)
    ranks = marker.attrs["ranks"]
    counter = model.new_constant(f"{path}/iteration", np.zeros([1] * min(ranks[0], 1), np.int64))
    again = model.new_constant(f"{path}/condition", np.ones([1] * min(ranks[1], 1), bool))
    for formal, given in zip(list(marker.outputs)[1:], [counter, again, *list(marker.inputs)[2:]], strict=True):
        for user in list({id(n): n for n in formal.outputs}.values()):
            for i in [i for i, t in enumerate(user.inputs) if t is formal]:
                user.inputs[i] = given
    after = list(node.inputs)[states + 1 :]
    fresh, sources = [], after[:states]
    for k, t in enumerate(after[states:]):
        out = model.new_value(f"{path}/stacked{k}")
        fresh.append(_unsqueeze(model, t, out))
        sources.append(out)
    return [*fresh, *_make_identities(node, sources)]


def _unsqueeze(model: Model, t: gs.Tensor, out: gs.Variable) -> gs.Node:
    def axes(values: NDArray[Any]) -> gs.Constant:
        return model.new_constant(f"{out.name}.axes", values)

    return unnamed_node(build.unsqueeze(t, [0], model.opset.get("", 1), axes), [out])
