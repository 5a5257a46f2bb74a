"""The allocation: how many channels each group keeps, so that a budget is met with the least error.

    widths = allocate(graph, cost, scores, Budget("macs", 0.5), Limits(), "global")

Every group has an error curve (the cumulative sum of its sorted scores) and a staircase of widths that pay on real
kernels (`width_ladder`). Groups compete (`greedy_removal`) or lose shares (`shares`), as a scope says (`scopes`);
`budget_repair` gives back what went too far. All of them move groups through one `cost_tracker`, which knows what the
model costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spa_compiler.algebra.expr import Dim
from spa_compiler.analysis.cost import CostModel, make_group_widths
from spa_compiler.analysis.cost_kinds import GroupShare
from spa_compiler.analysis.cost_registry import find_cost, find_tracked_cost
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import NothingToPrune
from spa_compiler.planning.budget_repair import BudgetRepair
from spa_compiler.planning.cost_tracker import BUDGET_TOLERANCE, CostTracker
from spa_compiler.planning.density_widths import solve_density_widths
from spa_compiler.planning.part_budgets import PartBudgets
from spa_compiler.planning.parts import Part, find_groups_of_parts, find_parts
from spa_compiler.planning.scopes import ScopeInputs, ShareScope, Strategy, find_scope
from spa_compiler.planning.scores import Scores
from spa_compiler.planning.shares import EVEN, Shares, meet_share, remove_by_shares
from spa_compiler.planning.width_ladder import Limits, WidthLadder, find_open_groups, find_own_ratio, make_ladders


@dataclass(frozen=True)
class Budget:
    """Share of the cost `of` (its name, such as "macs") that must go, 0 to 1.

    `parts`: shares of the cost of parts of the model, by pattern; the ratio is that of the whole beside them, or 0
    where nothing else shall go.
    `tracked` is the unit in which it is counted, where that is no registered cost's: the model has it all the same.
    A share that is measured may be missed by `tolerance` on both sides.
    """

    of: str
    ratio: float
    parts: tuple[tuple[str, float], ...] = ()
    tracked: str = ""
    tolerance: float = BUDGET_TOLERANCE

    @property
    def unit(self) -> str:
        """The unit in which the cost, or what stands in for it, is counted."""
        return self.tracked or find_tracked_cost(self.of).unit


def allocate(
    graph: DependencyGraph,
    cost: CostModel,
    scores: Scores,
    budget: Budget,
    limits: Limits,
    scope: str,
    left: Mapping[str, int] | None = None,
    feeds: Sequence[Mapping[str, Any]] = (),
) -> dict[str, int]:
    """Channels that each group keeps (per block), by label; groups without scores keep what they have.

    `left` says how many channels a group still has where some are gone already (those of the lowest scores), `feeds`
    are inputs for a `scope` that needs some. Raises UsageError for scores that are not finite, BudgetError where all
    groups at their floors do not meet it, or where a share of the groups lacks more than one unit a group.
    """
    left, view = left or {}, ScopeInputs(graph, scores, feeds)
    finest = 0 if limits.align else limits.device.finest
    ladder = make_ladders(graph, scores, limits, left)
    fixed = _place_fixed_groups(graph, ladder, limits)
    free = [s for s in ladder if s.group.label not in fixed]
    widths = {d: w for g in graph.groups if g.label in left for d, w in make_group_widths(g, left[g.label]).items()}
    for s in fixed.values():
        widths |= make_group_widths(s.group, s.width)
    if budget.parts:
        chosen = _find_strategy(scope, view)
        _find_part_budgets(graph, cost, budget, free, widths).meet(lambda t: _meet_budget(t, chosen, finest))
        return {s.group.label: s.width for s in ladder}
    tracker = CostTracker(cost, budget.unit, budget.ratio, free, widths)
    if not ladder and tracker.compute_needed() > 0:
        raise NothingToPrune("nothing can be pruned (every group is excluded or at its floor)")
    if isinstance(share := find_cost(budget.of), GroupShare):
        groups = [g for g in find_open_groups(graph, limits.exclude, limits.include) if g.label in scores]
        kept = {**left, **{s.group.label: s.width for s in fixed.values()}}
        chosen = _find_strategy(scope, view)
        shares = EVEN if isinstance(chosen, Strategy) else chosen
        meet_share(tracker, share, budget.ratio, groups, kept, finest, shares)
    elif tracker.compute_needed() > 0:
        _meet_budget(tracker, _find_strategy(scope, view), finest)
    return {s.group.label: s.width for s in ladder}


def _find_part_budgets(
    graph: DependencyGraph, cost: CostModel, budget: Budget, free: list[WidthLadder], widths: Mapping[Dim, float]
) -> PartBudgets:
    """The budgets of parts, and last that of the whole, which all other groups meet."""
    parts = find_parts(graph, dict(budget.parts))
    if budget.ratio:
        parts.append(Part("", budget.ratio, frozenset(range(len(graph.sites))), cost))
    return PartBudgets(parts, find_groups_of_parts(graph, parts), budget.unit, free, widths)


def _find_strategy(scope: str, view: ScopeInputs) -> Strategy | Shares:
    """How groups are moved: a strategy, or the shares that they lose."""
    found = find_scope(scope)
    return found.make_shares(view, scope) if isinstance(found, ShareScope) else found


def _meet_budget(tracker: CostTracker, chosen: Strategy | Shares, finest: int) -> None:
    """Move groups until the budget is met, as nearly as their widths allow.

    Where needed, multiples of `finest` are added to the widths (0: none).
    """
    tracker.check_reach()
    if isinstance(chosen, Strategy):
        chosen.remove(tracker)
        if chosen.is_exact:
            return
        repair = BudgetRepair(tracker)
    else:
        repair = BudgetRepair(tracker, chosen, remove_by_shares(tracker, chosen))
    repair.give_back()
    if tracker.has_slack():
        repair.trim(finest)
    repair.widen_freely()


def _place_fixed_groups(graph: DependencyGraph, ladder: list[WidthLadder], limits: Limits) -> dict[str, WidthLadder]:
    """Groups whose ratio the caller has given, or follows from those of contractions, on the stair nearest to it."""
    out: dict[str, WidthLadder] = {}
    for s in ladder:
        if (ratio := find_own_ratio(graph, s.group, limits)) is not None:
            s.at = s.find_nearest(s.group.size * (1 - ratio))
            out[s.group.label] = s
    if limits.layer_ratio:
        widths = {d: w for s in out.values() for d, w in make_group_widths(s.group, s.width).items()}
        movable = [s for s in ladder if s.group.label not in out]
        found = solve_density_widths(graph, movable, limits.layer_ratio, widths)
        for s in movable:
            if s.group.label in found:
                s.at = s.find_nearest(found[s.group.label])
                out[s.group.label] = s
    return out
