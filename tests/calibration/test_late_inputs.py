"""Inputs that join on the way: what they bring is what they would have brought from the start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experts import routed_case
from networks import RESIDUAL, cut, feeds, graph_of, outputs
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.inputs import draw_calibration
from spa_compiler.calibration.sample_budget import (
    measure_alive_bytes,
    plan_given_samples,
    plan_late_samples,
    plan_samples,
)
from spa_compiler.compensation.lockstep import compensate, compensate_weights
from spa_compiler.compensation.options import Options
from spa_compiler.interpreter.activation_maps import Adjust
from spa_compiler.interpreter.chunks import Affine
from spa_compiler.interpreter.deferred_inputs import Late
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.statistics.moments import collect_moments
from zoo_base import Case
from zoo_base import feeds as drawn
from zoo_recurrent import CASES as RECURRENT

NARROWING = Case(
    "(float[N,3,16,16] x) => (float[N,2] y) { a = Conv <pads = [1,1,1,1]> (x, w1)  r = Relu(a)"
    "  p = MaxPool <kernel_shape = [4,4], strides = [4,4]> (r)  b = Conv (p, w2)  s = Relu(b)"
    "  q = GlobalAveragePool(s)  f = Flatten(q)  y = Gemm <transB = 1> (f, wf) }",
    {"w1": (8, 3, 3, 3), "w2": (8, 8, 1, 1), "wf": (2, 8)},
    None,
)
TURNED = Case(  # weights that are made at run time, from what the file holds
    "(float[N,5] x) => (float[N,4] y) { t1 = Transpose(w1)  h = MatMul(x, t1)  r = Relu(h)  t2 = Transpose(w2)"
    "  m = MatMul(r, t2)  s = Relu(m)  y = MatMul(s, w3) }",
    {"w1": (7, 5), "w2": (6, 7), "w3": (6, 4)},
    None,
)
TWICE = Case(
    "(float[N,5] x) => (float[N,4] y) { h = MatMul(x, w1)  r = Relu(h)  a = MatMul(r, w2)  b = MatMul(r, w3)"
    "  y = Add(a, b) }",
    {"w1": (5, 7), "w2": (7, 4), "w3": (7, 4)},
    None,
)
LOOKED_UP = Case(
    "(int64[N,3] i) => (float[N,3,4] y) { h = Gather(w1, i)  a = Tanh(h)  r = Relu(a)  y = MatMul(r, w2) }",
    {"w1": (6, 5), "w2": (5, 4)},
    None,
)
MADE = {"turned": TURNED, "gru": RECURRENT["gru_from_pieces"], "routed": routed_case("nd", True), "residual": RESIDUAL}


def given() -> list[dict[str, np.ndarray]]:
    return feeds((6, 3, 6, 6), chunks=5)


def place(graph: DependencyGraph, op: str) -> int:
    """Index of the last node of a kind."""
    return max(i for i, s in enumerate(graph.sites) if s.op == op)


def test_what_was_done_to_the_first_is_done_to_those_that_join() -> None:
    graph = graph_of(RESIDUAL)
    maps: dict[str, tuple[Affine | None, Any]] = {
        "s": (Affine(np.full(6, 2, np.float32), np.ones(6, np.float32)), None),
        "n": (Affine(np.full(6, 0.5, np.float32), np.arange(6, dtype=np.float32)), None),
        "c": (None, np.full((6, 1, 1), 3, np.float32)),
    }

    def last(late: Late | None) -> list[np.ndarray]:
        walk = Walk(graph.model)
        for step in walk.run(given(), late):
            walk.finish(step, *maps.get(step.node.output[0], (None, None)))
            if step.node.output[0] == "y":
                assert step.outputs[0] is not None
                return step.outputs[0]
        raise AssertionError

    whole = last(None)
    for at in range(1, len(graph.sites)):
        for got, expected in zip(last(Late(2, at)), whole, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_moments_after_the_join_are_those_of_all_inputs() -> None:
    graph = graph_of(RESIDUAL)
    at = place(graph, "Relu")
    some, every, late = (
        collect_moments(graph, f, late=by) for f, by in ((given()[:2], None), (given(), None), (given(), Late(2, at)))
    )
    assert min(every.of) < at < max(every.of)
    for site, moment in late.of.items():
        expected = (every if site >= at else some).of[site]
        np.testing.assert_allclose(moment.covariance, expected.covariance, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("adjust", [Adjust(), Adjust(batch_norm=True)])
def test_a_model_is_compensated_as_with_all_inputs(adjust: Adjust) -> None:
    """Nothing is solved before the second convolution, and only the first model's BatchNormalization is mapped."""
    graph = graph_of(RESIDUAL)
    masks = {d: m for d, m in cut(graph).items() if m.size == 8}
    small = rewrite(graph, masks)
    at = next(i for i, s in enumerate(graph.sites) if s.outputs[0] is not None and s.outputs[0].name == "c")
    whole = compensate(graph, masks, small, given(), Options(adjust=adjust))
    late = compensate(graph, masks, small, given(), Options(adjust=adjust, late=Late(2, at)))
    after = compensate(graph, masks, small, given(), Options(adjust=adjust, late=Late(2, at + 1)))
    np.testing.assert_allclose(outputs(late, given()), outputs(whole, given()), rtol=1e-5, atol=1e-6)
    assert not np.allclose(outputs(after, given()), outputs(whole, given()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MADE)
def test_copies_that_join_change_nothing(name: str) -> None:
    """Wherever they join: weights that were solved before stay solved, and what is looked up is known for all."""
    graph = graph_of(MADE[name])
    masks, first = cut(graph), [drawn(graph.model.proto(), seed, 40) for seed in range(3)]
    small, options = rewrite(graph, masks), Options(shrink=False)
    model, outcome = compensate_weights(graph, masks, small, first, options)
    moments, whole = collect_moments(graph, first), outputs(model, first)
    assert outcome.solved and not np.allclose(whole, outputs(small, first), rtol=1e-3, atol=1e-4)
    for at in range(1, len(graph.sites)):
        late = Late(len(first), at)
        got, again = compensate_weights(graph, masks, small, first * 2, replace(options, late=late))
        assert again == outcome
        np.testing.assert_allclose(outputs(got, first), whole, rtol=1e-3, atol=1e-4)
        for site, moment in collect_moments(graph, first * 2, late=late).of.items():
            np.testing.assert_allclose(moment.covariance, moments.of[site].covariance, rtol=1e-4, atol=1e-6)


def test_what_reads_the_same_value_after_the_join_reads_all_of_it() -> None:
    graph = graph_of(Case(TWICE.text, TWICE.inits, None))
    first, more = ([drawn(graph.model.proto(), seed, 40)] for seed in (0, 1))
    every, late = (
        collect_moments(graph, first + more),
        collect_moments(graph, first + more, late=Late(1, place(graph, "MatMul"))),
    )
    before, after = sorted(s for s in every.of if graph.sites[s].inputs[0] is graph.values["r"])
    np.testing.assert_allclose(late.of[after].covariance, every.of[after].covariance, rtol=1e-5)
    assert not np.allclose(late.of[before].covariance, every.of[before].covariance, rtol=1e-2)


def test_what_does_not_run_for_inputs_that_join_is_left() -> None:
    """The last of the given ids are none."""
    graph = graph_of(LOOKED_UP)
    ids = [{"i": np.full((4, 3), k)} for k in (0, 1, 99)]
    masks = cut(graph)
    for late in (None, Late(2, place(graph, "Relu"))):
        assert not collect_moments(graph, ids, late=late).of
        _, outcome = compensate_weights(graph, masks, rewrite(graph, masks), ids, Options(late=late))
        assert all("onnxruntime does not run" in why for why in outcome.left.values()) and len(outcome.left) == 1


def test_inputs_join_where_there_is_room_for_them() -> None:
    graph = graph_of(NARROWING)
    wide = measure_alive_bytes(graph)
    memory = 2 * 24 * max(wide)
    found = plan_late_samples(graph, 24, 100, memory)
    assert (found.kept, found.start) == (100, 24) and found.at
    assert max(wide[found.at :]) * 100 <= memory / 2 < wide[found.at - 1] * 100
    assert plan_late_samples(graph, 24, 10**6, memory).kept == 24  # nowhere is there room for so many
    assert plan_late_samples(graph, 24, 10**6, memory, exactly=True).kept == 10**6
    planned, pool = plan_samples(graph, 0, memory)
    assert planned.start == 24 and planned.kept == pool // 3
    fed, late = planned.split_feeds({"x": np.zeros((planned.kept, 3, 16, 16), np.float32)}, 0)
    assert late is not None and sum(len(f["x"]) for f in fed[: late.first]) == 24
    assert plan_given_samples(graph, 50, 0, memory).kept == 50 and plan_given_samples(graph, 10, 0, memory).start == 10


def test_inputs_that_are_drawn_whole_do_not_join() -> None:
    text = NARROWING.text.replace("x) =>", "x, float[1,2] z) =>").replace("y = Gemm", "g = Gemm")
    text = text.replace(" }", "  y = Add(g, z) }")
    graph = graph_of(Case(text, NARROWING.inits, None))
    memory = 2 * 24 * max(measure_alive_bytes(graph))
    planned, _ = plan_samples(graph, 0, memory)
    found = draw_calibration(graph, memory=memory)
    assert planned.kept > len(found.feeds) == planned.start == 24 and found.late is None
