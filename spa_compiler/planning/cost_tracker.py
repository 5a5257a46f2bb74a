"""The cost of a model while groups move on their ladders: what it is now, what is to go, what a move would free."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable

from spa_compiler.algebra.expr import Dim
from spa_compiler.analysis.cost import CostModel, make_group_widths
from spa_compiler.errors import BudgetError
from spa_compiler.planning.width_ladder import WidthLadder

BUDGET_TOLERANCE = 0.01
"""Share of the dense cost by which a budget may be missed."""


class CostTracker:
    """Where every group stands that may move, and what the model costs there, in one unit."""

    def __init__(
        self, cost: CostModel, unit: str, ratio: float, free: list[WidthLadder], widths: dict[Dim, float]
    ) -> None:
        self.cost, self.unit, self.free, self.widths = cost, unit, free, widths
        self.dense = cost.total(unit, {})
        self.target = self.dense * (1 - ratio)
        self.now = cost.total(unit, widths)

    def compute_needed(self) -> float:
        """Cost that has still to go; negative where more has gone."""
        return self.now - self.target

    def has_slack(self, times: float = 1.0) -> bool:
        """Has more gone than the budget asks for, by more than so many times what it may be missed by?"""
        return -self.compute_needed() > times * BUDGET_TOLERANCE * self.dense

    def compute_own(self, s: WidthLadder) -> float:
        """The part of the cost in which a group takes part."""
        return self.cost.of_group(s.group, self.unit, self.widths)

    def compute_freed(self, s: WidthLadder, at: int, before: float | None = None) -> float:
        """Cost that goes when a group moves to another stair; `before` is what it costs now, where that is known."""
        if before is None:
            before = self.compute_own(s)
        after = ChainMap(make_group_widths(s.group, s.widths[at]), self.widths)
        return before - self.cost.of_group(s.group, self.unit, after)

    def move(self, s: WidthLadder, at: int) -> None:
        """Put a group on another stair."""
        self.now -= self.compute_freed(s, at)
        self.widths |= make_group_widths(s.group, s.widths[at])
        s.at = at

    def place_all(self, ats: Iterable[int]) -> None:
        """Put every free group on a stair at once."""
        for s, at in zip(self.free, ats, strict=True):
            s.at = at
            self.widths |= make_group_widths(s.group, s.width)
        self.now = self.cost.total(self.unit, self.widths)

    def list_places(self) -> list[int]:
        """The stair of every free group, as `place_all` takes them."""
        return [s.at for s in self.free]

    def check_reach(self, tolerance: float = BUDGET_TOLERANCE) -> None:
        """Raise BudgetError where all groups at their floors miss the budget by more than this share of the cost."""
        start = self.list_places()
        self.place_all([len(s.widths) - 1 for s in self.free])
        least = self.now
        self.place_all(start)
        if least > self.target + tolerance * self.dense:
            raise BudgetError(
                f"{self.unit}: asked for {1 - self.target / self.dense:.1%} less, at most {1 - least / self.dense:.1%} "
                "can go with every group at its floor (--max-group-ratio, --min-keep, --exclude, --include, or what is "
                "frozen: see `spa inspect`)"
            )
