"""A list that a loop fills is a slice that the loop stacks, where nothing else is done with it."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

import spa_compiler
from laws import TOLERANCE, analyze_proto, compare, outputs, random_masks
from spa_compiler.execution.session import open_session, run_session
from zoo_base import Case, Init, build

BODY = """s, q = Loop(n, yes, a, q0) <body = b (int64 i, bool c, float[N,6] h, seq(float[N,6]) p)
    => (bool co, float[N,6] ho, seq(float[N,6]) po) {
        co = Identity(c)  m = MatMul(h, w2)  ho = Tanh(m)  r = Sigmoid(ho)  po = SequenceInsert(p, r) }>"""
JOINED = {  # what becomes of the list; each gives y
    "stacked": ("float[3,N,2] y", "k = ConcatFromSequence<axis=0,new_axis=1>(q)  y = MatMul(k, w3)"),
    "stacked in the middle": ("float[N,3,2] y", "k = ConcatFromSequence<axis=1,new_axis=1>(q)  y = MatMul(k, w3)"),
    "stacked at the end": (
        "float[N,3,2] y",
        "k = ConcatFromSequence<axis=-1,new_axis=1>(q)  t = Transpose<perm=[0,2,1]>(k)  y = MatMul(t, w3)",
    ),
    "joined by rows": ("float[M,2] y", "k = ConcatFromSequence<axis=0>(q)  y = MatMul(k, w3)"),
    "joined by channels": ("float[N,2] y", "k = ConcatFromSequence<axis=1>(q)  y = MatMul(k, w4)"),
    "read twice": (
        "float[3,N,2] y",
        """k = ConcatFromSequence<axis=0,new_axis=1>(q)  l = ConcatFromSequence<axis=0,new_axis=1>(q)
        y1 = MatMul(k, w3)  y2 = MatMul(l, w5)  y = Add(y1, y2)""",
    ),
    "beside the state": (
        "float[3,N,2] y",
        "k = ConcatFromSequence<axis=0,new_axis=1>(q)  y1 = MatMul(k, w3)  y2 = MatMul(s, w5)  y = Add(y1, y2)",
    ),
}
INITS: dict[str, Init] = {
    "w1": (4, 6), "w2": (6, 6), "w3": (6, 2), "w4": (18, 2), "w5": (6, 2), "n": 3, "yes": np.array(True), "zero": 0,
    "first": [0], "last": [5],
}  # fmt: skip


def make_model(result: str, joined: str, batch: str, body: str = BODY) -> onnx.ModelProto:
    text = f"(float[N,4] x) => ({result}) {{ a = MatMul(x, w1)  q0 = SequenceEmpty()  {body}  {joined} }}"
    text = re.sub(r"\bN\b", batch, text)
    words = set(re.findall(r"\w+", text))
    return build(Case(text, {k: v for k, v in INITS.items() if k in words}, None))


@pytest.mark.parametrize("batch", ["2", "N"])
@pytest.mark.parametrize("how", JOINED)
def test_a_list_that_is_joined_is_stacked(how: str, batch: str) -> None:
    proto = make_model(*JOINED[how], batch)
    graph = analyze_proto(proto)
    assert not any("Sequence" in n.op for n in graph.model.graph.nodes)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)}
    before = run_session(open_session(proto, graph.model.folder), feed)[0]
    np.testing.assert_allclose(before, outputs(graph.model, feed)[0], rtol=1e-6)
    assert [g.size for g in graph.groups] == [6]
    assert compare(graph, random_masks(graph, np.random.default_rng(0)))[0] < TOLERANCE


OTHERWISE = {
    "counted": ("float[3,N,2] y, int64 z", f"{JOINED['stacked'][1]}  z = SequenceLength(q)", BODY),
    "given": ("float[3,N,2] y, seq(float[N,6]) q", JOINED["stacked"][1], BODY),
    "filled at the front": (*JOINED["stacked"], BODY.replace("SequenceInsert(p, r)", "SequenceInsert(p, r, zero)")),
    "read in the loop": (
        *JOINED["stacked"],
        BODY.replace(
            "po = SequenceInsert(p, r)", "pp = SequenceInsert(p, r)  u = SequenceAt(pp, i)  po = SequenceInsert(p, u)"
        ),
    ),
}


@pytest.mark.parametrize("how", OTHERWISE)
def test_a_list_that_is_read_otherwise_stays_one(how: str) -> None:
    result, joined, body = OTHERWISE[how]
    graph = analyze_proto(make_model(result, joined, "2", body))
    assert any("SequenceInsert" in n.op for n in graph.model.graph.nodes)


def test_a_list_of_rows_of_several_lengths_stays_one() -> None:
    body = BODY.replace("r = Sigmoid(ho)", "e = Unsqueeze(i, first)  r = Slice(ho, e, last, first)")
    graph = analyze_proto(
        make_model("float[M,2] y", JOINED["joined by rows"][1], "5", body.replace("[N,6])", "[K,6])"))
    )
    assert any("SequenceInsert" in n.op for n in graph.model.graph.nodes)


def test_a_model_with_a_list_is_compiled() -> None:
    result = spa_compiler.compile(make_model(*JOINED["stacked"], "N"), ratio=0.4, criterion="l2", latency=False)
    assert result.report["status"] == "VERIFIED"
