"""Groups compete: again and again the step with the least error per cost freed, until the budget is met.

Costs are computed again as neighbours shrink.
"""

from __future__ import annotations

from collections.abc import Iterable

from spa_compiler.planning.cost_tracker import CostTracker
from spa_compiler.planning.settings import PLANNING
from spa_compiler.planning.width_ladder import WidthLadder


def remove_greedily(tracker: CostTracker) -> None:
    """Move groups down until the budget is met, or no group can free anything more."""
    free = tracker.free
    best: dict[int, tuple[float, int]] = {}
    touched: Iterable[int] = range(len(free))
    for _ in range(sum(len(s.widths) for s in free)):  # every move goes down at least one stair
        if not tracker.compute_needed() > 0:
            return
        for i in touched:
            if (found := _find_best_step(tracker, free[i])) is not None:
                best[i] = found
            else:
                best.pop(i, None)
        if not best:
            return
        chosen = min(best, key=lambda i: (best[i][0], i))
        tracker.move(free[chosen], best[chosen][1])
        dims = tracker.cost.find_neighbours(free[chosen].group, tracker.unit)  # whose costs have changed
        touched = [i for i, s in enumerate(free) if not dims.isdisjoint(s.group.dims)]


def _find_best_step(tracker: CostTracker, s: WidthLadder) -> tuple[float, int] | None:
    """Error per cost freed of the best of the next stairs (the lower hull of the curve), and that stair."""
    options, before = [], tracker.compute_own(s)
    for at in range(s.at + 1, min(s.at + 1 + PLANNING.lookahead, len(s.widths))):
        freed = tracker.compute_freed(s, at, before)
        if freed > 0:
            options.append(((s.error(at) - s.error(s.at)) / freed, at))
    return min(options, default=None)
