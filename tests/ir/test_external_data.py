"""Tensors of every kind, wherever a file holds them: read from the model's folder or not at all, sizes first."""

from __future__ import annotations

import ast
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from commands import QUICK, run
from spa_compiler.errors import ModelError
from spa_compiler.execution.session import LARGE_WEIGHT, open_quiet_session, open_session
from spa_compiler.ir.external_data import check_tensors, densify, find_locations, read_tensor
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import load
from spa_compiler.ir.tensors import describe_tensor, iterate_sparse_tensors, iterate_tensors
from spa_compiler.ir.writer import write
from zoo import Case, build

ROOT = Path(__file__).resolve().parents[2]
TRUE, DECOY = (np.arange(1, 33, dtype=np.float32) + shift for shift in (0, 5000))
"""The data beside the model, and other data under the same name in the working folder."""
ALL = np.arange(32, dtype=np.int64)


def outside(array: np.ndarray, name: str, location: str = "w.bin") -> TensorProto:
    """A tensor whose numbers are said to lie in another file."""
    tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(array.nbytes)}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def base() -> onnx.ModelProto:
    """Y = x @ w2 + b, with the opset of functions and operators of our own."""
    text = """<ir_version: 10, opset_import: ["" : 18, "local" : 1]>
        m (float[2,4] x, bool p) => (float[2,8] y) { a = MatMul(x, w2)  y = Add(a, b) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 8), np.float32), "w2"))
    return model


def initializer(model: onnx.ModelProto, t: TensorProto) -> None:
    t.name = "w2"
    del model.graph.initializer[:]
    model.graph.initializer.append(t)


def sparse_values(model: onnx.ModelProto, t: TensorProto) -> None:
    del model.graph.initializer[:]
    t.name, t.dims[:] = "w2", [32]
    places = numpy_helper.from_array(ALL, "w2.at")
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=t, indices=places, dims=[4, 8]))


def node(model: onnx.ModelProto, *made: onnx.NodeProto) -> None:
    """Put nodes that give `c`, of shape [4, 8], in front, and let it be what is multiplied with."""
    nodes = [*made, *(onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node)]
    nodes[len(made)].input[1] = "c"
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)


def constant(model: onnx.ModelProto, t: TensorProto) -> None:
    node(model, helper.make_node("Constant", [], ["c"], value=t))


def body_of(*inner: onnx.NodeProto, weights: tuple[TensorProto, ...] = (), gives: str = "k") -> onnx.GraphProto:
    out = helper.make_tensor_value_info(gives, TensorProto.FLOAT, [4, 8])
    return helper.make_graph(inner, "body", [], [out], weights)


def choice(body: onnx.GraphProto) -> onnx.NodeProto:
    ones = numpy_helper.from_array(np.ones((4, 8), np.float32))
    other = body_of(helper.make_node("Constant", [], ["e"], value=ones), gives="e")
    return helper.make_node("If", ["p"], ["c"], then_branch=body, else_branch=other)


def constant_in_a_body(model: onnx.ModelProto, t: TensorProto) -> None:
    node(model, choice(body_of(helper.make_node("Constant", [], ["k"], value=t))))


def initializer_of_a_body(model: onnx.ModelProto, t: TensorProto) -> None:
    t.name = "held"
    node(model, choice(body_of(helper.make_node("Identity", ["held"], ["k"]), weights=(t,))))


def initializer_of_a_body_that_stays_closed(model: onnx.ModelProto, t: TensorProto) -> None:
    t.name = "held"
    body = body_of(helper.make_node("Add", ["i", "held"], ["k"]), weights=(t,))
    body.input.append(helper.make_tensor_value_info("i", TensorProto.FLOAT, [4, 8]))
    zeros, first = numpy_helper.from_array(np.zeros((4, 8), np.float32)), numpy_helper.from_array(np.array(0))
    node(
        model,
        helper.make_node("Constant", [], ["zeros"], value=zeros), helper.make_node("Constant", [], ["at"], value=first),
        helper.make_node("SequenceConstruct", ["zeros"], ["s"]),
        helper.make_node("SequenceMap", ["s"], ["r"], body=body), helper.make_node("SequenceAt", ["r", "at"], ["c"]),
    )  # fmt: skip


def constant_in_a_function(model: onnx.ModelProto, t: TensorProto) -> None:
    inner = [helper.make_node("Constant", [], ["k"], value=t)]
    model.functions.append(helper.make_function("local", "F", [], ["k"], inner, [helper.make_opsetid("", 18)]))
    node(model, helper.make_node("F", [], ["c"], domain="local"))


def training(model: onnx.ModelProto, t: TensorProto) -> None:
    info = model.training_info.add()
    info.initialization.name = "start"
    info.initialization.initializer.append(t)


def list_of_tensors(model: onnx.ModelProto, t: TensorProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("many", [t, t]))


def sparse_attribute(model: onnx.ModelProto, t: TensorProto) -> None:
    t.dims[:] = [32]
    held = onnx.SparseTensorProto(values=t, indices=numpy_helper.from_array(ALL, "at"), dims=[4, 8])
    node(model, helper.make_node("Constant", [], ["c"], sparse_value=held))


Kind = Callable[[onnx.ModelProto, TensorProto], None]
READ: dict[Kind, str] = {
    initializer: "initializer 'w2'",
    sparse_values: "sparse initializer 'w2', its values",
    constant: "Constant 'c', attribute 'value'",
    constant_in_a_body: "Constant 'k', attribute 'value'",
    initializer_of_a_body: "initializer 'held'",
    initializer_of_a_body_that_stays_closed: "initializer 'held'",
    constant_in_a_function: "function 'local.F', Constant 'k', attribute 'value'",
    training: "training info, initializer 't'",
}
"""Kinds that a file may have, and what they are called."""
REFUSED: dict[Kind, str] = {
    list_of_tensors: "MatMul 'a', attribute 'many'",
    sparse_attribute: "Constant 'c', attribute 'sparse_value', its values",
}
"""Kinds that onnx.checker or onnxruntime do not take, wherever the data lies."""


def make(kind: Kind, folder: Path, location: str = "w.bin") -> Path:
    """A model with one tensor of this kind, whose numbers lie in another file."""
    model = base()
    kind(model, outside(TRUE.reshape(4, 8), "t", location))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "b"))
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file of the same name as the model's data."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    (cwd / "w.bin").write_bytes(DECOY.tobytes())
    monkeypatch.chdir(cwd)
    return cwd


@pytest.mark.parametrize("kind", READ, ids=lambda k: k.__name__)
def test_every_kind_is_read_from_the_folder_of_the_model(tmp_path: Path, elsewhere: Path, kind: Kind) -> None:
    path = make(kind, tmp_path / "model")
    (tmp_path / "model" / "w.bin").write_bytes(TRUE.tobytes())
    model = load(path)
    out = tmp_path / "out"
    out.mkdir()
    write(model.proto(), model.folder, out / "m.onnx")
    written = b"".join(p.read_bytes() for p in out.iterdir())
    assert TRUE.tobytes() in written
    assert DECOY[:1].tobytes() not in written
    assert all((out / name).is_file() for name in find_locations(onnx.load(out / "m.onnx", load_external_data=False)))
    onnx.checker.check_model(str(out / "m.onnx"), full_check=True)


ANALYZED = [k for k in READ if k is not initializer_of_a_body_that_stays_closed]  # no sizes are found for its sequence


@pytest.mark.parametrize("kind", ANALYZED, ids=lambda k: k.__name__)
def test_a_model_that_stays_as_it_is_takes_its_data_along(tmp_path: Path, elsewhere: Path, kind: Kind) -> None:
    """Ratio 0 gives the file itself, but for where its data lies."""
    path, out = make(kind, tmp_path / "model"), tmp_path / "out"
    (tmp_path / "model" / "w.bin").write_bytes(TRUE.tobytes())
    out.mkdir()
    result = run(path, "--ratio", 0, "--no-latency", "-o", out / "m.onnx")
    assert result.exit_code == 0, result.stderr
    written = b"".join(p.read_bytes() for p in out.iterdir())
    assert TRUE.tobytes() in written and DECOY[:1].tobytes() not in written
    feed = {"x": np.ones((2, 4), np.float32), "p": np.array(True)}
    got = [open_quiet_session(str(p)).run(None, feed)[0] for p in (path, out / "m.onnx")]
    np.testing.assert_array_equal(*got)


def test_sparse_values_of_a_compiled_model_are_those_beside_it(tmp_path: Path, elsewhere: Path) -> None:
    text = """(float[1,4] x) => (float[1,4] y) { a = MatMul(x, w1)  b = Relu(a)  y = MatMul(b, w2) }"""
    model = build(Case(text, {"w1": (4, 8), "w2": (8, 4)}, None))
    del model.graph.initializer[0]
    values = outside(TRUE, "w1")
    at = numpy_helper.from_array(ALL, "at")
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=at, dims=[4, 8]))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    (folder / "w.bin").write_bytes(TRUE.tobytes())
    result = run(folder / "m.onnx", "--ratio", 0.5, *QUICK)
    assert result.exit_code == 0, result.stderr
    small = load(folder / "m.pruned.onnx")
    kept = small.array(small.constants()["w1"])
    assert kept.shape[1] < 8 and set(kept.ravel()) < set(TRUE)


@pytest.mark.parametrize("kind", {**READ, **REFUSED}, ids=lambda k: k.__name__)
@pytest.mark.parametrize("location", ["../cwd/w.bin", "link.bin", "gone.bin", "*/_ORT_MEM_ADDR_/*", "a\0b", "x" * 5000])
def test_no_kind_is_read_from_elsewhere(tmp_path: Path, elsewhere: Path, kind: Kind, location: str) -> None:
    path = make(kind, tmp_path / "model", location)
    (tmp_path / "model" / "link.bin").symlink_to(elsewhere / "w.bin")
    (tmp_path / "model" / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (tmp_path / "model" / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(TRUE.tobytes())
    with pytest.raises(ModelError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {({**READ, **REFUSED})[kind]} has external data at ")


@pytest.mark.parametrize("kind", REFUSED, ids=lambda k: k.__name__)
def test_kinds_that_runtimes_do_not_take_are_refused_or_read_right(tmp_path: Path, elsewhere: Path, kind: Kind) -> None:
    path = make(kind, tmp_path / "model")
    (tmp_path / "model" / "w.bin").write_bytes(TRUE.tobytes())
    try:
        proto = load(path).proto()
    except ModelError as e:
        assert "invalid model" in str(e)
        return
    assert not find_locations(proto)
    assert TRUE.tobytes() in proto.SerializeToString()


def test_indices_of_a_sparse_tensor_are_read_from_the_folder_of_the_model(tmp_path: Path, elsewhere: Path) -> None:
    """onnx.checker takes them in the file only, so the reader is asked itself."""
    (tmp_path / "i.bin").write_bytes(ALL[::-1].tobytes())
    (elsewhere / "i.bin").write_bytes(ALL.tobytes())
    held = onnx.SparseTensorProto(
        values=numpy_helper.from_array(TRUE, "v"), indices=outside(ALL, "i", "i.bin"), dims=[4, 8]
    )
    np.testing.assert_array_equal(densify(held, tmp_path).ravel(), TRUE[::-1])
    held.indices.CopyFrom(outside(ALL, "i", "../i.bin"))
    with pytest.raises(ModelError, match="only files inside the model's folder are read"):
        densify(held, elsewhere)
    model = base()
    model.graph.sparse_initializer.append(held)
    with pytest.raises(ModelError, match="sparse initializer 'v', its indices has external data at"):
        check_tensors(model, elsewhere / "m.onnx")


@pytest.mark.parametrize(("changes", "words"), [
    ({"offset": "-4"}, "offset"), ({"offset": "many"}, "offset"), ({"length": "1e3"}, "length"),
    ({"offset": "9" * 30}, "gives"), ({"length": "64"}, "needs 128 bytes"), ({"offset": "64"}, "needs 128 bytes"),
], ids=str)  # fmt: skip
def test_places_in_a_data_file_that_make_no_sense(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    (tmp_path / "w.bin").write_bytes(TRUE.tobytes())
    tensor = outside(TRUE, "w")
    for entry in tensor.external_data:
        entry.value = changes.get(entry.key, entry.value)
    with pytest.raises(ModelError, match=words):
        read_tensor(tensor, tmp_path)


def test_a_place_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    """One reader takes the first of them, another one the last."""
    (tmp_path / "w.bin").write_bytes(TRUE.tobytes())
    tensor = outside(TRUE, "w")
    np.testing.assert_array_equal(read_tensor(tensor, tmp_path), TRUE)
    tensor.external_data.add(key="location", value="/etc/hostname")
    with pytest.raises(ModelError, match="says twice what the location"):
        read_tensor(tensor, tmp_path)


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.UNDEFINED, 99], ids=str)
def test_types_that_no_data_file_holds(tmp_path: Path, kind: int) -> None:
    (tmp_path / "w.bin").write_bytes(TRUE.tobytes())
    tensor = outside(TRUE, "w")
    tensor.data_type = kind
    with pytest.raises(ModelError, match=r"element type|text"):
        read_tensor(tensor, tmp_path)


SIZES = [[1 << 40], [1 << 20, 1 << 20], [1 << 62, 1 << 62], [1 << 62, 0, 1 << 62], [-1, -32], [-1]]


@pytest.mark.parametrize("dims", SIZES, ids=str)
@pytest.mark.parametrize("place", ["initializer", "float_data", "uint4", "sparse", "sparse attribute", "external"])
def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path, dims: list[int], place: str) -> None:
    model = base()
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "b")
    held = onnx.SparseTensorProto(values=tensor, indices=numpy_helper.from_array(ALL[:2], "at"), dims=dims)
    if place == "sparse":
        model.graph.sparse_initializer.append(held)
    elif place == "sparse attribute":
        model.graph.node[0].attribute.append(helper.make_attribute("value", held))
    else:
        if place != "initializer":
            tensor.ClearField("raw_data")
        tensor.dims[:] = dims
        if place == "float_data":
            tensor.float_data.append(1.0)
        elif place == "uint4":
            tensor.data_type = TensorProto.UINT4
            tensor.int32_data.append(3)
        elif place == "external":
            (tmp_path / "w.bin").write_bytes(TRUE.tobytes())
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="w.bin")
        model.graph.initializer.append(tensor)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=r"m\.onnx: "):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_sparse_tensors_share_one_limit(tmp_path: Path) -> None:
    model = base()
    for k in range(3):
        values = numpy_helper.from_array(np.ones(1, np.float32), f"s{k}")
        at = numpy_helper.from_array(np.zeros(1, np.int64), f"s{k}.at")
        model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=at, dims=[1 << 28]))
    with pytest.raises(ModelError, match=r"sparse initializer 's1' of shape .* too large to be written dense"):
        check_tensors(model, tmp_path / "m.onnx")


@given(st.lists(st.sampled_from([*READ, *REFUSED]), max_size=4), st.integers(0, 3))
def test_the_walk_finds_every_tensor_of_a_message(kinds: list[Kind], deep: int) -> None:
    """As many as there are names in the bytes, however deep they lie in bodies."""
    model, count = base(), 1
    for kind in kinds:
        part, tensor = base(), numpy_helper.from_array(TRUE.reshape(4, 8), "unmistakable")
        kind(part, tensor)
        for t, _ in iterate_tensors(part):
            t.name = "unmistakable"
        count += part.SerializeToString().count(b"unmistakable")
        model.graph.node[0].attribute.append(helper.make_attribute("inner", part.graph))
        model.functions.extend(part.functions)
        model.training_info.extend(part.training_info)
    for _ in range(deep):
        inner = model.graph
        model.ClearField("graph")
        model.graph.node.add(op_type="Deeper").attribute.append(helper.make_attribute("body", inner))
    assert sum(1 for _ in iterate_tensors(model)) == count
    assert all(describe_tensor(t, holders) for t, holders in (*iterate_tensors(model), *iterate_sparse_tensors(model)))


def test_numbers_of_tensors_are_read_in_one_place() -> None:
    """Onnx's own reader takes external data from the working folder."""
    found = {
        path.name
        for path in (*(ROOT / "spa_compiler").rglob("*.py"), *(ROOT / "passes").glob("*.py"))
        for name in ast.walk(ast.parse(path.read_text()))
        if isinstance(name, ast.Attribute) and name.attr in ("to_array", "load_external_data_for_model")
    }
    assert found == {"external_data.py"}


def test_a_model_in_memory_has_nothing_outside() -> None:
    model: Model = load(ROOT / "models" / "digits_gru.onnx")
    assert not model.external and list(model.files.states) == [model.path]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_weights_that_a_session_reads_in_memory_are_those_of_the_file(dtype: type, tmp_path: Path) -> None:
    """Large ones are not written into the bytes that onnxruntime reads; what an input may replace is."""
    rng, kind = np.random.default_rng(0), np.dtype(dtype)
    weights = {n: rng.normal(size=(256, 256)).astype(kind) for n in ("w", "d")}
    assert all(a.nbytes >= LARGE_WEIGHT for a in weights.values())
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(kind), ["N", 256])
    d, y = (helper.make_tensor_value_info(n, x.type.tensor_type.elem_type, s) for n, s in
            (("d", [256, 256]), ("y", ["N", 256])))  # fmt: skip
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "d"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x, d], [y], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    before, feed = model.SerializeToString(), {"x": rng.normal(size=(2, 256)).astype(kind)}
    opened, filed = open_session(model, tmp_path), open_quiet_session(str(tmp_path / "m.onnx"))
    for fed in (feed, feed | {"d": weights["w"]}):
        np.testing.assert_array_equal(opened.run(None, fed)[0], filed.run(None, fed)[0])
    assert model.SerializeToString() == before
