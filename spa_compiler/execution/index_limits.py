"""Which inputs hold ids, and how many entries what they point into has (a vocabulary, positions, the nodes of a graph).

    index_limits(model)                         # {"input_ids": 30522}

Lengths of sequences are limited likewise: they are 0 up to the length of the axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_graphsurgeon as gs

from spa_compiler.ir.model import Model

MOVING = dict.fromkeys(
    "Cast Expand Flatten Gather GatherND Identity Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split(), (0,)
) | {"Concat": None, "Where": (1, 2)}
"""Operators that pass ids on, and the inputs that they pass on; None: all of them."""
SELECTING = {"Gather", "GatherND", "Slice", "Split", "Where"}
"""Pass on some of them only."""
LOOKUPS = dict.fromkeys("Gather GatherElements GatherND Scatter ScatterElements ScatterND".split(), ((1, 0),)) | {
    "EmbedLayerNormalization": ((0, 2), (1, 4))
}
"""Operators that look something up: pairs of the input that holds ids and the input that they point into."""
LENGTHS = dict.fromkeys(("GRU", "LSTM", "RNN"), (4, "layout")) | {"ReverseSequence": (1, "time_axis")}
"""Operators that are told how much of each sequence counts: that input, and the attribute that names the axis."""


def index_limits(model: Model, sizes: Mapping[str, int] | None = None, fixed: bool = False) -> dict[str, int]:
    """For integer inputs that index something: the size of what they index (a vocabulary, a table of positions).

    Where the symbols have other `sizes` than in analysis, smaller ones among them, only the first entry of what
    follows a symbol (the nodes of a graph) is sure to be there. `fixed`: only what holds for every number of an
    input and does not follow a symbol.
    """
    shrunk = _shrunk(model, sizes or {})
    limits: dict[str, int] = {}
    for tensor in model.graph.inputs:
        todo, seen = [tensor], set()
        while todo:
            t = todo.pop()
            for node in t.outputs:
                for size, dynamic in _indexed(model, node, t):
                    if not (dynamic and fixed):
                        most = 1 if dynamic and shrunk else size
                        limits[tensor.name] = min(most, limits.get(tensor.name, most))
                if id(node) not in seen and _moves(node, t) and not (fixed and node.op in SELECTING):
                    seen.add(id(node))
                    todo += node.outputs
    return limits


def count_limits(model: Model) -> dict[str, int]:
    """For integer inputs that say how many entries of an axis are taken (TopK): how many it has."""
    shapes = model.shapes.shape if model.shapes is not None else {}
    out: dict[str, int] = {}
    for tensor in model.graph.inputs:
        for node in (n for n in tensor.outputs if n.op == "TopK" and len(n.inputs) > 1 and n.inputs[1] is tensor):
            shape = shapes.get(node.inputs[0].name) or node.inputs[0].shape or ()
            axis = int(node.attrs.get("axis", -1))
            if -len(shape) <= axis < len(shape) and isinstance(shape[axis], int):
                out[tensor.name] = min(shape[axis], out.get(tensor.name, shape[axis]))
    return out


def _shrunk(model: Model, sizes: Mapping[str, int]) -> bool:
    bound = model.shapes.sizes if model.shapes is not None else {}
    return any(size < bound[name][0] for name, size in sizes.items() if name in bound)


def _moves(node: gs.Node, t: gs.Tensor) -> bool:
    """Does this node give the ids of `t` on?"""
    slots = MOVING.get(node.op, ())
    return any(x is t for k, x in enumerate(node.inputs) if slots is None or k in slots)


def _indexed(model: Model, node: gs.Node, index: gs.Tensor) -> Iterator[tuple[int, bool]]:
    """How long the axes are that `index` points into, where this node looks something up; do they follow a symbol?"""
    for slot, table in LOOKUPS.get(node.op, ()):
        if max(slot, table) < len(node.inputs) and node.inputs[slot] is index:
            for axis in _pointed(model, node, index):
                yield from _length(model, node.inputs[table], axis)
    slot, attribute = LENGTHS.get(node.op, (0, ""))
    if attribute and slot < len(node.inputs) and node.inputs[slot] is index:
        for size, dynamic in _length(model, node.inputs[0], int(node.attrs.get(attribute, 0))):
            yield size + 1, dynamic  # all of a sequence may count


def _length(model: Model, tensor: gs.Tensor, axis: int) -> Iterator[tuple[int, bool]]:
    """How long an axis is, and whether that follows a symbol; nothing where it is not known."""
    known = model.shapes
    shape = (known.shape if known is not None else {}).get(tensor.name) or tensor.shape or ()
    dynamic = (known.dynamic if known is not None else {}).get(tensor.name) or (False,) * len(shape)
    if axis < len(shape) and isinstance(shape[axis], int):
        yield shape[axis], dynamic[axis]


def _pointed(model: Model, node: gs.Node, index: gs.Tensor) -> range:
    """The axes of the table that one entry of `index` points into."""
    if node.op in ("GatherND", "ScatterND"):
        shape = (model.shapes.shape if model.shapes is not None else {}).get(index.name) or index.shape
        first = int(node.attrs.get("batch_dims", 0))
        return range(first, first + shape[-1]) if shape and isinstance(shape[-1], int) else range(0)
    axis = int(node.attrs.get("axis", 0))
    return range(axis, axis + 1)
