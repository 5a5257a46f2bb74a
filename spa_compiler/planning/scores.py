"""Scores: one number per channel of every group, larger = keep; what a criterion hands to allocation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UsageError
from spa_compiler.execution.finite import is_finite

Scores = dict[str, NDArray[np.float64]]


class NotedScores(Scores):
    """Scores, and by group label why a group is scored by its weights and not as the criterion does; for the report."""

    def __init__(self, scores: Mapping[str, NDArray[np.float64]], notes: Mapping[str, str]) -> None:
        super().__init__(scores)
        self.notes = dict(notes)


def check_scores(graph: DependencyGraph, scores: Mapping[str, Any], source: str) -> Scores:
    """Scores as float64, in the shapes of their groups and finite; `source` says whose they are.

    Groups may be left out: they are not cut. Raises UsageError that names the group.
    """
    out: Scores = {}
    for label, given in scores.items():
        wanted = graph.group(label).shape
        try:
            out[label] = np.asarray(given, np.float64)
        except (TypeError, ValueError) as e:
            raise UsageError(f"{source}: the scores of '{label}' are not numbers: {e}") from e
        if out[label].shape != wanted:
            raise UsageError(
                f"{source}: group '{label}' has shape {list(wanted)}, the scores have {list(out[label].shape)}"
            )
        if not is_finite(out[label]):
            raise UsageError(f"{source}: the scores of '{label}' are not finite; every channel needs a number")
    return out
