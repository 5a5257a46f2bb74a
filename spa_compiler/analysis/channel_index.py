"""The channel of a group that every position of an axis, or of several axes of a value, belongs to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Expr
from spa_compiler.algebra.masks import NO_CHANNEL, find_coordinates
from spa_compiler.analysis.dependency_graph import Group


def find_owners(group: Group, axis: Expr) -> NDArray[np.int64]:
    """For every position of an axis the flat index into group.shape, or NOWHERE."""
    place = find_coordinates(axis, frozenset((*group.dims, *([group.block] if group.block is not None else []))))
    out = np.full(axis.size, NO_CHANNEL, np.int64)
    at = 0
    for d in group.dims:
        if d in place:
            out = np.where(place[d] != NO_CHANNEL, place[d] + at, out)
        at += d.size
    if group.block is None:
        return out
    block = place.get(group.block)
    if block is None:
        return np.full_like(out, NO_CHANNEL)
    return np.where((out == NO_CHANNEL) | (block == NO_CHANNEL), NO_CHANNEL, block * group.size + out)


def spread_owners(group: Group, axes: list[Expr], at: int) -> NDArray[np.int64]:
    """Flat group index over the axes of a value, with the block on the same or on another axis."""
    place, rank = find_coordinates(axes[at], frozenset(group.dims)), len(axes)
    along = np.full(axes[at].size, NO_CHANNEL, np.int64)
    offset = 0
    for d in group.dims:
        if d in place:
            along = np.where(place[d] != NO_CHANNEL, place[d] + offset, along)
        offset += d.size
    index = along.reshape([-1 if i == at else 1 for i in range(rank)])
    if group.block is None:
        return index
    for i, a in enumerate(axes):
        block = find_coordinates(a, (group.block,)).get(group.block)
        if block is not None:
            outer = block.reshape([-1 if j == i else 1 for j in range(rank)])
            return np.where((index == NO_CHANNEL) | (outer == NO_CHANNEL), NO_CHANNEL, outer * group.size + index)
    return index * 0 + NO_CHANNEL
