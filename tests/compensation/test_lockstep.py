"""Compensation: least squares with intercept from compiled inputs to dense outputs, bias created, variance repaired."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from networks import CONV, DENSE, RESIDUAL, cut, feeds, graph_of, outputs
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.compensation.lockstep import compensate, compensate_weights
from spa_compiler.compensation.options import Options
from spa_compiler.execution.session import add_outputs, open_session
from spa_compiler.interpreter.activation_maps import Adjust, measure_statistics, shrink_deviations
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.scoring.obs import flap, obspa
from spa_compiler.statistics.covariance import repair_variance, solve_least_squares
from spa_compiler.statistics.moments import collect_moments
from zoo import CASES
from zoo_base import Case, value

GROUPED = Case(
    "(float[N,3,6,6] x) => (float[N,4,6,6] y) { a = Conv (x, w1, b1)  d = Conv <group = 8, pads = [1,1,1,1]> (a, wd)"
    "  r = Relu(d)  y = ConvTranspose <pads = [1,1,1,1]> (r, w2) }",
    {"w1": (8, 3, 1, 1), "b1": (8,), "wd": (8, 1, 3, 3), "w2": (8, 4, 3, 3)},
    None,
)
EXPERTS = Case(
    "(float[3,N,5] x) => (float[3,N,4] y) { h = MatMul(x, w1)  a = Add(h, b1)  r = Relu(a)  y = MatMul(r, w2) }",
    {"w1": (3, 5, 7), "b1": (3, 1, 7), "w2": (3, 7, 4)},
    None,
)
EINSUM = Case(
    """(float[N,6,5] x) => (float[N,6,4] y) { q = Einsum <equation = "btd,dhk->bthk"> (x, w1)  r = Relu(q)
        y = Einsum <equation = "bthk,hke->bte"> (r, w2) }""",
    {"w1": (5, 2, 6), "w2": (2, 6, 4)},
    None,
)
MIXED = Case(
    """(float[N,5] x) => (float[N,4] y) { h = Einsum <equation = "nd,dek->nek"> (x, w1)  a = Add(h, b1)  r = Relu(a)
        z = Einsum <equation = "nek,eko->neo"> (r, w2)  y = ReduceSum <keepdims = 0> (z, one) }""",
    {"w1": (5, 3, 7), "b1": (3, 7), "w2": (3, 7, 4), "one": [1]},
    None,
)
IMAGES = (16, 3, 6, 6)
SHAPES: dict[int, tuple[int, ...]] = {
    id(DENSE): (200, 5), id(CONV): IMAGES, id(RESIDUAL): IMAGES, id(GROUPED): IMAGES, id(EXPERTS): (3, 200, 5),
    id(EINSUM): (50, 6, 5), id(MIXED): (200, 5),
}  # fmt: skip


def error(case: Case, options: Options | None, seed: int = 9) -> float:
    graph = graph_of(case)
    masks = cut(graph)
    small = rewrite(graph, masks)
    if options is not None:
        small = compensate(graph, masks, small, feeds(SHAPES[id(case)]), options)
    unseen = feeds(SHAPES[id(case)], seed=seed)
    dense, now = outputs(graph.model, unseen), outputs(small, unseen)
    return float(((dense - now) ** 2).mean() / dense.var())


def test_solve_is_least_squares_with_intercept() -> None:
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((500, 6)) + 3, rng.standard_normal((500, 4))
    xc, tc = x - x.mean(0), t - t.mean(0)
    w = solve_least_squares(np.zeros((1, 4, 6)), (xc.T @ xc / 500)[None], (tc.T @ xc / 500)[None], 1e-12)[0]
    design = np.concatenate([x, np.ones((500, 1))], axis=1)
    expected = np.linalg.lstsq(design, t, rcond=None)[0]
    np.testing.assert_allclose(w, expected[:6].T, atol=1e-6)
    np.testing.assert_allclose(t.mean(0) - w @ x.mean(0), expected[6], atol=1e-6)


def test_the_ridge_pulls_towards_the_old_weights() -> None:
    old = np.ones((1, 2, 3))
    covariance, cross = np.eye(3)[None], np.zeros((1, 2, 3))
    np.testing.assert_allclose(solve_least_squares(old, covariance, cross, 1e9), old, atol=1e-6)
    np.testing.assert_allclose(solve_least_squares(old, covariance, cross, 1e-9), 0, atol=1e-6)


def test_shrinkage_is_a_ridge_for_what_is_kept() -> None:
    """The kept part of a solve with the joint covariance (1 - rho) C + rho diag(C)."""
    rng = np.random.default_rng(0)
    c, old = np.cov(rng.standard_normal((6, 40)) + rng.standard_normal(40)), rng.standard_normal((3, 6))
    shrunken, kept = 0.7 * c + 0.3 * np.diag(np.diag(c)), slice(0, 4)
    expected = np.linalg.solve(shrunken[kept, kept], (old @ shrunken[:, kept]).T).T
    got = solve_least_squares(old[None, :, kept], c[None, kept, kept], (old @ c[:, kept])[None], 0.0, 0.3)
    np.testing.assert_allclose(got[0], expected, atol=1e-8)


SUM = "(float[N,5] x) => (float[N,3] y) { a = MatMul(x, w1)  r = NONLINEAR(a)  y = MatMul(r, w2) }"


@pytest.mark.parametrize(("function", "adds"), [("Identity", 0), ("Tanh", 0), ("Softplus", 1)])
def test_an_intercept_is_added_where_it_earns_its_node(function: str, adds: int) -> None:
    """Values around 0 need none; those that are all positive leave a mean behind when some of them go."""
    graph = graph_of(Case(SUM.replace("NONLINEAR", function), {"w1": (5, 9), "w2": (9, 3)}, None))
    masks, given = cut(graph), feeds((400, 5))
    small = rewrite(graph, masks)
    better, outcome = compensate_weights(graph, masks, small, given, Options())
    assert outcome.solved
    assert len(better.graph.nodes) - len(small.graph.nodes) == adds
    fresh = feeds((400, 5), 1, seed=7)
    before, after = (np.square(outputs(m, fresh) - outputs(graph.model, fresh)).mean() for m in (small, better))
    assert after < before


def test_the_model_is_what_numpy_solves() -> None:
    graph = graph_of(DENSE)
    masks = cut(graph)
    given = feeds((500, 5))
    small = compensate(graph, masks, rewrite(graph, masks), given, Options(ridge=1e-12, shrink=False))
    c = {n: graph.model.array(t).astype(np.float64) for n, t in graph.model.constants().items()}
    x = np.concatenate([f["x"] for f in given])
    h = np.maximum(x @ c["w1"].T + c["b1"], 0)
    kept = next(iter(masks.values()))
    design = np.concatenate([h[:, kept], np.ones((len(h), 1))], axis=1)
    expected = design @ np.linalg.lstsq(design, h @ c["w2"], rcond=None)[0]
    np.testing.assert_allclose(outputs(small, given), expected, atol=1e-3)


def ragged(graph: DependencyGraph) -> dict[Any, np.ndarray]:
    """Every block of the group that has some keeps three channels of its own."""
    (group,) = (g for g in graph.groups if g.blocks > 1)
    keep = np.arange(group.size) < 3
    return {group.dims[0]: np.random.default_rng(3).permuted(np.tile(keep, (group.blocks, 1)), axis=1)}


def solved(h: np.ndarray, kept: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The best approximation of h w by weights and an intercept on the kept columns."""
    design = np.concatenate([h[:, kept], np.ones((len(h), 1))], axis=1)
    return np.asarray(design @ np.linalg.lstsq(design, h @ w, rcond=None)[0])


@pytest.mark.parametrize("case", [EXPERTS, EINSUM, MIXED], ids=["experts", "einsum", "mixed"])
def test_experts_and_einsum_are_what_numpy_solves(case: Case) -> None:
    """Each expert from its own kept channels; heads that are summed over from those of all."""
    graph = graph_of(case)
    masks = ragged(graph)
    given = feeds(SHAPES[id(case)], chunks=1)
    options = Options(ridge=1e-12, shrink=False)
    small, outcome = compensate_weights(graph, masks, rewrite(graph, masks), given, options)
    assert outcome.left == {}
    (kept,) = masks.values()
    session = open_session(add_outputs(graph.model.proto(), ["r"]), graph.model.folder)
    h = session.run(["r"], given[0])[0].astype(np.float64)
    w = graph.model.array(graph.model.constants()["w2"]).astype(np.float64)
    if case is EXPERTS:
        expected = np.stack([solved(h[e], kept[e], w[e]) for e in range(3)])
    elif case is MIXED:
        expected = sum(solved(h[:, e], kept[e], w[e]) for e in range(3))
    else:
        expected = solved(h.reshape(-1, 12), kept.ravel(), w.reshape(12, 4))
    np.testing.assert_allclose(outputs(small, given), expected.reshape(SHAPES[id(case)][0], -1), atol=1e-3)


@pytest.mark.parametrize("turned", [False, True], ids=["activation first", "weight first"])
def test_an_einsum_letter_that_is_broadcast_has_no_form_and_says_so(turned: bool) -> None:
    """One set of values meets three matrices: neither a block of its own nor a position."""
    equation, operands = ("edk,ebd->ebk", "w2, u") if turned else ("ebd,edk->ebk", "u, w2")
    text = f"""(float[N,5] x) => (float[3,N,4] y) {{ h = MatMul(x, w1)  r = Relu(h)  u = Unsqueeze(r, zero)
        y = Einsum <equation = "{equation}"> ({operands}) }}"""
    graph = graph_of(Case(text, {"w1": (5, 7), "w2": (3, 7, 4), "zero": [0]}, None))
    masks, given = cut(graph), feeds((200, 5))
    plain = rewrite(graph, masks)
    small, outcome = compensate_weights(graph, masks, plain, given, Options())
    assert (
        outcome.left == {"y": "Einsum: this kind of product is not compensated"} == collect_moments(graph, given).missed
    )
    np.testing.assert_array_equal(small.array(small.constants()["w2"]), plain.array(plain.constants()["w2"]))


@pytest.mark.parametrize("case", [EXPERTS, EINSUM, MIXED], ids=["experts", "einsum", "mixed"])
def test_a_planted_twin_in_every_expert_costs_nothing(case: Case) -> None:
    """Channels 1 and 4 of each block are the same but for a factor."""
    array = value("w1", case.inits["w1"])
    changed = {"w1": array.copy()}
    changed["w1"][..., 4] = 2 * array[..., 1]
    if "b1" in case.inits:
        changed["b1"] = value("b1", case.inits["b1"]).copy()
        changed["b1"][..., 4] = 2 * changed["b1"][..., 1]
    graph = graph_of(case, **changed)
    given = feeds(SHAPES[id(case)])
    (group,) = (g for g in graph.groups if g.blocks > 1)
    moments, rng, every = collect_moments(graph, given), np.random.default_rng(0), np.arange(group.blocks)
    with_others, on_its_own = (f(graph, moments, rng)[group.label] for f in (obspa, flap))
    first = np.where(with_others[:, 1] < with_others[:, 4], 1, 4)
    assert (with_others[every, first] < 0.15 * on_its_own[every, first]).all()
    mask = np.ones(group.shape, bool)
    mask[every, first] = False
    masks = {group.dims[0]: mask}
    small = compensate(graph, masks, rewrite(graph, masks), given, Options(ridge=1e-9, shrink=False))
    np.testing.assert_allclose(outputs(small, given), outputs(graph.model, given), atol=1e-3)


@pytest.mark.parametrize(
    "case",
    [DENSE, CONV, RESIDUAL, GROUPED, EXPERTS, EINSUM],
    ids=["dense", "conv", "residual", "grouped", "experts", "einsum"],
)
def test_compensation_lowers_the_error_on_unseen_inputs(case: Case) -> None:
    before, bias, after = error(case, None), error(case, Options(bias_only=True)), error(case, Options())
    assert after < bias < before


def test_the_target_at_a_residual_add_includes_what_the_shortcut_lacks() -> None:
    assert error(RESIDUAL, Options()) <= error(RESIDUAL, Options(residual=False)) * 1.02


def test_nothing_cut_changes_nothing() -> None:
    graph = graph_of(RESIDUAL)
    small = rewrite(graph, {})
    again = compensate(graph, {}, small, feeds((8, 3, 6, 6)))
    assert again.proto().SerializeToString() == small.proto().SerializeToString()


def test_a_bias_is_created_where_there_was_none() -> None:
    graph = graph_of(DENSE)
    masks = cut(graph)
    small = compensate(graph, masks, rewrite(graph, masks), feeds((200, 5)))
    assert [n.op for n in small.graph.nodes] == ["Gemm", "Relu", "MatMul", "Add"]
    graph = graph_of(RESIDUAL)
    masks = cut(graph)
    small = compensate(graph, masks, rewrite(graph, masks), feeds((8, 3, 6, 6)))
    assert all(len(n.inputs) == 3 for n in small.graph.nodes if n.op == "Conv")


@pytest.mark.parametrize("made", ["stored", "computed", "given"])
def test_a_bias_that_is_not_stored_is_added_to(made: str) -> None:
    """Least squares with intercept: on average the outputs are those of the dense model."""
    bias = {"stored": "b2", "computed": "n2", "given": "z"}[made]
    text = (
        "(float[N,3,6,6] x, float[4] z) => (float[N,4,6,6] y) { n1 = Neg(b1)  n2 = Neg(b2)"
        f"  a = Conv <pads = [1,1,1,1]> (x, w1, n1)  r = Relu(a)  y = Conv (r, w2, {bias}) }}"
    )
    graph = graph_of(Case(text, {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (4, 8, 1, 1), "b2": (4,)}, None))
    rng, masks = np.random.default_rng(3), cut(graph)
    given = [{**f, "z": rng.standard_normal(4).astype(np.float32)} for f in feeds(IMAGES)]
    small = rewrite(graph, masks)
    model, outcome = compensate_weights(graph, masks, small, given, Options())
    assert outcome.solved == 2 and not outcome.left
    dense, cut_off, better = (outputs(m, given).reshape(-1, 4, 36).mean((0, 2)) for m in (graph.model, small, model))
    np.testing.assert_allclose(better, dense, atol=1e-5)
    assert not np.allclose(cut_off, dense, atol=1e-2)


def test_the_same_seed_gives_the_same_bytes() -> None:
    graph = graph_of(CONV)
    masks = cut(graph)
    small = rewrite(graph, masks)
    made = [compensate(graph, masks, small, feeds((16, 3, 6, 6))).proto().SerializeToString() for _ in range(2)]
    assert made[0] == made[1]


def test_variance_repair_restores_the_targets_deviation_within_its_limit() -> None:
    w, now = np.ones((1, 2, 3)), np.full((1, 2), 3.0)
    got = repair_variance(w, now, np.array([[6.0, 30.0]]), 3.0)
    np.testing.assert_allclose(got[0, 0], np.sqrt(2))
    np.testing.assert_allclose(got[0, 1], np.sqrt(3))
    np.testing.assert_allclose(repair_variance(w, now, np.array([[1.0, 1.0]]), 3.0), w)


def test_batch_statistics_stand_in_for_the_stored_ones_in_calibration_only() -> None:
    graph = graph_of(RESIDUAL)
    walk, adjust = Walk(graph.model), Adjust(batch_norm=True)
    given = [{"x": 5 + 3 * f["x"]} for f in feeds((16, 3, 6, 6))]
    gamma, beta = (graph.model.array(graph.model.constants()[n]) for n in ("vg", "vb"))
    for step in walk.run(given):
        affine = adjust.of(walk, step)
        if step.node.op_type == "BatchNormalization":
            assert affine is not None and step.inputs[0] is not None
            mean, variance = measure_statistics([affine.apply(c) for c in step.inputs[0]])
            np.testing.assert_allclose(mean, beta, atol=1e-3)
            np.testing.assert_allclose(np.sqrt(variance), np.abs(gamma), rtol=1e-2)


def test_shrunk_deviations_keep_means_and_leave_dead_channels_alone() -> None:
    mean, variance = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 4.0, 16.0, 1e-6])
    affine = shrink_deviations(mean, variance, 1.0)
    np.testing.assert_allclose(affine.scale * mean + affine.shift, mean, rtol=1e-6)
    np.testing.assert_allclose((affine.scale * np.sqrt(variance))[:3], 2.0, rtol=1e-5)
    assert affine.scale[3] == 1


def test_a_bias_that_counted_for_nothing_gets_its_weight_back() -> None:
    text = "(float[N,5] x) => (float[N,4] y) { h = Gemm <transB = 1> (x, w1, b1)  r = Relu(h) "
    text += " y = Gemm <beta = 0.0> (r, w2, c) }"
    inits = {"w1": (7, 5), "b1": (7,), "w2": (7, 4)}
    plain = graph_of(Case(text.replace("<beta = 0.0> (r, w2, c)", "(r, w2)"), inits, None))
    idle = graph_of(Case(text, {**inits, "c": (4,)}, None))
    given = feeds((200, 5))
    made = []
    for graph in (plain, idle):
        masks = cut(graph)
        made.append(outputs(compensate(graph, masks, rewrite(graph, masks), given), given))
    np.testing.assert_allclose(made[0], made[1], atol=1e-4)


FUSED: dict[str, tuple[str, str, dict[str, tuple[int, ...]], tuple[int, ...]]] = {
    "FusedGemm": (
        "b = com.microsoft.FusedGemm<activation=\"Relu\", transB=1, alpha=0.5, beta=2.0>(r, w2, b2)",
        "g = Gemm<transB=1, alpha=0.5, beta=2.0>(r, w2, b2)  b = Relu(g)",
        {"w1": (5, 7), "w2": (6, 7), "b2": (6,), "w3": (6, 3)},
        (200, 5),
    ),
    "TransposeMatMul": (
        "b = com.microsoft.TransposeMatMul<transB=1>(r, w2)",
        "t = Transpose<perm=[1,0]>(w2)  b = MatMul(r, t)",
        {"w1": (5, 7), "w2": (6, 7), "w3": (6, 3)},
        (200, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", FUSED)
def test_a_fused_contraction_is_compensated_as_its_plain_form(op: str) -> None:
    fused, plain, inits, shape = FUSED[op]
    found = []
    for middle in (fused, plain):
        text = f"(float[N,5] x) => (float[N,3] y) {{ a = MatMul(x, w1)  r = Relu(a)  {middle}  y = MatMul(b, w3) }}"
        graph = graph_of(Case(text, inits, None))
        masks = cut(graph)
        model, outcome = compensate_weights(graph, masks, rewrite(graph, masks), feeds(shape), Options())
        assert outcome.solved == 3 and not outcome.left
        found.append(outputs(model, feeds(shape, seed=5)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_a_fused_convolution_is_compensated_as_its_plain_form() -> None:
    found = []
    for middle in ('b = com.microsoft.FusedConv<activation="Relu">(r, w2)', "c = Conv(r, w2)  b = Relu(c)"):
        text = f"(float[N,3,6,6] x) => (float[N,4,6,6] y) {{ a = Conv(x, w1)  r = Relu(a)  {middle}  y = Conv(b, w3) }}"
        graph = graph_of(Case(text, {"w1": (8, 3, 1, 1), "w2": (6, 8, 1, 1), "w3": (4, 6, 1, 1)}, None))
        masks = cut(graph)
        model, outcome = compensate_weights(graph, masks, rewrite(graph, masks), feeds(IMAGES), Options())
        assert outcome.solved == 3 and not outcome.left
        found.append(outputs(model, feeds(IMAGES, seed=5)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


@pytest.mark.parametrize("chunks", [1, 4])
def test_statistics_of_the_batch_fit_channels_that_are_counted_with_it(chunks: int) -> None:
    """PyTorch writes InstanceNorm with stored statistics as BatchNormalization over batch times channels."""
    case = CASES["instancenorm_stored"]
    graph = graph_of(case)
    masks = cut(graph)
    small, given = rewrite(graph, masks), feeds((16, 3, 4, 4), chunks)
    better = compensate(graph, masks, small, given, Options(adjust=Adjust(batch_norm=True)))
    unseen = feeds((16, 3, 4, 4), seed=5)
    dense, plain, found = (outputs(m, unseen) for m in (graph.model, small, better))
    assert np.square(found - dense).mean() < np.square(plain - dense).mean()
