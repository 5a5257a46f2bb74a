"""Computed positions: results of operators on tables whose entries are a start plus a step for each axis.

    Index(axes=("N", 4), start=0, steps=(4, 1))      # entry (i, j) is i * 4 + j
    STEPS["Add"](step)                               # the index of a sum, of those of its operands

How many positions there are may follow a symbol, so they are no numbers, and still count. Values are followed through a
graph by `canonicalize.index_arithmetic`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra import sizes
from spa_compiler.algebra.sizes import Size
from spa_compiler.operators.movement import find_order

WIDE_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
"""Element types that hold every position."""


@dataclass(frozen=True)
class Index:
    """A table of integers: entry (i, j, ...) is start + i * steps[0] + j * steps[1] + ..."""

    axes: tuple[Size, ...]
    start: Size
    steps: tuple[Size, ...]

    def is_count_to(self, size: Size) -> bool:
        """Are the entries 0, 1, 2, ... up to before `size`, row by row?"""
        total: Size = 1
        for length, step in zip(self.axes[::-1], self.steps[::-1], strict=True):
            if length != 1 and step != total:
                return False
            total = sizes.multiply(total, length)
        return self.start == 0 and total == size


@dataclass(frozen=True)
class Step:
    """A node, the sizes of its output, the element type of it, and how its operands are looked up."""

    node: gs.Node
    axes: tuple[Size, ...]
    element: int
    index: Callable[[gs.Tensor], Index | None]
    table: Callable[[gs.Tensor], NDArray[Any] | None]

    def x(self) -> Index | None:
        """The index that the first input is."""
        return self.index(self.node.inputs[0])


def make_even_index(values: NDArray[Any]) -> Index | None:
    """Numbers as an index, where their steps are even."""
    if values.dtype.kind not in "iu" or not values.size:
        return None
    start = int(values.ravel()[0])
    grid, steps = np.full([1] * values.ndim, start, np.int64), []
    for k, n in enumerate(values.shape):
        steps.append(int(np.take(values, 1, k).ravel()[0]) - start if n > 1 else 0)
        grid = grid + steps[k] * np.arange(n).reshape([-1 if j == k else 1 for j in range(values.ndim)])
    return Index(values.shape, start, tuple(steps)) if np.array_equal(grid, values) else None


def reshape_index(x: Index, axes: tuple[Size, ...]) -> Index | None:
    """An index in another shape: axes of size 1 come and go, and a row may be cut into rows."""
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
    total = sizes.multiply_all(n for n, _ in left)
    if [n for n in axes if n != 1] == [total] and Index(x.axes, 0, x.steps).is_count_to(total):
        return Index(axes, x.start, tuple(0 if n == 1 else 1 for n in axes))
    return None


def broadcast_index(x: Index, axes: tuple[Size, ...]) -> Index | None:
    """An index broadcast to more axes; None where an axis that follows a symbol may be 1, and then is repeated."""
    front = len(axes) - len(x.axes)
    if any(n != 1 and n != a for n, a in zip(x.axes, axes[front:], strict=True)):
        return None
    steps = [0] * front + [0 if n == 1 else s for n, s in zip(x.axes, x.steps, strict=True)]
    return Index(axes, x.start, tuple(steps))


def _make_range(step: Step) -> Index | None:
    ends = [step.table(t) for t in step.node.inputs]
    if any(e is None for e in ends):
        return None
    start, _, delta = (e.ravel()[0] for e in ends if e is not None)
    entries = [int(v) if isinstance(v, np.integer) else v for v in (start, delta)]
    return Index(step.axes, entries[0], (entries[1],)) if all(map(sizes.is_size, entries)) else None


def _regroup(step: Step) -> Index | None:
    x = step.x()
    return None if x is None else reshape_index(x, step.axes)


def _expand(step: Step) -> Index | None:
    x = step.x()
    return None if x is None else broadcast_index(x, step.axes)


def _transpose(step: Step) -> Index | None:
    x = step.x()
    order = find_order(step.node, len(step.axes))
    return None if x is None or order is None else Index(step.axes, x.start, tuple(x.steps[p] for p in order))


def _copy(step: Step) -> Index | None:
    return step.x()


def _cast(step: Step) -> Index | None:
    """To a type that holds every position: truth values and short integers do not."""
    return step.x() if step.element in WIDE_INTEGERS else None


def _add(step: Step) -> Index | None:
    a, b = (step.index(t) for t in step.node.inputs)
    if a is None or b is None:
        return None
    x, y = broadcast_index(a, step.axes), broadcast_index(b, step.axes)
    if x is None or y is None:
        return None
    combine = sizes.add if step.node.op == "Add" else sizes.subtract
    return Index(step.axes, combine(x.start, y.start), tuple(map(combine, x.steps, y.steps)))


def _multiply(step: Step) -> Index | None:
    a, b = (step.index(t) for t in step.node.inputs)
    if a is None or b is None:
        return None
    x, by = (a, b) if all(n == 1 for n in b.axes) else (b, a)
    many = broadcast_index(x, step.axes)
    if many is None or any(n != 1 for n in by.axes):
        return None
    steps = tuple(sizes.multiply(s, by.start) for s in many.steps)
    return Index(step.axes, sizes.multiply(many.start, by.start), steps)


INDEX_STEPS: dict[str, Callable[[Step], Index | None]] = {
    "Range": _make_range, "Reshape": _regroup, "Unsqueeze": _regroup, "Squeeze": _regroup, "Flatten": _regroup,
    "Expand": _expand, "Transpose": _transpose, "Cast": _cast, "Identity": _copy, "Add": _add, "Sub": _add,
    "Mul": _multiply,
}  # fmt: skip
"""The index that each operator makes; None where it makes none."""
