"""Grids of positions that just count: what is gathered by them does not move, what is scattered by them is one piece.

- `identity_gathers`: PyTorch's dynamo exporter writes `as_strided` as Reshape [-1] and a Gather by a grid. Where the
  grid counts from 0 to the end, the Gather is a Reshape.
- `written_pieces`: exporters write `x[:, 4:8] = v` as a ScatterND by a grid. Where the grid counts through a piece of
  one axis, the result is what stands before the piece, the updates, and what stands after it: a Concat.

Both hold where the grid does so under both bindings of the symbols.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.facts import Facts
from spa_compiler.model import Model, constant


def identity_gathers(model: Model, first: Facts, second: Facts) -> int:
    """Replace such Gathers by Reshapes; returns how many. Changes the model."""
    made = 0
    for node in model.graph.nodes:
        if node.op == "Gather" and len(node.inputs) == 2 and int(node.attrs.get("axis", 0)) == 0:
            target = _target(node, first, second)
            if target is not None:
                shape = constant(f"{node.outputs[0].name}.shape", np.array(target, np.int64))
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
    """Replace such ScatterNDs by Slices and a Concat; returns how many. Changes the model."""
    made = 0
    for node in [n for n in model.graph.nodes if n.op == "ScatterND" and n.attrs.get("reduction", "none") == "none"]:
        piece = _piece(node, first)
        if piece is not None and piece == _piece(node, second):
            _concat(model, node, *piece)
            made += 1
    return made


def _piece(node: gs.Node, facts: Facts) -> tuple[int, int, int, int] | None:
    """Axis, start and end of the piece that a ScatterND writes, and the size of the axis."""
    shape, grid = facts.shape(node.inputs[0].name), facts.values.get(node.inputs[1].name)
    if shape is None or grid is None or grid.size == 0 or grid.ndim - 1 != grid.shape[-1]:
        return None
    box, sizes = grid.shape[:-1], shape[: grid.ndim - 1]
    places = grid % np.array(sizes)  # counted from the end where negative
    origin = places[(0,) * len(box)]
    if not np.array_equal(places, np.moveaxis(np.indices(box), 0, -1) + origin):
        return None
    part = [k for k, (length, size) in enumerate(zip(box, sizes, strict=True)) if length < size]
    if len(part) != 1:
        return None
    axis, start = part[0], int(origin[part[0]])
    return axis, start, start + box[axis], sizes[axis]


def _concat(model: Model, node: gs.Node, axis: int, start: int, end: int, size: int) -> None:
    x, _, updates = node.inputs
    name = node.outputs[0].name
    fresh: list[gs.Node] = []
    pieces = {0: (0, start), 2: (end, size)}
    found = {1: updates}
    for k, bounds in pieces.items():
        if bounds[0] < bounds[1]:
            found[k] = gs.Variable(f"{name}.piece{k}", x.dtype)
            values = zip(("starts", "ends", "axes"), (*bounds, axis), strict=True)
            operands = [constant(f"{name}.piece{k}.{what}", np.array([v], np.int64)) for what, v in values]
            fresh.append(gs.Node("Slice", f"{name}.piece{k}", {}, [x, *operands], [found[k]]))
    at = next(i for i, n in enumerate(model.graph.nodes) if n is node)
    model.graph.nodes[at:at] = fresh
    node.op, node.attrs, node.inputs = "Concat", {"axis": axis}, [found[k] for k in sorted(found)]
