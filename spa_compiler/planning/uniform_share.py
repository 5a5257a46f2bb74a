"""All groups lose the same share of their channels, whatever that does to the error.

A budget that is a share of what the groups hold (`analysis.cost_kinds.GroupShare`) is met where no more than one unit a
group is missing; finer widths are taken where those that pay are too coarse for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from spa_compiler.analysis.cost_kinds import GroupShare
from spa_compiler.analysis.dependency_graph import Group
from spa_compiler.errors import BudgetError
from spa_compiler.planning.cost_tracker import CostTracker
from spa_compiler.planning.width_ladder import refine_all

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


def meet_share(
    tracker: CostTracker, share: GroupShare, ratio: float, groups: Iterable[Group], kept: Mapping[str, int], finest: int
) -> None:
    """Take the same share from every group; finer widths are added where those that pay miss it.

    `groups` are those that the budget is about, `kept` says what those of them keep that are not free. Widths in
    multiples of `finest` are tried first, then any (0: none are added). Raises BudgetError where more than one unit a
    group is missing.
    """
    groups, step = list(groups), finest
    remove_share(tracker, ratio)
    while step and measure_short(share, ratio, groups, _list_widths(tracker, kept)) > 0:
        refine_all(tracker.free, step)
        remove_share(tracker, ratio)
        step = 1 if step > 1 else 0
    if measure_short(share, ratio, groups, _list_widths(tracker, kept)) > 0:
        whole = sum(share.count(g, g.size) for g in groups)
        left = sum(share.count(g, _list_widths(tracker, kept).get(g.label, g.size)) for g in groups)
        raise BudgetError(
            f"{share.name}: asked for {ratio:.1%} less in every group, {1 - left / whole:.1%} can go in all with the "
            "limits given (--max-group-ratio, --group-ratio, --min-keep, --align)"
        )


def measure_short(share: GroupShare, ratio: float, groups: Iterable[Group], kept: Mapping[str, int]) -> float:
    """The part of a share that is missing beyond one unit a group; 0 or less where nothing is."""
    short = 0.0
    for g in groups:
        whole, width = share.count(g, g.size), kept.get(g.label, g.size)
        unit = share.count(g, g.size) - share.count(g, g.size - 1)
        short += share.count(g, width) - whole * (1 - ratio) - unit * (1 + 1e-9)
    return short


def _list_widths(tracker: CostTracker, kept: Mapping[str, int]) -> dict[str, int]:
    return {**kept, **{s.group.label: s.width for s in tracker.free}}
