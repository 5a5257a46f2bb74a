"""Exact allocation: what brute force finds, never over the budget, never worse than competing groups."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import load

import spa_compiler
from commands import check_report
from laws import analyze_proto
from networks import feeds, graph_of
from spa_compiler.analysis.cost import CostModel, make_group_widths
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import BudgetError
from spa_compiler.planning import dynamic_programming
from spa_compiler.planning.allocation import Budget, allocate
from spa_compiler.planning.cost_tracker import CostTracker
from spa_compiler.planning.dynamic_programming import minimize_error, remove_exactly
from spa_compiler.planning.measured_shares import measure_additivity
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.scores import Scores
from spa_compiler.planning.width_ladder import Limits, WidthLadder, make_curve, make_ladders
from zoo import Case


@pytest.fixture(scope="module")
def graph(models: Path) -> DependencyGraph:
    return analyze_proto(load(models / "digits_resnet.onnx"))


def draw_ladders(graph: DependencyGraph, rng: np.random.Generator, stairs: int) -> list[WidthLadder]:
    """A ladder of a few widths for every group, errors at random."""
    out = []
    for g in graph.groups:
        curve = make_curve(rng.gamma(0.5, size=g.size * g.blocks) * rng.uniform(0.1, 10), g.size)
        widths = sorted(
            {g.size, *rng.choice(np.arange(1, g.size), min(stairs, g.size) - 1, replace=False)}, reverse=True
        )
        out.append(WidthLadder(g, [int(w) for w in widths], curve, 1))
    return out


def try_all(graph: DependencyGraph, ladders: list[WidthLadder], ratio: float) -> float:
    """The least error within the budget, by costs of one plan after the other; infinite where there is none."""
    cost = CostModel(graph)
    dense, best = cost.total("macs", {}), math.inf
    for places in itertools.product(*(range(len(s.widths)) for s in ladders)):
        widths = {}
        for s, at in zip(ladders, places, strict=True):
            widths |= make_group_widths(s.group, s.widths[at])
        if cost.total("macs", widths) <= (1 - ratio) * dense * (1 + 1e-12):
            best = min(best, sum(s.error(at) for s, at in zip(ladders, places, strict=True)))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_few_combinations_give_what_brute_force_finds(graph: DependencyGraph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ladders, ratio = draw_ladders(graph, rng, 4), float(rng.uniform(0.1, 0.7))
    wanted = try_all(graph, ladders, ratio)
    tracker = CostTracker(CostModel(graph), "macs", ratio, ladders, {})
    if math.isinf(wanted):
        with pytest.raises(BudgetError, match="at most"):
            remove_exactly(tracker)
        return
    remove_exactly(tracker)
    assert tracker.compute_needed() <= 1e-9 * tracker.dense
    assert sum(s.error(s.at) for s in ladders) == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(8))
def test_programming_is_near_to_that(graph: DependencyGraph, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    ladders, ratio = draw_ladders(graph, rng, 4), float(rng.uniform(0.1, 0.4))
    wanted = try_all(graph, ladders, ratio)
    monkeypatch.setattr(dynamic_programming, "MOST_COMBINATIONS", 0)
    tracker = CostTracker(CostModel(graph), "macs", ratio, ladders, {})
    remove_exactly(tracker)
    assert tracker.compute_needed() <= 1e-9 * tracker.dense
    assert sum(s.error(s.at) for s in ladders) <= 1.25 * wanted


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_separable_costs_are_solved_exactly(data: st.DataObject) -> None:
    """With whole costs that a step of the budget divides, nothing is rounded."""
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    whole = st.integers(0, 16)
    errors = [np.array(data.draw(st.lists(whole, min_size=n, max_size=n)), float) for n in sizes]
    costs = [np.array(data.draw(st.lists(whole, min_size=n, max_size=n)), float) for n in sizes]
    budget = 32.0
    found = minimize_error(errors, costs, budget)
    plans = list(itertools.product(*map(range, sizes)))
    within = [p for p in plans if sum(c[k] for c, k in zip(costs, p, strict=True)) <= budget]
    best = min((sum(e[k] for e, k in zip(errors, p, strict=True)) for p in within), default=None)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert sum(c[k] for c, k in zip(costs, found, strict=True)) <= budget
    assert sum(e[k] for e, k in zip(errors, found, strict=True)) == best


@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_the_scope_is_an_option_that_is_no_worse_and_never_over(models: Path, ratio: float) -> None:
    graph = analyze_proto(load(models / "digits_mobilenet.onnx"))
    rng = np.random.default_rng(0)
    scores: Scores = {g.label: rng.gamma(0.5, size=g.size * g.blocks) for g in graph.groups}
    errors, cost = {}, CostModel(graph)
    limits = Limits(align=4)
    for scope in ("global", "exact"):
        kept = allocate(graph, cost, scores, Budget("macs", ratio), limits, scope)
        widths = {d: w for g in graph.groups if g.label in kept for d, w in make_group_widths(g, kept[g.label]).items()}
        if scope == "exact":
            assert cost.total("macs", widths) <= (1 - ratio) * cost.total("macs", {}) * (1 + 1e-9)
        ladders = {s.group.label: s for s in make_ladders(graph, scores, limits, {})}
        errors[scope] = sum(float(s.curve[s.group.size - kept[n]]) for n, s in ladders.items())
    assert errors["exact"] <= errors["global"] * 1.02  # which may be over its budget by a percent


PARALLEL = Case(
    "(float[N,12] x) => (float[N,5] y, float[N,5] z) {"
    " a = MatMul(x, u1)  b = Relu(a)  y = MatMul(b, v1)  c = MatMul(x, u2)  d = Relu(c)  z = MatMul(d, v2) }",
    {"u1": (12, 20), "v1": (20, 5), "u2": (12, 20), "v2": (20, 5)},
    None,
)
"""Two groups, each of which one output reads: what one of them loses the other one does not see."""


def test_errors_of_groups_that_do_not_meet_add_up() -> None:
    rng = np.random.default_rng(0)
    graph = graph_of(PARALLEL, **{n: rng.standard_normal(s).astype(np.float32) for n, s in PARALLEL.inits.items()})
    plan = Plan({g.label: rng.permutation(g.size) < 12 for g in graph.groups})
    alone, joint = measure_additivity(graph, plan, feeds((64, 12)))
    assert 0 < alone == pytest.approx(joint, rel=1e-5)


def test_the_report_has_the_sum_of_errors_beside_the_joint_one(models: Path) -> None:
    given = {"align": 4, "latency": False, "quality": False, "samples": 32, "calib": "white"}
    report = spa_compiler.compile(models / "digits_vit.onnx", 0.3, scope="exact", **given).report
    check_report(report)
    sums = report["additivity"]
    assert sums["alone"] > 0
    assert sums["joint"] > 0
    assert sums["scores"] > 0
    assert sums["inputs"].startswith("32 ")
    plain = spa_compiler.compile(models / "digits_vit.onnx", 0.3, criterion="l2", latency=False, quality=False).report
    check_report(plain)
    assert plain["additivity"] is None
