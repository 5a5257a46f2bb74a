"""Selections of positions (Split, Slice, Gather) behind elementwise operators move in front of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.algebra.sizes import Size, multiply_all
from spa_compiler.ir.editing import drop_dead, find_index
from spa_compiler.ir.model import Model
from spa_compiler.operators import build
from spa_compiler.operators.build import new_node
from spa_compiler.operators.facts import POINTWISE
from spa_compiler.operators.movement import Pick, find_order, find_pick, is_regrouping

Axes = tuple[Size, ...]


def hoist_selections(model: Model, axes: Mapping[str, Axes]) -> int:
    """Pick from the linear output instead of from a digit of its reshaped and transposed form.

    `axes`: the sizes of values' axes that hold for every binding.
    """
    made = 0
    for node in list(model.graph.nodes):
        pick = find_pick(model, node, axes)
        if pick is None or not node.inputs[0].inputs:
            continue
        turned, after = _find_pointwise(node.inputs[0])
        if not turned.inputs:
            continue
        before = turned.inputs[0]
        rank = len(axes[node.inputs[0].name])
        turned_axes = find_order(before, rank)
        shaped, between = _find_pointwise(before.inputs[0]) if turned_axes is not None else (turned, [])
        grid = shaped.inputs[0] if shaped.inputs else before
        known = is_regrouping(grid) and {grid.inputs[0].name, grid.outputs[0].name} <= axes.keys()
        if not known or not isinstance(grid.inputs[0], gs.Variable):
            continue
        order = turned_axes if turned_axes is not None else list(range(rank))
        made += _rewrite_pick(model, node, pick, grid, order, turned_axes is not None, [*between, *after], axes)
    if made:
        drop_dead(model)
    return made


def _find_pointwise(tensor: gs.Variable) -> tuple[gs.Variable, list[gs.Node]]:
    """Up through what treats every number alike: the tensor before it, and those nodes in their order."""
    found: list[gs.Node] = []
    while tensor.inputs and tensor.inputs[0].op in POINTWISE:
        moving = [t for t in tensor.inputs[0].inputs if not isinstance(t, gs.Constant) and t.name]
        fixed = [t for t in tensor.inputs[0].inputs if isinstance(t, gs.Constant)]
        if len(moving) != 1 or any(math.prod(t.shape) != 1 for t in fixed):
            break
        found.insert(0, tensor.inputs[0])
        tensor = moving[0]
    return tensor, found


def _copy_nodes(model: Model, nodes: list[gs.Node], x: gs.Variable, out: gs.Variable) -> list[gs.Node]:
    """Copies of pointwise nodes, one after the other, from x to out; every copy has its own constants (`untie`)."""
    made: list[gs.Node] = []
    for k, n in enumerate(nodes):
        y = out if k == len(nodes) - 1 else model.new_value(f"{out.name}.again{k}", n.outputs[0].dtype)
        inputs = [x if isinstance(t, gs.Variable) and t.name else t for t in n.inputs]
        for i, t in enumerate(n.inputs):
            if isinstance(t, gs.Constant):
                inputs[i] = model.new_constant(f"{y.name}.operand{i}", model.array(t))
        made.append(model.new_node(n.op, f"{out.name}.again{k}", dict(n.attrs), inputs, [y], n.domain))
        x = y
    return made


def _rewrite_pick(
    model: Model, node: gs.Node, pick: Pick, grid: gs.Node, perm: list[int], turned: bool, late: list[gs.Node],
    axes: Mapping[str, Axes],
) -> bool:  # fmt: skip
    """Rewrite one pick; False where the digit is not the major digit of one axis of the linear output."""
    x, xs, parts = grid.inputs[0], axes[grid.inputs[0].name], axes[grid.outputs[0].name]
    digit = perm[pick.axis]
    many, before = parts[digit], multiply_all(parts[:digit])
    lengths = [(k, s) for k, s in enumerate(xs) if isinstance(s, int) and multiply_all(xs[:k]) == before]
    axis, length = next(((k, s) for k, s in lengths if isinstance(many, int) and s > many), (0, 0))
    if not length or not isinstance(many, int) or length % many:
        return False
    moving = [not isinstance(s, int) for s in parts]
    if sum(moving) > 1:  # Reshape has one -1 only
        return False
    unit = length // many
    at = find_index(model.graph, node)
    fresh: list[gs.Node] = []
    for out, (start, taken) in zip(list(node.outputs), pick.runs, strict=True):
        target = [taken if i == digit else s if isinstance(s, int) else -1 for i, s in enumerate(parts)]
        order = list(perm)
        if pick.drop:
            target.pop(digit)
            order = [p - (p > digit) for p in perm if p != digit]
        end = model.new_value(f"{out.name}.moved", x.dtype) if late else out
        out.inputs.clear()
        run = start * unit, (start + taken) * unit
        fresh += _make_chain(model, end, x, axis, run, target, order if turned else None)
        fresh += _copy_nodes(model, late, end, out)
    node.inputs.clear()
    del model.graph.nodes[at]
    model.graph.nodes[at:at] = fresh
    return True


def _make_chain(
    model: Model, out: gs.Variable, x: gs.Variable, axis: int, run: tuple[int, int], target: list[int],
    order: list[int] | None,
) -> list[gs.Node]:  # fmt: skip
    """Slice, Reshape and, where `order` is given, Transpose, that make `out` from `x`."""
    name = out.name

    def ints(what: str, values: list[int]) -> gs.Constant:
        return model.new_constant(f"{name}.{what}", np.array(values, np.int64))

    part = model.new_value(f"{name}.part")
    bounds = [ints("starts", [run[0]]), ints("ends", [run[1]]), ints("axes", [axis])]
    out.inputs.clear()
    shaped = model.new_value(f"{name}.shaped") if order is not None else out
    nodes = [
        new_node(model, build.cut(x, *bounds), f"{name}.part", [part]),
        new_node(model, build.reshape(part, ints("shape", target)), f"{name}.shaped", [shaped]),
    ]
    if order is not None:
        nodes.append(new_node(model, build.transpose(shaped, order), f"{name}.turned", [out]))
    return nodes
