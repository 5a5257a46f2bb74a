"""Repair of what overshot: steps that the budget does not need are undone, or exchanged for cheaper ones."""

from __future__ import annotations

import bisect

from spa_compiler.planning.cost_tracker import BUDGET_TOLERANCE, CostTracker
from spa_compiler.planning.settings import PLANNING
from spa_compiler.planning.shares import Shares, find_wanted_width, remove_by_shares
from spa_compiler.planning.width_ladder import WidthLadder, refine_all

HALF_BLOCK = 8
"""Channels in half of the largest block."""
HALVES_SLACK = 2.0
"""Times the tolerance of a budget that widths of half a block are worth: quarters save no time."""
FREE_SHARE = 1e-6
"""Share of the dense cost that is none."""
EXCHANGES, ROUNDS = 12, 32
"""Steps back that are tried in a round of exchanges, and rounds."""


class BudgetRepair:
    """Brings the cost back up to the budget; groups that lost `shares`, at a level, stay near them within a stair."""

    def __init__(self, tracker: CostTracker, shares: Shares | None = None, level: float = 0.0) -> None:
        self.tracker, self.shares, self.level = tracker, shares, level
        self.start = tracker.list_places()

    def give_back(self, short: float = 0.0) -> None:
        """Undo steps that the budget does not need, or that leave it `short` by no more than this cost."""
        tracker, free = self.tracker, self.tracker.free
        for _ in range(1 + sum(s.at for s in free)):  # every move goes up a stair
            moved = False
            for s in self._list_movable():
                if s.at > 0 and -tracker.compute_freed(s, s.at - 1) <= short - tracker.compute_needed():
                    tracker.move(s, s.at - 1)
                    moved = True
            if self.shares is not None or not moved:
                return

    def widen_freely(self) -> None:
        """Widen groups as far as it costs nothing: a kernel takes as long for a part of a block as for all of it."""
        tracker = self.tracker
        for s in sorted(tracker.free, key=self._measure_regret, reverse=True):
            now, free = tracker.compute_own(s), FREE_SHARE * tracker.dense
            ups = (at for at in range(s.at) if -tracker.compute_freed(s, at, now) <= free)
            tracker.move(s, next(ups, s.at))

    def trim(self, finest: int) -> None:
        """Where the staircase is too coarse to meet the budget, finer widths bring it near.

        A convolution's width stays a multiple of `finest`, which its device says: any other is slower than the next
        wider one. 0: no finer widths. Of blocks of 16, halves are tried before quarters, which save no time.
        """
        halves = (
            [HALF_BLOCK] if finest and finest < HALF_BLOCK < max((s.by for s in self.tracker.free), default=1) else []
        )
        for step in (*halves, finest):
            self._trim_by(step, is_last=step == finest)
            if not self.tracker.has_slack(HALVES_SLACK):
                return

    def _trim_by(self, step: int, is_last: bool) -> None:
        tracker = self.tracker
        if step:
            refine_all(tracker.free, step)
        if self.shares is not None:
            self._place_by_shares(self.shares, is_last)
            return
        self.give_back()
        before = tracker.dense
        for _ in range(ROUNDS):
            if not (tracker.has_slack() and -tracker.compute_needed() < before):
                break
            before = -tracker.compute_needed()
            self._exchange()
        if is_last and tracker.has_slack():
            self.give_back(short=BUDGET_TOLERANCE * tracker.dense)

    def _place_by_shares(self, shares: Shares, is_last: bool) -> None:
        """The shares of all groups once more, on the widths that there are now, and one stair back where it fits.

        No group pays for another one: groups of one size and one share would end with different widths.
        """
        tracker = self.tracker
        self.level = remove_by_shares(tracker, shares)
        self.start = tracker.list_places()
        self.give_back()
        if is_last and tracker.has_slack():
            self.give_back(short=BUDGET_TOLERANCE * tracker.dense)

    def _list_movable(self) -> list[WidthLadder]:
        """Groups in the order in which steps are undone; where there are shares, those that have not moved yet."""
        free = zip(self.tracker.free, self.start, strict=True)
        still = [s for s, at in free if self.shares is None or s.at == at]
        return sorted(still, key=self._measure_regret, reverse=True)

    def _exchange(self) -> None:
        """Where the next step back is too much: take one, and let another group pay for it, as exactly as it can.

        Only where the error hardly rises: a budget is not met to the last percent by emptying a bottleneck.
        """
        tracker = self.tracker
        start, best = tracker.list_places(), self._measure_merit()
        limit = best[1] * PLANNING.worth_factor
        widest = sorted((s for s in tracker.free if s.at > 0), key=lambda s: -tracker.compute_freed(s, s.at - 1))
        for s in widest[:EXCHANGES]:
            tracker.place_all(start)
            tracker.move(s, s.at - 1)
            if (payer := self._find_payer(s, limit)) is not None:
                tracker.move(*payer)
                best = min(best, self._measure_merit())
        tracker.place_all(best[2])

    def _find_payer(self, widened: WidthLadder, limit: float) -> tuple[WidthLadder, int] | None:
        """The other group, and its stair, that frees least of what is enough, with no more error than the limit."""
        free = self.tracker.free
        error = sum(o.error(o.at) for o in free)
        paid = [
            (self.tracker.compute_freed(o, at), at, o)
            for o in free
            if o is not widened
            and (at := self._find_sufficient(o)) is not None
            and error + o.error(at) - o.error(o.at) <= limit
        ]
        _, at, other = min(paid, key=lambda p: p[0], default=(0.0, 0, None))
        return None if other is None else (other, at)

    def _find_sufficient(self, s: WidthLadder) -> int | None:
        """The first stair on which a group alone frees what is needed."""
        stairs = range(s.at + 1, len(s.widths))
        needed = self.tracker.compute_needed()
        found = bisect.bisect_left(stairs, needed, key=lambda at: self.tracker.compute_freed(s, at))
        return stairs[found] if found < len(stairs) else None

    def _measure_regret(self, s: WidthLadder) -> float:
        """The order to undo steps in: the largest error first, or what is farthest below its share."""
        if self.shares is not None:
            return (find_wanted_width(self.shares, s, self.level) - s.width) / s.group.size
        return s.error(s.at) - s.error(max(s.at - 1, 0))

    def _measure_merit(self) -> tuple[float, float, list[int]]:
        """How far below the budget, the error, and where every group stands: less is better."""
        below = -self.tracker.compute_needed() / self.tracker.dense
        return round(below, 6), sum(s.error(s.at) for s in self.tracker.free), self.tracker.list_places()
