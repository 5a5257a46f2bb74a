"""Random numbers are the same in models that are compared, whatever nodes stand in front of those that draw them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import spa_compiler
from laws import TOLERANCE, analyze_proto, compare, random_masks
from networks import graph_of
from spa_compiler.execution.session import has_chance, open_file_session, open_session, run_session
from spa_compiler.ir.reader import load
from spa_compiler.verification.runs import Side
from zoo_base import Case, Init, build

DRAWN = {
    "RandomNormalLike": "z = RandomNormalLike(v)  q = Add(v, z)",
    "RandomUniformLike": "z = RandomUniformLike(v)  q = Mul(v, z)",
    "RandomNormal": "z = RandomNormal<shape=[1,6]>()  q = Add(v, z)",
    "RandomUniform": "z = RandomUniform<shape=[1,6]>()  q = Mul(v, z)",
    "Bernoulli": "s = Sigmoid(v)  z = Bernoulli(s)  q = Mul(v, z)",
    "Dropout": "q = Dropout(v, half, yes)",
}
INITS: dict[str, Init] = {
    "w1": (4, 8), "vg": (8,), "vb": (8,), "w2": (8, 6), "w3": (6, 7), "w4": (7, 3),
    "half": np.array(0.5, np.float32), "yes": np.array(True),
}  # fmt: skip


def make_case(drawn: str, front: str = "") -> Case:
    """Layers around something that is drawn; the statistic before it takes more nodes in the masked model."""
    text = f"""(float[N,4] x) => (float[N,3] y) {{
        {front or "c = Identity(x)"}  a = MatMul(c, w1)  b = LayerNormalization(a, vg, vb)  v = MatMul(b, w2)
        {drawn}  h = MatMul(q, w3)  r = Relu(h)  y = MatMul(r, w4) }}"""
    return Case(text, {n: i for n, i in INITS.items() if n in text}, None)


def run(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(run_session(open_session(proto, Path()), feed)[0])


FEED = {"x": np.ones((5, 4), np.float32)}


@pytest.mark.parametrize("op", DRAWN)
def test_prune_equals_mask_around_what_is_drawn(op: str) -> None:
    graph = graph_of(make_case(DRAWN[op]))
    assert sorted(g.size for g in graph.groups) == [7, 8]
    for seed in range(3):
        assert compare(graph, random_masks(graph, np.random.default_rng(seed), share=1))[0] < TOLERANCE


@pytest.mark.parametrize("op", DRAWN)
def test_a_node_more_in_front_changes_nothing_that_is_drawn(op: str) -> None:
    one, other = (build(make_case(DRAWN[op], front)) for front in ("", "d = Neg(x)  e = Neg(d)  c = Identity(e)"))
    before = one.SerializeToString()
    np.testing.assert_allclose(run(one, FEED), run(other, FEED), rtol=1e-5)
    assert one.SerializeToString() == before


def test_a_run_draws_what_the_first_one_did() -> None:
    side = Side(build(make_case(DRAWN["RandomNormalLike"])), Path(), ["y"], "the model")
    first, second = (side.run(FEED, ["y"])["y"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_files_of_both_models_draw_the_same(tmp_path: Path) -> None:
    for name, front in (("one.onnx", ""), ("other.onnx", "d = Neg(x)  c = Neg(d)")):
        onnx.save(build(make_case(DRAWN["RandomNormalLike"], front)), tmp_path / name)
    files = [tmp_path / n for n in ("one.onnx", "other.onnx")]
    sessions = [open_file_session(f, load(f).graph.nodes, 3, 1) for f in files]
    for _ in range(3):  # one run after the other draws anew, in both alike
        one, other = (run_session(s, FEED)[0] for s in sessions)
        np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize(
    ("last", "frozen"), [("v, half, yes", True), ("v, half, asked", True), ("v, half, no", False), ("v", False)]
)
def test_dropout_freezes_what_it_draws_for_in_training_mode_alone(last: str, frozen: bool) -> None:
    text = f"""(float[N,4] x, bool asked) => (float[N,3] y) {{
        v = MatMul(x, w1)  q = Dropout({last})  y = MatMul(q, w5) }}"""
    inits = {**INITS, "w5": (8, 3), "no": np.array(False)}
    proto = build(Case(text, {n: i for n, i in inits.items() if n in text}, None))
    graph = analyze_proto(proto)
    assert [g.size for g in graph.groups] == ([] if frozen else [8])
    assert has_chance(proto.graph) == (last != "v")
    if frozen:
        assert "drawn position by position" in graph.find_reasons(("w1", 1))[0].text


def test_a_model_that_draws_is_compiled() -> None:
    result = spa_compiler.compile(build(make_case(DRAWN["RandomNormalLike"])), ratio=0.4, latency=False)
    assert result.report["status"] == "VERIFIED"
    assert result.report["fidelity"]["cosine"] > 0.8
