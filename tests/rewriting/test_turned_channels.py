"""Channels of heads in another basis: nothing computed changes, and what carries nothing stands apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spa_compiler.passes.basis import Basis

import spa_compiler
from laws import outputs
from networks import graph_of
from spa_compiler.analysis.mixable_dims import find_mixable
from spa_compiler.errors import UsageError
from spa_compiler.rewriting.turned_channels import find_basis, turn_channels
from spa_compiler.verification.feeds import draw_inputs
from spa_compiler.verification.sizes import list_analysis_sizes
from zoo import CASES, Case, build
from zoo_base import Init


@given(
    left=st.integers(1, 9), right=st.integers(1, 9), channels=st.integers(1, 6), rank=st.integers(0, 6),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_basis_keeps_the_product_and_puts_what_is_nothing_last(
    left: int, right: int, channels: int, rank: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((channels, channels))
    mix[:, rank:] = 0
    a = rng.standard_normal((left, channels)) @ mix
    b = rng.standard_normal((right, channels))
    x, y = find_basis(a, b)
    assert x.shape == a.shape and y.shape == b.shape
    np.testing.assert_allclose(x @ y.T, a @ b.T, atol=1e-9)
    carried = np.linalg.norm(x, axis=0)
    assert (np.diff(carried) <= 1e-9).all()
    real = int(np.linalg.matrix_rank(a @ b.T))
    assert (x[:, real:] == 0).all() and (y[:, real:] == 0).all()


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"custom_op"}))  # which onnxruntime does not run
def test_no_model_computes_anything_else_in_another_basis(name: str) -> None:
    graph = graph_of(CASES[name])
    found = find_mixable(graph, graph.groups)
    if not found:
        return
    model = turn_channels(graph, found)
    for k, sizes in enumerate(list_analysis_sizes(graph.model)):
        feed = draw_inputs(graph.model, sizes, k)
        for a, b in zip(outputs(model, feed), outputs(graph.model, feed), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(b).max(initial=0))))


TURNED = {
    "attention": 2,  # q and k of one, v of the other
    "attention_uneven": 2,
    "fused_qkv_channels": 2,
    "gqa": 2,
}


@pytest.mark.parametrize("name", TURNED)
def test_values_are_turned_and_queries_with_keys_where_nothing_is_between(name: str) -> None:
    graph = graph_of(CASES[name])
    assert len(find_mixable(graph, [g for g in graph.groups if g.blocks > 1])) == TURNED[name]


LINEAR = """(float[N,6] x) => (float[N,4] y) {{ a = MatMul(x, w1)  b = Add(a, b1)  {between}  y = MatMul(d, w2) }}"""
BETWEEN = {
    "nothing": ("d = Identity(b)", True),
    "a number": ("d = Mul(b, half)", True),
    "a function": ("d = Relu(b)", False),
    "a gain": ("d = Mul(b, gain)", False),
    "a number that is added": ("d = Add(b, half)", False),
    "a product with itself": ("d = Mul(b, b)", False),
    "a sum with itself": ("d = Add(b, b)", True),
    "a difference": ("c = MatMul(x, w3)  d = Sub(c, b)", True),
    "a weight that is read twice": ("c = MatMul(x, w1)  d = Add(c, b)", False),
    "the mean": ("d = ReduceMean<axes=[0], keepdims=1>(b)", False),
}


@pytest.mark.parametrize("kind", BETWEEN)
def test_only_linear_maps_may_be_between(kind: str) -> None:
    text, mixable = BETWEEN[kind]
    weights: dict[str, Init] = {
        "w1": (6, 8), "b1": (8,), "w2": (8, 4), "w3": (6, 8), "half": 0.5, "gain": (8,)
    }  # fmt: skip
    used = {n: w for n, w in weights.items() if n in LINEAR or f" {n})" in text or f"({n}," in text}
    graph = graph_of(Case(LINEAR.format(between=text), used, None, opset=17))
    groups = [g for g in graph.groups if any(m.value == "w2" for m in g.members)]
    assert groups and bool(find_mixable(graph, groups)) == mixable


def make_attention(path: Path, rank: int, seed: int = 0) -> Path:
    """Two heads of 8 channels, whose values and whose queries and keys are of this rank."""
    rng = np.random.default_rng(seed)

    def low(rows: int) -> np.ndarray:
        return np.concatenate(
            [rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, 8)) for _ in range(2)], axis=1
        ).astype(np.float32)

    text = """(float[N,5,12] x) => (float[N,5,6] y) {
        q0 = MatMul(x, wq)  q1 = Reshape(q0, r)  q = Transpose<perm=[0,2,1,3]>(q1)
        k0 = MatMul(x, wk)  k1 = Reshape(k0, r)  k = Transpose<perm=[0,2,3,1]>(k1)
        v0 = MatMul(x, wv)  v1 = Reshape(v0, r)  v = Transpose<perm=[0,2,1,3]>(v1)
        a = MatMul(q, k)  b = Mul(a, s)  p = Softmax<axis=-1>(b)  o = MatMul(p, v)
        o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, ro)  y = MatMul(o2, wo) }"""
    weights: dict[str, Init] = {
        "wq": low(12), "wk": low(12), "wv": low(12), "r": [0, 0, 2, 8], "ro": [0, 0, 16], "s": 0.05,
        "wo": (16, 6),
    }  # fmt: skip
    onnx.save(build(Case(text, weights, None)), path)
    return path


def run_file(model: str | bytes, x: np.ndarray) -> np.ndarray:
    found: np.ndarray = onnxruntime.InferenceSession(model).run(None, {"x": x})[0]
    return found


def test_planted_low_rank_goes_without_loss(tmp_path: Path) -> None:
    path = make_attention(tmp_path / "low.onnx", 3)
    result = spa_compiler.compile(path, 0.02, align=1, latency=False, samples=64)
    kept = {g["label"]: g["kept"] for g in result.report["groups"] if g["blocks"] > 1}
    assert set(kept.values()) == {3}
    assert sorted(result.report["analysis"]["turned"]) == sorted(kept)
    x = np.random.default_rng(1).standard_normal((4, 5, 12)).astype(np.float32)
    np.testing.assert_allclose(
        run_file(result.model.SerializeToString(), x), run_file(str(path), x), rtol=1e-4, atol=1e-4
    )


def test_a_saved_plan_turns_again_and_gives_the_same_slices(tmp_path: Path) -> None:
    path = make_attention(tmp_path / "a.onnx", 8)
    options: dict[str, Any] = {"latency": False, "quality": False, "align": 1}
    first = spa_compiler.compile(path, 0.4, samples=64, compensate=False, **options)
    plan = tmp_path / "plan.json"
    first.plan.save(plan)
    turned = [n for n, g in json.loads(plan.read_text())["groups"].items() if g.get("turned")]
    assert turned
    again = spa_compiler.compile(path, plan=plan, latency=False, quality=False)
    x = np.random.default_rng(1).standard_normal((4, 5, 12)).astype(np.float32)
    expected = run_file(first.model.SerializeToString(), x)
    np.testing.assert_allclose(run_file(again.model.SerializeToString(), x), expected, atol=1e-5)
    other = spa_compiler.compile(make_attention(tmp_path / "b.onnx", 8, 3), plan=plan, latency=False, quality=False)
    widths = [{g["label"]: g["kept"] for g in r.report["groups"]} for r in (again, other)]
    assert widths[0] == widths[1]
    assert other.report["analysis"]["turned"] == sorted(turned)


@pytest.mark.parametrize("options", [{"criterion": "l2"}, {"ratio": 0.0}, {"plan": {}}])
def test_nothing_is_turned_unless_channels_are_chosen_by_errors(tmp_path: Path, options: dict[str, Any]) -> None:
    path = make_attention(tmp_path / "a.onnx", 8)
    if "plan" in options:
        file = tmp_path / "p.json"
        file.write_text(json.dumps({"version": 1, "groups": {"wq:1#2": {"size": 8, "keep": [[0, 1], [2, 3]]}}}))
        options = {"plan": str(file)}
    report = spa_compiler.compile(
        path, **{"ratio": None if "plan" in options else 0.3, **options}, latency=False
    ).report
    assert report["analysis"]["turned"] == []
    if options.get("ratio") == 0.0:
        assert report["output"]["sha256"] == report["input"]["sha256"]


def test_other_dims_are_turned_where_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="heads, streams, all"):
        Basis("some")
    graph = graph_of(Case(LINEAR.format(between="d = Identity(b)"), {"w1": (6, 8), "b1": (8,), "w2": (8, 4)}, None))
    assert find_mixable(graph, graph.groups)


STACKED = """(float[6,N,16] x) => (float[6,N,16] y) {{
    a = MatMul(x, w)  b = Add(a, bias)  c = Reshape(b, three)  d = Unsqueeze(c, first)
    e = Transpose<perm=[3,1,2,0,4]>(d)  f = Squeeze(e, third)
    q = Gather<axis=0>(f, i0)  k = Gather<axis=0>(f, i1)  v = Gather<axis=0>(f, i2)
    q1 = Reshape(q, fold)  k1 = Reshape(k, fold)  v1 = Reshape(v, fold)
    q2 = Transpose<perm=[1,0,2]>(q1)  k2 = Transpose<perm=[1,2,0]>(k1)  v2 = Transpose<perm=[1,0,2]>(v1)
    s = MatMul(q2, k2)  p = Softmax(s)  o = MatMul(p, v2)  t = Transpose<perm=[1,0,2]>(o)
    u = Reshape(t, back)  y = MatMul(u, wo) }}"""


def test_queries_keys_and_values_that_are_stacked_first_are_told_apart() -> None:
    """As both exporters of PyTorch write nn.MultiheadAttention: digits that come and go between Reshape and Gather."""
    weights: dict[str, Init] = {
        "w": (16, 48), "bias": (48,), "three": [6, -1, 3, 16], "first": [0], "third": [3], "i0": 0, "i1": 1, "i2": 2,
        "fold": [6, -1, 4], "back": [6, -1, 16], "wo": (16, 16),
    }  # fmt: skip
    graph = graph_of(Case(STACKED.format(), weights, None))
    heads = [{m.value for m in g.members} for g in graph.groups if g.blocks > 1]
    assert heads == [{"w", "bias"}, {"w", "bias", "wo"}]
    assert len(find_mixable(graph, [g for g in graph.groups if g.blocks > 1])) == 2
