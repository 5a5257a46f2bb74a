"""Bad files are refused with a message that names the file and the node, value or initializer; odd ones are read."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import spa_compiler
from laws import analyze_proto, compare, list_groups, random_masks
from spa_compiler.analysis.dependency_graph import analyze
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.errors import ModelError
from spa_compiler.ir.external_data import make_data_name
from spa_compiler.ir.reader import load
from spa_compiler.ir.writer import write
from spa_compiler.rewriting.prune import rewrite
from zoo import CASES, Case, build


def saved(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def external(model: onnx.ModelProto, location: str, length: int = 0, offset: int = 0) -> onnx.ModelProto:
    """The same model whose first initializer claims to lie in another file."""
    tensor = model.graph.initializer[0]
    size = length or len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": str(offset), "length": str(size)}.items():
        tensor.external_data.add(key=key, value=value)
    return model


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        model, _ = normalize(load(path))
        analyze(model)
    for word in (path.name, *words):
        assert word in str(caught.value), str(caught.value)


def test_truncated(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(build(CASES["residual"]).SerializeToString()[:-100])
    refused(path)


@pytest.mark.parametrize("text", ["", "hello, I am no model\n", "<html></html>"])
def test_text_named_onnx(tmp_path: Path, text: str) -> None:
    path = tmp_path / "text.onnx"
    path.write_text(text)
    refused(path, "not an ONNX")


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "no such file")
    refused(tmp_path, "not a file")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", "..\\weights.bin"])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4096)
    inner = tmp_path / "inner"
    inner.mkdir()
    model = external(build(CASES["residual"]), location)
    refused(saved(model, inner), model.graph.initializer[0].name, location)


def test_external_data_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4096)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "link.bin").symlink_to(tmp_path / "weights.bin")
    refused(saved(external(build(CASES["residual"]), "link.bin"), inner), "link")


@pytest.mark.parametrize(("length", "offset"), [(12, 0), (0, 4000), (1 << 40, 0)])
def test_external_data_of_the_wrong_length(tmp_path: Path, length: int, offset: int) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4096)
    model = external(build(CASES["residual"]), "weights.bin", length, offset)
    refused(saved(model, tmp_path), model.graph.initializer[0].name, "bytes")


def test_external_data_that_is_missing(tmp_path: Path) -> None:
    refused(saved(external(build(CASES["residual"]), "gone.bin"), tmp_path), "gone.bin", "missing")


def test_external_data_is_read_and_written(tmp_path: Path) -> None:
    model = build(CASES["residual"])
    onnx.save_model(model, tmp_path / "ext.onnx", save_as_external_data=True, location="ext.data", size_threshold=0)
    graph = analyze(normalize(load(tmp_path / "ext.onnx"))[0])
    small = rewrite(graph, random_masks(graph, np.random.default_rng(0)))
    target = tmp_path / "out"
    target.mkdir()
    write(small.proto(), small.folder, target / "small.onnx")
    model_file, data = sorted(target.iterdir(), key=lambda p: len(p.name))
    assert re.fullmatch(r"small\.onnx\.[0-9a-f]{16}\.data", data.name)
    assert data.name == make_data_name(model_file.name, hashlib.sha256(data.read_bytes()).hexdigest())
    assert normalize(load(target / "small.onnx"))


def test_cyclic_graph(tmp_path: Path) -> None:
    model = build(CASES["residual"])
    model.graph.node[0].input[0] = model.graph.node[-2].output[0]
    refused(saved(model, tmp_path))


@pytest.mark.parametrize("place", ["", "here.bin"])
def test_nodes_in_any_order(tmp_path: Path, place: str) -> None:
    """As onnxruntime's converter to half precision leaves them."""
    model = build(CASES["residual"])
    wanted = [n.output[0] for n in model.graph.node]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[1:], nodes[0]])
    if place:
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location=place, size_threshold=0)
    found = load(tmp_path / "m.onnx" if place else saved(model, tmp_path))
    assert [n.outputs[0].name for n in found.graph.nodes] == wanted
    assert any("put in order" in note for note in found.notes)
    assert not load(saved(build(CASES["residual"]), tmp_path)).notes


def test_duplicate_names(tmp_path: Path) -> None:
    model = build(CASES["residual"])
    model.graph.node[1].output[0] = model.graph.node[0].output[0]
    refused(saved(model, tmp_path), model.graph.node[0].output[0])


@pytest.mark.parametrize("place", ["", "here.bin"])
def test_a_value_that_two_nodes_make_where_nodes_stand_in_any_order(tmp_path: Path, place: str) -> None:
    model = build(CASES["residual"])
    model.graph.node.add().CopyFrom(model.graph.node[0])
    if place:
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location=place, size_threshold=0)
    refused(
        tmp_path / "m.onnx" if place else saved(model, tmp_path),
        f"two nodes make a value called '{model.graph.node[0].output[0]}'",
    )


def test_a_value_that_no_node_makes_where_nodes_stand_in_any_order(tmp_path: Path) -> None:
    model = build(CASES["residual"])
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    nodes[-1].input[0] = "nowhere"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[1:], nodes[0]])
    refused(saved(model, tmp_path), "nowhere")


def test_missing_initializer(tmp_path: Path) -> None:
    model = build(CASES["residual"])
    name = model.graph.initializer[0].name
    del model.graph.initializer[0]
    refused(saved(model, tmp_path), name)


def test_an_initializer_of_the_wrong_size(tmp_path: Path) -> None:
    model = build(CASES["residual"])
    model.graph.initializer[0].dims[0] += 1
    refused(saved(model, tmp_path), model.graph.initializer[0].name)


def test_shapes_that_do_not_fit_are_frozen_with_the_node() -> None:
    model = build(CASES["residual"])
    weight = next(t for t in model.graph.initializer if t.name == "w2")
    weight.CopyFrom(numpy_helper.from_array(np.zeros((8, 7, 1, 1), np.float32), "w2"))
    said = analyze_proto(model).find_reasons(("w2", 1))
    assert any("cannot be the same" in r.text and "Conv" in r.where for r in said)


def test_operators_of_onnxruntime_without_their_opset(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> m (float[2,4] x) => (float[2,3] y)
        <float[4,6] w1, float[6,3] w2> {
        a = MatMul(x, w1)  b = com.microsoft.QuickGelu(a)  y = MatMul(b, w2) }"""
    model = onnx.parser.parse_model(text)
    shapes = {"w1": (4, 6), "w2": (6, 3)}
    model.graph.initializer.extend(numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in shapes.items())
    loaded = load(saved(model, tmp_path))
    assert any("com.microsoft" in note for note in loaded.notes)
    assert [g.size for g in analyze(normalize(loaded)[0]).groups] == [6]


def test_empty_graph(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    model = helper.make_model(helper.make_graph([], "empty", [x], [x]), opset_imports=[helper.make_opsetid("", 18)])
    graph = analyze(normalize(load(saved(model, tmp_path)))[0])
    assert graph.groups == []


def test_a_graph_without_weights_has_no_groups() -> None:
    assert analyze_proto(build(CASES["no_weights"])).groups == []


def sparse(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """The model with every second entry of these initializers, held sparse."""
    for dense in [t for t in model.graph.initializer if t.name in names]:
        values, shape = numpy_helper.to_array(dense), list(dense.dims)
        model.graph.initializer.remove(dense)
        where = np.arange(0, values.size, 2)
        picked = numpy_helper.from_array(values.ravel()[where], dense.name)
        places = numpy_helper.from_array(where.astype(np.int64), f"{dense.name}.at")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(picked, places, shape))
    return model


def test_sparse_initializers_that_nothing_changes_stay_sparse(tmp_path: Path) -> None:
    text = """(float[2,4] x) => (float[2,3] y) {
        a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Relu(c)  y = MatMul(d, w3) }"""
    model = build(Case(text, {"w1": (4, 6), "w2": (6, 5), "w3": (5, 3)}, None))
    path = saved(sparse(model, "w2", "w3"), tmp_path)
    report = spa_compiler.compile(
        path, 0.3, tmp_path / "out.onnx", include=("w1",), criterion="l2", latency=False, quality=False
    ).report
    small, before = onnx.load(tmp_path / "out.onnx"), onnx.load(path)
    assert [t.name for t in small.graph.initializer] == ["w1", "w2"]
    assert list(small.graph.sparse_initializer) == [before.graph.sparse_initializer[1]]
    assert [n for n in report["notes"] if "'w2' is written dense" in n]
    assert not [n for n in report["notes"] if "'w3'" in n]
    same = spa_compiler.compile(path, 0, tmp_path / "same.onnx", latency=False, quality=False).report
    assert not [n for n in same["notes"] if "sparse" in n]
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()


def test_sparse_initializers() -> None:
    graph = analyze_proto(sparse(build(CASES["residual"]), "w3"))
    assert [g.size for g in list_groups(graph).values()] == [8]
    assert compare(graph, random_masks(graph, np.random.default_rng(0)))[0] < 1e-4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers(bad: float) -> None:
    model = build(CASES["residual"])
    tensor = next(t for t in model.graph.initializer if t.name == "w2")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] = bad
    tensor.CopyFrom(numpy_helper.from_array(values, "w2"))
    graph = analyze_proto(model)
    assert [g.size for g in list_groups(graph).values()] == [8]
    assert rewrite(graph, random_masks(graph, np.random.default_rng(0))).proto().graph.node


def test_initializers_that_are_inputs_stay_inputs() -> None:
    model = build(CASES["initializers_as_inputs"])
    model.ir_version = 3
    graph = analyze_proto(model)
    small = rewrite(graph, random_masks(graph, np.random.default_rng(0), share=1)).proto()
    inputs = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in small.graph.input}
    assert set(inputs) == {"x", "w1", "w2"}
    assert inputs["w1"][0] == inputs["w2"][1] < 6


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 18, "local" : 1]>
        m (float[2,4] x) => (float[2,3] y) { a = MatMul(x, w1)  b = local.Double(a)  y = MatMul(b, w2) }
        <domain: "local", opset_import: ["" : 18]> Double (u) => (v) { v = Add(u, u) }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (4, 6), "w2": (6, 3)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    loaded = load(saved(model, tmp_path))
    assert any("function" in note for note in loaded.notes)
    graph = analyze(normalize(loaded)[0])
    assert {k: g.size for k, g in list_groups(graph).items()} == {"w1:1 w2:0": 6}


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_other_floats(kind: int) -> None:
    text = """<ir_version: 10, opset_import: ["" : 22]> m (float[2,4] x) => (float[2,3] y) {
        c = Cast<to=%d>(x)  a = MatMul(c, w1)  b = Cast<to=1>(a)  d = Cast<to=1>(w2)  y = MatMul(b, d) }"""
    model = onnx.parser.parse_model(text % kind)
    rng = np.random.default_rng(0)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for name, shape in {"w1": (4, 6), "w2": (6, 3)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(dtype), name))
    graph = analyze_proto(model)
    assert {k: g.size for k, g in list_groups(graph).items()} == {"w1:1 w2:0": 6}
    small = rewrite(graph, random_masks(graph, np.random.default_rng(0))).proto()
    assert [t.data_type for t in small.graph.initializer] == [kind, kind]
    if kind != TensorProto.BFLOAT16:  # onnxruntime has no bfloat16 MatMul on this processor
        assert compare(graph, random_masks(graph, np.random.default_rng(0)))[0] < 1e-3


@pytest.mark.parametrize("opset", range(7, onnx.defs.onnx_opset_version() + 1))
def test_every_opset_is_kept(opset: int) -> None:
    text = """<ir_version: 10, opset_import: ["" : %d]> m (float[1,3,4,4] x) => (float[1,5] y) {
        a = Conv(x, w1)  b = Relu(a)  c = Flatten(b)  y = Gemm<transB=1>(c, w2, b2) }"""
    model = onnx.parser.parse_model(text % opset)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (6, 3, 1, 1), "w2": (5, 96), "b2": (5,)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    graph = analyze_proto(model)
    assert {k: g.size for k, g in list_groups(graph).items()} == {"w1:0 w2:1": 6}
    assert rewrite(graph, {}).proto().opset_import[0].version == opset


def test_the_domain_of_our_own_markers_is_refused(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Body", ["x"], ["y"], domain="spa_compiler.body")
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in "xy"]
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("spa_compiler.body", 1)]
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="files cannot have"):
        load(tmp_path / "m.onnx")
