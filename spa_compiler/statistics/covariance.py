"""First and second moments of rows, summed in batches, and the shrinkage of a covariance of few inputs.

gram = Gram()
gram.add(x)                                # rows (n, blocks, d)
gram.covariance()                          # (blocks, d, d)
estimate_shrinkage(gram.covariance(), gram.rows())  # (blocks,) towards the diagonal
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.execution.parallel import map_parallel
from spa_compiler.statistics.settings import STATISTICS

Array = NDArray[Any]
Floats = NDArray[np.float64]
WIDE_COLUMNS = 2000
"""Columns above which sums, inverses and solutions are float32: accurate enough with the ridge, half the memory."""
BAND_ROWS = 256
"""Rows of a covariance that are worked on at a time."""
BATCH_ROWS = 1024
"""Rows that go into one product: chunks of single inputs are gathered."""


@dataclass(frozen=True)
class Products:
    """The contribution of some rows to a Gram: their number, sums and products."""

    count: int
    sums: list[Floats]
    xx: Array
    tx: Array | None = None
    tt: Floats | None = None


class Gram:
    """Running first and second moments of rows (n, blocks, d), and of targets (n, blocks, m) beside them."""

    def __init__(self) -> None:
        self.count = self.inputs = 0
        self.worth = STATISTICS.independent_rows
        self.shift: list[Array] = []
        self.total: list[Floats] = []
        self.xx: Array = np.zeros(())
        self.tx: Floats = np.zeros(())
        self.tt: Floats = np.zeros(())

    def add(self, x: Array, t: Array | None = None) -> None:
        """Add rows; float32 products of values shifted by the first rows' mean, summed in float64."""
        both = [x] if t is None else [x, t]
        if not self.count:
            self.start(both)
        self.put(self.products(both))

    def start(self, both: list[Array]) -> None:
        """Take the shift from the first rows."""
        self.shift = [a.mean(0) for a in both]
        self.total = [np.zeros(a.shape[1:]) for a in both]

    def products(self, both: list[Array]) -> Products:
        """The contribution of rows, and of targets beside them; does not change the sums."""
        moved = [a - s for a, s in zip(both, self.shift, strict=True)]
        sums = [m.sum(0, dtype=np.float64) for m in moved]
        if moved[0].shape[1] == 1:  # numpy knows the product of a matrix with its own transpose
            turned = [m[:, 0].T[None] for m in moved]
        else:
            turned = [np.ascontiguousarray(m.transpose(1, 2, 0)) for m in moved]
        x = turned[0]
        xx = (x[0] @ x[0].T)[None] if len(x) == 1 else x @ x.transpose(0, 2, 1)
        if len(turned) == 1:
            return Products(len(both[0]), sums, xx)
        t = turned[1]
        tx = (t[0] @ x[0].T)[None] if len(x) == 1 else t @ x.transpose(0, 2, 1)
        return Products(len(both[0]), sums, xx, tx, np.einsum("nbm,nbm->bm", moved[1], moved[1], dtype=np.float64))

    def put(self, new: Products) -> None:
        """Add to the sums."""
        if not self.count:
            self.xx = np.zeros(new.xx.shape, np.float32 if new.xx.shape[-1] > WIDE_COLUMNS else np.float64)
        for total, s in zip(self.total, new.sums, strict=True):
            total += s
        self.xx += new.xx
        if new.tx is not None and new.tt is not None:
            self.tx = self.tx + new.tx
            self.tt = self.tt + new.tt
        self.count += new.count

    def mean(self, which: int = 0) -> Floats:
        """(blocks, d), or (blocks, m) of the targets."""
        return np.asarray(self.shift[which] + self.total[which] / max(self.count, 1), np.float64)

    def covariance(self) -> Array:
        """(blocks, d, d); float32 above WIDE columns."""
        mean = self.total[0] / self.count
        out = self.xx / self.count
        for block, m in zip(out, mean, strict=True):
            block -= np.outer(m, m).astype(out.dtype, copy=False)
        return out

    def rows(self) -> int:
        """Independent rows: positions of one input resemble each other, it is `worth` so many at most."""
        return min(self.count, self.inputs * self.worth)

    def cross(self) -> Floats:
        """Covariance of targets with rows, (blocks, m, d)."""
        x, t = (total / self.count for total in self.total)
        return np.asarray(self.tx / self.count - t[:, :, None] * x[:, None])

    def variance(self) -> Floats:
        """Of the targets, (blocks, m)."""
        mean = self.total[1] / self.count
        return np.maximum(self.tt / self.count - mean**2, 0)


def gather_moments(
    sizes: Sequence[int], width: int, read: Callable[[int, NDArray[np.int64]], list[Array]], inputs: int,
    seed: tuple[int, ...], graph: DependencyGraph | None = None, worth: int = STATISTICS.independent_rows,
) -> Gram:  # fmt: skip
    """Gram of sampled rows: `read` gives those of a chunk, and their targets beside them; `sizes` is how many it has.

    `width` is how many columns a row has, `inputs` how many inputs the chunks hold, and `worth` how many independent
    rows the positions of each come to.
    """
    gram = Gram()
    gram.inputs, gram.worth = inputs, worth
    rng = np.random.default_rng(seed)
    wanted = math.ceil(max(STATISTICS.sampled_rows, STATISTICS.rows_per_column * width) / len(sizes))
    rows = [np.arange(n) if n <= wanted else np.sort(rng.choice(n, wanted, replace=False)) for n in sizes]

    def gather_rows(some: range) -> list[Array]:
        return [np.concatenate(parts) for parts in zip(*(read(k, rows[k]) for k in some), strict=True)]

    together = _group_chunks([len(r) for r in rows])
    first = gather_rows(together[0])
    gram.start(first)
    for new in map_parallel(lambda some: gram.products(gather_rows(some) if some.start else first), together, graph):
        gram.put(new)
    return gram


def _group_chunks(lengths: Sequence[int]) -> list[range]:
    """Chunks in a row that have TOGETHER rows or more."""
    out, start, rows = [], 0, 0
    for k, n in enumerate(lengths):
        rows += n
        if rows >= BATCH_ROWS or k == len(lengths) - 1:
            out.append(range(start, k + 1))
            start, rows = k + 1, 0
    return out


def estimate_shrinkage(covariance: Array, n: int) -> Floats:
    """How far each block of a covariance (blocks, d, d) of n rows is to be shrunk towards its diagonal: 0 to MOST.

    Oracle approximating shrinkage (Chen et al. 2010, eq. 23) of the correlations. With fewer inputs than columns every
    channel is explained by the others, and every removal looks free.
    """
    return np.array([_estimate_block_shrinkage(block, n) for block in covariance])


def _estimate_block_shrinkage(covariance: Array, n: int) -> float:
    deviation = np.sqrt(np.maximum(np.diag(covariance).astype(np.float64), 1e-30))
    live = deviation > 1e-6 * max(float(deviation.max()), 1e-12)
    d = int(live.sum())
    if d < 2:
        return 0.0
    inverse = (live / deviation).astype(covariance.dtype)
    square = 0.0
    for i in range(0, len(covariance), BAND_ROWS):  # a whole temporary costs ten times as much
        band = covariance[i : i + BAND_ROWS] * inverse
        band *= inverse[i : i + BAND_ROWS, None]
        square += float(np.dot(band.ravel(), band.ravel()))
    rho = ((1 - 2 / d) * square + d * d) / ((n + 1 - 2 / d) * max(square - d, 1e-9))
    return min(rho, STATISTICS.most_shrinkage)


def solve_least_squares(
    before: Floats, covariance: Array, cross: Floats, ridge: float, shrink: Floats | float = 0.0
) -> Floats:
    """Least squares with a ridge towards the old weights: (blocks, m, d).

    `shrink` (per block) is by how much the joint covariance of all inputs is shrunk towards its diagonal, which for the
    kept ones comes to a ridge of shrink / (1 - shrink) of that diagonal.
    """
    d = covariance.shape[-1]
    strength = ridge * np.trace(covariance, axis1=1, axis2=2) / d
    residual = cross.astype(covariance.dtype) - before.astype(covariance.dtype) @ covariance
    h, at, rho = covariance.copy(), np.arange(d), np.reshape(shrink, (-1, 1))
    h[:, at, at] += np.maximum(np.maximum(strength, 1e-12)[:, None], rho / (1 - rho) * h[:, at, at])
    if len(h) > 1:
        return np.asarray(before + np.linalg.solve(h, residual.transpose(0, 2, 1)).transpose(0, 2, 1))
    posv = scipy.linalg.lapack.sposv if h.dtype == np.float32 else scipy.linalg.lapack.dposv
    _, change, info = posv(h[0], residual[0].T)
    if info:  # not positive definite to this precision
        change = np.linalg.solve(h[0].astype(np.float64), residual[0].T)
    return np.asarray(before + change.T[None])


def repair_variance(w: Floats, covariance: Array, variance: Floats, limit: float) -> Floats:
    """Rows scaled back to the variance of their target: regression shrinks. At most by sqrt(limit), never down."""
    if limit <= 1:
        return w
    now = np.einsum("bmd,bde,bme->bm", w, covariance, w, optimize=True)
    ratio = np.clip(variance / np.maximum(now, 1e-30), 1, limit)
    return np.asarray(w * np.sqrt(ratio)[:, :, None])
