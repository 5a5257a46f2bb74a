"""Sizes under two bindings: what is folded, what is dynamic, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from laws import analyze_proto
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.errors import ModelError
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import from_proto
from spa_compiler.ir.symbols import list_bindings, list_symbols
from spa_compiler.shape_inference.evaluator import evaluate
from zoo import CASES, build


def parsed(text: str, **inits: tuple[int, ...]) -> Model:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> m {text}')
    rng = np.random.default_rng(0)
    for name, shape in inits.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return from_proto(model, Path("m.onnx"))


def test_symbols_are_named_once_and_unnamed_axes_by_their_place() -> None:
    model = parsed("(float[N,3,H,W] x, float[N,?] z) => (float[N,3,H,W] y) { y = Relu(x) }")
    assert [s.name for s in list_symbols(model)] == ["N", "H", "W", "z.1"]


def test_axes_that_follow_a_symbol_are_dynamic() -> None:
    model, _ = normalize(parsed("(float[N,5,4] x) => (float[N,5,6] y) { y = MatMul(x, w) }", w=(4, 6)))
    assert model.shapes is not None
    assert model.shapes.dynamic["y"] == (True, False, False)
    first, second = model.shapes.sizes["N"]
    assert first != second and model.shapes.shape["y"] == (first, 5, 6)


def test_shape_arithmetic_is_folded_and_weights_are_not() -> None:
    graph = analyze_proto(build(CASES["shape_arithmetic"]))
    assert not any(n.op in ("Shape", "Gather", "Concat") for n in graph.model.graph.nodes)
    ops = [n.op for n in analyze_proto(build(CASES["weight_standardized"])).model.graph.nodes]
    assert ops == ["Mul", "Conv", "Conv"]


def test_statistics_of_weights_are_folded() -> None:
    model, changes = normalize(parsed(
        "(float[1,3,4,4] x) => (float[1,4,4,4] y) { m = ReduceMean<keepdims=1>(v)  w = Sub(v, m)  a = Conv(x, w)"
        "  y = Conv(a, u) }", v=(5, 3, 1, 1), u=(4, 5, 1, 1)))  # fmt: skip
    assert changes["statistics"] == 1
    assert [n.op for n in model.graph.nodes] == ["Sub", "Conv", "Conv"]


def test_given_sizes_are_used_and_unknown_symbols_refused() -> None:
    text = "(float[N,4] x) => (float[N,6] y) { y = MatMul(x, w) }"
    model, _ = normalize(parsed(text, w=(4, 6)), {"N": 10})
    assert model.shapes is not None and model.shapes.sizes["N"][0] == 10
    with pytest.raises(ModelError, match="nobody"):
        normalize(parsed(text, w=(4, 6)), {"nobody": 3})


def test_a_batch_of_one_is_found() -> None:  # exporters write it into a Reshape under a symbolic input
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]> m (float[N,3,2] x) => (float[1,6] y) { y = Reshape(x, r) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 6], np.int64), "r"))
    found, _ = normalize(from_proto(model, Path("m.onnx")))
    assert found.shapes is not None and found.shapes.sizes["N"] == (1, 1)


@pytest.mark.parametrize(("operator", "sizes"), [("MatMul(t, f)", (32, 48)), ("Add(f, f)", (96, 128))])
def test_images_are_small_where_every_place_looks_at_every_other(operator: str, sizes: tuple[int, int]) -> None:
    body = "s = Shape <end = 2> (x)  r = Concat <axis = 0> (s, m)  f = Reshape(x, r)"
    body += f"  t = Transpose <perm = [0,2,1]> (f)  y = {operator}"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> m (float[N,3,H,W] x) => (float[a,b,c] y) {{ {body} }}'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "m"))
    found, _ = normalize(from_proto(model, Path("m.onnx")))
    assert found.shapes is not None and found.shapes.sizes["H"] == sizes


def test_no_sizes_fit() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]> m (float[N,3] x) => (float[7,3] y) { y = Reshape(x, r) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([7, 3], np.int64), "r"))
    with pytest.raises(ModelError, match="--input-shape"):
        normalize(from_proto(model, Path("m.onnx")))


@pytest.mark.parametrize("name", CASES)
def test_facts_that_build_on_others_are_what_they_are_alone(name: str) -> None:
    model = from_proto(build(CASES[name]), Path("m.onnx"))
    first, second = list_bindings(list_symbols(model), {})[0]
    base, alone = evaluate(model, first), evaluate(model, second)
    for built in (evaluate(model, second, base), evaluate(model.copy(), second, alone)):
        assert built.types == alone.types and built.why == alone.why
        assert built.errors == alone.errors and built.warnings == alone.warnings
        assert built.values.keys() == alone.values.keys()
        assert all(np.array_equal(a, alone.values[n], equal_nan=a.dtype.kind == "f") for n, a in built.values.items())


def test_what_reads_the_same_is_evaluated_once() -> None:
    body = "s = Shape(w)  k = Add(s, s)  n = Shape(x)  m = Add(n, n)  y = Relu(x)"
    model = parsed(f"(float[N,4,6] x) => (float[N,4,6] y) {{ {body} }}", w=(4, 6))
    first, second = list_bindings(list_symbols(model), {})[0]
    base = evaluate(model, first)
    built = evaluate(model, second, base)
    assert built.values["k"] is base.values["k"] and built.types["k"] is base.types["k"]
    assert list(built.values["m"]) == [2 * second["N"], 8, 12]


def test_large_tables_are_gathered_as_the_definition_says() -> None:
    rng = np.random.default_rng(0)
    table, places = rng.integers(0, 9, (70, 80)), rng.integers(0, 70, (10, 50, 1))
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (int64[N,50,80] x) => (int64[N,50,80] y)'
        " { g = GatherND(t, i)  s = ReduceSum<keepdims=0>(g, a)  y = Add(x, s) }"
    )
    for name, values in (("t", table), ("i", places), ("a", np.array([0]))):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    done, changes = normalize(from_proto(model, Path("m.onnx")))
    assert changes["folded"] == 2
    assert np.array_equal(done.array(done.constants()["s"]), table[places[..., 0]].sum(0))
