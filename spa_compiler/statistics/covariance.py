"""First and second moments of rows, summed in batches, and the shrinkage of a covariance of few inputs.

gram = Gram()
gram.add(x)                                # rows (n, blocks, d)
gram.covariance()                          # (blocks, d, d)
estimate_shrinkage(gram.covariance(), gram.rows())  # (blocks,) towards the diagonal

Where the covariance of all columns would be too large, that of parts of them is summed (`Gram(parts)`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from spa_compiler.execution.parallel import map_parallel
from spa_compiler.statistics.settings import STATISTICS

Array = NDArray[Any]
Floats = NDArray[np.float64]
Columns = slice | NDArray[np.int64]
Piece = tuple[int, NDArray[np.int64]]
"""A chunk and rows of it."""
WIDE_COLUMNS = 2000
"""Columns above which sums, inverses and solutions are float32: accurate enough with the ridge, half the memory."""
BAND_ROWS = 256
"""Rows of a covariance that are worked on at a time."""
BATCH_ROWS = 1024
"""Rows that go into one product: chunks of single inputs are gathered."""
BATCH_ENTRIES = 1 << 24
"""Entries of the rows that go into one product: fewer rows where they are wide."""


@dataclass(frozen=True)
class Products:
    """The contribution of some rows to a Gram: their number, sums and products."""

    count: int
    sums: list[Floats]
    xx: list[Array]
    tx: Array | None = None
    tt: Floats | None = None


class Gram:
    """Running first and second moments of rows (n, blocks, d), and of targets (n, blocks, m) beside them.

    `parts` are the columns whose covariances are wanted, each part by itself; by default all of them together.
    """

    def __init__(self, parts: Sequence[Columns] = (slice(None),)) -> None:
        self.parts = parts
        self.count = self.inputs = 0
        self.worth = STATISTICS.independent_rows
        self.shift: list[Array] = []
        self.total: list[Floats] = []
        self.xx: list[Array] = []
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
        xx = [_multiply_with_itself(x[:, part]) for part in self.parts]
        if len(turned) == 1:
            return Products(len(both[0]), sums, xx)
        t = turned[1]
        tx = (t[0] @ x[0].T)[None] if len(x) == 1 else t @ x.transpose(0, 2, 1)
        return Products(len(both[0]), sums, xx, tx, np.einsum("nbm,nbm->bm", moved[1], moved[1], dtype=np.float64))

    def put(self, new: Products) -> None:
        """Add to the sums."""
        if not self.count:
            self.xx = [np.zeros(a.shape, choose_type(a.shape[-1])) for a in new.xx]
        for total, s in zip(self.total, new.sums, strict=True):
            total += s
        for total, xx in zip(self.xx, new.xx, strict=True):
            total += xx
        if new.tx is not None and new.tt is not None:
            self.tx = self.tx + new.tx
            self.tt = self.tt + new.tt
        self.count += new.count

    def mean(self, which: int = 0) -> Floats:
        """(blocks, d), or (blocks, m) of the targets."""
        return np.asarray(self.shift[which] + self.total[which] / max(self.count, 1), np.float64)

    def covariance(self, part: int = 0, about_zero: bool = False) -> Array:
        """(blocks, d, d) of the columns of a part, or their mean products; float32 above WIDE columns."""
        mean = self.total[0][:, self.parts[part]] / self.count
        out = self.xx[part] / self.count
        if about_zero:
            shift = self.shift[0][:, self.parts[part]].astype(np.float64)
            for block, m, s in zip(out, mean, shift, strict=True):
                block += (np.outer(m + s, m + s) - np.outer(m, m)).astype(out.dtype, copy=False)
            return out
        for block, m in zip(out, mean, strict=True):
            block -= np.outer(m, m).astype(out.dtype, copy=False)
        return out

    def rows(self) -> int:
        """Independent rows: positions of one input resemble each other, it is `worth` so many at most."""
        return min(self.count, self.inputs * self.worth)

    def cross(self, about_zero: bool = False) -> Floats:
        """Covariance of targets with rows, (blocks, m, d), or their mean products."""
        x, t = (total / self.count for total in self.total)
        found = np.asarray(self.tx / self.count - t[:, :, None] * x[:, None])
        return found + self.mean(1)[:, :, None] * self.mean()[:, None] if about_zero else found

    def variance(self) -> Floats:
        """Of the targets, (blocks, m)."""
        mean = self.total[1] / self.count
        return np.maximum(self.tt / self.count - mean**2, 0)

    def solve(self, before: Floats, ridge: float, is_shrunk: bool, about_zero: bool = False) -> Floats:
        """Weights (blocks, m, d) from rows to targets, beside an intercept or `about_zero` without one.

        See `solve_least_squares`.
        """
        covariance = self.covariance(about_zero=about_zero)
        shrink = estimate_shrinkage(covariance, self.rows()) if is_shrunk else 0.0
        return solve_least_squares(before, covariance, self.cross(about_zero), ridge, shrink)

    def measure_error(self, w: Floats) -> Floats:
        """Mean squared distance (blocks, m) of what weights (blocks, m, d) give to the targets, beside an intercept."""
        explained = 2 * np.einsum("bmd,bmd->bm", w, self.cross())
        return np.asarray(np.maximum(self.variance() - explained + self.measure_variance(w), 0))

    def measure_variance(self, w: Floats) -> Floats:
        """Of what the rows give with weights (blocks, m, d), (blocks, m)."""
        return np.asarray(np.einsum("bmd,bde,bme->bm", w, self.covariance(), w, optimize=True))


def _multiply_with_itself(x: Array) -> Array:
    """(blocks, d, d) of turned rows (blocks, d, n)."""
    return (x[0] @ x[0].T)[None] if len(x) == 1 else np.asarray(x @ x.transpose(0, 2, 1))


def choose_type(columns: int) -> type[np.float32] | type[np.float64]:
    """The type in which a covariance of so many columns is summed, inverted and solved."""
    return np.float32 if columns > WIDE_COLUMNS else np.float64


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    `read(k, rows)` gives rows of chunk k (n, blocks, d), and targets (n, blocks, m) beside them. `sizes` is how many
    rows each chunk has, `inputs` how many inputs they hold, `worth` how many independent rows the positions of one
    input come to.
    """

    sizes: Sequence[int]
    read: Callable[[int, NDArray[np.int64]], list[Array]]
    inputs: int
    seed: tuple[int, ...]
    worth: int = STATISTICS.independent_rows

    def sample(self, wanted: int, most: float = math.inf) -> list[Piece]:
        """Of each chunk the rows that are sampled, so many of all, in pieces of at most so many rows."""
        rng, each = np.random.default_rng(self.seed), math.ceil(wanted / len(self.sizes))
        rows = [np.arange(n) if n <= each else np.sort(rng.choice(n, each, replace=False)) for n in self.sizes]
        return [(k, p) for k, r in enumerate(rows) for p in np.array_split(r, max(1, math.ceil(len(r) / most)))]

    def gather(self, pieces: Sequence[Piece]) -> list[Array]:
        """Rows of several chunks."""
        return [np.concatenate(parts) for parts in zip(*(self.read(k, rows) for k, rows in pieces), strict=True)]


def gather_moments(source: Source, width: int, parts: Sequence[Columns] = (slice(None),)) -> Gram:
    """Gram of sampled rows that have `width` columns in all, and of their targets where the source gives some."""
    gram = Gram(parts)
    gram.inputs, gram.worth = source.inputs, source.worth
    widest = math.ceil(width / len(parts))
    most = max(1, BATCH_ENTRIES // max(width, 1))
    pieces = source.sample(max(STATISTICS.sampled_rows, STATISTICS.rows_per_column * widest), most)
    batches = _group_pieces(pieces, min(BATCH_ROWS, most))
    first = source.gather(batches[0])
    gram.start(first)
    for new in map_parallel(lambda k: gram.products(source.gather(batches[k]) if k else first), range(len(batches))):
        gram.put(new)
    return gram


def _group_pieces(pieces: Sequence[Piece], wanted: int) -> list[Sequence[Piece]]:
    """Pieces in a row that have the wanted number of rows or more."""
    out, start, count = [], 0, 0
    for k, (_, rows) in enumerate(pieces):
        count += len(rows)
        if count >= wanted or k == len(pieces) - 1:
            out.append(pieces[start : k + 1])
            start, count = k + 1, 0
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
    return estimate_from_norm(square, d, n)


def estimate_from_norm(square: float, d: int, n: int) -> float:
    """The shrinkage of correlations of d columns, of n rows, from their squared Frobenius norm."""
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


def repair_variance(w: Floats, now: Floats, wanted: Floats, limit: float) -> Floats:
    """Rows scaled back to the variance of their target: regression shrinks. At most by sqrt(limit), never down."""
    ratio = np.clip(wanted / np.maximum(now, 1e-30), 1, limit)
    return np.asarray(w * np.sqrt(ratio)[:, :, None])
