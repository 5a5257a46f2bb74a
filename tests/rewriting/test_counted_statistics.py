"""Channels that are zero under a norm of mean squares go exactly: row 12 of the published methods (PAT)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

import spa_compiler

NORMS = {
    "op": "{o} = SimplifiedLayerNormalization<axis=-1, epsilon=0.01>({x}, {g})",
    "power": """{o}q = Pow({x}, two)  {o}m = ReduceMean<axes=[-1]>({o}q)  {o}e = Add({o}m, eps)  {o}r = Sqrt({o}e)
        {o}n = Div({x}, {o}r)  {o} = Mul({o}n, {g})""",
    "reciprocal": """{o}q = Mul({x}, {x})  {o}m = ReduceMean<axes=[-1]>({o}q)  {o}e = Add({o}m, eps)  {o}r = Sqrt({o}e)
        {o}i = Reciprocal({o}r)  {o}n = Mul({x}, {o}i)  {o} = Mul({g}, {o}n)""",
    "centred": "{o} = LayerNormalization<axis=-1, epsilon=0.01>({x}, {g})",
    "centred by hand": """{o}c = ReduceMean<axes=[-1]>({x})  {o}d = Sub({x}, {o}c)  {o}q = Mul({o}d, {o}d)
        {o}m = ReduceMean<axes=[-1]>({o}q)  {o}e = Add({o}m, eps)  {o}r = Sqrt({o}e)  {o}n = Div({o}d, {o}r)
        {o} = Mul({o}n, {g})""",
}  # fmt: skip


def make_network(norm: str, zeros: list[int], width: int, seed: int) -> onnx.ModelProto:
    """Two residual blocks on a stream in which training left the same channels zero in all that writes it."""
    rng = np.random.default_rng(seed)
    w: dict[str, Any] = {
        "emb": rng.standard_normal((20, width)),
        "wh": rng.standard_normal((width, 9)),
        "eps": 0.01,
        "two": 2.0,
    }
    w |= {f"g{k}": rng.uniform(0.5, 2, width) for k in range(3)}
    w |= {f"{n}{k}": rng.standard_normal(s) for k in range(2) for n, s in (("a", (width, 24)), ("b", (24, width)))}
    w["emb"][:, zeros] = w["b0"][:, zeros] = w["b1"][:, zeros] = 0
    lines, x = ["s0 = Gather(emb, ids)"], "s0"
    for k in range(2):
        lines.append(NORMS[norm].format(x=x, g=f"g{k}", o=f"n{k}"))
        lines.append(
            f"h{k} = MatMul(n{k}, a{k})  r{k} = Relu(h{k})  o{k} = MatMul(r{k}, b{k})  s{k + 1} = Add({x}, o{k})"
        )
        x = f"s{k + 1}"
    lines.append(NORMS[norm].format(x=x, g="g2", o="n2"))
    text = f"g (int64[n,5] ids) => (float[n,5,9] y) {{ {' '.join(lines)}  y = MatMul(n2, wh) }}"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    used = {i for n in model.graph.node for i in n.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in w.items() if n in used
    )
    return model


def run(model: onnx.ModelProto, ids: Any) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"ids": ids})[0]


def compile_exactly(model: onnx.ModelProto) -> Any:
    """At ratio 0; checked against the model at once, at another size too."""
    found = spa_compiler.compile(model, 0.0, latency=False, quality=False)
    for rows in (1, 7):
        ids = np.random.default_rng(rows).integers(0, 20, (rows, 5))
        dense = run(model, ids)
        assert np.abs(run(found.model, ids) - dense).max() <= 2e-5 * np.abs(dense).max()
    return found


def width_of(model: onnx.ModelProto) -> int:
    return int(next(t for t in model.graph.initializer if t.name == "emb").dims[1])


@pytest.mark.parametrize("norm", ["op", "power", "reciprocal"])
def test_a_stream_loses_its_zero_channels_under_norms_of_mean_squares(norm: str) -> None:
    found = compile_exactly(make_network(norm, [1, 5, 6, 11], 16, 0))
    assert width_of(found.model) == 12
    assert found.report["analysis"]["erased_channels"] == 4
    assert any("zero channels under norms went" in n for n in found.report["notes"])


@given(st.sampled_from(["op", "power", "reciprocal"]), st.integers(4, 20), st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_whatever_the_number_of_zero_channels(norm: str, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    zeros = sorted(rng.choice(width, rng.integers(0, width - 1), replace=False).tolist())
    found = compile_exactly(make_network(norm, zeros, width, seed))
    assert width_of(found.model) == width - len(zeros)


@pytest.mark.parametrize("norm", ["centred", "centred by hand"])
def test_where_the_mean_is_subtracted_zeros_are_not_free(norm: str) -> None:
    model = make_network(norm, [1, 5, 6, 11], 16, 0)
    assert width_of(compile_exactly(model).model) == 16


def test_excluded_streams_keep_their_zeros() -> None:
    model = make_network("op", [1, 5], 16, 0)
    found = spa_compiler.compile(model, 0.0, exclude=("*stream*",), latency=False, quality=False)
    assert width_of(found.model) == 16


def test_the_same_with_a_budget_and_magnitude() -> None:
    model = make_network("op", [1, 5, 6, 11], 16, 0)
    found = spa_compiler.compile(model, 0.3, criterion="l2", latency=False, quality=False)
    assert width_of(found.model) <= 12
    assert found.report["status"] == "VERIFIED"
    assert found.report["reached"]["macs"] >= 0.3
