"""Channels that are dead by an option of `erase`: weights within a tolerance, units that no given input opens."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

import spa_compiler
from laws import analyze_proto
from spa_compiler.analysis.value_ranges import Bounds, find_ranges
from spa_compiler.errors import UsageError

Arrays = dict[str, Any]
EXACT = {"latency": False, "quality": False}


def make_model(text: str, weights: Arrays) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(w, np.float32), n) for n, w in weights.items())
    return model


def make_mlp(rng: np.random.Generator, widths: tuple[int, ...] = (6, 40, 30, 3)) -> onnx.ModelProto:
    """Dense layers with Relu; biases low enough that some units never fire in a box around zero."""
    weights: Arrays = {}
    lines, x = [], "x"
    for k, (a, b) in enumerate(itertools.pairwise(widths)):
        last = k == len(widths) - 2
        weights |= {f"w{k}": rng.standard_normal((a, b)) / np.sqrt(a), f"b{k}": rng.normal(-0.5, 1.0, b)}
        lines.append(
            f"g{k} = Gemm(x, w{k}, b{k})".replace("(x,", f"({x},") if not last else f"y = Gemm({x}, w{k}, b{k})"
        )
        if not last:
            lines.append(f"r{k} = Relu(g{k})")
        x = f"r{k}"
    return make_model(f"g (float[n,{widths[0]}] x) => (float[n,{widths[-1]}] y) {{ {' '.join(lines)} }}", weights)


def run(model: onnx.ModelProto, x: Any) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": np.asarray(x, np.float32)})[0]


def count_units(model: onnx.ModelProto) -> int:
    """Numbers that biases of products hold."""
    arrays = {t.name: t.dims for t in model.graph.initializer}
    return sum(arrays[n.input[2]][0] for n in model.graph.node if n.op_type in ("Gemm", "Conv") and len(n.input) > 2)


def make_filters(rng: np.random.Generator, act: str, small: float, beta: float, pad: int) -> onnx.ModelProto:
    """A convolution with BatchNormalization whose first three gains are nearly nothing, and a reader."""
    gain = np.ones(8)
    gain[:3] = small * rng.choice([-1, 1], 3)
    shift = rng.standard_normal(8)
    shift[:3] = beta
    weights = {"w1": rng.standard_normal((8, 3, 3, 3)), "g": gain, "s": shift, "m": rng.standard_normal(8),
               "v": rng.uniform(0.5, 2, 8), "w2": rng.standard_normal((5, 8, 3, 3)),
               "b2": rng.standard_normal(5)}  # fmt: skip
    text = f"""g (float[2,3,9,9] x) => (float[2,5,h,w] y) {{
        c = Conv<pads=[1,1,1,1]>(x, w1)  n = BatchNormalization(c, g, s, m, v)
        a = {act}(n)  y = Conv<pads=[{pad},{pad},{pad},{pad}]>(a, w2, b2) }}"""
    return make_model(text, weights)


@pytest.mark.parametrize(("act", "beta", "pad", "left"), [
    ("Relu", 0.0, 1, 5), ("Relu", 0.7, 0, 5), ("Sigmoid", 0.7, 0, 5),
    ("Sigmoid", 0.0, 1, 6), ("Relu", 0.7, 1, 6),  # numbers beside zeros at the edge: one channel holds them all
])  # fmt: skip
def test_filters_that_training_left_at_1e_7_go_with_a_tolerance_alone(
    act: str, beta: float, pad: int, left: int
) -> None:
    model = make_filters(np.random.default_rng(3), act, 1e-7, beta, pad)
    x = np.random.default_rng(4).standard_normal((2, 3, 9, 9))
    plain = spa_compiler.compile(model, 0.0, **EXACT)
    assert plain.model.graph.initializer[0].dims[0] == 8
    found = spa_compiler.compile(model, 0.0, with_passes=("erase{tol=1e-6}",), **EXACT)
    widths = {t.dims[0] for t in found.model.graph.initializer if len(t.dims) == 4 and t.dims[1] == 3}
    assert widths == {left}
    assert np.abs(run(found.model, x) - run(model, x)).max() <= 1e-5 * np.abs(run(model, x)).max()
    assert any("within 1e-06 of zero" in n for n in found.report["notes"])


def test_a_tolerance_takes_nothing_larger() -> None:
    for beta, left in ((0.0, 5), (0.7, 8)):  # a constant that is that wrong is not put into what reads it
        model = make_filters(np.random.default_rng(3), "Relu", 1e-3, beta, 0)
        found = spa_compiler.compile(model, 0.0, with_passes=("erase{tol=1e-6}",), **EXACT)
        assert found.report["reached"]["params"] == 0
        found = spa_compiler.compile(model, 0.0, with_passes=("erase{tol=1e-2}",), **EXACT)
        assert {t.dims[0] for t in found.model.graph.initializer if len(t.dims) == 4 and t.dims[1] == 3} == {left}
        assert found.report["status"] == "VERIFIED"


@pytest.mark.parametrize("tol", ["-1", "inf", "nan"])
def test_a_tolerance_is_a_number_from_0_on(tol: str) -> None:
    with pytest.raises(UsageError, match="tol"):
        spa_compiler.compile(make_mlp(np.random.default_rng(0)), 0.0, with_passes=(f"erase{{tol={tol}}}",), **EXACT)


@given(st.integers(0, 10**6))
@settings(max_examples=12, deadline=None)
def test_units_that_no_input_opens_go_and_all_stays_the_same_in_the_box(seed: int) -> None:
    """Row 78 of the published methods: units that are always off."""
    rng = np.random.default_rng(seed)
    model = make_mlp(rng)
    found = spa_compiler.compile(model, 0.0, with_passes=("erase{ranges=true}",), input_range=("x:-0.3,0.3",), **EXACT)
    assert count_units(found.model) < count_units(model)
    x = rng.uniform(-0.3, 0.3, (500, 6))
    x[:64] = 0.3 * np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T  # its corners
    dense = run(model, x)
    assert np.abs(run(found.model, x) - dense).max() <= 1e-5 * max(1.0, np.abs(dense).max())
    assert any("x within -0.3..0.3" in n for n in found.report["notes"])


def test_without_the_option_bounds_of_inputs_take_nothing() -> None:
    model = make_mlp(np.random.default_rng(1))
    assert spa_compiler.compile(model, 0.0, input_range=("x:-0.3,0.3",), **EXACT).report["reached"]["params"] == 0


def test_a_rectifier_that_changes_nothing_is_left_out() -> None:
    rng = np.random.default_rng(5)
    weights = {"w0": np.abs(rng.standard_normal((6, 12))), "b0": np.ones(12), "w1": rng.standard_normal((12, 3))}
    text = "g (float[n,6] x) => (float[n,3] y) { g0 = Gemm(x, w0, b0)  r = Relu(g0)  y = MatMul(r, w1) }"
    model = make_model(text, weights)
    given_range = {"with_passes": ("erase{ranges=true}",), "input_range": ("x:0,1",)}
    found = spa_compiler.compile(model, 0.0, **given_range, **EXACT)
    assert "Relu" not in {n.op_type for n in found.model.graph.node}
    x = rng.uniform(0, 1, (50, 6))
    np.testing.assert_allclose(run(found.model, x), run(model, x), rtol=1e-5, atol=1e-5)
    assert any("1 rectifiers that change nothing are left out" in n for n in found.report["notes"])
    wider = spa_compiler.compile(model, 0.0, **given_range | {"input_range": ("x:-1,1",)}, **EXACT)
    assert "Relu" in {n.op_type for n in wider.model.graph.node}


def test_of_inputs_of_which_nothing_is_said_only_what_always_holds_is_taken() -> None:
    rng = np.random.default_rng(6)
    weights = {"w0": rng.standard_normal((6, 12)), "w1": rng.standard_normal((12, 9)),
               "w2": rng.standard_normal((9, 2)), "b1": -np.ones(9), "b2": np.ones(2)}  # fmt: skip
    weights["w1"][:, :4] = -np.abs(weights["w1"][:, :4])  # behind a Sigmoid these are never above 0
    text = """g (float[n,6] x) => (float[n,2] y) { a = MatMul(x, w0)  s = Sigmoid(a)  b = Gemm(s, w1, b1)
        r = Relu(b)  y = Gemm(r, w2, b2) }"""
    model = make_model(text, weights)
    found = spa_compiler.compile(model, 0.0, with_passes=("erase{ranges=true}",), **EXACT)
    assert count_units(found.model) <= count_units(model) - 4
    x = 100 * rng.standard_normal((200, 6))
    np.testing.assert_allclose(run(found.model, x), run(model, x), rtol=1e-5, atol=1e-5)


CHAINS = [
    "Relu", "Sigmoid", "Tanh", "Identity", "Clip", "MaxPool", "AveragePool", "Pad", "Add", "Sub", "Mul", "Transpose",
    "Concat", "ReduceMean",
]  # fmt: skip


@given(st.integers(0, 10**6), st.lists(st.sampled_from(CHAINS), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_no_value_leaves_its_bounds(seed: int, chain: list[str]) -> None:
    rng = np.random.default_rng(seed)
    weights: Arrays = {"w0": rng.standard_normal((6, 3, 3, 3)), "b0": rng.standard_normal(6), "low": -0.4, "high": 0.7}
    lines, x = ["v0 = Conv<pads=[1,1,0,0]>(x, w0, b0)"], "v0"
    for k, op in enumerate(chain, 1):
        weights |= {f"c{k}": rng.standard_normal((6, 1, 1)), f"k{k}": rng.standard_normal((4 + k % 3, 6, 1, 1))}
        more = {
            "Clip": f"Clip({x}, low, high)", "MaxPool": f"MaxPool<kernel_shape=[2,2], pads=[1,1,1,1]>({x})",
            "AveragePool": f"AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>({x})",
            "Pad": f"Pad({x}, around)", "Add": f"Add({x}, c{k})", "Sub": f"Sub(c{k}, {x})", "Mul": f"Mul({x}, c{k})",
            "Transpose": f"Transpose<perm=[0,1,3,2]>({x})", "Concat": f"Concat<axis=2>({x}, {x})",
            "ReduceMean": f"ReduceMean<axes=[2], keepdims=1>({x})",
        }.get(op, f"{op}({x})")  # fmt: skip
        lines.append(f"v{k} = {more}")
        x = f"v{k}"
    weights["w9"] = rng.standard_normal((4, 6, 1, 1))
    lines += [f"r = Relu({x})", "y = Conv(r, w9)"]
    proto = make_model(f"g (float[1,3,8,8] x) => (float[1,4,h,w] y) {{ {' '.join(lines)} }}", weights)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "around"))
    low, high = sorted(rng.normal(0, 2, 2))
    graph = analyze_proto(proto)
    found = find_ranges(graph, {"x": (low, high)})
    names = [v.name for s in graph.sites for v in s.outputs if v is not None]
    shown = onnx.ModelProto()
    shown.CopyFrom(graph.model.proto())
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_tensor_value_info(n, 1, None) for n in names)
    session = onnxruntime.InferenceSession(shown.SerializeToString())
    assert any(np.isfinite(r.low).all() for r in found.along.values())
    for _ in range(3):
        values = dict(
            zip(names, session.run(None, {"x": rng.uniform(low, high, (1, 3, 8, 8)).astype(np.float32)}), strict=True)
        )
        for name, value in values.items():
            if name in found.whole:
                assert value.min() >= found.whole[name].low and value.max() <= found.whole[name].high
        for (name, d), bounds in found.along.items():
            if name in values and values[name].ndim == 4 and values[name].shape[1] == d.size:
                assert (values[name].min(axis=(0, 2, 3)) >= bounds.low).all()
                assert (values[name].max(axis=(0, 2, 3)) <= bounds.high).all()


def test_bounds_of_bounds() -> None:
    a, b = Bounds.of(-1, 2), Bounds.of(0, 3)
    assert (float(a.unite(b).low), float(a.unite(b).high)) == (-1, 3)
    assert (float(a.meet(b).low), float(a.meet(b).high)) == (0, 2)


def test_a_trained_file_without_such_channels_stays_as_it_is(models: Path, tmp_path: Path) -> None:
    source, out = models / "digits_gru.onnx", tmp_path / "o.onnx"
    spa_compiler.compile(source, 0.0, output=out, with_passes=("erase{tol=1e-12}",), **EXACT)
    before, after = onnx.load(source), onnx.load(out)
    assert [numpy_helper.to_array(t).tobytes() for t in before.graph.initializer] == [
        numpy_helper.to_array(t).tobytes() for t in after.graph.initializer
    ]
