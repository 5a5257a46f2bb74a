"""Budgets of measured costs: the share of a counted cost that has to go, by bisection on the rewritten model."""

from __future__ import annotations

from collections.abc import Callable

from spa_compiler.analysis.cost_kinds import MeasuredCost
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import BudgetError, NothingToPrune
from spa_compiler.planning.plan import Plan
from spa_compiler.rewriting.prune import rewrite

BISECTION_STEPS = 6
MOST_REMOVED = 0.95


def measure_plan(cost: MeasuredCost, graph: DependencyGraph, plan: Plan, threads: int) -> tuple[float, float]:
    """The cost of the dense model and with this plan."""
    return cost.measure(graph.model, rewrite(graph, plan.masks(graph)), threads)


def find_measured_share(cost: MeasuredCost, graph: DependencyGraph, wanted: float, threads: int) -> float:
    """An absolute cost as the share of the dense model's to remove. Raises NothingToPrune when it is low enough."""
    dense, _ = measure_plan(cost, graph, Plan(), threads)
    if wanted >= dense:
        unit = cost.suffix
        raise NothingToPrune(f"--target {wanted:g}{unit}: the model already takes only {dense:.3g} {unit} here")
    return 1 - wanted / dense


def find_measured_plan(
    cost: MeasuredCost, graph: DependencyGraph, ratio: float, make_plan: Callable[[float], Plan], threads: int
) -> Plan:
    """The plan that removes least of the cost that stands in, and comes to (1 - ratio) of the dense measurement.

    Raises BudgetError when even the largest share is not enough.
    """
    low, high, best = 0.0, MOST_REMOVED, None
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        try:
            plan = make_plan(middle)
        except BudgetError:
            high = middle
            continue
        dense, small = measure_plan(cost, graph, plan, threads)
        if small <= (1 - ratio) * dense:
            best, high = plan, middle
        else:
            low = middle
    if best is None:
        raise BudgetError(f"{cost.name}: no plan tried is {ratio:.0%} {cost.gain} on this machine; try a smaller share")
    return best
