"""Importance by Optimal Brain Surgeon on coupled channels: the error that is left after the best compensation.

Removing the columns P of one contraction costs tr(W_P (H^-1_PP)^-1 W_P^T); a channel of a group costs the sum of that
over all contractions that read it, each divided by the variance of what it feeds. Channels go one after another, with
H^-1 and W down-dated each time (Hassibi and Stork 1993; block form: Frantar and Alistarh, arXiv 2208.11580; coupled
channels: arXiv 2403.18955), so that of two equal channels only the first is cheap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

from spa_compiler import criteria
from spa_compiler.axes import NOWHERE, coordinates
from spa_compiler.criteria import Scores
from spa_compiler.dims import Expr
from spa_compiler.graph import DependencyGraph, Group
from spa_compiler.moments import WIDE, Meeting, Moment, Moments

Array = NDArray[Any]
Floats = NDArray[np.float64]
RIDGE, FLOOR = 0.01, 1e-5
"""Share of its own diagonal that is added to H (a constant channel stays free), and of the mean diagonal."""
RESIDUAL = 3.0
"""Weight of the error of a residual stream (2 to 4 alike on ResNet-20 at half the MACs, 13 points above 1)."""
EXACT, SHARE = 64, 32
"""Channels up to which one goes at a time; wider groups drop 1/32 of what is left before all are scored again."""


def owners(graph: DependencyGraph, group: Group, axis: Expr) -> NDArray[np.int64]:
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


@dataclass(eq=False)
class Part:
    """One block of one contraction, as the greedy removal sees it: it is changed step by step."""

    inverse: Array  # (d, d) of H
    weights: Array  # (d, m): W^T with rows scaled so that squares are relative errors
    columns: list[tuple[NDArray[np.int64], NDArray[np.int64]]]  # (channels (n,), their columns (n, P)), by P
    rest: NDArray[np.int64] = field(init=False)  # columns of channels that other groups own

    def __post_init__(self) -> None:
        mine = [q.ravel() for _, q in self.columns]
        every = np.arange(self.inverse.shape[0])
        self.rest = np.setdiff1d(every, np.concatenate(mine)) if mine else every

    def score(self, out: Floats) -> None:
        """Add the error of removing each channel on its own."""
        for channels, columns in self.columns:
            if len(channels) == 0:
                continue
            block = self.inverse[columns[:, :, None], columns[:, None, :]]
            w = self.weights[columns]
            if columns.shape[1] == 1:
                error = (w[:, 0] ** 2).sum(1) / np.maximum(block[:, 0, 0], 1e-30)
            else:
                gram = w @ w.transpose(0, 2, 1)
                error = np.trace(np.linalg.solve(block, gram), axis1=1, axis2=2)
            np.add.at(out, channels, error)

    def remove(self, gone: NDArray[np.int64]) -> None:
        """Down-date for the channels that went."""
        rows = [columns[np.isin(channels, gone)].ravel() for channels, columns in self.columns]
        p = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        if p.size:
            across = self.inverse[p]
            solved = np.linalg.solve(across[:, p], np.concatenate([across, self.weights[p]], axis=1))
            d = self.inverse.shape[0]
            gemm = blas.sgemm if self.inverse.dtype == np.float32 else blas.dgemm  # in place: a temporary costs more
            self.inverse = gemm(-1.0, across.T, solved[:, :d], 1.0, self.inverse.T, overwrite_c=1).T
            self.weights -= across.T @ solved[:, d:]
        self.columns = [(c[keep], q[keep]) for c, q in self.columns for keep in [~np.isin(c, gone)]]
        self._compress()

    def _compress(self) -> None:
        """Drop removed rows once they are a third."""
        alive = np.sort(np.concatenate([self.rest, *(q.ravel() for _, q in self.columns)]))
        if alive.size > 0.7 * self.inverse.shape[0]:
            return
        where = np.full(self.inverse.shape[0], -1)
        where[alive] = np.arange(alive.size)
        self.inverse = np.ascontiguousarray(self.inverse[np.ix_(alive, alive)])
        self.weights = self.weights[alive]
        self.rest = where[self.rest]
        self.columns = [(c, where[q]) for c, q in self.columns]


def parts(moment: Moment, owner: NDArray[np.int64], diagonal: bool = False) -> Iterable[Part]:
    """The blocks of a contraction in which channels of a group occur."""
    blocks, m, d = moment.weights.shape
    scale = (moment.gain / np.sqrt(moment.energy)).reshape(blocks, m)
    dtype = np.float32 if d > WIDE else np.float64
    for b in range(blocks):
        mine = owner[moment.channels[b]]
        if (mine == NOWHERE).all():
            continue
        h = moment.covariance[b].astype(dtype)
        if diagonal:
            h = np.diag(np.diag(h))
        diagonals = np.diag(h)
        h[np.diag_indices(d)] += RIDGE * diagonals + FLOOR * max(float(diagonals.mean()), 1e-12)
        weights = (moment.weights[b] * scale[b][:, None]).T.astype(dtype)
        yield Part(_inverse(h), np.ascontiguousarray(weights), _columns(mine))


def _inverse(h: Array) -> Array:
    single = h.dtype == np.float32
    potrf, potri = (lapack.spotrf, lapack.spotri) if single else (lapack.dpotrf, lapack.dpotri)
    factor, info = potrf(h, lower=True)
    if info:
        return np.linalg.pinv(h, hermitian=True)
    lower, _ = potri(factor, lower=True)
    full = np.tril(lower)
    return np.ascontiguousarray(full + np.tril(full, -1).T)


def _columns(mine: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Channels and their columns, those with equally many columns together."""
    order = np.argsort(mine, kind="stable")
    order = order[mine[order] != NOWHERE]
    channels, start, count = np.unique(mine[order], return_index=True, return_counts=True)
    out = []
    for n in np.unique(count):
        hit = count == n
        out.append((channels[hit], order[start[hit][:, None] + np.arange(n)]))
    return out


def greedy(pieces: list[Part], shape: tuple[int, ...], base: Floats | None = None) -> Floats:
    """Error that each channel adds when it goes, in the order of removal (a running maximum per block).

    Every block of (blocks, size) loses a channel in each round. `base` is an error per channel that nothing absorbs.
    """
    blocks = shape[0] if len(shape) == 2 else 1
    size = shape[-1]
    alive = np.ones((blocks, size), bool)
    out = np.zeros((blocks, size))
    peak = np.zeros(blocks)
    while alive.any():
        error = np.zeros(blocks * size) if base is None else base.ravel().copy()
        for part in pieces:
            part.score(error)
        left = int(alive[0].sum())
        n = 1 if size <= EXACT else max(1, left // SHARE)
        error = np.where(alive, np.maximum(error.reshape(blocks, size), 0), np.inf)
        chosen = np.argsort(error, axis=1, kind="stable")[:, :n]
        for b in range(blocks):
            for c in chosen[b]:
                peak[b] = max(peak[b], error[b, c])
                out[b, c] = peak[b]
                alive[b, c] = False
        gone = (np.arange(blocks)[:, None] * size + chosen).ravel()
        for part in pieces:
            part.remove(gone)
    return out.reshape(shape)


def meeting_error(graph: DependencyGraph, group: Group, meeting: Meeting) -> Floats:
    """E[q^2] E[k^2] of every channel over the sum of all: its share of the product's energy."""
    size = int(np.prod(group.shape))
    product = np.ones(size)
    for axes, squares in meeting.sides:
        index = np.full((1,) * len(axes), NOWHERE, np.int64)
        for i, a in enumerate(axes):
            if set(group.dims) & set(coordinates(a)):
                index = _spread(graph, group, axes, i)
        where = np.broadcast_to(index, squares.shape)
        hit = where != NOWHERE
        total = np.bincount(where[hit], squares[hit], size)
        product *= total / np.maximum(np.bincount(where[hit], minlength=size), 1)
    return product / max(float(product.sum()), 1e-30)


def _spread(graph: DependencyGraph, group: Group, axes: list[Expr], at: int) -> NDArray[np.int64]:
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


def obspa(graph: DependencyGraph, moments: Moments | None, rng: np.random.Generator) -> Scores:
    """Greedy block OBS over all contractions of every group; magnitude where there are no moments."""
    return _score(graph, moments, rng, diagonal=False)


def flap(graph: DependencyGraph, moments: Moments | None, rng: np.random.Generator) -> Scores:
    """Var(X_j) |W_:,j|^2 (An et al., arXiv 2312.11983): OBS with a diagonal H."""
    return _score(graph, moments, rng, diagonal=True)


def _score(graph: DependencyGraph, moments: Moments | None, rng: np.random.Generator, diagonal: bool) -> Scores:
    out: Scores = {}
    fallback: Scores | None = None
    for group in graph.groups:
        pieces, base = _pieces(graph, moments or Moments(), group, diagonal)
        if not pieces and not base.any():
            fallback = fallback or criteria.l2(graph, None, rng)
            out[group.label] = fallback[group.label] / max(float(fallback[group.label].sum()), 1e-30)
        else:
            out[group.label] = greedy(pieces, group.shape, base) * (1 if diagonal else share(graph, group))
    return out


def share(graph: DependencyGraph, group: Group) -> float:
    """RESIDUAL for a stream that several contractions write to: what it loses no later one can write again."""
    writers = [m for m in group.members if m.role == "out" and len(graph.values[m.value].shape) > 1]
    return RESIDUAL if len(writers) > 1 else 1.0


def _pieces(graph: DependencyGraph, moments: Moments, group: Group, diagonal: bool) -> tuple[list[Part], Floats]:
    dims = set(group.dims)
    pieces: list[Part] = []
    for moment in moments.of.values():
        if dims & moment.contracted:
            pieces += parts(moment, owners(graph, group, moment.axis), diagonal)
    base = np.zeros(int(np.prod(group.shape)))
    for meeting in moments.meetings:
        if dims & meeting.contracted:
            base += meeting_error(graph, group, meeting)
    return pieces, base


__all__ = ["flap", "obspa"]
