"""Importance by hand: what every criterion says of small weights, and that larger means keep."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from laws import analyze_proto, list_groups
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UsageError
from spa_compiler.planning.scores import Scores
from spa_compiler.scoring import registry
from spa_compiler.scoring.registry import find_criterion
from zoo import CASES, Case, build

MLP = "(float[1,2] x) => (float[1,2] y) { a = MatMul(x, w1)  b = Relu(a)  y = MatMul(b, w2) }"
W1 = np.array([[1, -2, 0], [3, 2, -1]], np.float32)  # columns are channels
W2 = np.array([[1, 1], [0, 2], [-4, 0]], np.float32)  # rows are channels
NAMES = ("l1", "l2", "fpgm", "bn_scale", "random")


def scores_of(name: str, graph: DependencyGraph, seed: int = 0) -> Scores:
    return find_criterion(name)(graph, None, np.random.default_rng(seed))


def mlp() -> DependencyGraph:
    return analyze_proto(build(Case(MLP, {"w1": W1, "w2": W2}, None)))


def even(values: list[float]) -> np.ndarray:
    """Divided by their mean."""
    return np.array(values) / np.mean(values)


def test_l1_is_the_sum_over_coupled_slices_each_on_its_own_scale() -> None:
    found = scores_of("l1", mlp())
    produced, contracted = even([4, 4, 1]), even([2, 2, 4])
    np.testing.assert_allclose(found["w1:1"], even(list(produced + contracted)))


def test_l2_sums_squares() -> None:
    found = scores_of("l2", mlp())
    produced, contracted = even([10, 8, 1]), even([2, 4, 16])
    np.testing.assert_allclose(found["w1:1"], even(list(produced + contracted)))


def test_fpgm_is_the_distance_of_produced_weights_to_all_others() -> None:
    columns = W1.T.astype(np.float64)
    distances = [sum(float(np.linalg.norm(a - b)) for b in columns) for a in columns]
    np.testing.assert_allclose(scores_of("fpgm", mlp())["w1:1"], even(distances), rtol=1e-6)


def test_bn_scale_is_the_absolute_gain_and_l2_where_there_is_no_norm() -> None:
    text = """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
        a = Conv(x, w1)  b = BatchNormalization(a, s, t, mu, var)  c = Conv(b, w2)  d = Relu(c)  y = Conv(d, w3) }"""
    gain = np.array([0.5, -2, 0, 1], np.float32)
    rest = dict.fromkeys(("t", "mu", "var"), (4,))
    weights = {"w1": (4, 3, 1, 1), "w2": (5, 4, 1, 1), "w3": (4, 5, 1, 1)}
    graph = analyze_proto(build(Case(text, {**weights, "s": gain, **rest}, None)))
    found = scores_of("bn_scale", graph)
    np.testing.assert_allclose(found["w1:0"], even([0.5, 2, 0, 1]))
    np.testing.assert_array_equal(found["w2:0"], scores_of("l2", graph)["w2:0"])


def test_random_scores_follow_the_seed() -> None:
    graph = mlp()
    np.testing.assert_array_equal(scores_of("random", graph, 1)["w1:1"], scores_of("random", graph, 1)["w1:1"])
    assert not np.array_equal(scores_of("random", graph, 1)["w1:1"], scores_of("random", graph, 2)["w1:1"])


@pytest.mark.parametrize("name", NAMES)
def test_every_group_has_finite_scores_of_its_shape_with_mean_1(name: str) -> None:
    for case in ("grouped_conv", "densenet", "fused_qkv_slice", "lstm", "resnext", "channel_shuffle"):
        if case not in CASES:
            continue
        graph = analyze_proto(build(CASES[case]))
        found = scores_of(name, graph)
        assert set(found) == {g.label for g in graph.groups}
        for group in graph.groups:
            assert found[group.label].shape == group.shape
            assert np.isfinite(found[group.label]).all()
            assert found[group.label].min() >= 0
            assert found[group.label].mean() == pytest.approx(1)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_channels_of_a_block_are_scored_on_their_own(name: str) -> None:
    model = build(CASES["grouped_conv"])
    weight = next(t for t in model.graph.initializer if t.name == "w2")
    values = np.ones((12, 2, 3, 3), np.float32)
    values[4:8, 1] = 9  # the second block's second input channel
    weight.CopyFrom(numpy_helper.from_array(values, "w2"))
    for other in ("w1", "b1"):
        t = next(t for t in model.graph.initializer if t.name == other)
        t.CopyFrom(numpy_helper.from_array(np.ones(tuple(t.dims), np.float32), other))
    graph = analyze_proto(model)
    group = list_groups(graph)["b1:0 w1:0 w2:1"]
    found = scores_of(name, graph)[group.label]
    assert found.shape == (3, 2)
    assert np.unravel_index(found.argmax(), found.shape) == (1, 1)
    assert np.ptp(np.delete(found.ravel(), 3)) == pytest.approx(0)


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "bn_scale"])
def test_a_channel_with_larger_weights_is_kept(name: str) -> None:
    model = build(CASES["residual"])
    for t in model.graph.initializer:
        values = numpy_helper.to_array(t).copy()
        if t.name in ("w1", "b1", "s"):
            values[3] *= 10
        t.CopyFrom(numpy_helper.from_array(values, t.name))
    graph = analyze_proto(model)
    label = list_groups(graph)["b1:0 mu:0 s:0 t:0 var:0 w1:0 w2:0 w2:1 w3:1"].label
    assert scores_of(name, graph)[label].argmax() == 3


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "bn_scale"])
def test_the_scale_of_a_weight_does_not_matter(name: str) -> None:
    before = mlp()
    after = analyze_proto(build(Case(MLP, {"w1": W1 * np.float32(64), "w2": W2 * np.float32(1 / 64)}, None)))
    np.testing.assert_allclose(scores_of(name, before)["w1:1"], scores_of(name, after)["w1:1"])


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "bn_scale"])
def test_permuted_channels_have_permuted_scores(name: str) -> None:
    order = [2, 0, 1]
    after = analyze_proto(build(Case(MLP, {"w1": W1[:, order], "w2": W2[order]}, None)))
    np.testing.assert_allclose(scores_of(name, mlp())["w1:1"][order], scores_of(name, after)["w1:1"])


def test_statistics_of_a_batch_norm_say_nothing_of_importance() -> None:
    model = build(CASES["residual"])
    before = scores_of("l2", analyze_proto(model))
    for t in model.graph.initializer:
        if t.name in ("mu", "var"):
            changed = numpy_helper.to_array(t) * np.linspace(1, 9, t.dims[0], dtype=np.float32)
            t.CopyFrom(numpy_helper.from_array(changed, t.name))
    after = scores_of("l2", analyze_proto(model))
    for label in before:
        np.testing.assert_allclose(before[label], after[label])


def test_an_unknown_criterion_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"no criterion is called 'taylor'; there are .*l2"):
        find_criterion("taylor")


def test_every_entry_point_of_a_criterion_loads() -> None:
    assert set(NAMES) <= set(registry.find_criteria())
    for name in registry.find_criteria():
        assert callable(find_criterion(name))


def test_criteria_do_not_change_the_model() -> None:
    model: onnx.ModelProto = build(CASES["residual"])
    graph = analyze_proto(model)
    before = graph.model.proto().SerializeToString(deterministic=True)
    for name in NAMES:
        scores_of(name, graph)
    assert graph.model.proto().SerializeToString(deterministic=True) == before


NORMED = """(float[1,3,8,8] x) => (float[1,10] y) {
    c = Conv(x, w1, b1)  n = BatchNormalization(c, g, b, m, v)  r = Relu(n)  d = Conv(r, w2)  e = Relu(d)
    p = GlobalAveragePool(e)  f = Flatten(p)  y = MatMul(f, w3) }"""
PLAIN = NORMED.replace("c = Conv(x, w1, b1)  n = BatchNormalization(c, g, b, m, v)", "n = Conv(x, w1, b1)")


def build_normed(gain: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"w1": (16, 3, 3, 3), "w2": (24, 16, 1, 1), "w3": (24, 10), "b": (16,), "m": (16,)}
    out = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return out | {"b1": np.zeros(16, np.float32), "v": rng.uniform(0.5, 2, 16).astype(np.float32), "g": gain}


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "bn_scale"])
@pytest.mark.parametrize("seed", range(4))
def test_channels_whose_gain_is_0_go_first(name: str, seed: int) -> None:
    gain = np.ones(16, np.float32)
    gain[[3, 5, 7, 9]] = 0
    graph = analyze_proto(build(Case(NORMED, dict(build_normed(gain, seed)), None)))
    assert set(np.argsort(scores_of(name, graph)["w1:0"])[:4].tolist()) == {3, 5, 7, 9}


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm"])
def test_a_gain_counts_as_if_it_had_been_multiplied_into_the_weights(name: str) -> None:
    """Biases of a normalisation say where a channel lies and not what it does."""
    gain = np.random.default_rng(1).uniform(0.1, 3, 16).astype(np.float32)
    weights = build_normed(gain)
    folded = {n: weights[n] for n in ("w2", "w3", "b1")} | {"w1": weights["w1"] * gain.reshape(-1, 1, 1, 1)}
    normed = scores_of(name, analyze_proto(build(Case(NORMED, dict(weights), None))))
    plain = scores_of(name, analyze_proto(build(Case(PLAIN, dict(folded), None))))
    for label in normed:
        np.testing.assert_allclose(normed[label], plain[label], rtol=1e-4)


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm"])
def test_a_gain_that_is_not_finite_leaves_scores_finite(name: str) -> None:
    weights = build_normed(np.full(16, np.nan, np.float32)) | {"v": np.full(16, -1, np.float32)}
    assert all(
        np.isfinite(s).all() for s in scores_of(name, analyze_proto(build(Case(NORMED, dict(weights), None)))).values()
    )
