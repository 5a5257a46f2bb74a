"""Budgets of parts of a model, met one after the other until all hold.

    PartBudgets(parts, owners, "macs", free, widths).meet(remove)        # `remove` moves the groups of one tracker

A channel between two parts changes what both cost; it belongs to the part around both, or to none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from spa_compiler.algebra.expr import Dim
from spa_compiler.analysis.cost import make_group_widths
from spa_compiler.errors import BudgetError, UsageError
from spa_compiler.planning.cost_tracker import BUDGET_TOLERANCE, CostTracker
from spa_compiler.planning.parts import Part
from spa_compiler.planning.width_ladder import WidthLadder

PART_ROUNDS = 4
"""Times that parts are met: each changes what its neighbours cost."""
PART_HALVINGS = 20
Remove = Callable[[CostTracker], None]


class PartBudgets:
    """Parts, the part of each group by label, and where the groups that may move stand; others have `widths`."""

    def __init__(
        self, parts: Sequence[Part], owners: Mapping[str, Part], unit: str, free: Sequence[WidthLadder],
        widths: Mapping[Dim, float],
    ) -> None:  # fmt: skip
        self.parts, self.owners, self.unit, self.free, self.widths = parts, owners, unit, free, widths

    def meet(self, remove: Remove) -> None:
        """Move the groups of each part until all budgets are met.

        Raises BudgetError where a part cannot lose so much, UsageError where others take more from it than it shall
        lose, or where its nodes cost nothing.
        """
        for k, part in enumerate(self.parts):
            self._check_twins(part, self.parts[k + 1 :])
            self._limit_others(part, self.parts[k + 1 :])
        for k in range(PART_ROUNDS):
            for part in self.parts:
                if k == 0 or not self._is_met(part):
                    self._meet_one(part, remove)
            if all(map(self._is_met, self.parts)):
                return
        for part in self.parts:
            self._check_others(part)
            self._meet_one(part, remove)

    def _track(self, part: Part, anew: bool = False) -> CostTracker:
        """The cost of a part, with its own groups free; `anew`: these at their widest."""
        own = [s for s in self.free if self.owners.get(s.group.label) is part]
        for s in own if anew else []:
            s.at = 0
        now = {d: w for s in self.free for d, w in make_group_widths(s.group, s.width).items()}
        return CostTracker(part.cost, self.unit, part.ratio, own, {**self.widths, **now})

    def _is_met(self, part: Part) -> bool:
        """Does a part lose its share, and no more?"""
        tracker = self._track(part)
        return abs(tracker.compute_needed()) <= BUDGET_TOLERANCE * tracker.dense

    def _meet_one(self, part: Part, remove: Remove) -> None:
        tracker = self._track(part, anew=True)
        if not tracker.dense:
            raise UsageError(f"--ratio {part.name}={part.ratio:g}: these nodes have no {self.unit}")
        if tracker.compute_needed() > 0:
            try:
                remove(tracker)
            except BudgetError as e:
                raise BudgetError(f"{part.name or 'the whole model'}: {e}") from e

    def _limit_others(self, part: Part, larger: Sequence[Part]) -> None:
        """Shorten the ladders of larger parts' groups that reach into this one: alone they take at most its share."""
        dims = {d for s in self.free if self.owners.get(s.group.label) in larger for d in s.group.dims}
        near = part.cost.find_shared(dims, self.unit)
        others = [s for s in self.free if not near.isdisjoint(s.group.dims)]
        dense = part.cost.total(self.unit, {})
        low, high = 0.0, 1.0
        for _ in range(PART_HALVINGS if others else 0):
            share = (low + high) / 2
            widths = {d: w for s in others for d, w in make_group_widths(s.group, s.group.size * (1 - share)).items()}
            is_less = 1 - part.cost.total(self.unit, widths) / (dense or 1.0) <= part.ratio
            low, high = (share, high) if is_less else (low, share)
        for s in others:
            s.widths = [s.widths[0], *(w for w in s.widths[1:] if w >= s.group.size * (1 - low))]

    def _check_twins(self, part: Part, larger: Sequence[Part]) -> None:
        """Raise UsageError where another pattern names the same nodes, and asks for another share."""
        for other in larger:
            if other.sites == part.sites and abs(other.ratio - part.ratio) > BUDGET_TOLERANCE:
                raise UsageError(
                    f"--ratio: the budgets contradict each other: {part.name} shall lose {part.ratio:.1%} of its "
                    f"{self.unit}, and {other.name or 'the whole model'}, which is the same nodes, {other.ratio:.1%}"
                )

    def _check_others(self, part: Part) -> None:
        """Raise UsageError where a part loses too much though its own groups keep everything, also what is gone."""
        tracker = self._track(part, anew=True)
        whole = {d: w for s in tracker.free for d, w in make_group_widths(s.group, s.group.size).items()}
        tracker = CostTracker(part.cost, self.unit, part.ratio, [], {**tracker.widths, **whole})
        if tracker.has_slack():
            raise UsageError(
                f"--ratio: the budgets contradict each other: {part.name or 'the whole model'} shall lose "
                f"{part.ratio:.1%} of its {self.unit}, and the others take {1 - tracker.now / tracker.dense:.1%} of it"
            )
