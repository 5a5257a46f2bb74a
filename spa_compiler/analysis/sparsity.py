"""Zeros that training left inside of weights: their share, and patterns of N numbers among M that kernels may use.

    find_pattern(weights)       # (2, 4): of every 4 numbers along an axis at most 2 are not 0

Nothing of a pattern is removed: a channel goes only where all its weights are 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph, Group

Array = NDArray[Any]
LENGTHS = (4, 8, 16, 32)
"""Lengths M that are looked at; hardware takes 2 of 4."""


def find_pattern(weights: Array) -> tuple[int, int] | None:
    """(N, M) of the least N / M for which at most N < M of M numbers along some axis are not 0; None without one.

    >>> find_pattern(np.tile([[1.0, 0.0, 0.0, 2.0]], (4, 2)))
    (2, 4)
    """
    if weights.ndim < 2 or not weights.any():
        return None
    there = weights != 0
    places = [(k, m) for m in LENGTHS for k, n in enumerate(there.shape) if n >= m and n % m == 0]
    found = [(count_most(there, k, m), m) for k, m in places]
    return min((p for p in found if p[0] < p[1]), key=lambda p: (p[0] / p[1], p[1]), default=None)


def count_most(there: NDArray[np.bool_], axis: int, length: int) -> int:
    """The most entries that are true in one run of this length along an axis."""
    rows = np.moveaxis(there, axis, -1)
    return int(rows.reshape(*rows.shape[:-1], -1, length).sum(-1).max())


def list_group_weights(graph: DependencyGraph, group: Group) -> dict[str, Array]:
    """The constants with two axes or more that a group cuts, by name."""
    names = dict.fromkeys(m.value for m in group.members)
    found = {n: graph.model.array(graph.constants[n]) for n in names}
    return {n: a for n, a in found.items() if a.ndim > 1}


def measure_zeros(weights: dict[str, Array]) -> float:
    """The share of the numbers in these arrays that are 0."""
    total = sum(a.size for a in weights.values())
    return 1 - sum(int(np.count_nonzero(a)) for a in weights.values()) / total if total else 0.0
