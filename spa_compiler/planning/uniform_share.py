"""All groups lose the same share of their channels, whatever that does to the error."""

from __future__ import annotations

from spa_compiler.planning.cost_tracker import CostTracker

HALVINGS = 20


def remove_share(tracker: CostTracker, ratio: float) -> None:
    """Take the same share of channels from every group."""
    tracker.place_all([s.find_nearest(s.group.size * (1 - ratio)) for s in tracker.free])


def remove_evenly(tracker: CostTracker) -> None:
    """Take the smallest share that meets the budget, found by bisection."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        remove_share(tracker, middle)
        low, high = (low, middle) if tracker.compute_needed() <= 0 else (middle, high)
    remove_share(tracker, high)
