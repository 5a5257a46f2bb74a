"""Importance: one score per channel of every group, larger = keep.

    scores = criterion("l2")(graph, None, rng)      # {group label: array of group.shape}

Scores are errors: the error curve of a group is the cumulative sum of its sorted scores, so that groups compare. A
criterion is a function of the graph, the moments (None where none were taken) and a random generator; others are found
through the entry-point group `spa_compiler.criteria`. Scores are finite, whatever the weights are: `check_scores` says
so of those of a plug-in, and `Noted` tells which groups a criterion could not score as it would have liked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.weight_slices import (
    Slices,
    find_gains,
    find_learned_slices,
    find_slices,
    find_spoiled,
    stack_rows,
)
from spa_compiler.execution.finite import divide_by_power, find_exponent, ignore_overflow
from spa_compiler.planning.scores import Scores

Array = NDArray[Any]


def _score_groups(graph: DependencyGraph, measure: Callable[[Group], NDArray[np.float64]]) -> Scores:
    """Scores of every group, divided by their mean so that groups compare.

    Channels with weights that are not finite count as much as the best: what they are worth is not known.
    """
    out: Scores = {}
    with ignore_overflow():
        for group in graph.groups:
            raw = divide_by_power(measure(group))
            raw = np.where(find_spoiled(graph, group), raw.max(initial=0.0), raw)
            mean = float(raw.mean())
            out[group.label] = (raw / mean if mean else raw).reshape(group.shape)
    return out


def _score_by_magnitude(graph: DependencyGraph, power: int) -> Scores:
    def measure(group: Group) -> NDArray[np.float64]:
        total = np.zeros(int(np.prod(group.shape)))
        for s in find_learned_slices(graph, group):
            part = s.sum_channels(np.abs(divide_by_power(s.numbers)) ** power, total.size)
            total += part / max(float(part.mean()), 1e-30)  # members of different scale count alike
        return total

    return _score_groups(graph, measure)


def _balance_slices(parts: Iterable[Slices]) -> Iterator[tuple[Slices, NDArray[np.float64]]]:
    """Slices and their weights, all times one power of two: sums of their squares do not overflow."""
    held = [(s, s.numbers) for s in parts]
    largest = max((float(np.abs(v).max(initial=0.0)) for _, v in held), default=0.0)
    by = find_exponent(largest)
    yield from ((s, np.ldexp(v, -by) if by else v) for s, v in held)


def l1(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> Scores:
    """Group magnitude: sum of absolute weights over all coupled slices (Li et al. 2017; Fang et al. 2023)."""
    return _score_by_magnitude(graph, 1)


def l2(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> Scores:
    """Group magnitude: sum of squared weights over all coupled slices."""
    return _score_by_magnitude(graph, 2)


def bn_scale(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> Scores:
    """Absolute gain of the normalisations that a channel passes (network slimming, Liu et al. 2017); l2 elsewhere."""
    gains = find_gains(graph)
    fallback = l2(graph, moments, rng)

    def measure(group: Group) -> NDArray[np.float64]:
        total = np.zeros(int(np.prod(group.shape)))
        hits = list(_balance_slices(s for s in find_slices(graph, group) if s.member.value in gains))
        for s, values in hits:
            total += s.sum_channels(np.abs(values), total.size)
        return total if hits else fallback[group.label].ravel()

    return _score_groups(graph, measure)


def uniform(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> Scores:
    """Random scores: the baseline that every criterion has to beat."""
    return _score_groups(graph, lambda group: rng.random(int(np.prod(group.shape))))


def prefer_first(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> Scores:
    """The first channels of every group stay (SortedNet: a sub-network is a prefix of each dimension)."""
    return _score_groups(graph, lambda group: np.tile(np.arange(group.size, 0, -1, dtype=np.float64), group.blocks))


def fpgm(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> Scores:
    """Distance of a channel's produced weights to those of all others (geometric median, He et al. 2019)."""

    def measure(group: Group) -> NDArray[np.float64]:
        size = int(np.prod(group.shape))
        total = np.zeros(size)
        for s, values in _balance_slices(s for s in find_learned_slices(graph, group) if s.member.role != "in"):
            each = stack_rows(s, size, values)
            square = (each**2).sum(1)
            total += np.sqrt(np.maximum(square[:, None] + square[None] - 2 * each @ each.T, 0)).sum(1)
        return total

    return _score_groups(graph, measure)
