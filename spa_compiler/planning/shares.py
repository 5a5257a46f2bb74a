"""Shares of its channels that each group loses, on a way from nothing (level 0) to everything (level 1).

    remove_by_shares(tracker, ValueShares({label: 1.0, other: 0.5}))     # `other` loses half of what `label` does

The level that meets the budget is found by bisection. Where all values are 1, all groups lose the same share, whatever
that does to the error. A budget that is a share of what the groups hold (`analysis.cost_kinds.GroupShare`) is met where
no more than one unit a group is missing; finer widths are taken where those that pay are too coarse for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.cost_kinds import GroupShare
from spa_compiler.analysis.dependency_graph import Group
from spa_compiler.errors import BudgetError
from spa_compiler.planning.cost_tracker import CostTracker
from spa_compiler.planning.width_ladder import WidthLadder, refine_all

HALVINGS = 36
LEAST_VALUE = 1e-3
"""The least value, of the largest: below, a group would lose nothing before all others have lost everything."""
Levels = Mapping[str, NDArray[np.float64]]


class Shares(Protocol):
    """The share of its channels that a group loses at a level; it never falls as the level rises."""

    def find_share(self, group: Group, level: float) -> float:
        """The share, 0 at level 0 and 1 at level 1, before the limits of the group."""
        ...


class ValueShares:
    """Shares in the proportions of one value a group: min(1, factor * value), the factor growing with the level.

    `kept`: the values are proportions of what stays instead. Groups without a value have the mean of the others.
    """

    def __init__(self, values: Mapping[str, float], kept: bool = False) -> None:
        most = max(values.values(), default=1.0) or 1.0
        self.values = {n: max(v, LEAST_VALUE * most) for n, v in values.items()}
        self.usual = float(np.mean(list(self.values.values()))) if values else 1.0
        self.factor = 1 / min(self.values.values(), default=1.0)
        self.kept = kept

    @property
    def is_even(self) -> bool:
        """Do all groups lose the same share?"""
        return len({*self.values.values(), self.usual}) <= 1

    def find_share(self, group: Group, level: float) -> float:
        """The share at this level."""
        value = self.values.get(group.label, self.usual) * self.factor
        return max(0.0, 1 - (1 - level) * value) if self.kept else min(1.0, level * value)


class RankShares:
    """All units of all groups in one order, by a number for each: at a level the units below it go.

    `numbers`: per group those of its units (of the mean block), in any order.
    """

    def __init__(self, numbers: Levels) -> None:
        self.numbers = {n: np.sort(v) for n, v in numbers.items()}
        self.every = np.sort(np.concatenate([np.zeros(0), *self.numbers.values()]))

    def find_share(self, group: Group, level: float) -> float:
        """The share of the group's units that are below the number at this level of all."""
        own = self.numbers.get(group.label, np.zeros(0))
        if level >= 1 or not own.size:
            return float(level)
        threshold = self.every[int(level * self.every.size)]
        return float(np.searchsorted(own, threshold)) / own.size


EVEN = ValueShares({})
"""The same share of every group."""


def find_wanted_width(shares: Shares, s: WidthLadder, level: float) -> float:
    """The width that a group should have at a level."""
    return s.group.size * (1 - shares.find_share(s.group, level))


def place_at_level(tracker: CostTracker, shares: Shares, level: float) -> None:
    """Put every group on the stair that is nearest to its share at a level."""
    tracker.place_all([s.find_nearest(find_wanted_width(shares, s, level)) for s in tracker.free])


def remove_by_shares(
    tracker: CostTracker, shares: Shares = EVEN, compute_needed: Callable[[], float] | None = None
) -> float:
    """Put every group where the lowest level, found by bisection, meets the budget; returns that level.

    `compute_needed`: what has still to go, in place of the tracker's own cost.
    """
    needed = compute_needed or tracker.compute_needed
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        place_at_level(tracker, shares, middle)
        low, high = (low, middle) if needed() <= 0 else (middle, high)
    place_at_level(tracker, shares, high)
    return high


def meet_share(
    tracker: CostTracker, share: GroupShare, ratio: float, groups: Iterable[Group], kept: Mapping[str, int],
    finest: int, shares: Shares = EVEN,
) -> None:  # fmt: skip
    """Take so much of what the groups hold by their shares; finer widths are added where those that pay miss it.

    `groups` are those that the budget is about, `kept` says what those of them keep that are not free. Widths in
    multiples of `finest` are tried first, then any (0: none are added). Even shares are met by every group, others by
    all groups together. Raises BudgetError where more than one unit a group is missing.
    """
    groups, step = list(groups), finest
    even = isinstance(shares, ValueShares) and shares.is_even

    def measure() -> float:
        return measure_short(share, ratio, groups, _list_widths(tracker, kept))

    def place() -> None:
        if even:
            place_at_level(tracker, shares, ratio)
        else:
            remove_by_shares(tracker, shares, lambda: count_short(share, ratio, groups, _list_widths(tracker, kept)))

    place()
    while step and measure() > 0:
        refine_all(tracker.free, step)
        place()
        step = 1 if step > 1 else 0
    if measure() > 0:
        whole = sum(share.count(g, g.size) for g in groups)
        left = sum(share.count(g, _list_widths(tracker, kept).get(g.label, g.size)) for g in groups)
        where = "in every group" if even else "of all groups"
        raise BudgetError(
            f"{share.name}: asked for {ratio:.1%} less {where}, {1 - left / whole:.1%} can go in all with the "
            "limits given (--max-group-ratio, --group-ratio, --min-keep, --align)"
        )


def measure_short(share: GroupShare, ratio: float, groups: Sequence[Group], kept: Mapping[str, int]) -> float:
    """The part of a share that is missing beyond one unit a group; 0 or less where nothing is."""
    units = (share.count(g, g.size) - share.count(g, g.size - 1) for g in groups)
    return count_short(share, ratio, groups, kept) - (1 + 1e-9) * sum(units)


def count_short(share: GroupShare, ratio: float, groups: Sequence[Group], kept: Mapping[str, int]) -> float:
    """Count what has still to go of that which the groups hold."""
    return sum(share.count(g, kept.get(g.label, g.size)) - share.count(g, g.size) * (1 - ratio) for g in groups)


def _list_widths(tracker: CostTracker, kept: Mapping[str, int]) -> dict[str, int]:
    return {**kept, **{s.group.label: s.width for s in tracker.free}}
