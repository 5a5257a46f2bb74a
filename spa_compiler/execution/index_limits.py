"""Limits of inputs that hold ids: the number of entries of what they index (a vocabulary, positions, graph nodes).

    find_index_limits(model)                         # {"input_ids": 30522}

Lengths of sequences are limited likewise: they are 0 up to the length of the axis. Ids that are computed with on the
way have ranges, see `execution.index_ranges`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_graphsurgeon as gs

from spa_compiler.ir.model import Model
from spa_compiler.operators.lookups import SELECTING_OPERATORS, find_lengths, find_lookups, is_count, is_moving_ids


def find_index_limits(model: Model, sizes: Mapping[str, int] | None = None, fixed: bool = False) -> dict[str, int]:
    """For integer inputs that index something: the size of what they index (a vocabulary, a table of positions).

    Where the symbols have other `sizes` than in analysis, smaller ones among them, only the first entry of what
    follows a symbol (the nodes of a graph) is sure to be there. `fixed`: only what holds for every number of an
    input and does not follow a symbol.
    """
    shrunk = has_smaller_size(model, sizes or {})
    limits: dict[str, int] = {}
    for tensor in model.graph.inputs:
        todo, seen = [tensor], set()
        while todo:
            t = todo.pop()
            for node in t.outputs:
                for size, dynamic in find_indexed_sizes(model, node, t):
                    if not (dynamic and fixed):
                        most = 1 if dynamic and shrunk else size
                        limits[tensor.name] = min(most, limits.get(tensor.name, most))
                if id(node) not in seen and is_moving_ids(node, t) and not (fixed and node.op in SELECTING_OPERATORS):
                    seen.add(id(node))
                    todo += node.outputs
    return limits


def find_count_limits(model: Model) -> dict[str, int]:
    """For integer inputs that say how many entries of an axis are taken (TopK): how many it has."""
    shapes = model.shapes.shape if model.shapes is not None else {}
    out: dict[str, int] = {}
    for tensor in model.graph.inputs:
        for node in (n for n in tensor.outputs if is_count(n, tensor)):
            shape = shapes.get(node.inputs[0].name) or node.inputs[0].shape or ()
            axis = int(node.attrs.get("axis", -1))
            if -len(shape) <= axis < len(shape) and isinstance(shape[axis], int):
                out[tensor.name] = min(shape[axis], out.get(tensor.name, shape[axis]))
    return out


def has_smaller_size(model: Model, sizes: Mapping[str, int]) -> bool:
    """Is some symbol smaller than in analysis?"""
    bound = model.shapes.sizes if model.shapes is not None else {}
    return any(size < bound[name][0] for name, size in sizes.items() if name in bound)


def find_indexed_sizes(model: Model, node: gs.Node, index: gs.Tensor) -> Iterator[tuple[int, bool]]:
    """How long the axes are that `index` points into, where this node looks something up; do they follow a symbol?"""
    shape = (model.shapes.shape if model.shapes is not None else {}).get(index.name) or index.shape
    for table, axes in find_lookups(node, index, shape):
        for axis in axes:
            yield from _find_length(model, table, axis)
    for axis in find_lengths(node, index):
        for size, dynamic in _find_length(model, node.inputs[0], axis):
            yield size + 1, dynamic  # all of a sequence may count


def _find_length(model: Model, tensor: gs.Tensor, axis: int) -> Iterator[tuple[int, bool]]:
    """How long an axis is, and whether that follows a symbol; nothing where it is not known."""
    known = model.shapes
    shape = (known.shape if known is not None else {}).get(tensor.name) or tensor.shape or ()
    dynamic = (known.dynamic if known is not None else {}).get(tensor.name) or (False,) * len(shape)
    if axis < len(shape) and isinstance(shape[axis], int):
        yield shape[axis], dynamic[axis]
