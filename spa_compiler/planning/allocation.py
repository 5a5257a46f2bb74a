"""The allocation: how many channels each group keeps, so that a budget is met with the least error.

    widths = allocate(cost, scores, Budget("macs", 0.5), Limits())

Every group has an error curve (the cumulative sum of its sorted scores) and a staircase of widths that pay on real
kernels. `global` takes, again and again, the step with the least error per cost freed, with costs re-evaluated as
neighbours shrink; `choose_share` removes the same share everywhere.
"""

from __future__ import annotations

import bisect
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spa_compiler.algebra.expr import Dim
from spa_compiler.analysis.cost import CostModel, make_group_widths
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import BudgetError, NothingToPrune
from spa_compiler.planning.scores import Scores
from spa_compiler.planning.settings import PLANNING
from spa_compiler.planning.width_ladder import Limits, WidthLadder, find_own_ratio, make_ladders

EXCHANGES, ROUNDS = 12, 32
"""Steps back that are tried in a round of exchanges, and rounds."""
BUDGET_TOLERANCE = 0.01


@dataclass(frozen=True)
class Budget:
    """Share of `of` ("macs", "params", "size" or "channels") that must go, 0 to 1."""

    of: str
    ratio: float

    @property
    def unit(self) -> str:
        return {"size": "bytes", "channels": "params"}.get(self.of, self.of)


def allocate(
    graph: DependencyGraph,
    cost: CostModel,
    scores: Scores,
    budget: Budget,
    limits: Limits,
    scope: str,
    left: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Channels that each group keeps (per block), by label; groups without scores keep what they have.

    `left` says how many channels a group still has where some are gone already (those of the lowest scores). Raises
    UsageError for scores that are not finite, BudgetError where all groups at their floors do not meet it.
    """
    left = left or {}
    ladder = make_ladders(graph, scores, limits, left)
    fixed = _find_fixed_groups(graph, ladder, limits)
    free = [s for s in ladder if s.group.label not in fixed]
    widths = {d: w for g in graph.groups if g.label in left for d, w in make_group_widths(g, left[g.label]).items()}
    for s in fixed.values():
        widths |= make_group_widths(s.group, s.width)
    run = _Run(cost, budget, free, widths)
    if not ladder and run.compute_needed() > 0:
        raise NothingToPrune("nothing can be pruned (every group is excluded or at its floor)")
    if budget.of == "channels":
        run.keep_share(budget.ratio)
    elif run.compute_needed() > 0:
        run.check_reach()
        run.choose_share() if scope == "uniform" else run.remove_greedily(free)
        run.give_back(free)
        if run.has_slack():
            run.trim(fine=not limits.align)
    return {s.group.label: s.width for s in ladder}


def _find_fixed_groups(graph: DependencyGraph, ladder: list[WidthLadder], limits: Limits) -> dict[str, WidthLadder]:
    """Groups whose ratio the caller has given."""
    out: dict[str, WidthLadder] = {}
    for s in ladder:
        if (ratio := find_own_ratio(graph, s.group, limits)) is not None:
            s.at = _find_nearest(s, s.group.size * (1 - ratio))
            out[s.group.label] = s
    return out


def _find_nearest(s: WidthLadder, width: float) -> int:
    return min(range(len(s.widths)), key=lambda i: (abs(s.widths[i] - width), s.widths[i]))


class _Run:
    """One allocation under way: where every group stands, and what the model costs there."""

    def __init__(self, cost: CostModel, budget: Budget, free: list[WidthLadder], widths: dict[Dim, float]) -> None:
        self.cost, self.unit, self.free, self.widths = cost, budget.unit, free, widths
        self.even = False
        self.dense = cost.total(self.unit, {})
        self.target = self.dense * (1 - budget.ratio)
        self.now = cost.total(self.unit, self.widths)

    def compute_needed(self) -> float:
        return self.now - self.target

    def compute_freed(self, s: WidthLadder, at: int, before: float | None = None) -> float:
        """Cost that goes when a group moves to another stair; `before` is what it costs now, where that is known."""
        if before is None:
            before = self.cost.of_group(s.group, self.unit, self.widths)
        after = ChainMap(make_group_widths(s.group, s.widths[at]), self.widths)
        return before - self.cost.of_group(s.group, self.unit, after)

    def move(self, s: WidthLadder, at: int) -> None:
        self.now -= self.compute_freed(s, at)
        self.widths |= make_group_widths(s.group, s.widths[at])
        s.at = at

    def place_all(self, ats: Iterable[int]) -> None:
        """Put every free group on a stair at once."""
        for s, at in zip(self.free, ats, strict=True):
            s.at = at
            self.widths |= make_group_widths(s.group, s.width)
        self.now = self.cost.total(self.unit, self.widths)

    def check_reach(self) -> None:
        start = [s.at for s in self.free]
        self.place_all([len(s.widths) - 1 for s in self.free])
        least = self.now
        self.place_all(start)
        if least > self.target + BUDGET_TOLERANCE * self.dense:
            raise BudgetError(
                f"{self.unit}: asked for {1 - self.target / self.dense:.1%} less, at most {1 - least / self.dense:.1%} "
                "can go with every group at its floor (--max-group-ratio, --min-keep, --exclude, --include, or what is "
                "frozen: see `spa inspect`)"
            )

    def keep_share(self, ratio: float) -> None:
        """The same share of channels from every group."""
        self.place_all([_find_nearest(s, s.group.size * (1 - ratio)) for s in self.free])

    def choose_share(self) -> None:
        """The smallest share that meets the budget, by bisection."""
        self.even = True
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            self.keep_share(middle)
            low, high = (low, middle) if self.compute_needed() <= 0 else (middle, high)
        self.keep_share(high)

    def remove_greedily(self, free: list[WidthLadder]) -> None:
        """The step with the least error per cost freed, until the budget is met."""
        best: dict[int, tuple[float, int]] = {}
        touched: Iterable[int] = range(len(free))
        for _ in range(sum(len(s.widths) for s in free)):  # every move goes down at least one stair
            if not self.compute_needed() > 0:
                return
            for i in touched:
                if (found := self._find_best_step(free[i])) is not None:
                    best[i] = found
                else:
                    best.pop(i, None)
            if not best:
                return
            chosen = min(best, key=lambda i: (best[i][0], i))
            self.move(free[chosen], best[chosen][1])
            dims = self.cost.find_neighbours(free[chosen].group)  # whose costs have changed
            touched = [i for i, s in enumerate(free) if not dims.isdisjoint(s.group.dims)]

    def _find_best_step(self, s: WidthLadder) -> tuple[float, int] | None:
        """Error per cost freed of the best of the next stairs (the lower hull of the curve), and that stair."""
        options, before = [], self.cost.of_group(s.group, self.unit, self.widths)
        for at in range(s.at + 1, min(s.at + 1 + PLANNING.lookahead, len(s.widths))):
            freed = self.compute_freed(s, at, before)
            if freed > 0:
                options.append(((s.error(at) - s.error(s.at)) / freed, at))
        return min(options, default=None)

    def _measure_regret(self, s: WidthLadder) -> float:
        """The order to undo steps in: the largest error first, or the smallest share kept where shares are even."""
        if self.even:
            return -s.width / s.group.size
        return s.error(s.at) - s.error(max(s.at - 1, 0))

    def give_back(self, free: list[WidthLadder], short: float = 0.0) -> None:
        """Undo steps that the budget does not need, or that leave it `short` by no more than this cost."""
        for _ in range(1 + sum(s.at for s in free)):  # every move goes up a stair
            moved = False
            for s in sorted(free, key=self._measure_regret, reverse=True):
                if s.at > 0 and -self.compute_freed(s, s.at - 1) <= short - self.compute_needed():
                    self.move(s, s.at - 1)
                    moved = True
            if self.even or not moved:
                return

    def has_slack(self) -> bool:
        """Has more gone than the budget asks for?"""
        return -self.compute_needed() > BUDGET_TOLERANCE * self.dense

    def trim(self, fine: bool) -> None:
        """Where the staircase is too coarse to meet the budget, finer widths bring it near.

        A convolution's width stays a multiple of 4: any other is slower than the next wider one.
        """
        for s in self.free if fine else ():
            s.refine(min(s.by, 4))
        self.give_back(self.free)
        before = self.dense
        for _ in range(ROUNDS):
            if not (self.has_slack() and -self.compute_needed() < before):
                break
            before = -self.compute_needed()
            self.exchange()
        if self.has_slack():
            self.give_back(self.free, short=BUDGET_TOLERANCE * self.dense)

    def exchange(self) -> None:
        """Where the next step back is too much: take one, and let another group pay for it, as exactly as it can.

        Only where the error hardly rises: a budget is not met to the last percent by emptying a bottleneck.
        """
        start = [s.at for s in self.free]
        best = self._measure_merit()
        limit = best[1] * (PLANNING.even_worth_factor if self.even else PLANNING.worth_factor)
        widest = sorted((s for s in self.free if s.at > 0), key=lambda s: -self.compute_freed(s, s.at - 1))
        for s in widest[:EXCHANGES]:
            self.place_all(start)
            self.move(s, s.at - 1)
            error = sum(o.error(o.at) for o in self.free)
            paid = [
                (self.compute_freed(o, at), at, o)
                for o in self.free
                if o is not s
                and (at := self._find_sufficient(o)) is not None
                and error + o.error(at) - o.error(o.at) <= limit
            ]
            if paid:
                _, at, other = min(paid, key=lambda p: p[0])
                self.move(other, at)
                best = min(best, self._measure_merit())
        self.place_all(best[2])

    def _measure_merit(self) -> tuple[float, float, list[int]]:
        """How far below the budget, the error, and where every group stands: less is better."""
        return (
            round(-self.compute_needed() / self.dense, 6),
            sum(s.error(s.at) for s in self.free),
            [s.at for s in self.free],
        )

    def _find_sufficient(self, s: WidthLadder) -> int | None:
        """The first stair on which a group alone frees what is needed."""
        stairs = range(s.at + 1, len(s.widths))
        found = bisect.bisect_left(stairs, self.compute_needed(), key=lambda at: self.compute_freed(s, at))
        return stairs[found] if found < len(stairs) else None
