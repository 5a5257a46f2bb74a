"""Importance: greedy removal equals the block solve, and redundant channels go first and cost nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy.linalg import lapack

from networks import CONV, DENSE, feeds, graph_of
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.ir.reader import from_proto
from spa_compiler.operators.contraction import find_form
from spa_compiler.scoring.obs import DENSE_SHARE as SHRINKS
from spa_compiler.scoring.obs import Part, flap, invert, obspa, score_greedily
from spa_compiler.statistics.covariance import estimate_shrinkage
from spa_compiler.statistics.moments import collect_moments
from zoo_base import Case, build


def part(h: np.ndarray, w: np.ndarray, per: int) -> Part:
    channels = np.arange(len(h) // per)
    return Part(np.linalg.inv(h), np.ascontiguousarray(w.T), [(channels, channels[:, None] * per + np.arange(per))])


@pytest.mark.parametrize("per", [1, 3])
def test_the_sum_of_greedy_increments_is_the_error_of_the_block_solve(per: int) -> None:
    rng = np.random.default_rng(per)
    d, m = 8 * per, 5
    x = rng.standard_normal((400, d)) @ rng.standard_normal((d, d))
    h, w = x.T @ x / len(x), rng.standard_normal((m, d))
    piece = part(h, w, per)
    total, gone = 0.0, []
    for _ in range(5):
        error = np.zeros(8)
        piece.score(error)
        error[gone] = np.inf
        c = int(error.argmin())
        total += error[c]
        gone.append(c)
        piece.remove(np.array([c]))
        kept = np.repeat(~np.isin(np.arange(8), gone), per)
        solved = w @ h[:, kept] @ np.linalg.inv(h[np.ix_(kept, kept)])
        left = w.copy()
        left[:, kept] -= solved
        assert total == pytest.approx(np.trace(left @ h @ left.T), rel=1e-8)


def test_greedy_scores_reproduce_the_order_of_removal() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6))
    h, w = x.T @ x / 300, rng.standard_normal((4, 6))
    scores = score_greedily([part(h, w, 1)], (6,))
    piece, order = part(h, w, 1), []
    for _ in range(6):
        error = np.zeros(6)
        piece.score(error)
        error[order] = np.inf
        order.append(int(error.argmin()))
        piece.remove(np.array(order[-1:]))
    assert np.argsort(scores, kind="stable").tolist() == order or np.all(np.diff(scores[order]) >= 0)


def test_rows_that_are_dropped_on_the_way_change_nothing() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((300, 40)) @ rng.standard_normal((40, 40))
    h, w = x.T @ x / 300 + 0.1 * np.eye(40), rng.standard_normal((6, 40))
    piece = part(h, w, 2)
    for gone in (np.arange(3), np.arange(3, 5), np.arange(5, 9), np.arange(9, 16)):
        piece.remove(gone)
    assert len(piece.inverse) < SHRINKS * 40
    kept = np.arange(32, 40)
    alive = np.linalg.inv(h[np.ix_(kept, kept)])
    for k, block in enumerate(piece.blocks[0]):
        np.testing.assert_allclose(block, alive[2 * k : 2 * k + 2, 2 * k : 2 * k + 2], rtol=1e-8)
    np.testing.assert_allclose(piece.weights[piece.columns[0][1].ravel()].T, w @ h[:, kept] @ alive, rtol=1e-8)


def positive(h: np.ndarray) -> bool:
    return bool((lapack.spotrf if h.dtype == np.float32 else lapack.dpotrf)(h, lower=True)[1] == 0)


def test_an_inverse_that_single_precision_cannot_give_is_taken_in_double() -> None:
    rng = np.random.default_rng(6)
    for _ in range(1000):
        x = rng.standard_normal((30, 20))
        x[:, 1:6] = x[:, :1] + 3e-4 * rng.standard_normal((30, 5))
        h = (x.T @ x).astype(np.float32)
        if not positive(h) and positive(h.astype(np.float64)):
            break
    exact = np.linalg.inv(h.astype(np.float64))
    assert not positive(h)
    np.testing.assert_allclose(invert(h), exact, rtol=1e-4, atol=1e-6 * np.abs(exact).max())


def test_contractions_that_read_the_same_values_share_one_covariance() -> None:
    two = "(float[N,5] x) => (float[N,3] y, float[N,4] z) { a = Gemm <transB = 1> (x, w1, b1)  r = Relu(a)"
    two += "  y = MatMul(r, w2)  z = MatMul(r, w3) }"
    graph = graph_of(Case(two, {"w1": (7, 5), "b1": (7,), "w2": (7, 3), "w3": (7, 4)}, None))
    moments = collect_moments(graph, feeds((100, 5)))
    first, second = (m for m in moments.of.values() if m.contracted)
    assert first.covariance is second.covariance
    together = next(iter(obspa(graph, moments, np.random.default_rng(0)).values()))
    second.covariance = second.covariance.copy()
    apart = next(iter(obspa(graph, moments, np.random.default_rng(0)).values()))
    np.testing.assert_allclose(together, apart, rtol=1e-9)


def scores_of(graph: DependencyGraph, shape: tuple[int, ...], chunks: int = 4) -> np.ndarray:
    moments = collect_moments(graph, feeds(shape, chunks))
    return next(iter(obspa(graph, moments, np.random.default_rng(0)).values()))


def test_a_duplicate_channel_is_nearly_free_but_only_once() -> None:
    rng = np.random.default_rng(1)
    w1, b1 = rng.standard_normal((8, 3, 3, 3)).astype(np.float32), rng.standard_normal(8).astype(np.float32)
    w1[5], b1[5] = w1[2], b1[2]
    scores = scores_of(graph_of(CONV, w1=w1, b1=b1), (384, 3, 6, 6))
    first, second = np.sort(scores)[:2]
    assert set(np.flatnonzero(scores == scores.min())) <= {2, 5}
    assert first < 0.05 * second


def test_a_constant_channel_costs_nothing() -> None:
    w1, b1 = np.random.default_rng(2).standard_normal((8, 3, 3, 3)).astype(np.float32), np.ones(8, np.float32)
    w1[3] = 0
    text = CONV.text.replace("y = Conv <pads = [1,1,1,1]> (r", "y = Conv (r")
    text = text.replace("float[N,4,6,6] y", "float[N,4,4,4] y")
    scores = scores_of(graph_of(Case(text, CONV.inits, None), w1=w1, b1=b1), (16, 3, 6, 6))
    assert scores.argmin() == 3
    assert scores[3] < 1e-3 * np.sort(scores)[1]


def test_a_linearly_dependent_channel_goes_first() -> None:
    rng = np.random.default_rng(3)
    w1, b1 = rng.standard_normal((7, 5)).astype(np.float32), np.full(7, 50, np.float32)  # Relu passes everything
    w1[6] = 0.5 * w1[0] + 0.25 * w1[1]
    text = DENSE.text.replace("float[N,5]", "float[N,7]")
    w1 = np.concatenate([w1, rng.standard_normal((7, 2)).astype(np.float32)], axis=1)
    w1[6] = 0.5 * w1[0] + 0.25 * w1[1]
    scores = scores_of(graph_of(Case(text, DENSE.inits, None), w1=w1, b1=b1), (5000, 7))
    assert scores.argmin() in (0, 1, 6)
    assert scores.min() < 0.3 * np.median(scores)


def test_flap_is_the_variance_times_the_squared_weights() -> None:
    graph = graph_of(DENSE)
    moments = collect_moments(graph, feeds((100, 5)))
    scores = next(iter(flap(graph, moments, np.random.default_rng(0)).values()))
    moment = next(m for m in moments.of.values() if m.contracted)
    expected = np.diag(moment.covariance[0]) * (moment.weights[0] ** 2).sum(0)
    assert np.argsort(scores).tolist() == np.argsort(expected).tolist()


def test_without_moments_magnitude_decides() -> None:
    graph = graph_of(DENSE)
    assert next(iter(obspa(graph, None, np.random.default_rng(0)).values())).sum() == pytest.approx(1)


TURNED = "ConvTranspose <strides = [2,2]"
FORMS = {
    "conv": ("Conv <strides = [2,1], pads = [1,0,2,1], dilations = [1,2]> (x, w)", (2, 4, 9, 8), (6, 4, 3, 2)),
    "grouped": ("Conv <group = 2, pads = [1,1,1,1]> (x, w)", (2, 4, 5, 5), (6, 2, 3, 3)),
    "depthwise": ("Conv <group = 4> (x, w)", (2, 4, 5, 5), (4, 1, 3, 3)),
    "same": ('Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, w)', (2, 4, 6, 6), (5, 4, 3, 3)),
    "conv1d": ("Conv <pads = [1,1]> (x, w)", (2, 4, 9), (5, 4, 3)),
    "turned": (f"{TURNED}, pads = [1,0,0,1], output_padding = [1,0]> (x, w)", (2, 4, 4, 5), (4, 3, 3, 2)),
    "turned groups": (f"{TURNED}, group = 2, dilations = [2,1]> (x, w)", (2, 4, 4, 5), (4, 3, 3, 2)),
    "matmul": ("MatMul(x, w)", (2, 3, 4), (4, 5)),
    "left": ("MatMul(w, x)", (2, 4, 3), (5, 4)),
    "gemm": ("Gemm <transB = 1, alpha = 0.5> (x, w)", (6, 4), (5, 4)),
    "gemm turned": ("Gemm <transA = 1> (x, w)", (4, 6), (4, 5)),
    "experts": ("MatMul(x, w)", (3, 5, 4), (3, 4, 2)),
    "experts of samples": ("MatMul(x, w)", (2, 3, 5, 4), (3, 4, 2)),
    "experts on the left": ("MatMul(w, x)", (2, 3, 4, 5), (3, 2, 4)),
    "broadcast to experts": ("MatMul(x, w)", (1, 5, 4), (3, 4, 2)),
    "one for all": ("MatMul(x, w)", (3, 5, 4), (1, 4, 2)),
    "vector": ("MatMul(x, w)", (3, 5, 4), (4,)),
    "einsum experts": ('Einsum <equation = "teh,ehd->etd"> (x, w)', (5, 3, 4), (3, 4, 2)),
    "einsum heads": ('Einsum <equation = "btd,dhk->bhtk"> (x, w)', (2, 5, 4), (4, 3, 2)),
    "einsum out": ('Einsum <equation = "hde,bthd->bte"> (w, x)', (2, 5, 3, 4), (3, 4, 6)),
    "einsum apart": ('Einsum <equation = "bgi,goi->bog"> (x, w)', (6, 3, 4), (3, 2, 4)),
    "einsum implicit": ('Einsum <equation = "...ij,jk"> (x, w)', (2, 5, 4), (4, 3)),
    "einsum summed": ('Einsum <equation = "bti,oi->bo"> (x, w)', (6, 5, 4), (3, 4)),
    "einsum scale": ('Einsum <equation = "btc,c->btc"> (x, w)', (6, 5, 4), (4,)),
}
"""Call, shapes of activation and weight."""


@pytest.mark.parametrize("name", FORMS)
def test_every_contraction_is_its_design_times_its_weights(name: str) -> None:
    call, shape, weight = FORMS[name]
    text = f"(float{list(shape)} x) => (float y) {{ y = {call} }}"
    walk = Walk(from_proto(build(Case(text, {"w": weight}, None)), Path("test.onnx")))
    feed = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    (step,) = list(walk.run([feed]))
    y = step.outputs[0]
    assert y is not None
    shapes = [walk.constants["w"].shape if n == "w" else shape for n in step.node.input]
    form = find_form(step.node, shapes, [n == "w" for n in step.node.input])
    assert form is not None
    rows = np.arange(form.size(y[0]))
    w = form.weights(walk.constants["w"])
    product = np.einsum("ngd,gmd->ngm", form.design(feed["x"], y[0], rows), w)
    np.testing.assert_allclose(product, form.target(y[0], rows), atol=1e-4)
    np.testing.assert_array_equal(form.restore(w, walk.constants["w"]), walk.constants["w"])
    assert form.channels(walk.constants["w"]).max() == np.prod([shape[k] for k in form.axes]) - 1
    bias = np.arange(w.shape[0] * w.shape[1], dtype=np.float64)
    raised = form.target(y[0] + form.spread(bias, walk.constants["w"]), rows) - form.target(y[0], rows)
    np.testing.assert_allclose(raised, np.broadcast_to(bias.reshape(w.shape[:2]), raised.shape), atol=1e-4)


@pytest.mark.parametrize("equation", ["ij,jj->ij", "bi,io->bi", "ii,ij->ij", "bi,bj->bij"])
def test_what_is_no_contraction_with_weights_of_its_own_has_no_form(equation: str) -> None:
    node = onnx.helper.make_node("Einsum", ["x", "w"], ["y"], equation=equation)
    form = find_form(node, [(4, 4), (4, 4)], [False, True])
    assert (form is None) == (equation != "bi,bj->bij")


def test_few_inputs_make_a_covariance_uncertain() -> None:
    """Shrinkage is near the identity where rows are fewer than columns, and vanishes with many."""
    rng = np.random.default_rng(0)
    few, many = (np.cov(rng.standard_normal((n, 50)), rowvar=False, bias=True) for n in (20, 20_000))
    assert (
        estimate_shrinkage(few[None], 20)
        > 0.5
        > 0.2
        > estimate_shrinkage(np.diag(np.arange(1.0, 51))[None] + 3.0, 20_000)
    )
    one = np.outer(np.ones(50), np.ones(50)) + 1e-3 * many  # perfectly correlated: little doubt even from few
    assert estimate_shrinkage(one[None], 20) < 0.2


def test_a_wide_classifier_keeps_its_features_when_inputs_are_few() -> None:
    """40 inputs explain 64 independent features exactly with 40 of them: the score must not believe that."""
    rng = np.random.default_rng(0)
    case = Case("(float[N,64] x) => (float[N,4] y) { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }",
                {"a": (64, 64), "b": (64, 4)}, None)  # fmt: skip
    graph = graph_of(case, a=np.eye(64, dtype=np.float32))
    given = [{"x": np.abs(rng.standard_normal((40, 64))).astype(np.float32)}]
    scores = obspa(graph, collect_moments(graph, given), rng)
    values = scores[graph.groups[0].label]
    assert np.sort(values)[:32].sum() > 0.05 * values.sum()
