"""Scopes: groups lose in proportion to the numbers that a scope gives, and the budget is met all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import load

from laws import analyze_proto
from networks import feeds, graph_of
from spa_compiler.algebra.expr import Dim
from spa_compiler.analysis.cost import CostModel, make_group_widths
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.residual_blocks import find_blocks_of_groups
from spa_compiler.errors import BudgetError, UsageError
from spa_compiler.planning import scopes
from spa_compiler.planning.allocation import Budget, allocate
from spa_compiler.planning.measured_shares import measure_cosines, measure_losses
from spa_compiler.planning.plan import make_best_plan
from spa_compiler.planning.scopes import ScopeInputs, ShareScope, Strategy, find_scope, list_scope_names, scope
from spa_compiler.planning.scores import Scores
from spa_compiler.planning.shares import EVEN, RankShares, ValueShares
from spa_compiler.planning.weight_shares import PQIndex, compute_erk
from spa_compiler.planning.width_ladder import Limits
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.scoring.registry import find_criterion
from spa_compiler.verification.fidelity import explain_variance
from spa_compiler.verification.runs import Side, run_outputs
from zoo import Case

FREE = Limits(align=1)
WIDTH, HIDDEN = 12, 40
BLOCKS = Case(
    "(float[N,12] x) => (float[N,5] y) {"
    + "".join(
        f" a{k} = MatMul(h{k}, u{k})  r{k} = Relu(a{k})  b{k} = MatMul(r{k}, v{k})  h{k + 1} = Add(h{k}, b{k})"
        for k in range(4)
    ).replace("h0", "x")
    + " y = MatMul(h4, w) }",
    {**{n: s for k in range(4) for n, s in ((f"u{k}", (12, 40)), (f"v{k}", (40, 12)))}, "w": (12, 5)},
    None,
)
"""Four residual blocks of one size."""


def make_blocks(strengths: tuple[float, ...], seed: int = 0) -> DependencyGraph:
    """The blocks, each of which adds its input times about this much."""
    rng, weights = np.random.default_rng(seed), {}
    for k, strength in enumerate(strengths):
        weights[f"u{k}"] = rng.standard_normal((WIDTH, HIDDEN)) / np.sqrt(WIDTH)
        weights[f"v{k}"] = strength * rng.standard_normal((HIDDEN, WIDTH)) / np.sqrt(HIDDEN / 2)
    weights["w"] = rng.standard_normal((WIDTH, 5)) / np.sqrt(WIDTH)
    return graph_of(BLOCKS, **{n: w.astype(np.float32) for n, w in weights.items()})


def score(graph: DependencyGraph) -> Scores:
    return find_criterion("l2")(graph, None, np.random.default_rng(0))


def run(graph: DependencyGraph, name: str, ratio: float, of: str = "channels", limits: Limits = FREE) -> dict[str, int]:
    return allocate(
        graph, CostModel(graph), score(graph), Budget(of, ratio), limits, name, feeds=feeds((16, WIDTH), chunks=3)
    )


def spread(graph: DependencyGraph, kept: dict[str, int]) -> dict[Dim, float]:
    return {d: w for g in graph.groups if g.label in kept for d, w in make_group_widths(g, kept[g.label]).items()}


def measure_drift(graph: DependencyGraph, kept: dict[str, int], given: list[dict[str, np.ndarray]]) -> float:
    """The part of the outputs' variance that the pruned model loses."""
    masks = make_best_plan(graph, score(graph), kept).masks(graph)
    models = (graph.model, rewrite(graph, masks))
    dense, small = (run_outputs(m, [t.name for t in m.graph.outputs], given, "a model") for m in models)
    return 1 - explain_variance(dense, small)


@pytest.fixture(scope="module")
def shipped(models: Path) -> dict[str, DependencyGraph]:
    return {n: analyze_proto(load(models / f"digits_{n}.onnx")) for n in ("resnet", "mobilenet", "vit", "gru")}


@pytest.mark.parametrize("name", sorted({*list_scope_names()} - {"auto", "similarity", "angle", "sensitivity"}))
@pytest.mark.parametrize("ratio", [0.1, 0.35, 0.6])
def test_every_scope_meets_the_budget_and_the_limits(
    shipped: dict[str, DependencyGraph], name: str, ratio: float
) -> None:
    for graph in shipped.values():
        limits = Limits(align=1, max_group_ratio=0.85, min_keep=2)
        kept = allocate(graph, CostModel(graph), score(graph), Budget("macs", ratio), limits, name)
        cost = CostModel(graph)
        reached = 1 - cost.total("macs", spread(graph, kept)) / cost.total("macs", {})
        assert ratio - 0.01 <= reached
        assert reached <= ratio + 0.05 or name in ("global", "exact")  # units are coarse in the smallest of the models
        sizes = {g.label: g.size for g in graph.groups}
        assert all(w >= max(2, np.ceil(sizes[n] * 0.15 - 1e-9)) or w == sizes[n] for n, w in kept.items())


@given(
    values=st.lists(st.floats(0.2, 1.0), min_size=4, max_size=4), ratio=st.floats(0.05, 0.6), kept=st.booleans(),
)  # fmt: skip
def test_groups_lose_or_keep_in_proportion_to_their_values(values: list[float], ratio: float, kept: bool) -> None:
    graph = make_blocks((1.0,) * 4)
    wanted = dict(zip([g.label for g in graph.groups], values, strict=True))
    shares = ValueShares(wanted, kept)
    for level in (0.0, ratio, 1.0):
        found = {g.label: shares.find_share(g, level) for g in graph.groups}
        assert all(0 <= s <= 1 for s in found.values())
        assert level > 0 or all(s == pytest.approx(0) for s in found.values())
        assert level < 1 or all(s == pytest.approx(1) for s in found.values())
        stays = {n: 1 - s if kept else s for n, s in found.items()}
        free = [n for n, s in stays.items() if s < 1]
        parts = [stays[n] / wanted[n] for n in free]
        assert not parts or max(parts) - min(parts) < 1e-9


def test_one_value_for_all_is_uniform(shipped: dict[str, DependencyGraph], monkeypatch: pytest.MonkeyPatch) -> None:
    same = scope()(lambda view: {g.label: 0.37 for g in view.graph.groups})
    for graph in shipped.values():
        found = []
        for chosen in (find_scope("uniform"), same):
            monkeypatch.setattr("spa_compiler.planning.allocation.find_scope", lambda name, one=chosen: one)
            found.append(allocate(graph, CostModel(graph), score(graph), Budget("macs", 0.4), FREE, "any"))
        assert found[0] == found[1]
    assert EVEN.is_even


def test_a_value_of_nothing_does_not_put_the_budget_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = make_blocks((1.0,) * 4)
    first = graph.groups[0].label
    lazy = scope()(lambda view: {g.label: float(g.label == first) for g in view.graph.groups})
    monkeypatch.setattr("spa_compiler.planning.allocation.find_scope", lambda name: lazy)
    few, many = run(graph, "any", 0.1), run(graph, "any", 0.6)
    assert [n for n, w in few.items() if w < HIDDEN] == [first]
    assert sum(many.values()) <= 0.4 * 4 * HIDDEN + 4


@pytest.mark.parametrize(
    ("measure", "why"),
    [
        (lambda view: {view.graph.groups[0].label: float("nan")}, "finite"),
        (lambda view: {view.graph.groups[0].label: -1.0}, "at least 0"),
        (lambda view: {"nobody": 1.0}, "no group is called 'nobody'"),
    ],
)
def test_numbers_that_are_none_are_errors(measure: object, why: str) -> None:
    graph = make_blocks((1.0,) * 4)
    with pytest.raises(UsageError, match=why):
        ShareScope(measure).make_shares(ScopeInputs(graph, {}), "mine")  # type: ignore[arg-type]


def test_an_unknown_scope_names_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"no scope is called 'globl'; there are auto, angle, erk, exact, global"):
        find_scope("globl")
    for name in list_scope_names()[1:]:
        assert isinstance(find_scope(name), Strategy | ShareScope)


# ERK: the formula, layer by layer


def test_erk_is_the_formula_of_the_weights() -> None:
    case = Case(
        "(float[N,3,8,8] x) => (float[N,4] y) { a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  d = Relu(c)"
        "  p = GlobalAveragePool(d)  f = Flatten(p)  y = MatMul(f, w3) }",
        {"w1": (8, 3, 3, 3), "w2": (16, 8, 1, 1), "w3": (16, 4)},
        None,
    )
    graph = graph_of(case)
    first, second = graph.groups
    assert compute_erk(graph, first) == pytest.approx(1 - (8 + 3 + 3 + 3 + 16 + 8 + 1 + 1) / (8 * 3 * 9 + 16 * 8))
    assert compute_erk(graph, second) == pytest.approx(1 - (16 + 8 + 1 + 1 + 16 + 4) / (16 * 8 + 16 * 4))
    shares = ValueShares({g.label: compute_erk(graph, g) for g in graph.groups})
    lost = [shares.find_share(g, 0.3) for g in (first, second)]
    assert lost[0] / lost[1] == pytest.approx(compute_erk(graph, first) / compute_erk(graph, second))


# PQ index: k equal norms of d need k units


@given(
    k=st.integers(1, 30), more=st.integers(0, 30), scale=st.floats(1e-6, 1e6),
    p=st.floats(0.3, 1.5), wider=st.floats(0.3, 2.0),
)  # fmt: skip
def test_equal_norms_are_all_that_is_needed(k: int, more: int, scale: float, p: float, wider: float) -> None:
    d, index = k + more, PQIndex(p, p + wider)
    norms = np.where(np.arange(d) < k, scale, 0.0)
    assert index.compute_index(norms) == pytest.approx(1 - (k / d) ** (1 / p - 1 / index.q), abs=1e-9)
    assert index.count_needed(norms) == pytest.approx(k)
    assert index.compute_share(norms) == pytest.approx(min(1 - k / d, 0.9))
    stricter = PQIndex(p, index.q, eta=0.1, gamma=0.5, beta=0.2)
    assert stricter.count_needed(norms) == pytest.approx(k * 1.1 ** (-index.q / (index.q - p)))
    assert stricter.compute_share(norms) <= 0.2


def test_uneven_groups_give_exactly_what_they_do_not_need() -> None:
    graph, used = make_blocks((1.0,) * 4), (40, 30, 20, 10)
    weights = {}
    for k, count in enumerate(used):
        u = np.zeros((WIDTH, HIDDEN), np.float32)
        u[0, :count] = 1
        v = np.zeros((HIDDEN, WIDTH), np.float32)
        v[:count, 0] = 1
        weights |= {f"u{k}": u, f"v{k}": v}
    graph = graph_of(BLOCKS, **weights)
    kept = run(graph, "pq", 1 - sum(used) / (4 * HIDDEN))
    assert [kept[g.label] for g in sorted(graph.groups, key=lambda g: min(m.value for m in g.members))] == list(used)


def test_a_pq_index_of_larger_p_is_refused() -> None:
    with pytest.raises(ValueError, match="0 < p < q"):
        PQIndex(p=2.0, q=1.0)


# Global magnitude: one threshold for all groups


def test_magnitude_is_one_threshold_for_all_groups() -> None:
    graph = make_blocks((1.0, 0.5, 1.0, 2.0))
    found = find_scope("magnitude")
    assert isinstance(found, ShareScope)
    numbers = found.measure(ScopeInputs(graph, {}))
    kept = run(graph, "magnitude", 0.4)
    goes = [float(np.sort(numbers[n])[HIDDEN - w - 1]) for n, w in kept.items() if w < HIDDEN]
    stays = [float(np.sort(numbers[n])[HIDDEN - w]) for n, w in kept.items()]
    assert max(goes) <= min(stays)
    assert abs(sum(kept.values()) - 0.6 * 4 * HIDDEN) <= 4


@pytest.mark.parametrize("least", [1, 7])
def test_a_group_of_small_weights_stops_at_its_floor(least: int) -> None:
    graph = make_blocks((1.0,) * 4)
    weights = {t: np.asarray(graph.model.array(graph.model.constants()[t])) for t in ("u1", "v1")}
    graph = graph_of(BLOCKS, **{n: w * np.float32(1e-6) for n, w in weights.items()})
    small = next(g.label for g in graph.groups if any(m.value == "u1" for m in g.members))
    limits = Limits(align=1, max_group_ratio=1.0, min_keep=least)
    kept = run(graph, "magnitude", 0.45, limits=limits)
    assert kept[small] == least
    assert abs(sum(kept.values()) - 0.55 * 4 * HIDDEN) <= 4
    wide = RankShares({"a": np.arange(3.0)})
    assert wide.find_share(graph.groups[0], 0.25) == 0.25  # of a group without numbers


# Similarity and angle of residual blocks


def test_groups_lie_in_the_smallest_block_around_them(shipped: dict[str, DependencyGraph]) -> None:
    blocks = find_blocks_of_groups(make_blocks((1.0,) * 4))
    assert sorted(b.total for b in blocks.values()) == ["h1", "h2", "h3", "h4"]
    assert len({b.shortcut for b in blocks.values()}) == 4
    vit = find_blocks_of_groups(shipped["vit"])
    assert len({b.total for b in vit.values()}) >= 2
    assert len(vit) < len(shipped["vit"].groups)  # the residual stream lies in none


@pytest.mark.parametrize("name", ["similarity", "angle"])
def test_the_mean_share_is_that_asked_for_and_busy_blocks_keep_more(name: str) -> None:
    strengths = (0.05, 0.6, 0.2, 1.5)
    graph = make_blocks(strengths)
    for ratio in (0.2, 0.4):
        kept = run(graph, name, ratio)
        assert abs(sum(kept.values()) - (1 - ratio) * 4 * HIDDEN) <= 4
        order = sorted(graph.groups, key=lambda g: strengths[int(min(m.value for m in g.members)[1])])
        widths = [kept[g.label] for g in order]
        assert widths == sorted(widths)
        assert widths[0] < widths[-1]


def test_shares_by_similarity_are_the_formula() -> None:
    graph, given_feeds = make_blocks((0.05, 0.6, 0.2, 1.5)), feeds((16, WIDTH), chunks=3)
    view = ScopeInputs(graph, {}, given_feeds)
    found = find_scope("similarity")
    assert isinstance(found, ShareScope)
    values, cosines = found.measure(view), measure_cosines(view, "similarity")
    importance = np.array([1 - cosines[g.label] for g in graph.groups])
    centred = importance - importance.mean()
    assert [values[g.label] for g in graph.groups] == pytest.approx(list(1 - 0.5 * centred / np.abs(centred).max()))
    assert np.mean(list(values.values())) == pytest.approx(1)


@pytest.mark.parametrize("name", ["similarity", "angle", "sensitivity"])
def test_measured_shares_drift_no_more_than_even_ones(name: str) -> None:
    given_feeds = feeds((64, WIDTH), seed=5)
    even = other = 0.0
    for seed in range(4):
        graph = make_blocks((0.05, 0.3, 0.1, 1.5), seed)
        even += measure_drift(graph, run(graph, "uniform", 0.3, "params"), given_feeds)
        other += measure_drift(graph, run(graph, name, 0.3, "params"), given_feeds)
    assert other < even


def test_blocks_are_compared_in_one_run_for_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, runs, original = make_blocks((1.0,) * 4), list[object](), Side.run
    monkeypatch.setattr(Side, "run", lambda *given: runs.append(given) or original(*given))
    view = ScopeInputs(graph, {}, feeds((16, WIDTH), chunks=5))
    for _ in range(3):  # what was measured stays known
        measure_cosines(view, "angle")
    assert len(runs) == 5


def test_a_model_without_blocks_is_told_what_to_take() -> None:
    graph = graph_of(Case("(float[N,5] x) => (float[N,3] y) { a = MatMul(x, u)  y = MatMul(a, w) }",
                          {"u": (5, 7), "w": (7, 3)}, None))  # fmt: skip
    for name in ("similarity", "angle"):
        with pytest.raises(UsageError, match="no group of this model lies in one: take --scope sensitivity"):
            allocate(
                graph, CostModel(graph), score(graph), Budget("macs", 0.3), FREE, name, feeds=[{"x": np.ones((2, 5))}]
            )


@pytest.mark.parametrize("name", ["similarity", "angle", "sensitivity"])
def test_scopes_that_measure_say_that_they_need_inputs(name: str) -> None:
    graph = make_blocks((1.0,) * 4)
    assert find_scope(name).needs == "inputs"
    with pytest.raises(UsageError, match="needs inputs: put `calibrate` before"):
        allocate(graph, CostModel(graph), score(graph), Budget("macs", 0.3), FREE, name)


# Sensitivity: a run for each group, and who hurts more keeps more


def test_who_hurts_more_keeps_more() -> None:
    graph = make_blocks((0.05, 0.6, 0.2, 1.5))
    losses = measure_losses(ScopeInputs(graph, score(graph), feeds((16, WIDTH), chunks=3)))
    kept = run(graph, "sensitivity", 0.4)
    order = sorted(losses, key=losses.__getitem__)
    widths = [kept[n] for n in order]
    assert widths == sorted(widths)
    assert abs(sum(widths) - 0.6 * 4 * HIDDEN) <= 4


def test_no_mixture_of_shares_breaks_the_bisection() -> None:
    graph = make_blocks((1.0,) * 4)

    @given(st.lists(st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 1e9]), min_size=4, max_size=4), st.floats(0.02, 0.85))
    def check(values: list[float], ratio: float) -> None:
        assume(any(values))
        one = scope()(lambda view: dict(zip([g.label for g in view.graph.groups], values, strict=True)))
        shares = one.make_shares(ScopeInputs(graph, {}), "mine")
        levels = [sum(shares.find_share(g, k / 50) for g in graph.groups) for k in range(51)]
        assert levels == sorted(levels)

    check()


def test_a_scope_of_shares_out_of_reach_says_so() -> None:
    graph = make_blocks((1.0,) * 4)
    with pytest.raises(BudgetError, match="asked for 80"):
        run(graph, "erk", 0.8, limits=Limits(align=1, max_group_ratio=0.5))
    assert list_scope_names()[0] == scopes.AUTO_SCOPE
