"""A model file goes in and out without losing what onnx-graphsurgeon does not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from laws import analyze_proto, outputs
from spa_compiler.canonicalize.constant_sharing import retie_constants
from spa_compiler.execution.inputs import draw_random_inputs
from spa_compiler.ir.model import find_element_type, make_constant
from spa_compiler.ir.reader import from_proto, load
from zoo import CASES, Case, build

RUNNING = sorted(n for n, c in CASES.items() if c.runs)


def test_everything_of_the_file_that_is_no_graph_stays() -> None:
    model = build(CASES["conv"])
    model.producer_name, model.domain, model.model_version, model.doc_string = "maker", "here", 7, "notes"
    model.metadata_props.add(key="k", value="v")
    model.graph.node[0].metadata_props.add(key="scope", value="net.conv1")
    model.graph.node[0].doc_string = "the first"
    before = onnx.ModelProto()
    before.CopyFrom(model)
    after = from_proto(model, Path("m.onnx")).proto()
    fields = "producer_name domain model_version doc_string metadata_props opset_import ir_version"
    for field in fields.split():
        assert getattr(after, field) == getattr(before, field), field
    assert after.graph.node == before.graph.node
    assert after.graph.input == before.graph.input and after.graph.output == before.graph.output


@pytest.mark.parametrize("name", RUNNING)
def test_normalising_does_not_change_what_a_model_computes(name: str) -> None:
    proto = build(CASES[name])
    dense = from_proto(build(CASES[name]), Path("m.onnx"))
    graph = analyze_proto(proto)
    assert graph.model.shapes is not None
    feed = draw_random_inputs(
        graph.model, {n: s[1] for n, s in graph.model.shapes.sizes.items()}, np.random.default_rng(3)
    )
    for a, b in zip(outputs(dense, feed), outputs(graph.model, feed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_copies_that_hold_the_same_are_one_again_in_the_file() -> None:
    text = """(float[2,4] x) => (float[2,4] y) { a = MatMul(x, w1)  b = Mul(a, k)  c = Mul(b, v)  d = Relu(c)
        e = Mul(d, k)  f = Mul(e, v)  y = MatMul(f, w2) }"""
    model = analyze_proto(build(Case(text, {"w1": (4, 6), "k": 2.0, "v": (6,), "w2": (6, 4)}, None))).model.copy()
    assert {"k", "k.use1", "v", "v.use1"} < set(model.constants())
    changed = model.constants()["v.use1"]
    changed._values = make_constant("v.use1", 2 * model.array(changed))._values
    feed = {"x": np.ones((2, 4), np.float32)}
    before = outputs(model, feed)
    assert retie_constants(model) == 1
    np.testing.assert_array_equal(before[0], outputs(model, feed)[0])
    assert sorted(t.name for t in model.proto().graph.initializer) == ["k", "v", "v.use1", "w1", "w2"]


@pytest.mark.parametrize("kind", [1, 10, 11, 16, 2, 3, 6, 7, 9, 17, 21, 22])
def test_constants_keep_every_element_type(kind: int) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    tensor = make_constant("c", np.arange(4).astype(dtype))
    assert find_element_type(tensor) == kind


def test_a_file_of_the_repository_survives(models: Path) -> None:
    path = models / "digits_resnet.onnx"
    model = load(path)
    assert model.notes == []
    written = model.proto()
    onnx.checker.check_model(written)
    original = onnx.load(path)
    assert [i.name for i in written.graph.input] == [i.name for i in original.graph.input]
    assert {n.name for n in written.graph.node if n.op_type == "Conv"} == {
        n.name for n in original.graph.node if n.op_type == "Conv"
    }
