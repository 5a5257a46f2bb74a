"""A selection of positions behind elementwise operators is moved in front of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.algebra.sizes import product
from spa_compiler.canonicalize.rewrites import Axes
from spa_compiler.ir.editing import drop_dead, index_of
from spa_compiler.ir.model import Model
from spa_compiler.operators.tables.compute import UNARY

POINTWISE = frozenset([*UNARY, "QuantizeLinear", "DequantizeLinear", "Add", "Div", "Mul", "Sub"])


@dataclass(frozen=True)
class Pick:
    """A node that picks runs of one digit: (start, length) per output; `drop`: the digit disappears."""

    axis: int
    runs: list[tuple[int, int]]
    drop: bool


def _pick(model: Model, node: gs.Node, axes: Mapping[str, Axes]) -> Pick | None:
    """What a node picks of an axis of fixed size; None for anything else."""
    small = {i: t for i, t in enumerate(node.inputs) if isinstance(t, gs.Constant) and math.prod(t.shape) < 64}
    known = {i: model.array(t).ravel() for i, t in small.items()}
    x = axes.get(node.inputs[0].name) if node.inputs else None
    if x is None or any(t.name not in axes for t in node.outputs):
        return None
    given = [i for i in range(1, len(node.inputs)) if node.inputs[i].name]
    single = node.op == "Slice" and len(node.inputs) > 3 and all(i in known for i in given) and known[1].size == 1
    if not single and node.op == "Slice":
        return None
    axis = int(known[3][0] if node.op == "Slice" else node.attrs.get("axis", 0)) % len(x)
    size = x[axis]
    if not isinstance(size, int):
        return None
    if node.op == "Gather":
        one = 1 in known and known[1].size == 1
        return Pick(axis, [(int(known[1][0]) % size, 1)], len(node.inputs[1].shape) == 0) if one else None
    lengths = [s for s in (axes[t.name][axis] for t in node.outputs) if isinstance(s, int)]
    if node.op == "Split" and len(lengths) == len(node.outputs):
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        return Pick(axis, list(zip(starts, lengths, strict=True)), False)
    if node.op == "Slice" and lengths and (4 not in known or known[4][0] == 1):
        start = min(max(int(known[1][0]) + (size if known[1][0] < 0 else 0), 0), size)
        return Pick(axis, [(start, lengths[0])], False)
    return None


def selection_first(model: Model, axes: Mapping[str, Axes]) -> int:
    """Pick from the linear output instead of from a digit of its reshaped and transposed form.

    `axes`: the sizes of values' axes that hold for every binding.
    """
    made = 0
    for node in list(model.graph.nodes):
        pick = _pick(model, node, axes) if node.op in ("Gather", "Split", "Slice") else None
        if pick is None or not node.inputs[0].inputs:
            continue
        turned, after = _pointwise(node.inputs[0])
        if not turned.inputs:
            continue
        before = turned.inputs[0]
        turn = before if before.op == "Transpose" else None
        perm = (turn.attrs.get("perm") if turn is not None else None) or list(range(len(axes[node.inputs[0].name])))
        if turn is not None and "perm" not in turn.attrs:
            perm = perm[::-1]
        shaped, between = _pointwise(turn.inputs[0]) if turn is not None else (turned, [])
        grid = shaped.inputs[0] if shaped.inputs else before
        known = grid.op == "Reshape" and {grid.inputs[0].name, grid.outputs[0].name} <= axes.keys()
        if not known or not isinstance(grid.inputs[0], gs.Variable):
            continue
        order = [int(p) for p in perm]
        made += _select(model, node, pick, grid, order, turn is not None, [*between, *after], axes)
    if made:
        drop_dead(model)
    return made


def _pointwise(tensor: gs.Variable) -> tuple[gs.Variable, list[gs.Node]]:
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


def _again(model: Model, nodes: list[gs.Node], x: gs.Variable, out: gs.Variable) -> list[gs.Node]:
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


def _select(
    model: Model, node: gs.Node, pick: Pick, grid: gs.Node, perm: list[int], turned: bool, late: list[gs.Node],
    axes: Mapping[str, Axes],
) -> bool:  # fmt: skip
    """Rewrite one pick; False where the digit is not the major digit of one axis of the linear output."""
    x, xs, parts = grid.inputs[0], axes[grid.inputs[0].name], axes[grid.outputs[0].name]
    digit = perm[pick.axis]
    many, before = parts[digit], product(parts[:digit])
    lengths = [(k, s) for k, s in enumerate(xs) if isinstance(s, int) and product(xs[:k]) == before]
    axis, length = next(((k, s) for k, s in lengths if isinstance(many, int) and s > many), (0, 0))
    if not length or not isinstance(many, int) or length % many:
        return False
    moving = [not isinstance(s, int) for s in parts]
    if sum(moving) > 1:  # Reshape has one -1 only
        return False
    unit = length // many
    at = index_of(model.graph, node)
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
        fresh += _chain_of(model, end, x, axis, run, target, order if turned else None)
        fresh += _again(model, late, end, out)
    node.inputs.clear()
    del model.graph.nodes[at]
    model.graph.nodes[at:at] = fresh
    return True


def _chain_of(
    model: Model, out: gs.Variable, x: gs.Variable, axis: int, run: tuple[int, int], target: list[int],
    order: list[int] | None,
) -> list[gs.Node]:  # fmt: skip
    """Slice, Reshape and, where `order` is given, Transpose, that make `out` from `x`."""
    name = out.name

    def ints(what: str, values: list[int]) -> gs.Constant:
        return model.new_constant(f"{name}.{what}", np.array(values, np.int64))

    part = model.new_value(f"{name}.part")
    operands = [x, ints("starts", [run[0]]), ints("ends", [run[1]]), ints("axes", [axis])]
    out.inputs.clear()
    shaped = model.new_value(f"{name}.shaped") if order is not None else out
    nodes = [
        model.new_node("Slice", f"{name}.part", {}, operands, [part]),
        model.new_node("Reshape", f"{name}.shaped", {}, [part, ints("shape", target)], [shaped]),
    ]
    if order is not None:
        nodes.append(model.new_node("Transpose", f"{name}.turned", {"perm": order}, [shaped], [out]))
    return nodes
