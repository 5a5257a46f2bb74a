"""Experts that are routed to: weights looked up for every row are solved expert by expert."""

from __future__ import annotations

import numpy as np
import pytest

from experts import LOOKUPS, SIZES, routed_case
from networks import graph_of
from spa_compiler.compensation.lockstep import compensate_weights
from spa_compiler.compensation.options import Options
from spa_compiler.execution.session import add_outputs, open_session
from spa_compiler.ir.model import Model
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.scoring.obs import flap, obspa
from spa_compiler.statistics.expert_tables import ExpertReads, find_agreement
from spa_compiler.statistics.moments import collect_moments
from zoo_base import Case, value


def feeds(n: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    x, route = rng.standard_normal((2, n, 5)).astype(np.float32), rng.integers(0, 3, (2, n))
    return [{"x": a, "route": b} for a, b in zip(x, route, strict=True)]


def values(model: Model, given: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    session = open_session(add_outputs(model.proto(), [name]), model.folder)
    found = np.concatenate([session.run([name], f)[0] for f in given])
    return found.reshape(len(found), -1).astype(np.float64)


@pytest.mark.parametrize("turned", [False, True], ids=["left", "right"])
@pytest.mark.parametrize("lookups", LOOKUPS)
def test_every_expert_is_solved_from_the_rows_that_take_it(lookups: str, turned: bool) -> None:
    graph = graph_of(routed_case(lookups, turned))
    (group,) = graph.groups
    mask = np.ones(group.shape, bool)
    mask[..., [1, 4]] = False
    masks = {group.dims[0]: mask}
    given = feeds(300, 0)
    small, outcome = compensate_weights(graph, masks, rewrite(graph, masks), given, Options(ridge=1e-12, shrink=False))
    assert outcome.solved == 2 and outcome.left == {}
    route = np.concatenate([f["route"] for f in given])
    h, y, found = values(graph.model, given, "r"), values(graph.model, given, "y"), values(small, given, "y")
    kept = [0, 2, 3, 5, 6]
    for e in range(3):
        rows = h[route == e][:, kept]
        expected = rows @ np.linalg.lstsq(rows, y[route == e], rcond=None)[0]
        np.testing.assert_allclose(found[route == e], expected, atol=2e-3)
    unseen = feeds(300, 1)
    dense, before, after = (values(m, unseen, "y") for m in (graph.model, rewrite(graph, masks), small))
    assert np.square(after - dense).mean() < 0.7 * np.square(before - dense).mean()


@pytest.mark.parametrize("turned", [False, True], ids=["left", "right"])
def test_a_twin_in_every_expert_costs_nothing(turned: bool) -> None:
    """Hidden channel 4 is twice channel 1 in each expert: the first of them to go is cheap, beside what it is alone."""
    made = routed_case("gather", turned)
    w1 = value("w1", made.inits["w1"]).copy()
    w1[(..., 4) if turned else (slice(None), 4)] = 2 * w1[(..., 1) if turned else (slice(None), 1)]
    graph = graph_of(made, w1=w1)
    given = feeds(3000, 0)
    moments = collect_moments(graph, given)
    assert moments.missed == {} and len(moments.of) == 1 and moments.products == []
    (group,), rng = graph.groups, np.random.default_rng(0)
    with_others, on_its_own = (f(graph, moments, rng)[group.label] for f in (obspa, flap))
    assert (with_others[..., [1, 4]].min(-1) < 0.15 * on_its_own[..., [1, 4]].min(-1)).all()
    mask = np.ones(group.shape, bool)
    mask[..., 4] = False
    masks = {group.dims[0]: mask}
    small = compensate_weights(graph, masks, rewrite(graph, masks), given, Options(ridge=1e-9, shrink=False))[0]
    np.testing.assert_allclose(values(small, given, "y"), values(graph.model, given, "y"), atol=1e-3)


SHARED = {
    "one look-up": ("wb = Gather(w2, route)", "wb", "its weights are looked up at run time"),
    "one table": ("wb = Gather(w2, route)  wd = Gather(w2, route)", "wd", "its weight is read elsewhere, too"),
}


@pytest.mark.parametrize("shared", SHARED)
def test_experts_that_two_products_take_keep_their_weights(shared: str) -> None:
    """Each of them would want other weights, and the second solution would win."""
    lookups, second, reason = SHARED[shared]
    text = (
        f"(float[N,5] x, int64[N] route) => (float[N,4,1] y) {{ wa = Gather(w1, route)  {lookups}"
        f"  c = Unsqueeze(x, two)  h = MatMul(wa, c)  r = Relu(h)  s = Tanh(h)"
        f"  p = MatMul(wb, r)  q = MatMul({second}, s)  y = Sub(p, q) }}"
    )
    graph = graph_of(Case(text, {"w1": (3, 7, 5), "w2": (3, 4, 7), **SIZES}, None))
    (group,) = graph.groups
    mask = np.ones(group.shape, bool)
    mask[..., [1, 4]] = False
    masks, given = {group.dims[0]: mask}, feeds(300, 0)
    plain = rewrite(graph, masks)
    small, outcome = compensate_weights(graph, masks, plain, given, Options(ridge=1e-12, shrink=False))
    assert outcome.left == {"p": f"MatMul: {reason}", "q": f"MatMul: {reason}"}
    np.testing.assert_array_equal(small.array(small.constants()["w2"]), plain.array(plain.constants()["w2"]))
    moments = collect_moments(graph, given)  # both of them say what a channel is worth
    assert moments.missed == {} and len(moments.of) == 2


def test_rows_that_are_routed_elsewhere_and_experts_that_none_takes_do_not_count() -> None:
    rng = np.random.default_rng(0)
    table, x = rng.standard_normal((3, 2, 4)), rng.standard_normal((50, 4, 1))
    dense, compiled = rng.integers(0, 2, (2, 50))
    target = np.where((dense == compiled)[:, None, None], 2 * table[dense] @ x, 1e6)
    found = ExpertReads(0, [x], [compiled]).solve(table, find_agreement([dense], [compiled]), [target], 1e-9, False)
    np.testing.assert_allclose(found[:2], 2 * table[:2], atol=1e-5)
    np.testing.assert_array_equal(found[2], table[2])
