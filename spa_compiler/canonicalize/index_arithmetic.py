"""Positions that are computed: tables whose entries are a start plus a step for each axis, of any size.

    find_index(model, tensor, general)      # Index(axes=(N, 4), start=0, steps=(4, 1)): i * 4 + j

Exporters compute positions with Range, Unsqueeze, Expand, Mul and Add. How many there are may follow a symbol, so they
are no numbers, and still count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra import sizes
from spa_compiler.algebra.sizes import Size
from spa_compiler.ir.model import Model
from spa_compiler.shape_inference.every_binding import General

REGROUPING = ("Squeeze", "Unsqueeze", "Reshape", "Identity")
LARGEST = 1 << 24
"""Entries of a constant up to which it is looked at."""
WIDE = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


@dataclass(frozen=True)
class Index:
    """A table of integers: entry (i, j, ...) is start + i * steps[0] + j * steps[1] + ..."""

    axes: tuple[Size, ...]
    start: Size
    steps: tuple[Size, ...]

    def counts_to(self, size: Size) -> bool:
        """Are the entries 0, 1, 2, ... up to before `size`, row by row?"""
        total: Size = 1
        for length, step in zip(self.axes[::-1], self.steps[::-1], strict=True):
            if length != 1 and step != total:
                return False
            total = sizes.multiply(total, length)
        return self.start == 0 and total == size


def find_places(model: Model, tensor: gs.Tensor, general: General, pointed: Sequence[Size]) -> list[Index] | None:
    """The positions along each axis that the last axis of an operand of ScatterND lists, each as an index.

    `pointed` are the sizes of the axes that they point into: negative positions count from the end.
    """
    maker, axes = tensor.inputs[0] if tensor.inputs else None, general.axes(tensor.name)
    if axes is None or not isinstance(axes[-1], int):
        return None
    if maker is not None and maker.op == "Concat" and int(maker.attrs["axis"]) in (-1, len(axes) - 1):
        parts = [find_index(model, t, general) for t in maker.inputs]
        if all(p is not None and p.axes[-1] == 1 for p in parts):
            return [Index(p.axes[:-1], p.start, p.steps[:-1]) for p in parts if p is not None]
    inner = general.axes(maker.inputs[0].name) if maker is not None and maker.op in REGROUPING else None
    if maker is not None and inner and inner[-1] == axes[-1]:  # axes in front of the last come and go
        places = find_places(model, maker.inputs[0], general, pointed)
        moved = [_regrouped(p, axes[:-1]) for p in places or ()]
        if places and None not in moved:
            return [m for m in moved if m is not None]
    known = _numbers(model, tensor, general)
    columns: list[Index | None] = []
    for k, size in enumerate(pointed[: axes[-1]] if known is not None else ()):
        column = known[..., k] if known is not None else np.zeros(0)
        columns.append(_counted(column % size if isinstance(size, int) and size else column))
    found = [c for c in columns if c is not None]
    if columns and len(found) == len(columns):
        return found
    whole = find_index(model, tensor, general)
    return [Index(whole.axes[:-1], whole.start, whole.steps[:-1])] if whole is not None and axes[-1] == 1 else None


def find_index(model: Model, tensor: gs.Tensor, general: General) -> Index | None:
    """The table that a value is, or None. Found once for each value: sums of sums read the same ones again."""
    if tensor.name not in general.positions:
        general.positions[tensor.name] = _find_index(model, tensor, general)
    found: Index | None = general.positions[tensor.name]
    return found


def _find_index(model: Model, tensor: gs.Tensor, general: General) -> Index | None:
    known = _numbers(model, tensor, general)
    if known is not None:
        return _counted(known)
    table = general.table(tensor.name)
    if table is not None and table.size == 1 and sizes.is_size(table.ravel()[0]):
        return Index((1,) * table.ndim, table.ravel()[0], (0,) * table.ndim)
    if not tensor.inputs:
        return None
    node, axes = tensor.inputs[0], general.axes(tensor.name)
    step = _STEPS.get(node.op)
    return None if step is None or axes is None else step(model, node, general, axes)


def _numbers(model: Model, tensor: gs.Tensor, general: General) -> NDArray[Any] | None:
    if isinstance(tensor, gs.Constant):
        wide = int(np.prod(tensor.shape, dtype=np.int64)) > LARGEST
        return None if wide else model.array(tensor)
    return general.values.get(tensor.name)


def _counted(values: NDArray[Any]) -> Index | None:
    """Numbers as an index, where their steps are even."""
    if values.dtype.kind not in "iu" or not values.size:
        return None
    start = int(values.ravel()[0])
    grid, steps = np.full([1] * values.ndim, start, np.int64), []
    for k, n in enumerate(values.shape):
        steps.append(int(np.take(values, 1, k).ravel()[0]) - start if n > 1 else 0)
        grid = grid + steps[k] * np.arange(n).reshape([-1 if j == k else 1 for j in range(values.ndim)])
    return Index(values.shape, start, tuple(steps)) if np.array_equal(grid, values) else None


def _range(model: Model, node: gs.Node, general: General, axes: tuple[Size, ...]) -> Index | None:
    ends = [general.table(t.name) if not isinstance(t, gs.Constant) else model.array(t) for t in node.inputs]
    if any(e is None for e in ends):
        return None
    start, _, delta = (e.ravel()[0] for e in ends if e is not None)
    entries = [int(v) if isinstance(v, np.integer) else v for v in (start, delta)]
    return Index(axes, entries[0], (entries[1],)) if all(map(sizes.is_size, entries)) else None


def _regroup(model: Model, node: gs.Node, general: General, axes: tuple[Size, ...]) -> Index | None:
    """Reshape, Unsqueeze, Squeeze: axes of size 1 come and go, and a row may be cut into rows."""
    x = find_index(model, node.inputs[0], general)
    return None if x is None else _regrouped(x, axes)


def _regrouped(x: Index, axes: tuple[Size, ...]) -> Index | None:
    """An index in another shape."""
    left = [(n, s) for n, s in zip(x.axes, x.steps, strict=True) if n != 1]
    if [n for n, _ in left] == [n for n in axes if n != 1]:
        steps = iter(s for _, s in left)
        return Index(axes, x.start, tuple(0 if n == 1 else next(steps) for n in axes))
    if len(left) == 1:
        step, out = left[0][1], []
        for n in axes[::-1]:
            out.append(step)
            step = sizes.multiply(step, n)
        return Index(axes, x.start, tuple(out[::-1]))
    total = sizes.product(n for n, _ in left)
    if [n for n in axes if n != 1] == [total] and Index(x.axes, 0, x.steps).counts_to(total):
        return Index(axes, x.start, tuple(0 if n == 1 else 1 for n in axes))
    return None


def _expand(model: Model, node: gs.Node, general: General, axes: tuple[Size, ...]) -> Index | None:
    x = find_index(model, node.inputs[0], general)
    return None if x is None else _spread(x, axes)


def _spread(x: Index, axes: tuple[Size, ...]) -> Index | None:
    """An index broadcast to more axes; None where an axis that follows a symbol may be 1, and then is repeated."""
    front = len(axes) - len(x.axes)
    if any(n != 1 and n != a for n, a in zip(x.axes, axes[front:], strict=True)):
        return None
    steps = [0] * front + [0 if n == 1 else s for n, s in zip(x.axes, x.steps, strict=True)]
    return Index(axes, x.start, tuple(steps))


def _transpose(model: Model, node: gs.Node, general: General, axes: tuple[Size, ...]) -> Index | None:
    x = find_index(model, node.inputs[0], general)
    perm: Sequence[int] = node.attrs.get("perm") or range(len(axes))[::-1]
    return None if x is None else Index(axes, x.start, tuple(x.steps[int(p)] for p in perm))


def _pass(model: Model, node: gs.Node, general: General, axes: tuple[Size, ...]) -> Index | None:
    """Identity, and Cast to a type that holds every position: truth values and short integers do not."""
    wide = node.op != "Cast" or general.types[node.outputs[0].name].tensor_type.elem_type in WIDE
    return find_index(model, node.inputs[0], general) if wide else None


def _add(model: Model, node: gs.Node, general: General, axes: tuple[Size, ...]) -> Index | None:
    a, b = (find_index(model, t, general) for t in node.inputs)
    if a is None or b is None:
        return None
    x, y = _spread(a, axes), _spread(b, axes)
    if x is None or y is None:
        return None
    combine = sizes.add if node.op == "Add" else sizes.subtract
    return Index(axes, combine(x.start, y.start), tuple(map(combine, x.steps, y.steps)))


def _multiply(model: Model, node: gs.Node, general: General, axes: tuple[Size, ...]) -> Index | None:
    a, b = (find_index(model, t, general) for t in node.inputs)
    if a is None or b is None:
        return None
    x, by = (a, b) if all(n == 1 for n in b.axes) else (b, a)
    many = _spread(x, axes)
    if many is None or any(n != 1 for n in by.axes):
        return None
    return Index(axes, sizes.multiply(many.start, by.start), tuple(sizes.multiply(s, by.start) for s in many.steps))


_STEPS = {
    "Range": _range, "Reshape": _regroup, "Unsqueeze": _regroup, "Squeeze": _regroup, "Flatten": _regroup,
    "Expand": _expand, "Transpose": _transpose, "Cast": _pass, "Identity": _pass, "Add": _add, "Sub": _add,
    "Mul": _multiply,
}  # fmt: skip

__all__ = ["Index", "find_index", "find_places"]
