"""The last look at a budget: what was asked for beside what the compiled model costs.

    check_budget(graph, model, budget, plan, threads)       # raises BudgetError: macs: asked for 50.0% less, 41.2% went

Costs that are counted are counted again; those that are measured are measured on the model that is written. A
measurement that misses is made again, for a busy machine gives any number once.
"""

from __future__ import annotations

from collections.abc import Iterator

from spa_compiler.analysis.cost import CostModel
from spa_compiler.analysis.cost_kinds import GroupShare, MeasuredCost
from spa_compiler.analysis.cost_registry import find_cost
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import BudgetError
from spa_compiler.ir.model import Model
from spa_compiler.planning.allocation import Budget
from spa_compiler.planning.cost_tracker import BUDGET_TOLERANCE
from spa_compiler.planning.parts import find_parts, measure_part
from spa_compiler.planning.plan import Plan, find_widths

MEASUREMENTS = 3
"""How often a measured cost is measured before a budget counts as missed."""


def check_budget(
    graph: DependencyGraph, model: Model, budget: Budget, plan: Plan, threads: int = 0, known: float | None = None,
    unedited: DependencyGraph | None = None,
) -> None:  # fmt: skip
    """Raise BudgetError where less went than was asked for; `known` is a share that was measured already.

    `unedited`: the graph of the model that was given, where exact passes have edited it.
    """
    cost = find_cost(budget.of)
    for part in find_parts(graph, dict(budget.parts)):
        reached = measure_part(part, budget.unit, find_widths(graph, plan))
        if reached < part.ratio - BUDGET_TOLERANCE - 1e-9:
            raise BudgetError(f"{budget.of} of {part.name}: asked for {part.ratio:.1%} less, {reached:+.1%} went")
    if budget.ratio <= 0 or isinstance(cost, GroupShare):  # every group lost its share: the allocation has seen to it
        return
    if isinstance(cost, MeasuredCost):
        slack = budget.tolerance if cost.is_of_machine else BUDGET_TOLERANCE
        shares = list(_measure_until_met(graph, model, cost, budget.ratio, threads, known, slack))
        best, how = max(shares), "measured on the model that would be written"
    else:
        counted = CostModel(graph)
        dense = (CostModel(unedited) if unedited is not None else counted).total(cost.unit, {})
        small = counted.total(cost.unit, find_widths(graph, plan))
        best, how = 1 - small / dense if dense else 0.0, "counted"
        slack = BUDGET_TOLERANCE + (1 / dense if dense else 0.0)
    if best < budget.ratio - slack - 1e-9:
        raise BudgetError(
            f"{budget.of}: asked for {budget.ratio:.1%} less, {best:+.1%} went ({how}); try a smaller share; "
            "no model was written"
        )


def _measure_until_met(
    graph: DependencyGraph, model: Model, cost: MeasuredCost, ratio: float, threads: int, known: float | None,
    slack: float,
) -> Iterator[float]:  # fmt: skip
    """Shares that went, up to the first that is enough."""
    for k in range(MEASUREMENTS):
        if k or known is None:
            dense, small = cost.measure(graph.model, model, threads)
            share = 1 - small / dense if dense else 0.0
        else:
            share = known
        yield share
        if share >= ratio - slack:
            return
