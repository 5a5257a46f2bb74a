"""Chains of Reshape and Transpose that permute one axis become a Gather of that axis."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

from spa_compiler.canonicalize.axis_digits import find_permutation
from spa_compiler.ir.editing import find_index
from spa_compiler.ir.model import Model
from spa_compiler.operators import build
from spa_compiler.operators.build import new_node
from spa_compiler.operators.movement import PERMUTING, is_transposition
from spa_compiler.shape_inference.every_binding import General

CHAIN_LIMIT = 6


def replace_permutations(model: Model, general: General) -> int:
    """Chains that permute one axis become Gather, where they do so for every binding of the symbols."""
    made = 0
    done: set[int] = set()
    for node in list(model.graph.nodes):
        if node.op not in PERMUTING or id(node) in done or general.axes(node.inputs[0].name) is None:
            continue
        chain = _find_chain(model, node, general)
        found = find_permutation(chain, general) if any(is_transposition(n) for n in chain) else None
        if found is not None:
            _replace_by_gather(model, chain, *found)
            done |= {id(n) for n in chain}
            made += 1
    return made


def _find_chain(model: Model, node: gs.Node, general: General) -> list[gs.Node]:
    """The longest single-use chain from `node` that comes back to the shape it started from."""
    source, outputs = node.inputs[0], {t.name for t in model.graph.outputs} | set(model.captured)
    chain, at = [node], node
    while len(chain) < CHAIN_LIMIT:
        y = at.outputs[0]
        users = y.outputs
        if y.name in outputs or len(users) != 1 or users[0].op not in PERMUTING or users[0].inputs[0] is not y:
            break
        at = users[0]
        chain.append(at)
    while chain and general.axes(chain[-1].outputs[0].name) != general.axes(source.name):
        chain.pop()
    return chain


def _replace_by_gather(model: Model, chain: list[gs.Node], axis: int, order: Any) -> None:
    source, result = chain[0].inputs[0], chain[-1].outputs[0]
    at = find_index(model.graph, chain[0])
    for n in chain:
        n.inputs.clear()
        n.outputs.clear()
    dead = {id(n) for n in chain}
    model.graph.nodes[:] = [n for n in model.graph.nodes if id(n) not in dead]
    index = model.new_constant(f"{result.name}.order", order)
    name = f"{chain[0].name or result.name}.order"
    gather = new_node(model, build.gather(source, index, axis), name, [result])
    model.graph.nodes.insert(at, gather)
