"""Control nodes that decide nothing: the branch that is always taken, the body that runs once, take their place.

    made = inline(model, first, second)

The condition of an If (or the count of a Loop) has to be known, and the same, under both bindings of the symbols.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.facts import Facts
from spa_compiler.flow import known, trips
from spa_compiler.model import Model, constant
from spa_compiler.nesting import Chain, chains, is_control, is_marker

AXES_SINCE = 13
"""Opset from which Unsqueeze takes its axes as an input."""


def inline(model: Model, first: Facts, second: Facts) -> int:
    """Replace every such node by what it does; returns how many. Changes the model."""
    made = 0
    while (found := _decided(model, first, second)) is not None:
        made += 1
        node, path, outside = found
        if node.op == "If":
            _take(model, node, path)
        else:
            _once(model, node)
        _lift(model, path, outside)
    return made


def _decided(model: Model, first: Facts, second: Facts) -> tuple[gs.Node, str, Chain] | None:
    """The outermost control node that decides nothing, the path of the body that stays, and what it lies in."""
    markers = {n.attrs["path"]: n for n in model.graph.nodes if is_marker(n)}
    found = []
    for node, chain in zip(model.graph.nodes, chains(model.graph.nodes), strict=True):
        if is_control(node):
            path = _path(node, markers, first)
            if path is not None and path == _path(node, markers, second):
                found.append((node, path, chain))
    return min(found, key=lambda f: len(f[2])) if found else None


def _path(node: gs.Node, markers: dict[str, gs.Node], facts: Facts) -> str | None:
    paths: list[str] = node.attrs["paths"]
    if node.op == "If":
        cond = known(facts.values, node.inputs[0].name)
        return None if cond is None else paths[not cond]
    return paths[0] if trips(facts.values, node, markers[paths[0]]) == 1 else None


def _remove(model: Model, nodes: list[gs.Node]) -> None:
    for n in nodes:
        n.inputs.clear()
        n.outputs.clear()
    gone = {id(n) for n in nodes}
    model.graph.nodes[:] = [n for n in model.graph.nodes if id(n) not in gone]


def _lift(model: Model, path: str, outside: Chain) -> None:
    """Bodies inside one that is gone are called as if it had never been there: a compiled file reads the same."""
    stem = f"{outside[-1]}/" if outside else ""
    inner = [p for p in model.bodies if p.startswith(f"{path}/")]
    names = {p: stem + p[len(path) + 1 :] for p in inner}
    names = {p: new for p, new in names.items() if new not in model.bodies}
    model.bodies = {names.get(p, p): frame for p, frame in model.bodies.items()}
    for node in model.graph.nodes:
        if is_marker(node):
            node.name = node.attrs["path"] = names.get(node.attrs["path"], node.attrs["path"])
        elif is_control(node):
            node.attrs["paths"] = [names.get(p, p) for p in node.attrs["paths"]]


def _become(model: Model, node: gs.Node, sources: list[gs.Tensor], fresh: list[gs.Node]) -> None:
    """A control node is replaced by `fresh` nodes and Identities that give its outputs."""
    at = next(i for i, n in enumerate(model.graph.nodes) if n is node)
    results = list(node.outputs)
    node.inputs.clear()
    node.outputs.clear()
    moves = [gs.Node("Identity", "", {}, [a], [b]) for a, b in zip(sources, results, strict=True) if b.name]
    model.graph.nodes[at : at + 1] = [*fresh, *moves]


def _take(model: Model, node: gs.Node, path: str) -> None:
    """An If whose condition is known: the branch at `path` stays, the other one goes."""
    paths, count = node.attrs["paths"], len(node.outputs)
    sources = list(node.inputs)[1:]
    sources = sources[:count] if path == paths[0] else sources[count:]
    other = paths[path == paths[0]]
    nodes = model.graph.nodes
    inside = [n for n, chain in zip(nodes, chains(nodes), strict=True) if other in chain]
    markers = [n for n in nodes if is_marker(n) and n.attrs["path"] in paths]
    _become(model, node, sources, [])
    _remove(model, [*inside, *markers])


def _once(model: Model, node: gs.Node) -> None:
    """A Loop that runs once: its states are what it is given, slices get an axis of one."""
    path, states = node.attrs["paths"][0], int(node.attrs["states"])
    marker = next(n for n in model.graph.nodes if is_marker(n) and n.attrs["path"] == path)
    ranks = marker.attrs["ranks"]
    counter = constant(f"{path}/iteration", np.zeros([1] * min(ranks[0], 1), np.int64))
    again = constant(f"{path}/condition", np.ones([1] * min(ranks[1], 1), bool))
    for formal, given in zip(list(marker.outputs)[1:], [counter, again, *list(marker.inputs)[2:]], strict=True):
        for user in list({id(n): n for n in formal.outputs}.values()):
            for i in [i for i, t in enumerate(user.inputs) if t is formal]:
                user.inputs[i] = given
    after = list(node.inputs)[states + 1 :]
    fresh, sources = [], after[:states]
    for k, t in enumerate(after[states:]):
        out = gs.Variable(f"{path}/stacked{k}")
        fresh.append(_unsqueeze(model, t, out))
        sources.append(out)
    _become(model, node, sources, fresh)
    _remove(model, [marker])


def _unsqueeze(model: Model, t: gs.Tensor, out: gs.Variable) -> gs.Node:
    if model.opset.get("", 1) < AXES_SINCE:
        return gs.Node("Unsqueeze", "", {"axes": [0]}, [t], [out])
    return gs.Node("Unsqueeze", "", {}, [t, constant(f"{out.name}.axes", np.array([0], np.int64))], [out])
