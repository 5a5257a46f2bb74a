"""Importance by Optimal Brain Surgeon on coupled channels: the error that is left after the best compensation.

Removing the columns P of one contraction costs tr(W_P (H^-1_PP)^-1 W_P^T); a channel of a group costs the sum of that
over all contractions that read it, each divided by the variance of what it feeds. Channels go one after another, with
H^-1 and W down-dated each time (Hassibi and Stork 1993; block form: Frantar and Alistarh, arXiv 2208.11580; coupled
channels: arXiv 2403.18955), so that of two equal channels only the first is cheap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from spa_compiler.algebra.masks import NO_CHANNEL, find_coordinates
from spa_compiler.analysis.channel_index import find_owners, spread_owners
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.execution.finite import ignore_overflow, is_finite
from spa_compiler.execution.item_counts import count_items
from spa_compiler.execution.parallel import map_parallel
from spa_compiler.planning.scores import NotedScores, Scores
from spa_compiler.scoring import magnitude
from spa_compiler.scoring.criterion import criterion
from spa_compiler.scoring.settings import SCORING
from spa_compiler.statistics.covariance import WIDE_COLUMNS
from spa_compiler.statistics.moments import ActivationProduct, Moment, Moments

Array = NDArray[Any]
Floats = NDArray[np.float64]
WIDE_GROUP = 1000
"""Columns from which a group is worth a thread of its own: narrow ones only fight for the interpreter."""
DENSE_SHARE, BAND_COLUMNS = 0.7, 256
"""Share of columns that are left when the others are dropped; rows that are mirrored at a time."""


@dataclass(eq=False)
class Part:
    """One block of a contraction (or of several that read the same values), as the greedy removal sees it.

    A block-pivoted Cholesky factorisation of H^-1 in the order of removal: `factor` holds the rows of the pivots since
    the last `_compress`, so that the down-dated inverse is inverse - factor^T factor; only its diagonal blocks and the
    weights are kept up to date, the rest is worked out for the rows that go.
    """

    inverse: Array  # (d, d) of H
    weights: Array  # (d, m): W^T with rows scaled so that squares are relative errors
    columns: list[tuple[NDArray[np.int64], NDArray[np.int64]]]  # (channels (n,), their columns (n, P)), by P
    rest: NDArray[np.int64] = field(init=False)  # columns of channels that other groups own
    blocks: list[Array] = field(init=False)  # (n, P, P) beside `group_columns`: their diagonal blocks of the inverse
    factor: Array = field(init=False)  # (capacity, d), of which `pivots` rows are in use
    pivots: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        mine = [q.ravel() for _, q in self.columns]
        every = np.arange(self.inverse.shape[0])
        self.rest = np.setdiff1d(every, np.concatenate(mine)) if mine else every
        self.blocks = [self.inverse[q[:, :, None], q[:, None, :]] for _, q in self.columns]
        self.factor = np.zeros((0, len(every)), self.inverse.dtype)

    def score(self, out: Floats) -> None:
        """Add the error of removing each channel on its own."""
        for (channels, columns), block in zip(self.columns, self.blocks, strict=True):
            if len(channels) == 0:
                continue
            w = self.weights[columns]
            if columns.shape[1] == 1:
                error = np.einsum("nm,nm->n", w[:, 0], w[:, 0]) / np.maximum(block[:, 0, 0], 1e-30)
            else:
                error = np.trace(np.linalg.solve(block, w @ w.transpose(0, 2, 1)), axis1=1, axis2=2)
            np.add.at(out, channels, error)

    def remove(self, gone: NDArray[np.int64]) -> None:
        """Down-date for the channels that went."""
        hits = [np.isin(channels, gone) for channels, _ in self.columns]
        rows = [columns[hit].ravel() for (_, columns), hit in zip(self.columns, hits, strict=True)]
        p = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        self.columns = [(c[~hit], q[~hit]) for (c, q), hit in zip(self.columns, hits, strict=True)]
        self.blocks = [b[~hit] for b, hit in zip(self.blocks, hits, strict=True)]
        if p.size:
            self._eliminate(p)
            self._compress()

    def restrict(self, wanted: NDArray[np.int64]) -> Part:
        """The same for these channels alone, as it stands."""
        hits = [np.isin(channels, wanted) for channels, _ in self.columns]
        own = [(c[hit], q[hit]) for (c, q), hit in zip(self.columns, hits, strict=True) if hit.any()]
        p = np.sort(np.concatenate([q.ravel() for _, q in own])) if own else np.zeros(0, np.int64)
        rows = self.factor[: self.pivots, p]
        return Part(
            self.inverse[np.ix_(p, p)] - rows.T @ rows, self.weights[p], [(c, np.searchsorted(p, q)) for c, q in own]
        )

    def _eliminate(self, p: NDArray[np.int64]) -> None:
        """The next rows of the factor, and what they take from the weights and the diagonal blocks."""
        before = self.factor[: self.pivots]
        across = self.inverse[p]
        if self.pivots:
            across -= before[:, p].T @ before
        d = across.shape[1]
        row = _divide_by_pivot(across[:, p], np.concatenate([across, self.weights[p]], axis=1))
        new, fed = row[:, :d], row[:, d:]
        self.weights -= new.T @ fed
        for (_, columns), block in zip(self.columns, self.blocks, strict=True):
            part = new.T[columns]
            block -= part @ part.transpose(0, 2, 1)
        if self.pivots + len(p) > len(self.factor):
            room = np.empty((max(len(p), math.ceil((1 - DENSE_SHARE) * d)) + self.pivots, d), across.dtype)
            room[: self.pivots] = before
            self.factor = room
        self.factor[self.pivots : self.pivots + len(p)] = new
        self.pivots += len(p)

    def _compress(self) -> None:
        """Drop removed rows once they are a third."""
        alive = np.sort(np.concatenate([self.rest, *(q.ravel() for _, q in self.columns)]))
        if alive.size > DENSE_SHARE * self.inverse.shape[0]:
            return
        where = np.full(self.inverse.shape[0], -1)
        where[alive] = np.arange(alive.size)
        self.inverse = self.inverse[np.ix_(alive, alive)]
        rows = np.take(self.factor[: self.pivots], alive, axis=1)
        self.inverse -= rows.T @ rows
        self.factor, self.pivots = np.zeros((0, alive.size), rows.dtype), 0
        self.weights = self.weights[alive]
        self.rest = where[self.rest]
        self.columns = [(c, where[q]) for c, q in self.columns]


def _divide_by_pivot(pivot: Array, rows: Array) -> Array:
    """L^-1 rows for the Cholesky factor L of the pivot; of its positive part where rounding has made it indefinite."""
    single = pivot.dtype == np.float32
    lower, info = (scipy.linalg.lapack.spotrf if single else scipy.linalg.lapack.dpotrf)(pivot, lower=True)
    if not info:
        trsm = scipy.linalg.blas.strsm if single else scipy.linalg.blas.dtrsm
        return trsm(1.0, lower, rows.T, side=1, lower=1, trans_a=1, overwrite_b=1).T
    values, vectors = np.linalg.eigh((pivot + pivot.T) / 2)
    root = 1 / np.sqrt(np.maximum(values, np.finfo(pivot.dtype).eps * max(float(values[-1]), 1e-30)))
    return np.asarray((vectors * root).T @ rows)


def make_parts(moments: Sequence[Moment], owner: NDArray[np.int64]) -> Iterable[Part]:
    """The blocks in which channels of a group occur, of contractions that all have the covariance of the first.

    Blocks that a single channel owns are left out: they are `score_alone`.
    """
    covariance, channels = moments[0].covariance, moments[0].channels
    dtype = np.float32 if covariance.shape[-1] > WIDE_COLUMNS else np.float64
    for b, here in enumerate(channels):
        mine = owner[here]
        if (mine == NO_CHANNEL).all() or _is_single(mine):
            continue
        weights = [_scale_weights(m)[b].T for m in moments]
        h = add_ridge(covariance[b].astype(dtype), moments[0].shrinkage[b])
        yield Part(invert(h), np.concatenate(weights, 1, dtype=dtype), group_columns(mine))


def _scale_weights(moment: Moment) -> Floats:
    """(blocks, m, d), rows scaled so that squares are relative errors."""
    blocks, m, _ = moment.weights.shape
    return np.asarray(moment.weights * (moment.gain / np.sqrt(moment.energy)).reshape(blocks, m, 1))


def _is_single(mine: NDArray[np.int64]) -> bool:
    """Does one channel own all columns of a block (a depthwise convolution)?"""
    return bool(mine[0] != NO_CHANNEL and (mine == mine[0]).all())


def score_alone(moment: Moment, owner: NDArray[np.int64], diagonal: bool, size: int) -> Floats:
    """(size,): error of channels that no other can stand in for: tr(W_P H_PP W_P^T).

    Those that own a block by themselves, or all where H is taken as diagonal.
    """
    out = np.zeros(size)
    weights = _scale_weights(moment)
    for b, here in enumerate(moment.channels):
        mine = owner[here]
        if not (diagonal or _is_single(mine)):
            continue
        h = add_ridge(moment.covariance[b].astype(np.float64), moment.shrinkage[b])
        error = np.einsum("md,d,md->d", weights[b], np.diag(h), weights[b])
        if not diagonal:
            error = np.einsum("md,de,me->d", weights[b], h, weights[b], optimize=True)
        np.add.at(out, mine[mine != NO_CHANNEL], error[mine != NO_CHANNEL])
    return out


def add_ridge(h: Array, shrinkage: float = 0.0) -> Array:
    """H shrunk towards its diagonal and with its ridge, in place."""
    diagonals = np.diag(h).copy()
    h *= 1 - shrinkage
    h[np.diag_indices(len(h))] += shrinkage * diagonals
    h[np.diag_indices(len(h))] += SCORING.ridge * diagonals + SCORING.ridge_floor * max(float(diagonals.mean()), 1e-12)
    return h


def invert(h: Array) -> Array:
    """Of a symmetric positive definite matrix; in float64 where float32 will not do."""
    single = h.dtype == np.float32
    lapack = scipy.linalg.lapack
    potrf, potri = (lapack.spotrf, lapack.spotri) if single else (lapack.dpotrf, lapack.dpotri)
    factor, info = potrf(h, lower=True)
    if info and single:
        return invert(h.astype(np.float64)).astype(np.float32)
    if info:
        return np.linalg.pinv(h, hermitian=True)
    upper = potri(factor, lower=True, overwrite_c=True)[0].T  # in C order, its lower triangle is zero
    for i in range(0, len(upper), BAND_COLUMNS):  # band by band: whole temporaries cost more than the copy
        upper[i : i + BAND_COLUMNS, :i] = upper[:i, i : i + BAND_COLUMNS].T
        corner = upper[i : i + BAND_COLUMNS, i : i + BAND_COLUMNS]
        corner += np.triu(corner, 1).T
    return np.asarray(upper)


def group_columns(mine: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Channels and their columns, those with equally many columns together."""
    order = np.argsort(mine, kind="stable")
    order = order[mine[order] != NO_CHANNEL]
    channels, start, count = np.unique(mine[order], return_index=True, return_counts=True)
    out = []
    for n in np.unique(count):
        hit = count == n
        out.append((channels[hit], order[start[hit][:, None] + np.arange(n)]))
    return out


def score_greedily(pieces: list[Part], shape: tuple[int, ...], base: Floats | None = None) -> Floats:
    """Error that each channel adds when it goes, in the order of removal (a running maximum per block).

    Every block of (blocks, size) loses the same number of channels in each round. `base` is an error per channel that
    nothing absorbs. All NaN where an error is not finite on the way: the numbers do not bear what is asked of them.
    """
    blocks = shape[0] if len(shape) == 2 else 1
    size = shape[-1]
    alive = np.ones((blocks, size), bool)
    out, peak = np.zeros((blocks, size)), np.zeros(blocks)
    fixed = np.zeros(blocks * size) if base is None else base.ravel()
    for n in plan_rounds(size):
        error = _sum_errors(pieces, fixed, alive)
        if not is_finite(error[alive]):
            return np.full(shape, np.nan)
        gone = np.zeros_like(alive)
        for chosen, cost in _pick_one_by_one(pieces, fixed, error, n):
            peak = np.maximum(peak, cost)
            out[np.arange(blocks), chosen] = peak
            gone[np.arange(blocks), chosen] = True
        alive &= ~gone
        for part in pieces if alive.any() else ():
            part.remove(np.flatnonzero(gone.ravel()))
    return out.reshape(shape)


def _sum_errors(pieces: list[Part], fixed: Floats, alive: NDArray[np.bool_]) -> Floats:
    """(blocks, size): the error of removing each channel on its own, infinite for those that are gone."""
    error = fixed.copy()
    for part in pieces:
        part.score(error)
    return np.where(alive, np.maximum(error.reshape(alive.shape), 0), np.inf)


def _pick_one_by_one(
    pieces: list[Part], fixed: Floats, error: Floats, n: int
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """The n cheapest channels of every block and what each adds, among those that look cheapest now.

    Each is scored again after the one before it: of two equal channels only the first is cheap.
    """
    if n == 1:
        chosen = error.argmin(1)
        yield chosen, error[np.arange(len(error)), chosen]
        return
    some = np.argsort(error, axis=1, kind="stable")[:, : SCORING.shortlist * n]
    left = np.zeros(error.shape, bool)
    np.put_along_axis(left, some, np.isfinite(np.take_along_axis(error, some, 1)), 1)
    short = [part.restrict(np.flatnonzero(left.ravel())) for part in pieces]
    every = np.arange(len(error))
    for _ in range(n):
        now = _sum_errors(short, fixed, left)
        chosen = now.argmin(1)
        yield chosen, now[every, chosen]
        left[every, chosen] = False
        for part in short:
            part.remove(every * error.shape[1] + chosen)


def plan_rounds(size: int) -> list[int]:
    """How many of `size` channels go in each round: one, or a share of what is left; together they are all."""
    out: list[int] = []
    left = size
    for _ in range(size):
        out.append(min(left, 1 if size <= SCORING.single_channels else max(1, left // SCORING.round_share)))
        left -= out[-1]
    return [n for n in out if n]


def score_products(graph: DependencyGraph, group: Group, meeting: ActivationProduct) -> Floats:
    """E[q^2] E[k^2] of every channel over the sum of all: its share of the product's energy."""
    size = int(np.prod(group.shape))
    product = np.ones(size)
    for axes, squares in meeting.sides:
        index = np.full((1,) * len(axes), NO_CHANNEL, np.int64)
        for i, a in enumerate(axes):
            if find_coordinates(a, group.dims):
                index = spread_owners(group, axes, i)
        where = np.broadcast_to(index, squares.shape)
        hit = where != NO_CHANNEL
        total = np.bincount(where[hit], squares[hit], size)
        product *= total / np.maximum(np.bincount(where[hit], minlength=size), 1)
    return product / max(float(product.sum()), 1e-30)


@criterion(needs="moments", scores_are_errors=True, stand_in="l2", raises_hidden=True)
def obspa(graph: DependencyGraph, moments: Moments | None, rng: np.random.Generator) -> Scores:
    """Greedy block OBS over all contractions of every group; magnitude where there are no moments."""
    return _score_groups(graph, moments, rng, diagonal=False)


@criterion(needs="moments", scores_are_errors=True)
def flap(graph: DependencyGraph, moments: Moments | None, rng: np.random.Generator) -> Scores:
    """Var(X_j) |W_:,j|^2 (An et al., arXiv 2312.11983): OBS with a diagonal H."""
    return _score_groups(graph, moments, rng, diagonal=True)


def _score_groups(graph: DependencyGraph, moments: Moments | None, rng: np.random.Generator, diagonal: bool) -> Scores:
    """Wide groups side by side; those without moments by magnitude."""
    taken = moments or Moments()
    widths = {g.label: max((m.channels.shape[1] for m in find_readers(taken, g)), default=0) for g in graph.groups}
    ordered = sorted(graph.groups, key=lambda g: -widths[g.label])
    wide = [g for g in ordered if widths[g.label] >= WIDE_GROUP]
    with ignore_overflow():
        scored = (_score_group(graph, taken, g, diagonal) for g in ordered[len(wide) :])
        every = chain(map_parallel(lambda g: _score_group(graph, taken, g, diagonal), wide), scored)
        found = list(count_items(every, len(ordered)))
    scores = dict(zip([g.label for g in ordered], found, strict=True))
    by_weights = any(not isinstance(v, np.ndarray) for v in scores.values())
    fallback = magnitude.l2(graph, None, rng) if by_weights else {}

    def score_label(label: str) -> Floats:
        value = scores[label]
        if isinstance(value, np.ndarray):
            return value
        return fallback[label] / max(float(fallback[label].sum()), 1e-30)

    notes = {n: v for n, v in scores.items() if isinstance(v, str) and v}
    return NotedScores({g.label: score_label(g.label) for g in graph.groups}, notes)


def find_readers(moments: Moments, group: Group) -> list[Moment]:
    """Contractions that read channels of a group."""
    return [m for first in moments.of.values() if not first.contracted.isdisjoint(group.dims) for m in first.every]


def _score_group(graph: DependencyGraph, moments: Moments, group: Group, diagonal: bool) -> Floats | str:
    """Scores of one group; why there are none where its statistics say nothing, '' where nothing was measured."""
    size = int(np.prod(group.shape))
    meetings = [m for m in moments.products if not m.contracted.isdisjoint(group.dims)]
    found: list[Moment | ActivationProduct] = [*find_readers(moments, group), *meetings]
    if flaw := next(filter(None, (m.flaw for m in found)), ""):
        return flaw
    base, pieces = np.zeros(size), []
    same: dict[int, list[Moment]] = {}
    for moment in find_readers(moments, group):
        same.setdefault(id(moment.covariance), []).append(moment)
    try:
        for several in same.values():
            owner = find_owners(group, several[0].axis)
            base += sum(score_alone(m, owner, diagonal, size) for m in several)
            pieces += [] if diagonal else list(make_parts(several, owner))
        for meeting in meetings:
            base += score_products(graph, group, meeting)
        if not pieces and not base.any():
            return ""
        scores = score_greedily(pieces, group.shape, base) * (1 if diagonal else find_residual_share(graph, group))
    except np.linalg.LinAlgError:
        return f"the statistics of {name_read_values(moments, group)} cannot be inverted"
    return scores if is_finite(scores) else f"errors of {name_read_values(moments, group)} overflow"


def name_read_values(moments: Moments, group: Group) -> str:
    """Names of the values whose statistics a group is scored by."""
    return ", ".join(dict.fromkeys(f"'{m.value}'" for m in find_readers(moments, group)))


def find_residual_share(graph: DependencyGraph, group: Group) -> float:
    """The weight of the error of a group; more than 1 for a stream that several contractions write to."""
    writers = [m for m in group.members if m.role == "out" and len(graph.values[m.value].shape) > 1]
    return SCORING.residual_weight if len(writers) > 1 else 1.0


__all__ = ["flap", "obspa"]
