"""Contractions of so many columns that one covariance of all of them would take too long, and too much memory.

split_columns(axis, dims, channels)            # parts of columns whose covariances are measured, each by itself
gather_evidence(source, blocks, d).solve(...)  # least squares of all columns, from fewer rows than columns

Scores look at parts: a channel costs the sum of what it costs in each. A kernel is cut into places, so that channels
that are read at the same place stay together and stand in for each other; what they have in common from place to place
is not seen. Least squares with a ridge need no covariance of columns: with n rows X,

    (X^T X + D)^-1 X^T = D^-1 X^T (X D^-1 X^T + I)^-1

is a system of n equations, and the solution is that of all columns together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, Expr
from spa_compiler.algebra.masks import find_coordinates
from spa_compiler.statistics.covariance import (
    Array,
    Columns,
    Floats,
    Gram,
    Source,
    estimate_from_norm,
    gather_moments,
)

LARGEST_COVARIANCE = 5120**2
"""Entries that the covariances of a contraction have together at most."""
MOST_ROWS = 4096
"""Rows of a system in place of the covariance."""
ROW_ENTRIES = 1 << 26
"""Entries of these rows together at most: 256 MB."""
COLUMNS_AT_ONCE = 4096
"""Columns of the rows that are worked on at a time."""


def is_wide(blocks: int, columns: int) -> bool:
    """Would one covariance of all columns (of each block) be too large?"""
    return blocks * columns**2 > LARGEST_COVARIANCE


def split_columns(axis: Expr, dims: frozenset[Dim], channels: NDArray[np.int64]) -> list[Columns]:
    """Parts of the columns of a contraction whose covariances are small enough together; all in one where they may be.

    `channels` (blocks, d) is the position on the axis that each column reads, `dims` are those that channels of groups
    live on. The first columns that read each channel come first, then the second ones: places of a kernel, or of a map.
    """
    blocks, d = channels.shape
    if not is_wide(blocks, d):
        return [slice(None)]
    coordinates = find_coordinates(axis)
    carried = [coordinates[k][channels[0]] for k in coordinates if k in dims]
    _, channel = np.unique(np.array(carried).reshape(-1, d), axis=1, return_inverse=True)
    place = np.empty(d, np.int64)
    order = np.argsort(channel.ravel(), kind="stable")
    counts = np.bincount(channel.ravel())
    place[order] = np.arange(d) - np.repeat(np.cumsum(counts) - counts, counts)
    count = math.ceil(blocks * d * d / LARGEST_COVARIANCE)
    return [np.sort(part) for part in np.array_split(np.argsort(place, kind="stable"), count)]


@dataclass(frozen=True)
class SampledRows:
    """Rows x (n, blocks, d) and their targets t (n, blocks, m) of least squares without a covariance.

    `independent` is how many independent rows they come to.
    """

    x: Array
    t: Array
    independent: int

    def mean(self, which: int = 0) -> Floats:
        """(blocks, d), or (blocks, m) of the targets."""
        return np.asarray((self.x, self.t)[which].mean(0, dtype=np.float64))

    def variance(self) -> Floats:
        """Of the targets, (blocks, m)."""
        return np.asarray(self.t.var(0, dtype=np.float64))

    def measure_variance(self, w: Floats) -> Floats:
        """Of what the rows give with weights (blocks, m, d), (blocks, m)."""
        return np.array([(self.x[:, b] @ v.T).var(0, dtype=np.float64) for b, v in enumerate(w.astype(np.float32))])

    def measure_error(self, w: Floats) -> Floats:
        """Mean squared distance (blocks, m) of what weights (blocks, m, d) give to the targets, beside an intercept."""
        found = [self.t[:, b] - self.x[:, b] @ v.T for b, v in enumerate(w.astype(np.float32))]
        return np.array([a.var(0, dtype=np.float64) for a in found])

    def solve(self, before: Floats, ridge: float, is_shrunk: bool, about_zero: bool = False) -> Floats:
        """Weights (blocks, m, d): as `Gram.solve` does with the covariances of these rows."""
        change = [self._solve_block(b, w, ridge, is_shrunk, about_zero) for b, w in enumerate(before)]
        return before + np.stack(change)

    def _solve_block(self, block: int, before: Floats, ridge: float, is_shrunk: bool, about_zero: bool) -> Floats:
        """The change (m, d) of the weights of a block."""
        x, t = self.x[:, block], self.t[:, block]
        if not about_zero:
            x, t = x - self.mean()[block].astype(np.float32), t - self.mean(1)[block]
        n = len(x)
        variance = np.einsum("nd,nd->d", x, x, dtype=np.float64) / n
        rho = self._estimate_shrinkage(x, variance) if is_shrunk else 0.0
        diagonal = np.maximum(max(ridge * float(variance.mean()), 1e-12), rho / (1 - rho) * variance)
        scale = 1 / np.sqrt(n * diagonal)
        residual = np.asarray(t - x @ before.T.astype(np.float32), np.float64)
        system = _multiply_rows(x, scale)
        system[np.diag_indices(n)] += 1
        _, solution, info = scipy.linalg.lapack.dposv(system, residual)
        if info:  # not positive definite to this precision
            solution = np.linalg.solve(_multiply_rows(x, scale) + np.eye(n), residual)
        return np.asarray((x.T @ solution.astype(np.float32) * scale[:, None] ** 2).T, np.float64)

    def _estimate_shrinkage(self, x: Array, variance: Floats) -> float:
        """As `estimate_shrinkage` of the covariance of these rows: that of rows has the same norm."""
        deviation = np.sqrt(np.maximum(variance, 1e-30))
        live = deviation > 1e-6 * max(float(deviation.max()), 1e-12)
        if live.sum() < 2:
            return 0.0
        square = float(np.square(_multiply_rows(x, live / deviation)).sum()) / len(x) ** 2
        return estimate_from_norm(square, int(live.sum()), self.independent)


Evidence = Gram | SampledRows
"""Rows and targets as least squares are solved from them."""


def gather_evidence(source: Source, blocks: int, columns: int) -> Evidence:
    """Moments of rows of so many columns and of their targets, or the rows themselves where they are wide."""
    if not is_wide(blocks, columns):
        return gather_moments(source, columns)
    rows = source.sample(min(MOST_ROWS, max(1, ROW_ENTRIES // (blocks * columns))))
    x, t = source.gather(rows)
    return SampledRows(x, t, min(len(x), source.inputs * source.worth))


def _multiply_rows(x: Array, scale: Floats) -> Floats:
    """Products (n, n) of rows (n, d) whose columns are scaled; bands of columns, for a copy of all takes memory."""
    out = np.zeros((len(x), len(x)))
    for k in range(0, x.shape[1], COLUMNS_AT_ONCE):
        band = x[:, k : k + COLUMNS_AT_ONCE] * scale[k : k + COLUMNS_AT_ONCE].astype(np.float32)
        out += band @ band.T
    return out


__all__ = ["Evidence", "SampledRows", "gather_evidence", "is_wide", "split_columns"]
