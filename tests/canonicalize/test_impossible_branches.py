"""Branches whose rank an operator after them refuses are never taken where a model runs; all others stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from spa_compiler.canonicalize.impossible_branches import has_refused_rank
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.execution.session import open_quiet_session
from spa_compiler.ir.control_flow import is_control
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import from_proto
from spa_compiler.shape_inference.every_binding import General

RNG = np.random.default_rng(0)
RANKS = range(7)


def weight(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


# what operators refuse ----------------------------------------------------------------------------------------------

OPERATORS: dict[str, tuple[str, dict[str, np.ndarray], int]] = {
    "LSTM": ("LSTM<hidden_size=3>(h, w, r)", {"w": weight(1, 12, 4), "r": weight(1, 12, 3)}, 3),
    "LSTM both ways": (
        'LSTM<hidden_size=3, direction="bidirectional">(h, w, r)', {"w": weight(2, 12, 4), "r": weight(2, 12, 3)}, 3,
    ),
    "GRU": ("GRU<hidden_size=3>(h, w, r)", {"w": weight(1, 9, 4), "r": weight(1, 9, 3)}, 3),
    "RNN": ("RNN<hidden_size=3>(h, w, r)", {"w": weight(1, 3, 4), "r": weight(1, 3, 3)}, 3),
    "Conv, 1 axis": ("Conv(h, w)", {"w": weight(8, 4, 1)}, 3),
    "Conv, 2 axes": ("Conv<pads=[1,1,1,1]>(h, w)", {"w": weight(16, 4, 3, 3)}, 4),
    "Conv, 3 axes": ("Conv(h, w)", {"w": weight(8, 4, 1, 1, 1)}, 5),
    "Conv, groups": ("Conv<group=4>(h, w)", {"w": weight(4, 1, 3, 3)}, 4),
    "ConvTranspose, 1 axis": ("ConvTranspose(h, w)", {"w": weight(4, 8, 2)}, 3),
    "ConvTranspose, 2 axes": ("ConvTranspose(h, w)", {"w": weight(4, 8, 2, 2)}, 4),
    "MaxPool, 1 axis": ("MaxPool<kernel_shape=[1]>(h)", {}, 3),
    "MaxPool, 2 axes": ("MaxPool<kernel_shape=[2,2]>(h)", {}, 4),
    "AveragePool, 1 axis": ("AveragePool<kernel_shape=[1]>(h)", {}, 3),
    "AveragePool, 2 axes": ("AveragePool<kernel_shape=[2,2]>(h)", {}, 4),
    "Gemm": ("Gemm(h, w)", {"w": weight(4, 8)}, 2),
    "Gemm, transposed": ("Gemm<transA=1>(h, w)", {"w": weight(4, 8)}, 2),
}  # fmt: skip
"""An operator, its weights, and how many axes its first input has."""
AFTER = ("y = Relu(c)", "d = Transpose(c) y = Relu(d)", "d = Identity(c) y = Add(d, d)")


def add_weights(proto: onnx.ModelProto, weights: dict[str, Any]) -> onnx.ModelProto:
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items())
    return proto


def any_rank(text: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model that makes a value of any rank, h, and goes on with it."""
    return add_weights(onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> m (float[A] x, int64[K] s) => (float[] y)
            {{ h = Reshape<allowzero=1>(x, s) {text} }}"""
    ), weights)  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_onnxruntime_refuses_what_is_refused(name: str) -> None:
    """At every level, whatever comes after, and for empty inputs; and the rank that is told to fit does run."""
    text, weights, fits = OPERATORS[name]
    node = from_proto(any_rank(f"c = {text} y = Relu(c)", weights), Path("m.onnx")).graph.nodes[1]
    held = {n: helper.make_tensor_type_proto(TensorProto.FLOAT, list(a.shape)) for n, a in weights.items()}
    for after in AFTER:
        proto = any_rank(f"c = {text} {after}", weights)
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        for level in range(4):
            session = open_quiet_session(proto.SerializeToString(), level)
            for rank in RANKS:
                told = General(types={**held, "h": helper.make_tensor_type_proto(TensorProto.FLOAT, [None] * rank)})
                refused = has_refused_rank(node, told)
                assert not (refused and rank == fits)
                assert refused or rank == fits or node.op == "Gemm"
                shapes = [[4] * rank, *([[0] + [4] * (rank - 1), [4] * (rank - 1) + [0]] if refused and rank else [])]
                for shape in shapes:
                    assert runs(session, shape) is (rank == fits) or not refused, f"{name} {after} {level} {shape}"


def runs(session: ort.InferenceSession, shape: list[int]) -> bool:
    x = np.zeros(int(np.prod(shape)), np.float32)
    try:
        session.run(None, {"x": x, "s": np.array(shape, np.int64)})
    except Exception:  # onnxruntime has no class of its own for an operator that fails
        return False
    return True


def test_a_rank_that_is_not_known_is_not_refused() -> None:
    bare = General(types={"h": helper.make_tensor_type_proto(TensorProto.FLOAT, None)})
    assert not has_refused_rank(gs.Node("LSTM", inputs=[gs.Variable("h")]), bare)
    assert not has_refused_rank(gs.Node("LSTM", "", domain="other", inputs=[gs.Variable("h")]), bare)


# Ifs that stay, and Ifs that go -------------------------------------------------------------------------------------


def squeeze(source: str, axis: int, result: str, body: str = "") -> str:
    """The nodes that TorchScript writes for `source.squeeze(axis)`."""
    k = result
    return f"""
        s{k} = Shape({source}) n{k} = Gather(s{k}, i{axis}) o{k} = Equal(n{k}, i1)
        {k} = If (o{k}) < then_branch = t{k} () => (float[] u{k}) {{ u{k} = Squeeze({source}, v{axis}) {body} }},
                          else_branch = e{k} () => (float[] w{k}) {{ w{k} = Identity({source}) }} > """


LSTM = "a, b, c = LSTM<hidden_size=6>({}, w, r) y = Relu(b)"
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "an LSTM": (f"(float[T,N,4] x) => (float[1,N,6] y) {{ {squeeze('x', 1, 'h')} {LSTM.format('h')} }}", 0, {}),
    "an LSTM, through others": (
        f"(float[T,N,4] x) => (float[1,N,6] y) {{ {squeeze('x', 1, 'h')} g = Relu(h) m = MatMul(g, q) "
        f"{LSTM.format('m')} }}", 0, {},
    ),
    "an LSTM that gets three axes whatever was squeezed": (
        f"(float[T,N,4] x) => (float[1,P,6] y) {{ {squeeze('x', 1, 'h')} p = Shape(h) k = Size(p) z = Equal(k, i2) "
        "g = If (z) < then_branch = tg () => (float[] ug) { ug = Unsqueeze(h, v0) }, "
        f"else_branch = eg () => (float[] wg) {{ wg = Identity(h) }} > {LSTM.format('g')} }}", 2, {},
    ),
    "an LSTM after one more axis for more than two": (
        f"(float[N,4,M] x) => (float[1,N,6] y) {{ z = MaxPool<kernel_shape=[2], strides=[99]>(x) "
        f"{squeeze('z', 2, 'h')} p = Shape(h) k = Size(p) d = Equal(k, i2) o = Not(d) g = If (o) < then_branch = tg () "
        "=> (float[] ug) { ug = Unsqueeze(h, v0) }, else_branch = eg () => (float[] wg) { wg = Identity(h) } > "
        f"f = Unsqueeze(g, v0) {LSTM.format('f')} }}", 0, {},
    ),
    "a convolution": (
        f"(float[N,4,L,M] x) => (float[N,8,P] y) {{ z = MaxPool<kernel_shape=[1,2], strides=[1,99]>(x) "
        f"{squeeze('z', 3, 'h')} y = Conv(h, k1) }}", 0, {},
    ),
    "a pool": (
        f"(float[N,4,L,M] x) => (float[N,4,P] y) {{ z = MaxPool<kernel_shape=[1,2], strides=[1,99]>(x) "
        f"{squeeze('z', 3, 'h')} y = AveragePool<kernel_shape=[2]>(h) }}", 0, {},
    ),
    "two squeezes and a Gemm": (
        f"(float[N,4,L,M] x) => (float[N,8] y) {{ z = MaxPool<kernel_shape=[2,2], strides=[99,99]>(x) "
        f"{squeeze('z', 3, 'h')} {squeeze('h', 2, 'g')} y = Gemm(g, e) }}", 0, {},
    ),
    "three squeezes and a Gemm": (
        f"(float[N,4,A,B,C] x) => (float[N,8] y) {{ z = MaxPool<kernel_shape=[2,2,2], strides=[99,99,99]>(x) "
        f"{squeeze('z', 4, 'h')} {squeeze('h', 3, 'g')} {squeeze('g', 2, 'f')} y = Gemm(f, e) }}", 0, {},
    ),
    "inside a branch": (
        f"""(float[T,N,4] x, bool way) => (float[1,N,6] y) {{ p = ReduceMean<keepdims=1>(x, v0)
            y = If (way) < then_branch = tt () => (float[] l) {{ {squeeze('x', 1, 'h')}
                a, b, c = LSTM<hidden_size=6>(h, w, r) l = Relu(b) }},
                else_branch = ee () => (float[] m) {{ m = MatMul(p, q6) }} > }}""",
        1, {"way": np.array(True)},
    ),
    "after the branch that it lies in": (
        f"""(float[T,N,4] x, bool way) => (float[1,N,6] y) {{
            d = If (way) < then_branch = tt () => (float[] l) {{ {squeeze('x', 1, 'h')} l = Relu(h) }},
                           else_branch = ee () => (float[] m) {{ m = Neg(x) }} > {LSTM.format('d')} }}""",
        1, {"way": np.array(True)},
    ),
    "a squeeze that goes on from its branch": (
        f"""(float[T,N,4] x) => (float[1,N,6] y) {{ s = Shape(x) n = Gather(s, i1) o = Equal(n, i1)
            h = If (o) < then_branch = tt () => (float[] l) {{ g = Squeeze(x, v1) l = Relu(g) }},
                         else_branch = ee () => (float[] m) {{ m = Neg(x) }} > {LSTM.format('h')} }}""", 0, {},
    ),
    "ranks that both go on": (
        f"(float[T,N,4] x) => (float[M] y) {{ {squeeze('x', 1, 'h')} a = MatMul(h, q) y = Reshape(a, vm1) }}", 1, {},
    ),
    "a Gemm, which takes a vector": (
        f"(float[N,4] x) => (float[M] y) {{ {squeeze('x', 0, 'h')} a = Gemm(h, e) y = Reshape(a, vm1) }}", 1, {},
    ),
    "an LSTM that no output follows from": (
        f"(float[T,N,4] x) => (float[M] y) {{ {squeeze('x', 1, 'h')} a, b, c = LSTM<hidden_size=6>(h, w, r) "
        "y = Reshape(h, vm1) }", 1, {},
    ),
    "an LSTM whose shape is looked at": (
        f"(float[T,N,4] x) => (int64[M] y) {{ {squeeze('x', 1, 'h')} a, b, c = LSTM<hidden_size=6>(h, w, r) "
        "y = Shape(a) }", 1, {},
    ),
    "an LSTM in a branch that may not run": (
        f"""(float[T,N,4] x, bool k) => (float[M] y) {{ {squeeze('x', 1, 'h')}
            d = If (k) < then_branch = td () => (float[] l) {{ a, b, c = LSTM<hidden_size=6>(h, w, r) l = Relu(b) }},
                         else_branch = ed () => (float[] m) {{ m = Relu(h) }} > y = Reshape(d, vm1) }}""",
        2, {"k": np.array(False)},
    ),
    "an LSTM read in a branch that may not run": (
        f"""(float[T,N,4] x, bool k) => (float[M] y) {{ {squeeze('x', 1, 'h')} a, b, c = LSTM<hidden_size=6>(h, w, r)
            d = If (k) < then_branch = td () => (float[] l) {{ l = Relu(b) }},
                         else_branch = ed () => (float[] m) {{ m = Relu(h) }} > y = Reshape(d, vm1) }}""",
        2, {"k": np.array(False)},
    ),
    "an LSTM read in both branches": (
        f"""(float[T,N,4] x, bool k) => (float[M] y) {{ {squeeze('x', 1, 'h')} a, b, c = LSTM<hidden_size=6>(h, w, r)
            d = If (k) < then_branch = td () => (float[] l) {{ l = Relu(b) }},
                         else_branch = ed () => (float[] m) {{ m = Squeeze(b, v0) }} > y = Reshape(d, vm1) }}""",
        1, {"k": np.array(False)},
    ),
    "one of two squeezes": (
        f"(float[K,T,N,4] x) => (float[M] y) {{ {squeeze('x', 0, 'h')} {squeeze('h', 1, 'g')} {LSTM.format('g')} }}",
        2, {},
    ),
    "a state that loses an axis": (
        f"""(float[T,N,4] x, int64 k) => (float[M] y) {{ on = Cast<to=9>(i1)
            z = Loop(k, on, x) < body = body (int64 i, bool ci, float[] v) => (bool co, float[] vn) {{
                co = Identity(ci) f = Relu(v) {squeeze('f', 1, 'h')} vn = Neg(h) }} > y = Reshape(z, vm1) }}""",
        1, {"k": np.array(2)},
    ),
    "an LSTM in every round": (
        f"""(float[T,N,4] x, int64 k) => (float[K,1,N,6] y) {{ on = Cast<to=9>(i1)
            z, y = Loop(k, on, x) < body = body (int64 i, bool ci, float[T,N,4] v) => (bool co, float[T,N,4] vn,
                float[] b2) {{ co = Identity(ci) vn = Relu(v) {squeeze('vn', 1, 'h')}
                a, b, c = LSTM<hidden_size=6>(h, w, r) b2 = Neg(b) }} > }}""",
        0, {"k": np.array(2)},
    ),
    "an LSTM after the last round": (
        f"""(float[T,N,4] x, int64 k) => (float[1,N,6] y) {{ on = Cast<to=9>(i1)
            z = Loop(k, on, x) < body = body (int64 i, bool ci, float[] v) => (bool co, float[] vn) {{
                co = Identity(ci) f = Relu(v) {squeeze('f', 1, 'h')} vn = Neg(h) }} > {LSTM.format('z')} }}""",
        1, {"k": np.array(1)},
    ),
}  # fmt: skip
"""Kind -> graph, how many Ifs are left, and inputs beside x."""
HELD = {
    **{f"i{k}": np.array(k) for k in range(6)}, **{f"v{k}": np.array([k]) for k in range(6)}, "vm1": np.array([-1]),
    "w": weight(1, 24, 4), "r": weight(1, 24, 6), "q": weight(4, 4), "q6": weight(4, 6), "q64": weight(6, 4),
    "e": weight(4, 8), "k1": weight(8, 4, 1),
}  # fmt: skip


def read(text: str) -> onnx.ModelProto:
    """A model; values that are made have types without a shape."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> m {text}')
    clear_scalars(proto.graph)
    names = {n for node in nodes_of(proto.graph) for n in node.input}
    return add_weights(proto, {n: a for n, a in HELD.items() if n in names})


def nodes_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [n for node in graph.node for a in node.attribute if a.HasField("g") for n in nodes_of(a.g)]
    return [*graph.node, *inner]


def clear_scalars(graph: onnx.GraphProto) -> None:
    """`float[]` is a number in text: here it is a value of any rank, except for inputs of the graph."""
    for node in nodes_of(graph):
        for a in node.attribute:
            for v in (*a.g.input, *a.g.output):
                if v.type.tensor_type.elem_type == TensorProto.FLOAT and not v.type.tensor_type.shape.dim:
                    v.type.tensor_type.ClearField("shape")


@pytest.mark.parametrize("kind", CASES)
def test_an_if_goes_where_an_operator_after_it_needs_one_branch(kind: str) -> None:
    """And a model computes the same, at all sizes that it takes."""
    text, left, more = CASES[kind]
    proto = read(text)
    model = normalize(from_proto(onnx.ModelProto.FromString(proto.SerializeToString()), Path("m.onnx")))[0]
    assert sum(n.op == "If" and is_control(n) for n in model.graph.nodes) == left
    assert compare(proto, model, more) >= 3


def compare(proto: onnx.ModelProto, model: Model, more: dict[str, Any]) -> int:
    """Run both at small sizes; how many the source takes."""
    dense, other = (open_quiet_session(m.SerializeToString()) for m in (proto, model.proto()))
    axes = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    free, taken = [a for a in axes if isinstance(a, str)], 0
    for sizes in np.ndindex(*[3 if len(free) < 4 else 2] * len(free)):
        bound = dict(zip(free, (s + 1 for s in sizes), strict=True))
        x = RNG.normal(size=[bound.get(a, a) for a in axes]).astype(np.float32)
        try:
            wanted = dense.run(None, {"x": x, **more})
        except Exception:  # a size that the source does not take
            continue
        found = other.run(None, {"x": x, **more})
        assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True)), bound
        taken += 1
    return taken
