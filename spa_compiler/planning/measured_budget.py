"""Budgets of measured costs: the share of a counted cost that has to go, found by measuring rewritten models.

    find_measured_plan(cost, graph, 0.3, make_plan, threads=1, tolerance=0.05)

The first share that is tried is the one asked for: where groups compete by times of their kernels it is nearly right.
Each measurement narrows what is left, by a line through those on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spa_compiler.analysis.cost_kinds import MeasuredCost
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import BudgetError, NothingToPrune
from spa_compiler.planning.plan import Plan
from spa_compiler.rewriting.prune import rewrite

MOST_MEASURED = 8
"""Plans that are measured."""
HIGHEST_SHARE = 0.95
NEAR_ENOUGH = 0.2
"""Part of the tolerance that is near enough to stop."""
INNER_PART = 0.1
"""Part of what is left that every measurement cuts off at least."""


@dataclass(frozen=True)
class Measured:
    """A share of the counted cost, the share of the measured one that went with it, and the plan."""

    share: float
    reached: float
    plan: Plan


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
    cost: MeasuredCost, graph: DependencyGraph, ratio: float, make_plan: Callable[[float], Plan], threads: int,
    tolerance: float,
) -> Plan:  # fmt: skip
    """The plan whose measured cost is nearest to (1 - ratio) of the dense model's; no less goes, if that is possible.

    Raises BudgetError where none is within the tolerance (for a cost that no machine decides: where too little goes).
    """
    low, high = Measured(0.0, 0.0, Plan()), Measured(HIGHEST_SHARE, 1.0, Plan())
    tried, share = list[Measured](), ratio
    for _ in range(MOST_MEASURED):
        try:
            plan = make_plan(share)
        except (BudgetError, NothingToPrune) as e:
            high, low = (
                (Measured(share, 1.0, Plan()), low)
                if isinstance(e, BudgetError)
                else (high, Measured(share, 0.0, Plan()))
            )
        else:
            dense, small = measure_plan(cost, graph, plan, threads)
            made = Measured(share, 1 - small / dense if dense else 0.0, plan)
            tried.append(made)
            if 0 <= made.reached - ratio <= NEAR_ENOUGH * tolerance:
                return plan
            low, high = (low, made) if made.reached >= ratio else (made, high)
        share = _propose_share(low, high, ratio + NEAR_ENOUGH / 2 * tolerance)
    return _choose_plan(cost, tried, ratio, tolerance)


def _propose_share(low: Measured, high: Measured, ratio: float) -> float:
    """Where a line between two measurements meets what is wanted, away from both."""
    steep = high.reached > low.reached
    part = (ratio - low.reached) / (high.reached - low.reached) if steep else 0.5
    return low.share + min(max(part, INNER_PART), 1 - INNER_PART) * (high.share - low.share)


def _choose_plan(cost: MeasuredCost, tried: list[Measured], ratio: float, tolerance: float) -> Plan:
    """The plan that is nearest, first of those from which enough goes."""
    enough = [m for m in tried if m.reached >= ratio]
    best = min(enough or tried, key=lambda m: abs(m.reached - ratio), default=None)
    if best is not None and enough and (not cost.is_of_machine or best.reached - ratio <= tolerance):
        return best.plan
    near = min(tried, key=lambda m: abs(m.reached - ratio), default=None)
    if near is not None and cost.is_of_machine and abs(near.reached - ratio) <= tolerance:
        return near.plan
    least = ", ".join(f"{m.reached:+.1%}" for m in sorted(tried, key=lambda m: abs(m.reached - ratio))[:2])
    found = f"the nearest that was measured: {least}" if tried else "the floors of the groups do not allow more"
    raise BudgetError(
        f"{cost.name}: no plan tried is {ratio:.0%} {cost.gain} on this machine; {found}; ask for another share"
    )
