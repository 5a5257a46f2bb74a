"""Positions that just count: what is gathered by them does not move, what is scattered by them is one piece.

- `identity_gathers`: PyTorch's dynamo exporter writes `as_strided` as Reshape [-1] and a Gather by a grid. Where the
  grid counts from 0 to the end, the Gather is a Reshape.
- `written_pieces`: exporters write `x[:, 4:8] = v` as a ScatterND by a grid. Where the grid counts through a box, the
  result is what stands before the box, the updates, and what stands after it, along one axis after the other: Concats.
- `whole_axes`: PyTorch's other exporter cuts what it scatters to the size of the indices, on every axis. Where an axis
  has a fixed size and all of it is taken, the Slice leaves it alone, and the size is not read at run time.

All hold where it is so under both bindings of the symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.facts import Facts
from spa_compiler.model import Model

Array = NDArray[Any]


@dataclass(frozen=True)
class Piece:
    """From `start` to before `end` of an axis of `size`."""

    axis: int
    start: int
    end: int
    size: int


def identity_gathers(model: Model, first: Facts, second: Facts) -> int:
    """Replace such Gathers by Reshapes; returns how many. Changes the model."""
    made = 0
    for node in model.graph.nodes:
        if node.op == "Gather" and len(node.inputs) == 2 and int(node.attrs.get("axis", 0)) == 0:
            target = _target(node, first, second)
            if target is not None:
                shape = model.new_constant(f"{node.outputs[0].name}.shape", np.array(target, np.int64))
                node.op, node.attrs, node.inputs = "Reshape", {}, [node.inputs[0], shape]
                made += 1
    return made


def _target(node: gs.Node, first: Facts, second: Facts) -> list[int] | None:
    """The shape to reshape to, -1 for the axis that follows a symbol; None where positions move."""
    x, index = (t.name for t in node.inputs)
    shapes = []
    for facts in (first, second):
        flat, grid = facts.shape(x), facts.values.get(index)
        if flat is None or grid is None or len(flat) != 1 or grid.ndim < 2 or grid.size != flat[0]:
            return None
        if not np.array_equal(grid.ravel(), np.arange(flat[0])):
            return None
        shapes.append(grid.shape)
    a, b = shapes
    if len(a) != len(b) or sum(p != q for p, q in zip(a, b, strict=True)) > 1:
        return None
    return [p if p == q else -1 for p, q in zip(a, b, strict=True)]


def written_pieces(model: Model, first: Facts, second: Facts) -> int:
    """Replace such ScatterNDs by Slices and Concats; returns how many. Changes the model."""
    made = 0
    for node in [n for n in model.graph.nodes if n.op == "ScatterND" and n.attrs.get("reduction", "none") == "none"]:
        pieces = _pieces(model, node, first)
        if pieces and pieces == _pieces(model, node, second):
            fresh = _around(model, node.inputs[0], node.inputs[2], node.outputs[0], pieces)
            node.inputs.clear()
            node.outputs.clear()
            at = next(i for i, n in enumerate(model.graph.nodes) if n is node)
            model.graph.nodes[at : at + 1] = fresh
            made += 1
    return made


def _pieces(model: Model, node: gs.Node, facts: Facts) -> list[Piece] | None:
    """What a ScatterND writes of each axis that it does not write as a whole; None where it is no box."""
    shape, places = facts.shape(node.inputs[0].name), _places(model, node.inputs[1], facts)
    if shape is None or not places or places[0].ndim != len(places) or 0 in places[0].shape:
        return None
    out = []
    for axis, (size, at) in enumerate(zip(shape, places, strict=False)):
        length = at.shape[axis]
        found = at[tuple(slice(None) if step else slice(1) for step in at.strides)] % size  # negative: from the end
        start = int(found.ravel()[0])
        count = np.arange(start, start + length).reshape([-1 if k == axis else 1 for k in range(at.ndim)])
        given, wanted = np.broadcast_arrays(found, count)
        if start + length > size or not np.array_equal(given, wanted):
            return None
        if length < size:
            out.append(Piece(axis, start, start + length, size))
    return out


def whole_axes(model: Model, first: Facts, second: Facts) -> int:
    """Take the axes out of Slices that they do not cut; returns how many. Changes the model.

    Constant bounds are no matter: only those that are computed at run time are in the way of a plan.
    """
    made = 0
    for node in [n for n in model.graph.nodes if n.op == "Slice" and len(n.inputs) > 2]:
        if all(isinstance(t, gs.Constant) for t in node.inputs[1:3]):
            continue
        if gone := _untouched(model, node, first) & _untouched(model, node, second):
            _leave_out(model, node, {k for k, *_ in gone}, first)
            made += len(gone)
    return made


def _untouched(model: Model, node: gs.Node, facts: Facts) -> set[tuple[int, int, int]]:
    """Entries of a Slice that take all of an axis in its order, with the axis and its size."""
    shape = facts.shape(node.inputs[0].name) or ()
    given = [_view(model, t, facts) if t.name else np.zeros(0, np.int64) for t in node.inputs[1:]]
    known = [[int(i) for i in v.ravel()] for v in given if v is not None]
    if len(known) < len(given) or not shape:
        return set()
    starts, ends, axes, steps = [*known, [], []][:4]
    entries = zip(starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=True)
    found = [(k, a % len(shape), range(shape[a])[s:e:t]) for k, (s, e, a, t) in enumerate(entries)]
    return {(k, a, shape[a]) for k, a, taken in found if taken == range(shape[a])}


def _leave_out(model: Model, node: gs.Node, gone: set[int], facts: Facts) -> None:
    """The Slice without some of its entries; without any of them it is an Identity."""
    name, at = node.outputs[0].name, next(i for i, n in enumerate(model.graph.nodes) if n is node)
    many = (facts.shape(node.inputs[1].name) or node.inputs[1].shape)[0]
    left = np.array([k for k in range(many) if k not in gone])
    if not left.size:
        node.op, node.inputs = "Identity", node.inputs[:1]
        return
    operands = list(node.inputs[1:])
    if len(operands) < 3 or not operands[2].name:
        operands[2:3] = [model.new_constant(f"{name}.axes", np.arange(many))]
    for i, t in enumerate(operands):
        if isinstance(t, gs.Constant):
            operands[i] = model.new_constant(f"{name}.operand{i}", model.array(t)[left])
        elif t.name:
            part = operands[i] = model.new_value(f"{name}.operand{i}", t.dtype)
            picked = model.new_constant(f"{part.name}.left", left)
            model.graph.nodes.insert(at, model.new_node("Gather", part.name, {"axis": 0}, [t, picked], [part]))
    node.inputs = [node.inputs[0], *operands]


def _places(model: Model, index: gs.Tensor, facts: Facts) -> list[Array] | None:
    """The positions along each axis that a ScatterND writes to, without the memory that all together would take."""
    grid = _view(model, index, facts)
    if grid is not None:
        return list(np.moveaxis(grid, -1, 0)) if grid.ndim else None
    maker, shape = index.inputs[0] if index.inputs else None, facts.shape(index.name)
    if maker is None or shape is None or maker.op != "Concat" or int(maker.attrs["axis"]) not in (-1, len(shape) - 1):
        return None
    parts = [p for t in maker.inputs if (p := _view(model, t, facts)) is not None and p.shape[-1] == 1]
    return [p[..., 0] for p in parts] if len(parts) == len(maker.inputs) else None


def _view(model: Model, tensor: gs.Tensor, facts: Facts) -> Array | None:
    """A value that is known, or one that is expanded from such: no number stands in memory twice."""
    value = model.array(tensor) if isinstance(tensor, gs.Constant) else facts.values.get(tensor.name)
    if value is not None or not tensor.inputs or tensor.inputs[0].op not in ("Expand", "Unsqueeze"):
        return value
    node = tensor.inputs[0]
    x = _view(model, node.inputs[0], facts)
    operand = _view(model, node.inputs[1], facts) if len(node.inputs) > 1 else np.array(node.attrs.get("axes"))
    if x is None or operand is None:
        return None
    sizes = [int(v) for v in operand.ravel()]
    if node.op == "Unsqueeze":
        return np.expand_dims(x, sizes)
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, sizes))


def _around(model: Model, x: gs.Tensor, updates: gs.Tensor, out: gs.Tensor, pieces: list[Piece]) -> list[gs.Node]:
    """Nodes that give `out`: x with `updates` in a box. Along the first axis before, inside and after, and so on."""
    piece, *rest = pieces
    nodes: list[gs.Node] = []

    def cut(what: str, start: int, end: int) -> gs.Variable:
        part = model.new_value(f"{out.name}.{what}{piece.axis}", x.dtype)
        values = zip(("starts", "ends", "axes"), (start, end, piece.axis), strict=True)
        operands = [model.new_constant(f"{part.name}.{name}", np.array([v], np.int64)) for name, v in values]
        nodes.append(model.new_node("Slice", part.name, {}, [x, *operands], [part]))
        return part

    inside = updates
    if rest:
        inside = model.new_value(f"{out.name}.inside{piece.axis}", x.dtype)
        nodes += _around(model, cut("between", piece.start, piece.end), updates, inside, rest)
    parts = [cut("before", 0, piece.start)] if piece.start else []
    parts += [inside, *([cut("after", piece.end, piece.size)] if piece.end < piece.size else [])]
    return [*nodes, model.new_node("Concat", f"{out.name}.pieces{piece.axis}", {"axis": piece.axis}, parts, [out])]
