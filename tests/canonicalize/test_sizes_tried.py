"""Sizes of symbolic axes are found by trying: longer ones, multiples of what the graph cuts axes into, first axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.errors import ModelError
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import from_proto

SHAPES = {"window": (6, 1, 64), "flat": (558, 4)}


def make_model(text: str, **numbers: list[int]) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> net {text}')
    read = {name for node in proto.graph.node for name in node.input}
    for name, shape in SHAPES.items():
        if name in read:
            proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    for name, values in numbers.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return from_proto(proto, Path("net.onnx"))


def find_sizes(model: Model) -> dict[str, tuple[int, int]]:
    shapes = normalize(model)[0].shapes
    assert shapes is not None
    return shapes.sizes


def test_a_reflected_border_needs_more_than_its_width() -> None:
    text = """(float[N,1,T] x) => (float[N,6,M] y) {
        p = Pad <mode = "reflect"> (x, pads)  y = Conv <strides = [16]> (p, window) }"""
    sizes = find_sizes(make_model(text, pads=[0, 0, 160, 0, 0, 160]))
    assert min(sizes["T"]) > 160
    assert sizes["N"] == (2, 3)


@pytest.mark.parametrize("window", [24, 37, 480, 1000])
def test_an_axis_that_is_cut_into_windows_is_a_multiple_of_them(window: int) -> None:
    text = "(float[N,T] x) => (float[N,M,W] y) { r = Reshape(x, shape)  y = Relu(r) }"
    sizes = find_sizes(make_model(text, shape=[0, -1, window]))
    assert [t % window for t in sizes["T"]] == [0, 0]
    assert sizes["T"][0] != sizes["T"][1]


def test_an_axis_that_is_cut_twice_is_a_multiple_of_both() -> None:
    text = """(float[N,T] x) => (float[N,A,21] y, float[N,B,22] z) {
        r = Reshape(x, first)  s = Reshape(x, second)  y = Relu(r)  z = Relu(s) }"""
    sizes = find_sizes(make_model(text, first=[0, -1, 21], second=[0, -1, 22]))
    assert [t % 462 for t in sizes["T"]] == [0, 0]


def test_a_waveform_may_have_no_axis_but_the_first() -> None:
    text = "(float[T] x) => (float[1,6,M] y) { u = Unsqueeze(x, axes)  y = Conv <strides = [16]> (u, window) }"
    assert min(find_sizes(make_model(text, axes=[0, 1]))["T"]) >= 64


def test_a_refusal_says_what_was_tried() -> None:
    text = """(float[N,1,T] x) => (float[N,4] y) {
        a = Conv <strides = [16]> (x, window)  f = Flatten(a)  y = MatMul(f, flat) }"""
    with pytest.raises(ModelError, match=r"tried: N=2, T=5; .*N=2, T=512.*refused because: .*--input-shape"):
        normalize(make_model(text))


@pytest.mark.parametrize("length", [9, 37])
def test_the_length_of_an_example_that_a_graph_holds_is_found(length: int) -> None:
    """Exporters write it into one entry of a shape whose others are computed."""
    text = """(float[N,T,8] x) => (float[T,M,4] y) {
        n = Shape <start = 0, end = 1> (x)  m = Mul(n, two)  l = Identity(length)  s = Concat <axis = 0> (l, m, four)
        t = Transpose <perm = [1, 0, 2]> (x)  r = Reshape(t, s)  y = Relu(r) }"""
    sizes = find_sizes(make_model(text, two=[2], four=[4], length=[length]))
    assert sizes == {"N": (2, 3), "T": (length, length)}
