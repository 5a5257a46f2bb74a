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
from spa_compiler.operators.movement import (
    Pick,
    find_lost_axes,
    find_new_axes,
    find_order,
    find_pick,
    is_moving_axes,
    is_regrouping,
)

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
        found = _find_grid(node.inputs[0])
        if found is None:
            continue
        grid, moves, late = found
        known = {grid.inputs[0].name, grid.outputs[0].name} <= axes.keys()
        if not known or not isinstance(grid.inputs[0], gs.Variable):
            continue
        order = _find_places(model, moves, len(axes[grid.outputs[0].name]))
        if order is not None:
            made += _rewrite_pick(model, node, pick, grid, order, late, axes)
    if made:
        drop_dead(model)
    return made


def _find_grid(tensor: gs.Variable) -> tuple[gs.Node, list[gs.Node], list[gs.Node]] | None:
    """Up to the Reshape that made the digits: what moves their axes in between, and what is pointwise, in order."""
    moves: list[gs.Node] = []
    late: list[gs.Node] = []
    while True:
        tensor, found = _find_pointwise(tensor)
        late = [*found, *late]
        if not tensor.inputs:
            return None
        node = tensor.inputs[0]
        if is_regrouping(node):
            return node, moves, late
        if not is_moving_axes(node):
            return None
        moves.insert(0, node)
        tensor = node.inputs[0]


def _find_places(model: Model, moves: list[gs.Node], rank: int) -> list[int | None] | None:
    """The axis of the digits that lies at each place behind these nodes, None for a new one of size 1; or not known."""
    places: list[int | None] = list(range(rank))
    for node in moves:
        order = find_order(node, len(places))
        new, lost = find_new_axes(model, node, len(places)), find_lost_axes(model, node, len(places))
        if order is not None:
            places = [places[p] for p in order]
        elif new is not None:
            for a in new:
                places.insert(a, None)
        elif lost is not None and all(places[a] is None for a in lost):
            places = [p for a, p in enumerate(places) if a not in lost]
        else:
            return None
    return places


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
    model: Model, node: gs.Node, pick: Pick, grid: gs.Node, places: list[int | None], late: list[gs.Node],
    axes: Mapping[str, Axes],
) -> bool:  # fmt: skip
    """Rewrite one pick; False where the digit is not the major digit of one axis of the linear output."""
    x, xs, parts = grid.inputs[0], axes[grid.inputs[0].name], axes[grid.outputs[0].name]
    digit = places[pick.axis]
    if digit is None:
        return False
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
        left = [p for p in places if p != digit or not pick.drop]
        if pick.drop:
            target.pop(digit)
        order = _spell_order(left, digit if pick.drop else len(parts), target)
        end = model.new_value(f"{out.name}.moved", x.dtype) if late else out
        out.inputs.clear()
        run = start * unit, (start + taken) * unit
        fresh += _make_chain(model, end, x, axis, run, target, order if order != list(range(len(order))) else None)
        fresh += _copy_nodes(model, late, end, out)
    node.inputs.clear()
    del model.graph.nodes[at]
    model.graph.nodes[at:at] = fresh
    return True


def _spell_order(places: list[int | None], gone: int, target: list[int]) -> list[int]:
    """Where each axis is found in the target shape, from which axis `gone` is; those of size 1 are put at its end."""
    order = []
    for p in places:
        order.append(len(target) if p is None else p - (p > gone))
        target += [1] * (p is None)
    return order


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
