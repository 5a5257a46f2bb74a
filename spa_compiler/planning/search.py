"""Search over the share to remove: the largest whose drop holds, or the knee of the curve of drops.

    found = find_largest_ratio(try_ratio, limit=1.0)       # points
    found.best.ratio, found.trials

What one share costs is only known once it was tried, and a trial is expensive. The drop grows about with the square of
the share (the errors of groups add up, and each grows with what the group loses), so the next share to try is read off
a line through the roots of the drops that are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from spa_compiler.errors import BudgetError, NothingToPrune

MOST_REMOVED = 0.95
"""The largest share that is tried."""
RATIO_DIGITS = 4
"""Digits of a share that is tried: the recorded pipeline says it in full."""
MOST_TRIALS = 5
"""Trials of a search for a drop: with the moments and scores of one compile they take less than two more."""
NEAR = 0.02
"""A search ends when so little is left between a share that holds and one that does not."""
FIRST_RATIO = 0.3
"""The share that is tried first."""
LEAST_CUT = 0.1
"""Part of what is left that every trial cuts off at least."""
KNEE_STEP = 0.1
"""Step between the shares that are tried for a knee; it is found to half of that."""


@dataclass(frozen=True)
class Trial:
    """A share that was tried, the share of the cost that went, and the drop in points."""

    ratio: float
    removed: float
    drop: float

    def document(self) -> dict[str, float]:
        """As a dictionary for the report."""
        return asdict(self)


@dataclass
class Search:
    """Trials in their order, and the best of them; None where nothing holds."""

    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None

    def document(self) -> dict[str, Any]:
        """As a dictionary for the report."""
        return {
            "trials": [t.document() for t in self.trials],
            "best": None if self.best is None else self.best.document(),
        }


TryRatio = Callable[[float], Trial]
"""Tries a share to remove. Raises BudgetError where it is out of reach."""


def find_largest_ratio(try_ratio: TryRatio, limit: float, most: float = MOST_REMOVED) -> Search:
    """The largest share, up to `most`, whose drop is at most `limit` points, to within `NEAR` or as many trials."""
    found, low, high = Search(), 0.0, most
    top: Trial | None = None
    while len(found.trials) < MOST_TRIALS and high - low > NEAR:
        ratio = round(propose_ratio(found.best, top, low, high, limit), RATIO_DIGITS)
        try:
            trial = try_ratio(ratio)
        except BudgetError:
            high = ratio
            continue
        except NothingToPrune:  # less than one unit
            low = ratio
            continue
        found.trials.append(trial)
        if trial.drop <= limit:
            found.best, low = trial, ratio
        else:
            top, high = trial, ratio
    return found


def propose_ratio(best: Trial | None, top: Trial | None, low: float, high: float, limit: float) -> float:
    """The share to try next: where a line through the roots of the drops meets that of the limit.

    `best` holds and `top` is the smallest that does not; what is looked for lies between `low` and `high`. The line is
    kept away from both ends, so that every trial narrows what is left.

    >>> propose_ratio(Trial(0.2, 0.2, 0.25), Trial(0.6, 0.6, 2.25), 0.2, 0.6, 1.0)
    0.4
    """
    if best is None and top is None:
        return FIRST_RATIO if low < FIRST_RATIO < high else (low + high) / 2
    (x0, y0), (x1, y1) = (_find_root(t) if t else (0.0, 0.0) for t in (best, top))
    if top is None:  # a line through the origin
        x1, y1 = (2 * x0, 2 * y0) if y0 else (high, math.sqrt(limit))
    met = x0 + (math.sqrt(max(limit, 0.0)) - y0) * (x1 - x0) / (y1 - y0) if y1 > y0 else (x0 + x1) / 2
    margin = LEAST_CUT * (high - low)
    return min(max(met, low + margin), high - margin)


def _find_root(trial: Trial) -> tuple[float, float]:
    return trial.ratio, math.sqrt(max(trial.drop, 0.0))


def find_knee(try_ratio: TryRatio) -> Search:
    """The share where the drop begins to grow faster than what is removed.

    Shares are tried in even steps, and between those around the best.
    """
    found, step = Search(), KNEE_STEP
    steps = [round(k * step, RATIO_DIGITS) for k in range(1, math.ceil(MOST_REMOVED / step))]
    for ratio in steps:
        try:
            found.trials.append(try_ratio(ratio))
        except BudgetError:
            break
        except NothingToPrune:
            continue
    if not found.trials:
        return found
    knee = choose_knee(found.trials).ratio
    tried = max(t.ratio for t in found.trials)
    for ratio in (knee - step / 2, knee + step / 2):
        if 0 < ratio < tried:
            found.trials.append(try_ratio(round(ratio, RATIO_DIGITS)))
    found.best = choose_knee(found.trials)
    return found


def choose_knee(trials: Sequence[Trial]) -> Trial:
    """The trial that is farthest below the line from nothing removed to the most (Satopaa et al. 2011, Kneedle).

    Roots of drops are compared: they grow evenly where nothing is redundant.

    >>> choose_knee([Trial(0.2, 0.2, 0.0), Trial(0.4, 0.4, 0.1), Trial(0.6, 0.6, 30.0)]).ratio
    0.4
    """
    last = max(trials, key=lambda t: t.ratio)
    worst = max(_find_root(t)[1] for t in trials)
    if worst <= 0:
        return last
    return max(trials, key=lambda t: (t.ratio / last.ratio - _find_root(t)[1] / worst, t.ratio))


__all__ = ["Search", "Trial", "choose_knee", "find_knee", "find_largest_ratio", "propose_ratio"]
