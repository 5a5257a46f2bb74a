"""Latency budgets: the share of MACs that has to go, by bisection on measured times of the rewritten model."""

from __future__ import annotations

from collections.abc import Callable

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import BudgetError, NothingToPrune
from spa_compiler.execution.session import open_session
from spa_compiler.planning.plan import Plan
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.verification.latency import Latency, draw_sample, measure_latency

BISECTION_STEPS = 6
MOST_REMOVED = 0.95


def measure_plan(graph: DependencyGraph, plan: Plan, threads: int) -> Latency:
    """Milliseconds dense and with this plan, one sample."""
    small = rewrite(graph, plan.masks(graph))
    sessions = [open_session(m.proto(), m.folder, 3, threads) for m in (graph.model, small)]
    feed = draw_sample(graph.model, sessions)
    return measure_latency(sessions[0], sessions[1], feed, threads, seconds=0.6)


def find_latency_share(graph: DependencyGraph, wanted: float, threads: int) -> float:
    """Milliseconds as a share of the dense model's. Raises NothingToPrune when it is fast enough."""
    dense = measure_plan(graph, Plan(), threads).dense_ms
    if wanted >= dense:
        raise NothingToPrune(f"--target {wanted:g}ms: the model already takes only {dense:.3g} ms here")
    return 1 - wanted / dense


def find_fastest(graph: DependencyGraph, ratio: float, plan_of: Callable[[float], Plan], threads: int) -> Plan:
    """The plan that removes the fewest MACs and runs in (1 - ratio) of the dense time.

    Raises BudgetError when even the largest share of MACs is not enough.
    """
    low, high, best = 0.0, MOST_REMOVED, None
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        try:
            plan = plan_of(middle)
        except BudgetError:
            high = middle
            continue
        found = measure_plan(graph, plan, threads)
        if found.compiled_ms <= (1 - ratio) * found.dense_ms:
            best, high = plan, middle
        else:
            low = middle
    if best is None:
        raise BudgetError(f"latency: no plan tried is {ratio:.0%} faster on this machine; try a smaller share")
    return best
