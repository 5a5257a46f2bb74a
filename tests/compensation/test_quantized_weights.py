"""Quantised weights are solved on steps that hold them: integers stay integers, and biases fit their kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spa_compiler
from spa_compiler.compensation.quantized_weights import Grid

RNG = np.random.default_rng(0)
QUICK = {"quality": False, "latency": False}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([np.int8, np.uint8, np.int16]), st.booleans(), st.booleans(),
    st.integers(0, 1 << 30), st.floats(0.01, 30.0),
)  # fmt: skip
def test_a_widened_grid_holds_every_value_to_half_a_step(
    kind: type, per_axis: bool, uneven: bool, seed: int, factor: float
) -> None:
    """Indices whose values fit keep their steps; zero stays a number of the grid."""
    rng = np.random.default_rng(seed)
    info = np.iinfo(kind)
    middle = (info.min + info.max + 1) // 2
    shape = (4,) if per_axis else ()
    zero = np.full(shape, middle + (int(rng.integers(-40, 40)) if uneven else 0), kind)
    grid = Grid(rng.uniform(0.01, 0.1, shape).astype(np.float32), zero, 1)
    values = rng.standard_normal((3, 4, 5)) * factor * (info.max - info.min) / 256
    wide = grid.widen(values)
    assert (wide.dequantize(wide.zero if not per_axis else np.tile(wide.zero[None, :, None], (1, 1, 1))) == 0).all()
    step = wide.step[None, :, None] if per_axis else wide.step
    assert (np.abs(wide.round(values) - values) <= 0.51 * step + 1e-6 * factor).all()
    np.testing.assert_allclose(wide.round(wide.round(values)), wide.round(values))
    held = grid.widen(grid.round(values))
    assert held.is_same(grid)


class Quantiser:
    """Writes a graph as quantisers do: integers behind DequantizeLinear, or floats that are rounded first."""

    def __init__(self, per_channel: bool = True, fake: bool = False, zero: int = 0, kind: type = np.int8) -> None:
        self.per_channel, self.fake, self.zero, self.kind = per_channel, fake, zero, kind
        self.nodes: list[onnx.NodeProto] = []
        self.numbers: dict[str, np.ndarray] = {}

    def put(self, name: str, array: object) -> str:
        self.numbers[name] = np.asarray(array)
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], **attributes))
        return output

    def quantize_weight(self, name: str, w: np.ndarray, axis: int) -> str:
        span = np.abs(w).max(tuple(k for k in range(w.ndim) if k != axis) if self.per_channel else None)
        step, info = (span / 100).astype(np.float32), np.iinfo(self.kind)
        wide = step.reshape([-1 if k == axis else 1 for k in range(w.ndim)] if self.per_channel else ())
        grid = [self.put(f"{name}_s", step), self.put(f"{name}_z", np.full(step.shape, self.zero, self.kind))]
        if self.fake:
            stored = self.add("QuantizeLinear", [self.put(name, w.astype(np.float32)), *grid], f"{name}_q", axis=axis)
        else:
            integers = np.clip(np.rint(w / wide) + self.zero, info.min, info.max)
            stored = self.put(f"{name}_q", integers.astype(self.kind))
        return self.add("DequantizeLinear", [stored, *grid], f"{name}_d", axis=axis)

    def round_activation(self, name: str, step: float) -> str:
        grid = [self.put(f"{name}_s", np.float32(step)), self.put(f"{name}_z", np.int8(0))]
        return self.add(
            "DequantizeLinear", [self.add("QuantizeLinear", [name, *grid], f"{name}_q"), *grid], f"{name}_d"
        )

    def make_bias(self, name: str, bias: str, rows: int, step: float) -> list[str]:
        values = (0.3 * RNG.standard_normal(rows)).astype(np.float32)
        if bias == "float":
            return [self.put(f"{name}_b", values)]
        if not bias:
            return []
        scale = np.asarray(step * self.numbers[f"{name}_s"], np.float32)
        parts = {"b": np.rint(values / scale).astype(np.int32), "bs": scale, "bz": np.zeros(scale.shape, np.int32)}
        return [
            self.add("DequantizeLinear", [self.put(f"{name}_{n}", a) for n, a in parts.items()], f"{name}_bd", axis=0)
        ]

    def contract(self, form: str, name: str, w: np.ndarray, x: str, bias: str, step: float, out: str) -> str:
        op = form.split()[0]
        shaped = {"Conv": w[..., None, None], "MatMul": w.T}.get(form, w)
        weight = self.quantize_weight(name, shaped, 1 if form == "MatMul" else 0)
        if form == "MatMul behind Transpose":
            weight = self.add("Transpose", [weight], f"{name}_t", perm=[1, 0])
        added = self.make_bias(name, bias, len(w), step) if op != "MatMul" else []
        attributes = {"Conv": {"kernel_shape": [1, 1]}, "Gemm": {"transB": 1}}.get(form, {})
        return self.add(op, [x, weight, *added], out, **attributes)


def make_quantized(form: str, bias: str = "int32", **how: Any) -> onnx.ModelProto:
    """Two wide layers whose weights and activations are quantised; units say what others say."""
    made = Quantiser(**how)
    first = RNG.standard_normal((24, 5)) @ RNG.standard_normal((5, 8)) * 0.2
    h = made.contract(form, "w1", first, made.round_activation("x", 0.03), bias, 0.03, "h")
    r = made.round_activation(made.add("Relu", [h], "r"), 0.08)
    made.contract(form, "w2", RNG.standard_normal((6, 24)) * 0.2, r, bias, 0.08, "y")
    info, tail = onnx.helper.make_tensor_value_info, [1, 1] if form == "Conv" else []
    graph = onnx.helper.make_graph(
        made.nodes, "g", [info("x", onnx.TensorProto.FLOAT, ["N", 8, *tail])],
        [info("y", onnx.TensorProto.FLOAT, ["N", 6, *tail])],
        [onnx.numpy_helper.from_array(a, n) for n, a in made.numbers.items()],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def compile_on(model: onnx.ModelProto, x: np.ndarray, folder: Path, **options: object) -> tuple[Path, dict]:
    onnx.save(model, folder / "m.onnx")
    out = folder / "o.onnx"
    found = spa_compiler.compile(folder / "m.onnx", 0.3, out, calib=x, **QUICK, **options)
    return out, found.report


def measure_error(path: Path, x: np.ndarray, right: np.ndarray) -> float:
    y = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    return float(np.square(y - right).sum() / np.square(right - right.mean(0)).sum())


KINDS = {
    "per channel": {}, "per tensor": {"per_channel": False}, "fake": {"fake": True}, "no bias": {"bias": ""},
    "bias of floats": {"bias": "float"}, "unsigned": {"kind": np.uint8, "zero": 128},
    "asymmetric": {"kind": np.uint8, "zero": 110, "per_channel": False},
    "fake per tensor": {"fake": True, "per_channel": False},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["Conv", "Gemm", "MatMul", "MatMul behind Transpose"])
def test_quantised_weights_are_solved_and_stay_quantised(form: str, kind: str, tmp_path: Path) -> None:
    """The error is a fraction of that without compensation; what was stored as integers is, on the old activations."""
    model = make_quantized(form, **KINDS[kind])
    x = np.random.default_rng(1).standard_normal((256, 8, *([1, 1] if form == "Conv" else []))).astype(np.float32)
    right = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    out, report = compile_on(model, x, tmp_path)
    assert report["status"] == "VERIFIED" and report["compensation"]["left"] == {}
    check_storage(onnx.load(out), model, form, KINDS[kind].get("bias", "int32"))
    solved = measure_error(out, x, right)
    plain, _ = compile_on(model, x, tmp_path, compensate=False)
    assert solved < 0.5 * measure_error(plain, x, right)


def check_storage(small: onnx.ModelProto, model: onnx.ModelProto, form: str, bias: str) -> None:
    """Weights, and biases that are, are quantised; the steps of activations are those of the dense model."""
    kinds = {t.name: t.data_type for t in small.graph.initializer}
    before, after = ({t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, small))
    assert all((before[n] == after[n]).all() for n in ("x_s", "r_s", "x_z", "r_z"))
    makers = {n.output[0]: n for n in small.graph.node}
    contractions = [n for n in small.graph.node if n.op_type == form.split()[0]]
    assert len(contractions) == 2
    for n in contractions:
        weight = makers[n.input[1]]
        weight = makers[weight.input[0]] if weight.op_type == "Transpose" else weight
        assert weight.op_type == "DequantizeLinear"
        assert weight.input[0] in kinds or makers[weight.input[0]].op_type == "QuantizeLinear"
        if form in ("Conv", "Gemm") and bias != "float":
            assert kinds[makers[n.input[2]].input[0]] == onnx.TensorProto.INT32
