"""Loops that only their condition ends, and branches that calibration looks into: no hang, no nonsense, no mix-up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from networks import graph_of
from spa_compiler.analysis.cost import CostModel
from spa_compiler.compiler import compile_file
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.pipeline.options import Options
from spa_compiler.verification.branches import find_repeated, list_choices
from spa_compiler.verification.proof import prove_rewrite
from zoo_base import Case, build

WHILE = Case(
    """(float[N,3] x) => (float[N,2] y) {
        e = MatMul(x, w0)
        last = Loop(COUNT, true, e) <body = round (int64 i, bool go, float[N,6] h) => (bool on, float[N,6] g) {
            p = MatMul(h, wr)  g = Tanh(p)  c = Less(i, five)
            on = If(c) <then_branch = yes () => (bool t) { t = Identity(true) },
                        else_branch = no () => (bool f) { f = Identity(false) }> }>
        y = MatMul(last, wo) }""",
    {"true": np.array(True), "false": np.array(False), "five": np.array(5), "w0": (3, 6), "wr": (6, 6), "wo": (6, 2)},
    None,
)
BRANCH = Case(
    """(float[N,6] x) => (float[N,2] y) {
        a0 = MatMul(x, w0)  a = Relu(a0)  m = ReduceMean<keepdims = 0>(x)  c = Greater(m, zero)
        o = If(c) <then_branch = yes () => (float[N,8] t) {
                       r = Relu(a)  p = MatMul(r, w1)  q = Relu(p)  s = MatMul(q, w2)  t = Add(a, s) },
                   else_branch = no () => (float[N,8] f) { f = MatMul(a, w3) }>
        y = MatMul(o, wo) }""",
    {"zero": 0.0, "w0": (6, 8), "w1": (8, 12), "w2": (12, 8), "w3": (8, 8), "wo": (8, 2)},
    None,
    opset=17,
)


def with_count(count: int | None) -> Case:
    inits = dict(WHILE.inits) if count is None else {**WHILE.inits, "count": np.array(count)}
    return Case(WHILE.text.replace("COUNT", "" if count is None else "count"), inits, None)


def test_an_if_that_ends_its_loop_is_not_forced_and_said_to_be_unproven() -> None:
    graph = graph_of(with_count(None))
    assert list_choices(graph.model) == [] and len(find_repeated(graph.model)) == 2
    assert set(prove_rewrite(graph, {}, graph.model).unproven) == find_repeated(graph.model)


def test_the_largest_count_is_that_of_a_while_loop() -> None:
    costs = [CostModel(graph_of(with_count(n))).total("macs", {}) for n in (np.iinfo(np.int64).max, None, 4)]
    assert costs[0] == costs[1] == 3 * 6 + 6 * 6 + 6 * 2 and costs[2] == costs[0] + 3 * 36


def test_a_residual_inside_a_branch_is_compensated_without_a_shortcut(tmp_path: Path) -> None:
    onnx.save(build(BRANCH), tmp_path / "m.onnx")
    found = compile_file(
        tmp_path / "m.onnx", tmp_path / "o.onnx", Options(ratio=0.3, latency=False, quality=False, samples=32)
    )
    assert found.report["verification"]["prune_equals_mask"]["error"] <= 1e-4


@pytest.mark.parametrize("sign", [1, -1])
def test_what_follows_an_if_sees_the_branch_that_is_taken(sign: int) -> None:
    graph = graph_of(BRANCH)
    given = [{"x": sign * np.abs(np.random.default_rng(k).standard_normal((4, 6))).astype("f")} for k in range(4)]
    walk = Walk(graph.model)
    for step in walk.run(given):
        if step.node.op_type == "MatMul" and step.node.input[1] == "wo":
            assert step.inputs[0] is not None
            seen = np.concatenate(step.inputs[0])
    constants = {n: graph.model.array(t) for n, t in graph.model.constants().items()}
    a = np.maximum(np.concatenate([f["x"] for f in given]) @ constants["w0"], 0)
    taken = a + np.maximum(a @ constants["w1"], 0) @ constants["w2"] if sign > 0 else a @ constants["w3"]
    np.testing.assert_allclose(seen, taken, rtol=1e-4, atol=1e-5)
