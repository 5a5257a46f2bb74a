"""Uniform is uniform: groups of one size end with one width, within a block, whatever that costs of the budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import analyze_proto
from spa_compiler.analysis.cost import CostModel, make_group_widths
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import BudgetError
from spa_compiler.planning.allocation import Budget, allocate
from spa_compiler.planning.width_ladder import Limits, find_width_step
from zoo import Case, build

CHAIN = """(float[1,3,8,8] x) => (float[1,4,8,8] y) {
    a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  d = Relu(c)  e = Conv(d, w3)  f = Relu(e)  y = Conv(f, w4) }"""
DENSE = """(float[4,7] x) => (float[4,3] y) {
    a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Relu(c)  e = MatMul(d, w3)  f = Relu(e)
    y = MatMul(f, w4) }"""


def make_chain(one: int, two: int, three: int, convolutions: bool) -> DependencyGraph:
    """Three groups of these sizes."""
    weights = {"w1": (one, 3), "w2": (two, one), "w3": (three, two), "w4": (4, three)}
    if convolutions:
        return analyze_proto(build(Case(CHAIN, {n: (*s, 1, 1) for n, s in weights.items()}, None)))
    dense = {"w1": (7, one), "w2": (one, two), "w3": (two, three), "w4": (three, 3)}
    return analyze_proto(build(Case(DENSE, dict(dense), None)))


def allocate_evenly(graph: DependencyGraph, ratio: float, of: str, limits: Limits, seed: int = 0) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    scores = {g.label: rng.random(g.shape) ** 4 for g in graph.groups}
    return allocate(graph, CostModel(graph), scores, Budget(of, ratio), limits, "uniform")


@given(
    size=st.sampled_from([12, 16, 24, 40, 64]), other=st.sampled_from([5, 12, 33]),
    ratio=st.floats(0.05, 0.8), convolutions=st.booleans(), align=st.sampled_from([0, 1, 4]),
    of=st.sampled_from(["macs", "params"]),
)  # fmt: skip
def test_equal_groups_keep_equal_widths_within_one_block(
    size: int, other: int, ratio: float, convolutions: bool, align: int, of: str
) -> None:
    graph, limits = make_chain(size, other, size, convolutions), Limits(align=align)
    try:
        kept = allocate_evenly(graph, ratio, of, limits)
    except BudgetError:
        return
    groups = [g for g in graph.groups if g.size == size]
    widths = [kept.get(g.label, size) for g in groups]
    step = max(find_width_step(graph, g, limits) for g in groups)
    assert max(widths) - min(widths) <= step
    widths_of = {d: w for g in graph.groups for d, w in make_group_widths(g, kept.get(g.label, g.size)).items()}
    cost = CostModel(graph)
    assert 1 - cost.total(of, widths_of) / cost.total(of, {}) >= ratio - 0.01


@pytest.mark.parametrize("sizes", [(16, 48, 80), (24, 40, 56)])
@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.6])
def test_shares_of_groups_of_any_size_are_alike_within_two_steps(sizes: tuple[int, int, int], ratio: float) -> None:
    graph = make_chain(*sizes, convolutions=False)
    kept = allocate_evenly(graph, ratio, "macs", Limits(align=1))
    shares = {g.label: kept.get(g.label, g.size) / g.size for g in graph.groups}
    assert max(shares.values()) - min(shares.values()) <= 2 / min(sizes)
