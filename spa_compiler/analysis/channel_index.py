"""Which channel of a group every position of an axis, or of several axes of a value, belongs to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Expr
from spa_compiler.algebra.masks import NOWHERE, coordinates
from spa_compiler.analysis.dependency_graph import Group


def owners(group: Group, axis: Expr) -> NDArray[np.int64]:
    """For every position of an axis the flat index into group.shape, or NOWHERE."""
    place = coordinates(axis)
    out = np.full(axis.size, NOWHERE, np.int64)
    at = 0
    for d in group.dims:
        if d in place:
            out = np.where(place[d] != NOWHERE, place[d] + at, out)
        at += d.size
    if group.block is None:
        return out
    block = place.get(group.block)
    if block is None:
        return np.full_like(out, NOWHERE)
    return np.where((out == NOWHERE) | (block == NOWHERE), NOWHERE, block * group.size + out)


def spread(group: Group, axes: list[Expr], at: int) -> NDArray[np.int64]:
    """Flat group index over the axes of a value, with the block on the same or on another axis."""
    place, rank = coordinates(axes[at]), len(axes)
    along = np.full(axes[at].size, NOWHERE, np.int64)
    offset = 0
    for d in group.dims:
        if d in place:
            along = np.where(place[d] != NOWHERE, place[d] + offset, along)
        offset += d.size
    index = along.reshape([-1 if i == at else 1 for i in range(rank)])
    if group.block is None:
        return index
    for i, a in enumerate(axes):
        block = coordinates(a).get(group.block)
        if block is not None:
            outer = block.reshape([-1 if j == i else 1 for j in range(rank)])
            return np.where((index == NOWHERE) | (outer == NOWHERE), NOWHERE, outer * group.size + index)
    return index * 0 + NOWHERE
