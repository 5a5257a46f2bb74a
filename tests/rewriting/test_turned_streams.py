"""Residual streams in another basis: nothing computed changes, and what no block writes stands apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime import InferenceSession

import spa_compiler
from laws import outputs
from networks import graph_of
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.normed_streams import Stream, find_streams
from spa_compiler.calibration.stream_products import normalise
from spa_compiler.rewriting.turned_streams import can_turn, find_turn, turn_streams
from spa_compiler.verification.feeds import draw_inputs
from spa_compiler.verification.sizes import list_analysis_sizes
from zoo import CASES, Case, build
from zoo_base import Init

WIDTH = 12


@given(st.integers(2, 16), st.integers(0, 16), st.booleans(), st.integers(0, 99))
def test_a_turn_keeps_lengths_and_means_and_puts_what_is_used_first(
    channels: int, rank: int, is_centred: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((64, rank)) @ rng.standard_normal((rank, channels)) if rank else np.zeros((64, channels))
    rows = normalise(rows, is_centred)
    q = find_turn(rows.T @ rows / 64, is_centred)
    np.testing.assert_allclose(q @ q.T, np.eye(channels), atol=1e-9)
    turned = rows @ q
    used = int(np.linalg.matrix_rank(rows, tol=1e-6)) + is_centred if rank else 0
    np.testing.assert_allclose(turned[:, used:], 0, atol=1e-6)
    if is_centred:
        np.testing.assert_allclose(q.sum(0), 1, atol=1e-9)
        np.testing.assert_allclose(turned.mean(1), 0, atol=1e-9)


def turn(graph: DependencyGraph, found: list[Stream]) -> spa_compiler.Model:
    rng = np.random.default_rng(0)
    sides = {s.group.label: rng.standard_normal((s.group.size, s.group.size)) for s in found}
    return turn_streams(graph, graph.model, found, {k: a @ a.T for k, a in sides.items()})


def check_same(graph: DependencyGraph, model: spa_compiler.Model) -> None:
    for k, sizes in enumerate(list_analysis_sizes(graph.model)):
        feed = draw_inputs(graph.model, sizes, k)
        for a, b in zip(outputs(model, feed), outputs(graph.model, feed), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(b).max(initial=0))))


def write_out(norm: str, x: str, y: str, gain: str, shift: str) -> str:
    """A norm in single operators, as exporters write them where the opset has none."""
    if norm == "root mean square":
        return f"""{y}q = Pow({x}, two)  {y}m = ReduceMean<axes=[-1], keepdims=1>({y}q)  {y}e = Add({y}m, eps)
            {y}r = Sqrt({y}e)  {y}i = Reciprocal({y}r)  {y}n = Mul({x}, {y}i)  {y} = Mul({gain}, {y}n)"""
    return f"""{y}a = ReduceMean<axes=[-1], keepdims=1>({x})  {y}c = Sub({x}, {y}a)  {y}q = Mul({y}c, {y}c)
        {y}m = ReduceMean<axes=[-1], keepdims=1>({y}q)  {y}e = Add({y}m, eps)  {y}r = Sqrt({y}e)
        {y}n = Div({y}c, {y}r)  {y}g = Mul({y}n, {gain})  {y} = Add({y}g, {shift})"""


def make_case(block: str = "", norm: str = "LayerNormalization", opset: int = 17, rank: int = WIDTH) -> Case:
    """Pictures of tokens, a class token and positions, and a block whose norm reads the stream."""
    rng = np.random.default_rng(1)
    low = rng.standard_normal((rank, WIDTH)) / np.sqrt(rank)

    def write(*shape: int) -> Init:
        return (rng.standard_normal((*shape, rank)) @ low).astype(np.float32)

    block = block or f"n = {norm}(s, gain, shift)  u = MatMul(n, w1)  v = Relu(u)  o = MatMul(v, w2)  t = Add(s, o)"
    last = f"z = {norm}(t, gain2, shift2)"
    if norm == "RMSNormalization":
        block, last = block.replace(", shift", ""), last.replace(", shift2", "")
    if " " in norm:
        block = block.replace(f"n = {norm}(s, gain, shift)", write_out(norm, "s", "n", "gain", "shift"))
        last = write_out(norm, "t", "z", "gain2", "shift2")
    text = f"""(float[N,5,7] x) => (float[N,6,4] y) {{
        e = MatMul(x, embed)  a = Add(e, bias)  n0 = Shape<start=0, end=1>(x)  size = Concat<axis=0>(n0, rest)
        c = Expand(token, size)  j = Concat<axis=1>(c, a)  s = Add(j, positions)  {block}
        {last}  y = MatMul(z, head) }}"""
    weights: dict[str, Init] = {
        "embed": write(7), "bias": write(), "rest": [1, WIDTH], "token": write(1, 1), "positions": write(1, 6),
        "gain": (1 + rng.random(WIDTH)).astype(np.float32), "shift": (WIDTH,), "w1": (WIDTH, 20), "w2": write(20),
        "gain2": (0.5 + rng.random(WIDTH)).astype(np.float32), "shift2": (WIDTH,), "head": (WIDTH, 4), "w3": (WIDTH, 4),
        "zero": np.zeros(WIDTH, np.float32), "half": 0.5, "two": 2.0, "eps": 1e-5, "w4": (WIDTH, WIDTH),
    }  # fmt: skip
    return Case(text, {n: w for n, w in weights.items() if f"{n})" in text or f"{n}," in text}, None, opset=opset)


NORMS = {"LayerNormalization": 17, "RMSNormalization": 23, "root mean square": 17, "written out": 17}


@pytest.mark.parametrize("norm, opset", NORMS.items())
def test_a_stream_that_norms_read_is_turned_and_computes_the_same(norm: str, opset: int) -> None:
    graph = graph_of(make_case(norm=norm, opset=opset))
    found = find_streams(graph, graph.groups)
    assert [len(s.norms) for s in found] == [2] and can_turn(graph, found[0])
    check_same(graph, turn(graph, found))


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"custom_op"}))  # which onnxruntime does not run
def test_no_model_computes_anything_else_with_its_streams_turned(name: str) -> None:
    graph = graph_of(CASES[name])
    found = [s for s in find_streams(graph, graph.groups) if can_turn(graph, s)]
    if found:
        check_same(graph, turn(graph, found))


BLOCKS = {
    "a number times a branch": ("u = MatMul(s1, w1)  o1 = MatMul(u, w2)  o = Mul(o1, half)  t = Add(s, o)", True),
    "a function of the stream": ("o = Relu(s)  t = Add(s, o)", False),
    "a weight from the stream to the stream": ("o = MatMul(s1, w4)  t = Add(s, o)", False),
    "weights without a norm": ("u = MatMul(s, w1)  o = MatMul(u, w2)  t = Add(s, o)", True),
    "a norm that is the stream": ("t = LayerNormalization(s, gain, shift)", False),
    "a gain of the stream": ("t = Mul(s, gain)", False),
    "a gain of nothing": (
        "n = LayerNormalization(s, zero, shift)  u = MatMul(n, w1)  o = MatMul(u, w2)  t = Add(s, o)", False
    ),
    "one gain twice": (
        "n = LayerNormalization(s, gain2, shift)  u = MatMul(n, w1)  o = MatMul(u, w2)  t = Add(s, o)", True
    ),
    "one matrix twice": ("p = Transpose<perm=[1,0]>(w2)  u = MatMul(s1, p)  o = MatMul(u, w2)  t = Add(s, o)", False),
    "a norm over tokens, too": (
        "n = LayerNormalization<axis=1>(s, gain, shift)  u = MatMul(n, w1)  o = MatMul(u, w2)  t = Add(s, o)", False
    ),
    "a root of the stream": ("o = Pow(s, half)  t = Add(s, o)", False),
    "a square that is added": ("o = Mul(s, s)  t = Add(s, o)", False),
    "a factor for each token": ("m = ReduceMean<axes=[-1], keepdims=1>(s)  t = Mul(s, m)", True),
    "a length for each token": ("q = Mul(s, s)  m = ReduceMean<axes=[-1], keepdims=1>(q)  t = Mul(s, m)", True),
    "a mean over tokens": ("o = ReduceMean<axes=[1], keepdims=1>(s)  t = Add(s, o)", True),
}  # fmt: skip


@pytest.mark.parametrize("kind", BLOCKS)
def test_only_what_keeps_a_turn_may_read_a_stream(kind: str) -> None:
    block, is_found = BLOCKS[kind]
    if "s1" in block:
        block = "s1 = LayerNormalization(s, gain, shift)  " + block
    graph = graph_of(make_case(block))
    groups = [g for g in graph.groups if any(m.value == "embed" and m.axis == 1 for m in g.members)]
    found = [s for s in find_streams(graph, groups) if can_turn(graph, s)]
    assert groups and bool(found) == is_found
    if found:
        check_same(graph, turn(graph, found))


def test_a_stream_that_uses_few_directions_is_cut_with_next_to_no_loss(tmp_path: Path) -> None:
    """All of 12 channels differ, and what is written lies in three directions, whose mean makes a fourth."""
    path = tmp_path / "net.onnx"
    onnx.save(build(make_case(rank=3)), path)
    given = np.random.default_rng(2).standard_normal((64, 5, 7)).astype(np.float32)
    lost = []
    for dims in ("streams", "heads"):
        report = spa_compiler.compile(
            path, 0.6, calib=given, latency=False, device="avx2", align=1, include=("embed*",),
            with_passes=(f"basis{{dims={dims}}}",),
        ).report  # fmt: skip
        assert report["groups"][0]["kept"] == 4
        lost.append(1 - report["quality"]["evidence"]["explained_variance"])
    assert lost[0] < 0.001 < lost[1]


def test_a_saved_plan_turns_the_stream_again(tmp_path: Path) -> None:
    path, plan = tmp_path / "net.onnx", tmp_path / "plan.json"
    onnx.save(build(make_case(rank=3)), path)
    given = np.random.default_rng(2).standard_normal((64, 5, 7)).astype(np.float32)
    first = spa_compiler.compile(path, 0.6, calib=given, align=1, seed=5, compensate="none", latency=False)
    first.plan.save(plan)
    again = spa_compiler.compile(path, plan=plan, latency=False)
    assert "embed:1" in first.report["analysis"]["turned"] == again.report["analysis"]["turned"]
    runs = [InferenceSession(r.model.SerializeToString()).run(None, {"x": given[:2]})[0] for r in (first, again)]
    np.testing.assert_allclose(*runs, rtol=1e-4, atol=1e-4)


def test_a_stream_of_a_model_whose_inputs_are_unknown_stays_with_a_note(tmp_path: Path) -> None:
    text = """(float[N,7] x) => (float[N,4] y) {
        e = MatMul(x, embed)  n = LayerNormalization(e, gain)  y = MatMul(n, head) }"""
    onnx.save(
        build(Case(text, {"embed": (7, 12), "gain": (12,), "head": (12, 4)}, None, opset=17)), tmp_path / "n.onnx"
    )
    report = spa_compiler.compile(tmp_path / "n.onnx", 0.3, latency=False).report
    assert report["analysis"]["turned"] == []
    assert any("residual streams keep their channels" in note for note in report["notes"])
