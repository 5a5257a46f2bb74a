"""Correction of scores of groups whose values vary too little on synthetic pictures, or on few real ones.

    scores = doubted(graph, moments, scores)

Deep values of a classifier depend on what synthetic pictures do not show: there they vary along few directions, every
channel is explained by the others, and removing it looks free. How few the directions are tells how much is hidden:
on MobileNetV2 the errors that real images give a group, over those of synthetic ones, follow it (rank correlation 0.73
over 25 groups, up to a factor of 6; docs/data-free).
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import geometric_mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.channel_index import find_owners
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.planning.scores import NotedScores, Scores
from spa_compiler.scoring.obs import find_readers, group_columns
from spa_compiler.scoring.settings import SCORING
from spa_compiler.statistics.moments import Moment, Moments


def raise_low_rank(graph: DependencyGraph, moments: Moments, scores: Scores) -> Scores:
    """Scores of groups whose values vary along few directions, raised; not of those that weights score."""
    out, by_weights = dict(scores), scores.notes if isinstance(scores, NotedScores) else {}
    for group in graph.groups:
        read = ((m, find_owners(group, m.axis)) for m in find_readers(moments, group))
        shares = [measure_rank_share(c) for m, owner in read for c in iterate_covariances(m, owner)]
        if shares and group.label in scores and group.label not in by_weights:
            out[group.label] = scores[group.label] * max(1.0, SCORING.known_share / geometric_mean(shares))
    return out


def iterate_covariances(moment: Moment, owner: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    """Covariances (n, n) of the n channels of a group in each block; `owner` is the channel of every position.

    They are summed over the places that a kernel or a flattened map reads: neighbours are alike on any picture.
    Channels that are read at different numbers of places stand apart.
    """
    for covariance, mine in zip(moment.covariance, owner[moment.channels], strict=True):
        for _, places in group_columns(mine):
            yield sum((covariance[np.ix_(p, p)] for p in places.T), np.zeros(()))


def measure_rank_share(covariance: NDArray[Any]) -> float:
    """Share of its d directions that a covariance (d, d) has: trace^2 / (d |C|^2), 1 / d to 1; 1 where all is constant.

    The participation ratio, over the size.
    """
    largest = np.abs(covariance).max()
    if not largest or not np.isfinite(largest):
        return 1.0
    flat = (covariance / largest).ravel()
    share = float(flat[:: len(covariance) + 1].sum()) ** 2 / (len(covariance) * float(np.dot(flat, flat)))
    return max(share, 1 / len(covariance))  # rounding can leave less


__all__ = ["iterate_covariances", "measure_rank_share", "raise_low_rank"]
