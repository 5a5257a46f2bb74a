"""Index tables that count 0, 1, 2, ...: a Gather by them moves nothing, a ScatterND by them writes one piece.

- `replace_identity_gathers`: PyTorch's dynamo exporter writes `as_strided` as Reshape [-1] and a Gather by a grid.
  Where the grid counts from 0 to the end, the Gather is a Reshape.
- `replace_written_pieces`: exporters write `x[:, 4:8] = v` as a ScatterND by a grid. Where the grid counts through a
  box, the result is what stands before the box, the updates, and what stands after it, along one axis after the other:
  Concats.
- `drop_whole_axes`: PyTorch's other exporter cuts what it scatters to the size of the indices, on every axis. Where an
  axis has a fixed size and all of it is taken, the Slice leaves it alone, and the size is not read at run time.

All hold where it is so for every binding of the symbols (`index_arithmetic`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.algebra import sizes
from spa_compiler.algebra.sizes import Size
from spa_compiler.canonicalize.index_arithmetic import find_index, find_places
from spa_compiler.ir.model import Model
from spa_compiler.operators import build
from spa_compiler.operators.build import new_node, replace_node
from spa_compiler.operators.movement import find_gathered_axis, is_overwriting, is_slice
from spa_compiler.shape_inference.every_binding import General


@dataclass(frozen=True)
class Piece:
    """From `start` to before `end` of an axis of `size`."""

    axis: int
    start: int
    end: int
    size: int


def replace_identity_gathers(model: Model, general: General) -> int:
    """Replace such Gathers by Reshapes; returns how many. Changes the model."""
    made = 0
    for node in model.graph.nodes:
        if find_gathered_axis(node) == 0 and len(node.inputs) == 2:
            target = _find_target(model, node, general)
            if target is not None:
                shape = model.new_constant(f"{node.outputs[0].name}.shape", np.array(target, np.int64))
                replace_node(node, build.reshape(node.inputs[0], shape))
                made += 1
    return made


def _find_target(model: Model, node: gs.Node, general: General) -> list[int] | None:
    """The shape to reshape to, -1 for the axis that follows a symbol; None where positions move."""
    flat, grid = general.axes(node.inputs[0].name), find_index(model, node.inputs[1], general)
    if flat is None or grid is None or len(flat) != 1 or len(grid.axes) < 2 or not grid.is_count_to(flat[0]):
        return None
    target = [s if isinstance(s, int) else -1 for s in grid.axes]
    return target if target.count(-1) <= 1 else None


def replace_written_pieces(model: Model, general: General) -> int:
    """Replace such ScatterNDs by Slices and Concats; returns how many. Changes the model."""
    made = 0
    for node in [n for n in model.graph.nodes if is_overwriting(n)]:
        pieces = _find_pieces(model, node, general)
        if pieces:
            fresh = _write_around(model, node.inputs[0], node.inputs[2], node.outputs[0], pieces)
            node.inputs.clear()
            node.outputs.clear()
            at = next(i for i, n in enumerate(model.graph.nodes) if n is node)
            model.graph.nodes[at : at + 1] = fresh
            made += 1
    return made


def _find_pieces(model: Model, node: gs.Node, general: General) -> list[Piece] | None:
    """The piece of each axis that a ScatterND does not write as a whole; None where they are no box."""
    axes = general.axes(node.inputs[0].name)
    places = find_places(model, node.inputs[1], general, axes) if axes is not None else None
    if axes is None or not places or len(places[0].axes) != len(places):
        return None
    out = []
    for axis, (size, index) in enumerate(zip(axes, places, strict=False)):
        length, start = index.axes[axis], index.start
        if any(step != (k == axis) and index.axes[k] != 1 for k, step in enumerate(index.steps)):
            return None
        if isinstance(start, int) and start < 0:  # counted from the end
            start = sizes.add(size, start)
        if start == 0 and length == size:
            continue
        if not (isinstance(start, int) and isinstance(length, int) and isinstance(size, int)):
            return None
        if not 0 <= start <= start + length <= size:
            return None
        out.append(Piece(axis, start, start + length, size))
    return out


def drop_whole_axes(model: Model, general: General) -> int:
    """Take the axes out of Slices that they do not cut; returns how many. Changes the model.

    Constant bounds are no matter: only those that are computed at run time are in the way of a plan.
    """
    made = 0
    for node in [n for n in model.graph.nodes if is_slice(n) and len(n.inputs) > 2]:
        if all(isinstance(t, gs.Constant) for t in node.inputs[1:3]):
            continue
        if gone := _find_untouched(node, general):
            _drop_entries(model, node, gone, general)
            made += len(gone)
    return made


def _find_untouched(node: gs.Node, general: General) -> set[int]:
    """Entries of a Slice that take all of an axis in its order."""
    shape = general.axes(node.inputs[0].name) or ()
    given = [general.table(t.name) if t.name else np.zeros(0, np.int64) for t in node.inputs[1:]]
    known = [v.ravel().tolist() for v in given if v is not None]
    if len(known) < len(given) or not shape:
        return set()
    starts, ends, axes, steps = [*known, [], []][:4]
    entries = zip(starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=True)
    return {k for k, (s, e, a, t) in enumerate(entries) if s == 0 and t == 1 and _is_at_end(e, shape[a % len(shape)])}


def _is_at_end(end: Any, size: Size) -> bool:
    if isinstance(end, int) and end >= sizes.INFINITY:
        return True
    return sizes.is_size(end) and sizes.find_bounds(end)[0] >= 0 and sizes.is_less(end, size) is False


def _drop_entries(model: Model, node: gs.Node, gone: set[int], general: General) -> None:
    """The Slice without some of its entries; without any of them it is an Identity."""
    name, at = node.outputs[0].name, next(i for i, n in enumerate(model.graph.nodes) if n is node)
    many = int(str((general.axes(node.inputs[1].name) or node.inputs[1].shape)[0]))
    left = np.array([k for k in range(many) if k not in gone])
    if not left.size:
        replace_node(node, build.identity(node.inputs[0]))
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
            model.graph.nodes.insert(at, new_node(model, build.gather(t, picked, 0), part.name, [part]))
    node.inputs = [node.inputs[0], *operands]


def _write_around(model: Model, x: gs.Tensor, updates: gs.Tensor, out: gs.Tensor, pieces: list[Piece]) -> list[gs.Node]:
    """Nodes that give `out`: x with `updates` in a box. Along the first axis before, inside and after, and so on."""
    piece, *rest = pieces
    nodes: list[gs.Node] = []

    def cut(what: str, start: int, end: int) -> gs.Variable:
        part = model.new_value(f"{out.name}.{what}{piece.axis}", x.dtype)
        values = zip(("starts", "ends", "axes"), (start, end, piece.axis), strict=True)
        operands = [model.new_constant(f"{part.name}.{name}", np.array([v], np.int64)) for name, v in values]
        nodes.append(new_node(model, build.cut(x, *operands), part.name, [part]))
        return part

    inside = updates
    if rest:
        inside = model.new_value(f"{out.name}.inside{piece.axis}", x.dtype)
        nodes += _write_around(model, cut("between", piece.start, piece.end), updates, inside, rest)
    parts = [cut("before", 0, piece.start)] if piece.start else []
    parts += [inside, *([cut("after", piece.end, piece.size)] if piece.end < piece.size else [])]
    return [*nodes, new_node(model, build.concat(parts, piece.axis), f"{out.name}.pieces{piece.axis}", [out])]
