"""The least error under a budget: all combinations of stairs where they are few, else dynamic programming.

    remove_exactly(tracker)          # never over the budget, never worse than competing groups

With g(b) the least error of the groups so far at a cost of at most b, one more group gives g(b) = min over its stairs
of g(b - cost) + error (joint layer-adaptive pruning by dynamic programming), where costs are separable. Here they are
not: a contraction costs the product of two widths. They are taken as sums over the groups around a solution, and again
around the next one, until that is the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.cost import make_group_widths
from spa_compiler.errors import BudgetError
from spa_compiler.planning.cost_tracker import CostTracker
from spa_compiler.planning.greedy_removal import remove_greedily

Array = NDArray[Any]
MOST_COMBINATIONS = 1 << 20
"""Combinations up to which all are tried."""
COST_STEPS = 4096
"""Costs that a budget is divided into, at least."""
STEPS_PER_GROUP = 64
"""The same for each group: costs are rounded up, by less than one of these a group."""
LINEARISATIONS = 16
"""Times that costs are taken around a solution."""
SLACK = 1e-9
"""Share of the dense cost by which rounding may miss a budget."""


def remove_exactly(tracker: CostTracker) -> None:
    """Put every free group on the stair of the best plan within the budget.

    Raises BudgetError where no plan is within it.
    """
    combinations = math.prod(len(s.widths) - s.at for s in tracker.free)
    if combinations <= MOST_COMBINATIONS:
        tracker.place_all(_try_all(tracker))
        return
    start = tracker.list_places()
    remove_greedily(tracker)
    solution = tracker.list_places()
    best = _rate(tracker, solution)
    for _ in range(LINEARISATIONS):
        found = _solve_around(tracker, start, solution)
        if found is None or found == solution:
            break
        solution = found
        best = min(best, _rate(tracker, solution))
    if not best[0] < math.inf:
        raise _describe_reach(tracker)
    tracker.place_all(best[1])
    _use_slack(tracker, start)


def _rate(tracker: CostTracker, places: list[int]) -> tuple[float, list[int]]:
    """The error of a plan, infinite where it is over the budget, and the plan; the tracker stands there afterwards."""
    tracker.place_all(places)
    if tracker.compute_needed() > SLACK * tracker.dense:
        return math.inf, places
    return sum(s.error(s.at) for s in tracker.free), places


def _describe_reach(tracker: CostTracker) -> BudgetError:
    """The error that says how much can go."""
    tracker.place_all([len(s.widths) - 1 for s in tracker.free])
    least, unit = tracker.now / tracker.dense, tracker.unit
    asked = 1 - tracker.target / tracker.dense
    return BudgetError(
        f"{unit}: asked for {asked:.1%} less, at most {1 - least:.1%} can go with every group at its floor"
    )


def _try_all(tracker: CostTracker) -> list[int]:
    """The stairs with the least error among all that are within the budget; of equals those that cost most."""
    free = tracker.free
    stairs = [range(s.at, len(s.widths)) for s in free]
    shape = tuple(len(r) for r in stairs)
    error, widths = np.zeros(shape), dict[Any, Any](tracker.widths)
    for k, (s, options) in enumerate(zip(free, stairs, strict=True)):
        along = [len(options) if j == k else 1 for j in range(len(shape))]
        error = error + np.array([s.error(at) for at in options]).reshape(along)
        made = [make_group_widths(s.group, s.widths[at]) for at in options]
        widths |= {d: np.array([m[d] for m in made]).reshape(along) for d in made[0]}
    cost = np.broadcast_to(tracker.cost.total_over(tracker.unit, widths), shape)
    within = cost <= tracker.target + SLACK * tracker.dense
    if not within.any():
        raise _describe_reach(tracker)
    least = error[within].min()
    best = np.flatnonzero(within & (error <= least))
    chosen = np.unravel_index(best[cost.ravel()[best].argmax()], shape)
    return [options[int(i)] for options, i in zip(stairs, chosen, strict=True)]


def _solve_around(tracker: CostTracker, start: list[int], solution: list[int]) -> list[int] | None:
    """The best plan where costs are linear around a solution; None where none is within the budget.

    What the true cost of the solution is, the linear one is there, too.
    """
    tracker.place_all(solution)
    fixed, costs, errors = tracker.now, list[Array](), list[Array]()
    for s, first in zip(tracker.free, start, strict=True):
        stairs = range(first, len(s.widths))
        freed = np.array([tracker.compute_freed(s, at) for at in stairs])
        base = float(freed.max())
        fixed -= base
        costs.append(base - freed)
        errors.append(np.array([s.error(at) for at in stairs]))
    found = minimize_error(errors, costs, tracker.target - fixed)
    return None if found is None else [first + k for first, k in zip(start, found, strict=True)]


def minimize_error(errors: list[Array], costs: list[Array], budget: float) -> list[int] | None:
    """The choice of each group with the least sum of errors whose sum of costs is at most the budget, or None.

    Costs are not negative and are rounded up to steps of the budget.

    >>> minimize_error([np.array([0.0, 5.0]), np.array([0.0, 1.0])], [np.array([4.0, 1.0]), np.array([4.0, 2.0])], 6.5)
    [0, 1]
    """
    if budget < 0:
        return None
    steps = max(COST_STEPS, STEPS_PER_GROUP * len(errors))
    step = budget / steps or 1.0
    best, choices = np.zeros(steps + 1), list[Array]()
    for error, cost in zip(errors, costs, strict=True):
        taken = np.ceil(cost / step - SLACK).astype(np.int64)
        options = np.full((len(error), steps + 1), np.inf)
        for k, t in enumerate(taken):
            if t <= steps:
                options[k, t:] = best[: steps + 1 - t] + error[k]
        choices.append(options.argmin(0))
        best = options.min(0)
    if not math.isfinite(best[-1]):
        return None
    at, out = steps, list[int]()
    for cost, choice in zip(reversed(costs), reversed(choices), strict=True):
        out.append(int(choice[at]))
        at -= int(np.ceil(cost[out[-1]] / step - SLACK))
    return out[::-1]


def _use_slack(tracker: CostTracker, start: list[int]) -> None:
    """Move groups up where the budget has room, the largest error first."""
    moved = True
    while moved:
        moved = False
        for s, first in sorted(zip(tracker.free, start, strict=True), key=lambda p: -_measure_gain(p[0], p[1])):
            if s.at > first and -tracker.compute_freed(s, s.at - 1) <= -tracker.compute_needed():
                tracker.move(s, s.at - 1)
                moved = True


def _measure_gain(s: Any, first: int) -> float:
    """The error that the next stair upwards saves."""
    return float(s.error(s.at) - s.error(max(s.at - 1, first)))


__all__ = ["minimize_error", "remove_exactly"]
