"""Blends of criteria, `0.5*l2+obspa`: a sum of scores, each in units of its own mean (PST: data-free and data-driven).

A part of weight 0 does not take part at all, so that `0*l2+1*obspa` is obspa, and is compensated and shared as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UsageError
from spa_compiler.execution.finite import ignore_overflow, is_finite
from spa_compiler.planning.scores import NotedScores, Scores
from spa_compiler.scoring.criterion import Criterion
from spa_compiler.statistics.moments import Moments

TERM = re.compile(r"\s*(?:([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*\*\s*)?([A-Za-z_][\w-]*)\s*\Z")


def is_blend(text: str) -> bool:
    """Is it an expression, and not a name?"""
    return "+" in text or "*" in text


def parse_blend(text: str) -> list[tuple[float, str]]:
    """Weights and names of an expression. Raises UsageError for other forms, and where no weight is left.

    >>> parse_blend("0.5*l2+obspa")
    [(0.5, 'l2'), (1.0, 'obspa')]
    """
    out = list[tuple[float, str]]()
    for term in re.split(r"(?<![eE])\+", text):
        found = TERM.match(term)
        weight = _read_weight(found[1]) if found else math.nan
        if found is None or not math.isfinite(weight):
            raise UsageError(f"--criterion {text}: expected criteria with weights, such as 0.5*l2+obspa")
        out.append((weight, found[2]))
    if not any(weight for weight, _ in out):
        raise UsageError(f"--criterion {text}: every weight is 0")
    return out


def _read_weight(text: str | None) -> float:
    try:
        return float(text) if text else 1.0
    except ValueError:
        return math.nan


def make_blend(text: str, find: Callable[[str], Criterion]) -> Criterion:
    """The criterion of an expression; `find` gives one by name."""
    every = [(weight, find(name)) for weight, name in parse_blend(text)]
    parts = [(weight, part) for weight, part in every if weight]
    if len(parts) == 1:
        return parts[0][1]
    needs = "moments" if any(part.needs == "moments" for _, part in parts) else "weights"
    errors = all(part.scores_are_errors for _, part in parts)

    def score(graph: DependencyGraph, moments: Moments | None, rng: np.random.Generator) -> Scores:
        """A sum of criteria."""
        return add_scores([(weight, part(graph, moments, rng)) for weight, part in parts])

    return Criterion(score, needs, errors, raises_hidden=all(part.raises_hidden for _, part in parts))  # type: ignore[arg-type]


def add_scores(parts: Sequence[tuple[float, Scores]]) -> Scores:
    """Weighted sums of scores, each divided by its mean over all units; groups that one of them leaves out are not cut.

    Scores that are not finite are left to who checks them.
    """
    labels = [n for n in parts[0][1] if all(n in scores for _, scores in parts)]
    out = {n: np.zeros(np.shape(parts[0][1][n])) for n in labels}
    with ignore_overflow():
        for weight, scores in parts:
            every = np.concatenate([np.abs(np.ravel(scores[n])) for n in labels]) if labels else np.zeros(1)
            mean = float(every.mean()) if is_finite(every) else 1.0
            for n in labels:
                out[n] = out[n] + weight * (scores[n] / mean if mean else scores[n])
    notes = {n: why for _, scores in parts if isinstance(scores, NotedScores) for n, why in scores.notes.items()}
    return NotedScores(out, notes) if notes else out
