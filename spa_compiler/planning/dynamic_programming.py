"""The least error under a budget: all combinations of stairs where they are few, else dynamic programming.

    remove_exactly(tracker)          # never over the budget, never worse than competing groups

The first is the least error that there is; the second is where costs are separable, but for their rounding.

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
from spa_compiler.planning.budget_repair import BudgetRepair
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
    """Put every free group, all of which stand at their widest, on the stair of the best plan within the budget.

    Raises BudgetError where no plan is within it.
    """
    tracker.check_reach(SLACK)
    if math.prod(len(s.widths) for s in tracker.free) <= MOST_COMBINATIONS:
        tracker.place_all(_try_all(tracker))
        return
    floors = [len(s.widths) - 1 for s in tracker.free]
    remove_greedily(tracker)
    solution = tracker.list_places()
    best = min(_rate(tracker, floors), _rate(tracker, solution))
    for _ in range(LINEARISATIONS):
        found = _solve_around(tracker, solution)
        if found is None or found == solution:
            break
        solution = found
        best = min(best, _rate(tracker, solution))
    tracker.place_all(best[1])
    BudgetRepair(tracker).give_back()


def _rate(tracker: CostTracker, places: list[int]) -> tuple[float, list[int]]:
    """The error of a plan, infinite where it is over the budget, and the plan; the tracker stands there afterwards."""
    tracker.place_all(places)
    if tracker.compute_needed() > SLACK * tracker.dense:
        return math.inf, places
    return sum(s.error(s.at) for s in tracker.free), places


def _try_all(tracker: CostTracker) -> list[int]:
    """The stairs with the least error among all that are within the budget; of equals those that cost most."""
    free = tracker.free
    shape = tuple(len(s.widths) for s in free)
    error, widths = np.zeros(shape), dict[Any, Any](tracker.widths)
    for k, s in enumerate(free):
        options = range(len(s.widths))
        along = [len(options) if j == k else 1 for j in range(len(shape))]
        error = error + np.array([s.error(at) for at in options]).reshape(along)
        made = [make_group_widths(s.group, s.widths[at]) for at in options]
        widths |= {d: np.array([m[d] for m in made]).reshape(along) for d in made[0]}
    cost = np.broadcast_to(tracker.cost.total_over(tracker.unit, widths), shape)
    within = cost <= tracker.target + SLACK * tracker.dense
    least = error[within].min()
    best = np.flatnonzero(within & (error <= least))
    chosen = np.unravel_index(best[cost.ravel()[best].argmax()], shape)
    return [int(i) for i in chosen]


def _solve_around(tracker: CostTracker, solution: list[int]) -> list[int] | None:
    """The best plan where costs are linear around a solution; None where none is within the budget.

    What the true cost of the solution is, the linear one is there, too.
    """
    tracker.place_all(solution)
    fixed, costs, errors = tracker.now, list[Array](), list[Array]()
    for s in tracker.free:
        stairs = range(len(s.widths))
        freed = np.array([tracker.compute_freed(s, at) for at in stairs])
        base = float(freed.max())
        fixed -= base
        costs.append(base - freed)
        errors.append(np.array([s.error(at) for at in stairs]))
    return minimize_error(errors, costs, tracker.target - fixed)


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


__all__ = ["minimize_error", "remove_exactly"]
