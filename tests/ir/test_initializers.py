"""Initializers that are graph inputs too: defaults that a run may replace, or weights by an exporter's habit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from laws import analyze_proto, compare, random_masks
from spa_compiler import compile as compile_model
from spa_compiler.analysis.written_sizes import FED
from spa_compiler.ir.initializers import HABIT, REPLACEABLE
from spa_compiler.ir.reader import load
from zoo import Case, build

OPTIONS = {"ratio": 0.3, "of": "channels", "criterion": "l2", "latency": False, "threads": 1}
W = {"w1": (8, 16), "w2": (16, 4)}
MLP = "a = MatMul(h, w1)  b = Relu(a)  c = MatMul(b, w2)"
ONE = np.ones(1, np.float32)
Array = np.ndarray[Any, Any]
READERS: dict[str, tuple[str, dict[str, Any], list[Array]]] = {
    "arithmetic": ("h = Mul(x, t)  u = Add(t, one)  %s  y = Mul(c, u)", {"t": ONE, "one": 1.0}, [2 * ONE, -5 * ONE]),
    "shared": ("g = Mul(x, t)  h = Add(g, t)  %s  y = Sub(c, t)", {"t": ONE}, [3 * ONE]),
    "through an Identity": ("s = Identity(t)  h = Mul(x, s)  %s  y = Mul(c, s)", {"t": ONE}, [3 * ONE]),
    "statistic": (
        "m = ReduceMean(t)  h = Mul(x, m)  %s  y = Identity(c)",
        {"t": np.ones((8, 8), np.float32)}, [np.full((8, 8), 3, np.float32)],
    ),
    "condition": (
        "h = Relu(x)  %s  y = If(t) <then_branch = p () => (float[3,4] d) { d = Neg(c) },"
        " else_branch = q () => (float[3,4] e) { e = Exp(c) }>",
        {"t": np.array(True)}, [np.array(False)],
    ),
    "rounds": (
        "z = Relu(x)  h = Loop(t, , z) <body = r (int64 i, bool go, float[3,8] s) => (bool on, float[3,8] o) {"
        " on = Identity(go)  o = Sin(s) }>  %s  y = Identity(c)",
        {"t": np.array(1)}, [np.array(3)],
    ),
    "place": ("k = Gather(x, t)  h = Add(x, k)  %s  y = Identity(c)", {"t": np.array([0])}, [np.array([2])]),
    "axes of a sum": ("k = ReduceSum(x, t)  h = Add(x, k)  %s  y = Identity(c)", {"t": np.array([0])}, [np.array([1])]),
    "axes of what is gone": (
        "k = ReduceMax<keepdims = 0>(x, t)  m = ReduceMax<keepdims = 0>(k)  h = Add(x, m)  %s  y = Identity(c)",
        {"t": np.array([0])}, [np.array([1])],
    ),
    "an end": (
        "k = Slice(x, zero, t, zero)  m = ReduceMax(k, zero)  h = Add(x, m)  %s  y = Identity(c)",
        {"t": np.array([2]), "zero": np.array([0])}, [np.array([1]), np.array([3])],
    ),
    "an end far away": (
        "k = Slice(x, zero, t, zero)  m = ReduceMax(k, zero)  h = Add(x, m)  %s  y = Identity(c)",
        {"t": np.array([np.iinfo(np.int64).max]), "zero": np.array([0])}, [np.array([2])],
    ),
    "steps": (
        "k = Slice(x, zero, three, zero, t)  m = ReduceMax(k, zero)  h = Add(x, m)  %s  y = Identity(c)",
        {"t": np.array([2]), "zero": np.array([0]), "three": np.array([3])}, [np.array([1])],
    ),
    "a shape": (
        "k = Reshape(x, t)  m = ReduceMax<keepdims = 0>(k)  h = Add(x, m)  %s  y = Identity(c)",
        {"t": np.array([-1, 2, 3])}, [np.array([6, 4, 1]), np.array([2, 3, -1])],
    ),
    "a part of a shape": (
        "n = Shape<start = 0, end = 1>(x)  s = Concat<axis = 0>(n, t)  k = Reshape(x, s)"
        "  m = ReduceMax<keepdims = 0>(k)  h = Add(x, m)  %s  y = Identity(c)",
        {"t": np.array([4, 2])}, [np.array([2, -1])],
    ),
    "repeats": (
        "k = Tile(x, t)  h = Slice(k, zero, three, zero)  %s  y = Identity(c)",
        {"t": np.array([2, 1]), "zero": np.array([0]), "three": np.array([3])}, [np.array([1, 1]), np.array([4, 1])],
    ),
    "a count": (
        "k, p = TopK<axis = 0>(x, t)  m = ReduceMax(k, zero)  u = Mul(x, m)  h = Add(u, x)  %s  y = Identity(c)",
        {"t": np.array([2]), "zero": np.array([0])}, [np.array([1]), np.array([3])],
    ),
    "a depth": (
        "p = ArgMax<axis = 1, keepdims = 0>(x)  k = OneHot(p, t, v)  m = ReduceSum(k, one)  h = Add(x, m)  %s"
        "  y = Identity(c)",
        {"t": np.array(8), "one": np.array([1]), "v": np.array([0.5, 2], np.float32)}, [np.array(12)],
    ),
    "pads": (
        "k = Pad(x, t)  m = ReduceMean(k, zero)  h = Add(x, m)  %s  y = Identity(c)",
        {"t": np.array([1, 0, 0, 0]), "zero": np.array([0])}, [np.array([0, 0, 2, 0])],
    ),
    "scales": (
        "u = Reshape(x, four)  k = Resize<mode = \"nearest\">(u, , t)  m = ReduceMax<keepdims = 0>(k, last)"
        "  n = Reshape(m, back)  h = Add(x, n)  %s  y = Identity(c)",
        {"t": np.array([1, 1, 1, 2], np.float32), "four": np.array([1, 3, 8, 1]), "back": np.array([3, 8]),
         "last": np.array([-1])},
        [np.array([1, 1, 1, 3], np.float32)],
    ),
    "computed scales": (
        "u = Reshape(x, four)  s = Concat<axis = 0>(ones, t)  r = Mul(s, s)  k = Resize<mode = \"nearest\">(u, , r)"
        "  m = ReduceMax<keepdims = 0>(k, last)  n = Reshape(m, back)  h = Add(x, n)  %s  y = Identity(c)",
        {"t": np.array([2], np.float32), "ones": np.ones(3, np.float32), "four": np.array([1, 3, 8, 1]),
         "back": np.array([3, 8]), "last": np.array([-1])},
        [np.array([3], np.float32)],
    ),
    "a bias": ("h = Relu(x)  %s  y = Add(c, t)", {"t": np.ones(4, np.float32)}, [np.arange(4, dtype=np.float32)]),
    "a bias of channels": (
        "h = Relu(x)  a = MatMul(h, w1)  f = Add(a, t)  b = Relu(f)  e = MatMul(b, w3)  g = Relu(e)  y = MatMul(g, w4)",
        {"t": np.ones(16, np.float32), "w3": (16, 12), "w4": (12, 4)}, [np.arange(16, dtype=np.float32) - 8],
    ),
}  # fmt: skip


def listed(proto: onnx.ModelProto, names: list[str], ir: int = 10) -> onnx.ModelProto:
    """The model with these initializers among its inputs."""
    tensors = {t.name: t for t in proto.graph.initializer}
    proto.graph.input.extend(helper.make_tensor_value_info(n, tensors[n].data_type, tensors[n].dims) for n in names)
    proto.ir_version = ir
    onnx.checker.check_model(proto)
    return proto


def with_default(reader: str) -> onnx.ModelProto:
    text, inits, _ = READERS[reader]
    body = text % MLP if "%s" in text else text
    return listed(build(Case(f"(float[3,8] x) => (float[3,4] y) {{ {body} }}", {**W, **inits}, None)), ["t"])


def run(path: Path, feed: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0])


def masked(proto: onnx.ModelProto, keep: dict[str, Array]) -> onnx.ModelProto:
    """The dense file in which zeros are written for what the plan removes from the second weight of a pair."""
    readers = {"w1:1": "w2", "w3:1": "w4"}
    for label, mask in keep.items():
        tensor = next(t for t in proto.graph.initializer if t.name == readers[label])
        array = numpy_helper.to_array(tensor).copy()
        array[~mask] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return proto


@pytest.mark.parametrize("reader", READERS)
def test_a_run_may_replace_a_default_of_the_compiled_file(reader: str, tmp_path: Path) -> None:
    proto = with_default(reader)
    onnx.save(proto, tmp_path / "in.onnx")
    result = compile_model(tmp_path / "in.onnx", output=tmp_path / "out.onnx", **OPTIONS)
    assert not result.state.plan.is_empty
    compiled = onnx.load(tmp_path / "out.onnx")
    before, after = ({t.name: t for t in p.graph.initializer} for p in (proto, compiled))
    assert after["t"] == before["t"] and [i.name for i in compiled.graph.input] == ["x", "t"]
    onnx.save(masked(proto, dict(result.state.plan.keep)), tmp_path / "masked.onnx")
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    for feed in ({"x": x}, *({"x": x, "t": t} for t in READERS[reader][2])):
        want = run(tmp_path / "masked.onnx", feed)
        np.testing.assert_allclose(run(tmp_path / "out.onnx", feed), want, rtol=1e-4, atol=1e-5)


def test_a_weight_with_a_default_stays_and_says_why(tmp_path: Path) -> None:
    text = "(float[3,8] x) => (float[3,4] y) { a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  y = MatMul(c, w3) }"
    onnx.save(listed(build(Case(text, {"w1": (8, 16), "w2": (16, 12), "w3": (12, 4)}, None)), ["w1"]), tmp_path / "m")
    graph = analyze_proto(onnx.load(tmp_path / "m"))
    assert [g.label for g in graph.groups] == ["w2:1"]
    assert graph.frozen_parameters()[REPLACEABLE] == 8 * 16
    assert {r.text for r in graph.find_reasons(("w2", 0))} == {REPLACEABLE}
    result = compile_model(tmp_path / "m", output=tmp_path / "out.onnx", **OPTIONS)
    assert result.report["dense"]["params"] == 8 * 16 + 16 * 12 + 12 * 4
    assert result.report["compiled"]["params"] == 8 * 16 + (16 + 4) * result.state.plan.keep["w2:1"].sum()


SHAPED = "a = MatMul(x, w1)  b = Relu(a)  s = Reshape(b, t)  c = MatMul(s, w2)  y = Reshape(c, u)"


@pytest.mark.parametrize("rows", [3, "N"])
def test_what_the_numbers_of_an_input_shape_is_frozen(rows: int | str, tmp_path: Path) -> None:
    """An entry may be -1: then no other can be, and no share of it is right."""
    text = f"(float[{rows},8] x) => (float[{rows},4] y) {{ {SHAPED} }}"
    proto = build(Case(text, {**W, "u": np.array([-1, 4]), "t": np.array([-1, 16])}, None))
    onnx.save(listed(proto, ["t"]), tmp_path / "m")
    graph = analyze_proto(onnx.load(tmp_path / "m"))
    assert graph.groups == []
    assert {r.text for r in graph.find_reasons(("w1", 1))} == {FED}


@pytest.mark.parametrize("reader", ["arithmetic", "condition", "a bias of channels"])
def test_the_law_holds_for_another_value(reader: str) -> None:
    graph = analyze_proto(with_default(reader))
    assert compare(graph, random_masks(graph, np.random.default_rng(0)))[0] < 1e-4


def test_calibration_takes_the_default_and_compensation_leaves_it(tmp_path: Path) -> None:
    proto = with_default("a bias of channels")
    onnx.save(proto, tmp_path / "in.onnx")
    result = compile_model(
        tmp_path / "in.onnx", ratio=0.3, of="channels", samples=64, latency=False, quality=False, threads=1,
        output=tmp_path / "out.onnx",
    )  # fmt: skip
    assert result.report["compensation"]["solved"] > 0
    after = {t.name: t for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert after["t"] == next(t for t in proto.graph.initializer if t.name == "t")


def test_external_data_of_a_default_is_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    proto = with_default("statistic")
    onnx.save(proto, tmp_path / "in" / "m.onnx", save_as_external_data=True, location="data", size_threshold=0)
    model = load(tmp_path / "in" / "m.onnx")
    np.testing.assert_array_equal(model.default_array("t"), np.ones((8, 8), np.float32))
    compile_model(tmp_path / "in" / "m.onnx", output=tmp_path / "out.onnx", **OPTIONS)
    x = np.ones((3, 8), np.float32)
    feed = {"x": x, "t": np.full((8, 8), 2, np.float32)}
    np.testing.assert_allclose(run(tmp_path / "out.onnx", {"x": 2 * x}), run(tmp_path / "out.onnx", feed), rtol=1e-5)


def plain() -> onnx.ModelProto:
    text = "(float[3,8] x) => (float[3,4] y) { h = Mul(x, t)  a = MatMul(h, w1)  b = Relu(a)  y = MatMul(b, w2) }"
    return build(Case(text, {**W, "t": 2.0}, None))


def test_weights_that_are_all_listed_are_weights(tmp_path: Path) -> None:
    """The habit of an exporter: they are pruned, the report says so, and no run can replace what was pruned."""
    onnx.save(listed(plain(), ["w1", "w2", "t"]), tmp_path / "in.onnx")
    result = compile_model(tmp_path / "in.onnx", output=tmp_path / "out.onnx", **OPTIONS)
    assert set(result.state.plan.keep) == {"w1:1"} and HABIT in result.report["notes"]
    assert [i.name for i in onnx.load(tmp_path / "out.onnx").graph.input] == ["x"]


def test_where_all_but_one_weight_are_listed_those_are_inputs(tmp_path: Path) -> None:
    onnx.save(listed(plain(), ["w1", "t"]), tmp_path / "in.onnx")
    model = load(tmp_path / "in.onnx")
    assert set(model.defaults) == {"w1", "t"} and HABIT not in model.notes


def test_before_ir_version_4_a_listed_initializer_is_a_constant(tmp_path: Path) -> None:
    """Every initializer had to be listed then, and onnxruntime lets no run replace one."""
    onnx.save(listed(plain(), ["w1", "w2", "t"], ir=3), tmp_path / "in.onnx")
    result = compile_model(tmp_path / "in.onnx", output=tmp_path / "out.onnx", **OPTIONS)
    assert set(result.state.plan.keep) == {"w1:1"} and HABIT not in result.report["notes"]
    compiled = onnx.load(tmp_path / "out.onnx")
    held = {t.name for t in compiled.graph.initializer}
    assert {i.name for i in compiled.graph.input} == {"x", *held} and held >= {"w1", "w2"}
    onnx.checker.check_model(compiled)
