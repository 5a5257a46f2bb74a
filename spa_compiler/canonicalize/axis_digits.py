"""Digits of axes under chains of Reshape and Transpose: how a chain moves positions, for every size.

    axis, order = find_permutation(chain, general)     # the chain is Gather(x, order, axis)

An axis is a row of digits, the most significant first. Reshape regroups them and may cut one in two; Transpose moves
whole axes. A digit may be as long as a symbol says: it is never cut then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra import sizes
from spa_compiler.algebra.sizes import Size
from spa_compiler.operators.movement import find_order
from spa_compiler.shape_inference.every_binding import General


@dataclass(eq=False)
class Digit:
    """An index that runs to `size`; `parts` are the digits that it was cut into."""

    size: Size
    parts: list[Digit] = field(default_factory=list)

    def leaves(self) -> list[Digit]:
        return [leaf for p in self.parts for leaf in p.leaves()] if self.parts else [self]


def find_permutation(chain: list[gs.Node], general: General) -> tuple[int, NDArray[np.int64]] | None:
    """Which axis a chain of row-major nodes permutes and the order; None where it does anything else.

    What moves nothing does so on the last axis of a fixed size that is longer than 1.
    """
    axes = general.axes(chain[0].inputs[0].name)
    if axes is None:
        return None
    source = [[Digit(s)] for s in axes]
    moved = [list(row) for row in source]
    for node in chain:
        after = general.axes(node.outputs[0].name)
        if after is None:
            return None
        order = find_order(node, len(moved))
        if order is not None:
            moved = [moved[p] for p in order]
        else:
            regrouped = _regroup([leaf for row in moved for d in row for leaf in d.leaves()], after)
            if regrouped is None:
                return None
            moved = regrouped
    return _compare_axes(axes, source, moved)


def _regroup(digits: list[Digit], axes: tuple[Size, ...]) -> list[list[Digit]] | None:
    """Digits in their order as axes of these sizes; None where a digit of unknown length would have to be cut."""
    left, out = list(digits), []
    for size in axes:
        row: list[Digit] = []
        while size != 1:
            if not left:
                return None
            digit = left.pop(0)
            if digit.size == 1:
                continue
            if digit.size == size:
                row.append(digit)
                size = 1
                continue
            rest = _divide(size, digit.size)
            if rest is not None:
                row.append(digit)
                size = rest
                continue
            low = _divide(digit.size, size)
            if low is None or not isinstance(digit.size, int):
                return None
            digit.parts = [Digit(size), Digit(low)]
            row.append(digit.parts[0])
            left.insert(0, digit.parts[1])
            size = 1
        out.append(row)
    return out if all(d.size == 1 for d in left) else None


def _divide(a: Size, b: Size) -> Size | None:
    """A / b where b divides a for every binding."""
    quotient = sizes.floor_divide(a, b)
    return quotient if sizes.multiply(quotient, b) == a else None


def _compare_axes(
    axes: tuple[Size, ...], source: list[list[Digit]], moved: list[list[Digit]]
) -> tuple[int, NDArray[np.int64]] | None:
    before, after = ([_list_leaves(row) for row in rows] for rows in (source, moved))
    different = [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if [*map(id, a)] != [*map(id, b)]]
    if not different:
        fixed = [k for k, s in enumerate(axes) if isinstance(s, int) and s > 1]
        return (fixed[-1], np.arange(int(str(axes[fixed[-1]])), dtype=np.int64)) if fixed else None
    k = different[0]
    lengths = [d.size for d in before[k]]
    if len(different) > 1 or {*map(id, before[k])} != {*map(id, after[k])}:
        return None
    fixed_lengths = [s for s in lengths if isinstance(s, int)]
    if len(fixed_lengths) < len(lengths):
        return None
    places = np.arange(math.prod(fixed_lengths), dtype=np.int64).reshape(fixed_lengths)
    where = {id(d): i for i, d in enumerate(before[k])}
    return k, places.transpose([where[id(d)] for d in after[k]]).ravel()


def _list_leaves(row: list[Digit]) -> list[Digit]:
    return [leaf for d in row for leaf in d.leaves() if leaf.size != 1]
