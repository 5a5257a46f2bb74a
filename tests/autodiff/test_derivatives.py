"""Derivatives of every operator that has a row agree with differences of what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, shape_inference

from spa_compiler.autodiff.reverse_mode import OPSET, Tape, Unknown
from spa_compiler.operators.derivatives import DERIVATIVES
from zoo_base import Case, Init, build

NORM = {"s": (3,), "t": (3,), "mu": (3,), "var": (3,)}
SLICE = {"from": [1, 7], "to": [3, -9], "axes": [1, 2], "steps": [1, -2]}


def on(nodes: str, y: str = "2,3,8,8", opset: int = 18, **inits: Init) -> Case:
    """A picture through some nodes to an output of the sizes `y`."""
    return Case(f"(float[2,3,8,8] x) => (float[{y}] y) {{ {nodes} }}", inits, None, opset=opset)


CASES = {
    "conv": on("y = Conv<pads=[1,1,2,1]>(x, w, b)", "2,4,9,8", w=(4, 3, 3, 3), b=(4,)),
    "conv, strides": on("y = Conv<strides=[2,3], pads=[1,1,1,0]>(x, w)", "2,4,4,3", w=(4, 3, 3, 2)),
    "conv, dilations": on("y = Conv<dilations=[2,1]>(x, w)", "2,4,4,6", w=(4, 3, 3, 3)),
    "conv, groups": on("y = Conv<group=3, pads=[1,1,1,1]>(x, w)", "2,6,8,8", w=(6, 1, 3, 3)),
    "conv, groups and strides": on("y = Conv<group=3, strides=[2,2]>(x, w)", "2,6,4,4", w=(6, 1, 2, 2)),
    "conv of one axis": Case(
        "(float[2,3,9] x) => (float[2,4,5] y) { y = Conv<strides=[2], pads=[1,1]>(x, w) }", {"w": (4, 3, 3)}, None
    ),
    "batch norm": Case("(float[2,3,8] x) => (float[2,3,8] y) { y = BatchNormalization(x, s, t, mu, var) }", NORM, None),
    "average pool": on("y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)", "2,3,4,4"),
    "max pool": on("y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", "2,3,4,4"),
    "global average": on("y = GlobalAveragePool(x)", "2,3,1,1"),
    "mean": on("y = ReduceMean<keepdims=0>(x, axes)", "2,8,8", axes=[1]),
    "mean of all": on("y = ReduceMean(x)", "1,1,1,1"),
    "mean of nothing": on("y = ReduceMean<noop_with_empty_axes=1>(x)"),
    "mean, axes as attribute": on("y = ReduceMean<axes=[-2]>(x)", "2,3,1,8", opset=17),
    "relu": on("y = Relu(x)"),
    "leaky": on("y = LeakyRelu<alpha=0.2>(x)"),
    "clip": on("y = Clip(x, low, high)", low=0.0, high=0.9),
    "clip above": on("y = Clip(x, , high)", high=0.9),
    "sigmoid": on("y = Sigmoid(x)"),
    "tanh": on("y = Tanh(x)"),
    "softplus": on("y = Softplus(x)"),
    "prelu": on("y = PRelu(x, w)", w=(3, 1, 1)),
    "hard sigmoid": on("y = HardSigmoid<alpha=0.4>(x)"),
    "hard swish": on("a = Mul(x, four)  y = HardSwish(a)", four=4.0),
    "gate": on("a = GlobalAveragePool(x)  b = Sigmoid(a)  y = Mul(x, b)"),
    "square": on("y = Mul(x, x)"),
    "arithmetic": on(
        "a = Mul(x, v)  b = Div(a, w)  c = Sub(w, b)  d = Sub(c, x)  y = Sum(d, x, d)", v=(3, 1, 1), w=(3, 1, 1)
    ),
    "broadcast": on("a = GlobalAveragePool(x)  b = Add(x, a)  y = Sub(b, a)"),
    "concat": on("a = Relu(x)  b = Tanh(x)  y = Concat<axis=1>(a, x, b)", "2,9,8,8"),
    "transpose": on("y = Transpose<perm=[0,3,1,2]>(x)", "2,8,3,8"),
    "slice": Case(
        "(float[2,3,8,8] x) => (float[2,2,4,8] y) { y = Slice(x, from, to, axes, steps) }", dict(SLICE), None
    ),
    "slice of a box": on("y = Slice(x, a, b, c)", "2,3,4,8", a=[3], b=[7], c=[2]),
    "crop by two": on("y = Slice(x, a, b)", "2,2,8,7", a=[0, 1, 0, 1], b=[2, 3, 8, 8]),
    "gather of a box": on("y = Gather<axis=1>(x, order)", "2,2,8,8", order=[1, 2]),
    "gather": on("y = Gather<axis=1>(x, order)", "2,2,8,8", order=[2, 0]),
    "split": on("a, b, c = Split<axis=1>(x, sizes)  y = Mul(a, c)", "2,1,8,8", sizes=[1, 1, 1]),
    "pad": on("y = Pad(x, pads, zero)", "2,6,8,8", pads=[0, 1, 0, 0, 0, 2, 0, 0], zero=0.0),
    "pad and crop": on("y = Pad(x, pads)", "2,6,8,7", pads=[0, 1, 0, 0, 0, 2, 0, -1]),
    "pad of named axes": on("y = Pad(x, pads, , axes)", "2,3,10,8", pads=[1, 1], axes=[2]),
    "reshape by its own shape": on("s = Shape(x)  a = Relu(x)  y = Reshape(a, s)"),
    "bias cast like it": on("b = CastLike(v, x)  y = Conv(x, w, b)", "2,4,6,6", v=(4,), w=(4, 3, 3, 3)),
    "reshapes": on(
        "a = Flatten(x)  b = Unsqueeze(a, one)  c = Identity(b)  d = Squeeze(c, one)  e = Reshape(d, to)"
        "  y = Dropout(e)",
        "2,1,192", one=[1], to=[2, 1, 192],
    ),
    "gemm": Case(
        "(float[4,5] x) => (float[4,6] y) { y = Gemm<transB=1, alpha=0.5>(x, w, b) }", {"w": (6, 5), "b": (6,)}, None
    ),
    "matmul": Case("(float[2,4,5] x) => (float[2,4,6] y) { y = MatMul(x, w) }", {"w": (5, 6)}, None),
}  # fmt: skip
UNKNOWN = {
    "two activations": "(float[2,4,4] x) => (float[2,4,4] y) { y = MatMul(x, x) }",
    "divisor": "(float[2,4] x) => (float[2,4] y) { a = Exp(x)  y = Div(x, x) }",
    "no row": "(float[2,4] x) => (float[2,4] y) { y = Softmax(x) }",
    "reflection": '(float[2,3,8,8] x) => (float[2,3,10,8] y) { y = Pad<mode="reflect">(x, pads) }',
    "columns first": "(float[2,3,8,8] x) => (float[2,3,4,4] y)"
    " { y = MaxPool<kernel_shape=[2,2], strides=[2,2], storage_order=1>(x) }",
    "bias that depends on it": "(float[2,4] x) => (float[2,4] y) { a = Tanh(x)  b = Flatten(x)  y = Gemm(b, v, a) }",
    "another row": "(float[2,4] x) => (float[4] y) { y = Gather<axis=0>(x, place) }",
    "no such form": "(float[2,3,8,8] x) => (float[2,3,8,8] y) { y = HardSigmoid<alpha=0.0>(x) }",
    "twice": "(float[2,4] x) => (float[2,2] y) { y = Gather<axis=1>(x, two) }",
    "first axis": "(float[2,4] x) => (float[1,4] y) { y = Slice(x, zero, one, zero) }",
    "automatic": '(float[2,3,8,8] x) => (float[2,4,8,8] y) { y = Conv<auto_pad="SAME_UPPER">(x, w) }',
}


def taped(model: onnx.ModelProto) -> Tape:
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    known = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return Tape(model.graph.node, constants, known, "x", max(OPSET, model.opset_import[0].version))


@pytest.mark.parametrize("name", CASES)
def test_a_derivative_is_the_limit_of_differences(name: str) -> None:
    model = build(CASES[name])
    size, rng = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim], np.random.default_rng(0)
    x = rng.standard_normal(size).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y = session.run(["y"], {"x": x})[0]
    weights = rng.standard_normal(y.shape).astype(np.float32)
    tape = taped(model)
    tape.add("y", tape.number(weights))
    found = tape.run_backward(DERIVATIVES)
    model.graph.node.extend(tape.made)
    model.graph.initializer.extend(tape.tables)
    model.graph.output.append(onnx.ValueInfoProto(name=found))
    got = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run([found], {"x": x})[0]
    assert got.shape == x.shape
    step, places = 1e-3, rng.choice(x.size, min(x.size, 60), replace=False)
    differences = []
    for place in places:
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved.flat[place] += sign * step
            ends.append(float((session.run(["y"], {"x": moved})[0].astype(np.float64) * weights).sum()))
        differences.append((ends[0] - ends[1]) / (2 * step))
    close = np.isclose(got.ravel()[places], differences, rtol=2e-2, atol=2e-2 * np.abs(got).max())
    assert close.mean() > 0.95  # a kink may lie between the two ends
    assert np.abs(got).max() > 1e-3


@pytest.mark.parametrize("name", [n for n in CASES if "box" in n or "crop" in n or n.startswith("pad")])
def test_a_box_is_cut_and_padded_not_picked_one_by_one(name: str) -> None:
    tape = taped(build(CASES[name]))
    tape.add("y", "dy")
    tape.run_backward(DERIVATIVES)
    assert {n.op_type for n in tape.made} <= {"Slice", "Pad", "Identity"}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_has_no_row_is_unknown(name: str) -> None:
    inits = {
        "pads": [0, 0, 1, 0, 0, 0, 1, 0], "zero": [0], "one": [1], "two": [2, 2], "place": 1,
        "v": (4, 4), "w": (4, 3, 3, 3),
    }  # fmt: skip
    used = {n: i for n, i in inits.items() if f" {n}" in UNKNOWN[name]}
    tape = taped(build(Case(UNKNOWN[name], used, None)))
    tape.add("y", "dy")
    with pytest.raises(Unknown):
        tape.run_backward(DERIVATIVES)


def test_every_row_has_a_case() -> None:
    seen = {n.op_type for c in CASES.values() for n in build(c).graph.node}
    assert set(DERIVATIVES) <= seen


def test_what_the_source_does_not_reach_gets_nothing() -> None:
    model = build(Case("(float[2,4] x, float[2,4] z) => (float[2,4] y) { a = Exp(z)  y = Mul(x, a) }", {}, None))
    tape = taped(model)
    tape.add("y", "dy")
    tape.run_backward(DERIVATIVES)
    assert [n.op_type for n in tape.made] == ["Mul"]
    with pytest.raises(Unknown, match="nothing"):
        taped(model).run_backward(DERIVATIVES)
