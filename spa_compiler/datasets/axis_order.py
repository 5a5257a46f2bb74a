"""Rows whose axes stand in another order, or are flat: what can be put right by the shapes alone, and what cannot.

>>> plan_arrangement((16, 16, 3), (3, 16, 16)).note
'the last axis was moved to the front'
>>> plan_arrangement((768,), (3, 16, 16)).order is None
True
>>> plan_arrangement((16, 3, 16), (3, 16, 16)) is None
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Arrangement:
    """The order of a row's axes (None: as they are), the shape that the row has then, and a note for the user.

    `is_reshaped`: axes were made of a flat row, or flat.
    """

    order: Shape | None
    shape: Shape
    note: str = ""
    is_reshaped: bool = False

    def apply(self, rows: Array) -> Array:
        """The rows, one behind the other, each arranged."""
        if self.order is not None:
            rows = np.transpose(rows, (0, *(k + 1 for k in self.order)))
        return rows if rows.shape[1:] == self.shape else rows.reshape(len(rows), *self.shape)


def is_fitting(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Has a row these sizes (0: any)?"""
    return len(shape) == len(wanted) and all(not w or w == s for w, s in zip(wanted, shape, strict=True))


def plan_arrangement(row: Sequence[int], wanted: Sequence[int]) -> Arrangement | None:
    """How a row of one shape becomes one of the wanted sizes (0: any); None where that cannot be told.

    Axes of one entry may come and go. The axis of the channels may stand at the other end, all others in their order;
    where both ends fit, or its size is that of another axis, nothing can be told. A flat row has the order of the
    model, and one of two axes is made flat row by row.
    """
    row, wanted = tuple(row), tuple(wanted)
    if is_fitting(row, wanted):
        return Arrangement(None, row)
    whole, sizes = tuple(s for s in row if s != 1), tuple(w for w in wanted if w != 1)
    if is_fitting(whole, sizes):
        return Arrangement(None, _fill(wanted, whole))
    moves = _list_moves(row, wanted)
    if len(moves) == 1 and (len(whole) == 2 or _is_told_apart(moves[0], row)):
        return moves[0]
    if moves or 0 in wanted or math.prod(row) != math.prod(wanted):
        return None
    if len(whole) == 1:
        return Arrangement(None, wanted, is_reshaped=True)
    if len(whole) == 2 and len(sizes) == 1:
        return Arrangement(None, wanted, "rows were made flat, the last axis runs fastest", True)
    return None


def _list_moves(row: Shape, wanted: Shape) -> list[Arrangement]:
    """The ways to fit by moving the last axis to the front or the first to the end."""
    axes = tuple(k for k, s in enumerate(row) if s != 1)
    if len(axes) < 2:
        return []
    sizes = tuple(w for w in wanted if w != 1)
    ways = {
        (*axes[-1:], *axes[:-1]): "the last axis was moved to the front",
        (*axes[1:], axes[0]): "the first axis was moved to the end",
    }
    units = tuple(k for k, s in enumerate(row) if s == 1)
    if len(axes) == 2:
        ways = {axes[::-1]: "the two axes were exchanged"}
    return [
        Arrangement((*way, *units), _fill(wanted, tuple(row[k] for k in way)), note)
        for way, note in ways.items()
        if is_fitting([row[k] for k in way], sizes)
    ]


def _is_told_apart(move: Arrangement, row: Shape) -> bool:
    """Has the axis that moves a size of its own? Else it may be another one that should have moved."""
    assert move.order is not None
    axes = [k for k in move.order if row[k] != 1]
    moved = axes[0] if axes[1:] == sorted(axes[1:]) else axes[-1]
    return sum(s == row[moved] for s in row) == 1


def _fill(wanted: Shape, sizes: Shape) -> Shape:
    """The wanted shape, its free sizes from `sizes`, which says nothing of axes of one entry."""
    rest = iter(sizes)
    return tuple(1 if w == 1 else next(rest) for w in wanted)


def describe_misfit(row: Sequence[int], wanted: Sequence[int]) -> str:
    """The way out for a row that is not arranged, behind a message."""
    if not 0 < math.prod(row) == math.prod(wanted):
        return ""
    if sorted(s for s in row if s != 1) == sorted(w for w in wanted if w != 1):
        return "; its axes are in another order: transpose them (numpy.transpose)"
    return "; only flat rows are reshaped: give the axes as the model has them, or rows made flat in its order"


__all__ = ["Arrangement", "describe_misfit", "is_fitting", "plan_arrangement"]
