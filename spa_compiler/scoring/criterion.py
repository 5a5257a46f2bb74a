"""Criteria: functions from a dependency graph to scores, with what they need and give.

    @criterion(needs="moments", scores_are_errors=True)
    def reconstruction(graph, moments, rng): ...          # larger = keep; an array per group label

A plain function is a criterion that needs weights only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.planning.scores import Scores
from spa_compiler.statistics.moments import Moments

Needs = Literal["weights", "moments"]
Scoring = Callable[[DependencyGraph, Moments | None, np.random.Generator], Scores]


@dataclass(frozen=True)
class Criterion:
    """Importance of every channel.

    `needs`: what it is computed from; moments are collected by calibration. `scores_are_errors`: they are errors of the
    output, so that scores of different groups compare, and groups compete for a budget. `stand_in`: the criterion that
    chooses instead where the calibration inputs are a guess. `raises_hidden`: scores of groups that drawn pictures
    show too little of are raised (`rank_correction`).
    """

    score: Scoring
    needs: Needs = "weights"
    scores_are_errors: bool = False
    stand_in: str = ""
    raises_hidden: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.score.__doc__)

    def __call__(self, graph: DependencyGraph, moments: Moments | None, rng: np.random.Generator) -> Scores:
        """Scores by group label."""
        return self.score(graph, moments, rng)


def criterion(
    needs: Needs = "weights", scores_are_errors: bool = False, stand_in: str = "", raises_hidden: bool = False
) -> Callable[[Scoring], Criterion]:
    """Make a function a criterion that says what it needs and gives."""
    return lambda score: Criterion(score, needs, scores_are_errors, stand_in, raises_hidden)
