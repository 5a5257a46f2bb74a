"""Values of which little is known (experimental operators, maps, text, sequences, optionals) freeze what they touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper

import spa_compiler
from commands import QUICK, run
from spa_compiler.execution.outputs import find_class_output, tabulate_maps
from spa_compiler.execution.session import open_quiet_session
from spa_compiler.ir.reader import load
from spa_compiler.verification.on_data import count_hits
from spa_compiler.verification.replay import list_taps

WEIGHTS = {"w1": (8, 2, 3, 3), "w2": (6, 8, 3, 3), "w3": (6, 10), "b3": (10,), "w4": (10, 3), "b4": (3,)}
BETWEEN = {
    "experimental": (9, "ImageScaler <bias = [0.1], scale = 0.5> ({0})"),
    "without inference": (17, "com.microsoft.Trilu <upper = 1> ({0})"),
    "sequence": (17, "SplitToSequence <axis = 1> ({0})  {1} = ConcatFromSequence <axis = 1> (s)"),
    "optional": (17, "Optional ({0})  {1} = OptionalGetElement (s)"),
    "text": (17, "Cast <to = 8> ({0})  {1} = Cast <to = 1> (s)"),
}
"""Opset, and what gives {1} of {0}, by way of `s` where it takes two nodes."""


def write_network(path: Path, kind: str, place: int, batch: str = "N", tail: str = "") -> Path:
    """A network of convolutions and a classifier, with nodes of this kind behind its value number `place`."""
    opset, text = BETWEEN.get(kind, (17, ""))
    names = ["x", "r", "d", "e"]
    channels = [2, 8, 6, 6][place]
    value = names[place]
    first, _, second = text.partition("  ")
    first = first.replace("[0.1]", str([0.1] * channels))
    between = f"{'s' if second else 'u'} = {first}  {second}".format(value, "u") if text else ""
    read = {n: n for n in names} | ({value: "u"} if text else {})
    steps = ["", f"a = Conv <pads = [1,1,1,1]> ({read['x']}, w1)  r = Relu(a)", f"d = Conv ({read['r']}, w2)",
             f"e = Relu({read['d']})", f"p = GlobalAveragePool({read['e']})  f = Flatten(p)  g = Gemm(f, w3, b3)"
             f"  h = Relu(g)  l = Gemm(h, w4, b4)  y = Softmax <axis = 1> (l)  {tail}"]  # fmt: skip
    steps[place] += "  " + between
    head = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1, "ai.onnx.ml" : 2]> net'
    body = " ".join(steps)
    proto = onnx.parser.parse_model(f"{head} (float[{batch},2,8,8] x) => (float[{batch},3] y) {{ {body} }}")
    rng = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        array = (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    if tail:
        set_map_output(proto, "z")
    onnx.save(proto, path)
    return path


def set_map_output(proto: onnx.ModelProto, name: str) -> None:
    """The model gives a sequence of maps from text to floats, and nothing else."""
    del proto.graph.output[:]
    entry = proto.graph.output.add(name=name).type.sequence_type.elem_type.map_type
    entry.key_type = TensorProto.STRING
    entry.value_type.tensor_type.elem_type = TensorProto.FLOAT


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("kind", BETWEEN)
def test_little_known_values_anywhere_are_compiled_around(kind: str, place: int, tmp_path: Path) -> None:
    batch = "N" if place % 2 else "2"
    path = write_network(tmp_path / "net.onnx", kind, place, batch)
    result = spa_compiler.compile(path, 0.2, samples=8, latency=False)
    assert result.report["status"] == "VERIFIED"
    assert result.report["compiled"]["macs"] < result.report["dense"]["macs"]


def test_a_sum_whose_shape_a_run_may_give_is_compiled_around(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[N,6] x, int64[1] given) => (float[N,3] y) {
        a = MatMul(x, w1)  r = Relu(a)  b = MatMul(r, w2)  o = Shape(b)  s = Slice(o, zero, one, given)
        t = Concat <axis = 0> (s, rest)  c = Reshape(b, t)  d = MatMul(c, w3)  e = Add(b, d)  y = MatMul(e, w4) }"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (6, 8), "w2": (8, 6), "w3": (6, 6), "w4": (6, 3)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "given"))
    for name, number in {"zero": 0, "one": 1, "rest": -1}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
    onnx.save(proto, tmp_path / "net.onnx")
    report = spa_compiler.compile(tmp_path / "net.onnx", 0.2, latency=False).report
    assert report["status"] == "VERIFIED"
    assert report["compiled"]["macs"] < report["dense"]["macs"]


def test_a_size_that_is_worked_out_stays_so_beside_one_of_which_nothing_is_known(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[2,T,5] x) => (float[2,T,3] y) {
        a = MatMul(x, w1)  parts = SplitToSequence <axis = 2> (a, halves)  b = ConcatFromSequence <axis = 2> (parts)
        c = MatMul(b, w2)  o = Shape(b)  s = Slice(o, zero, one, zero)  t = Concat <axis = 0> (s, rest)
        d = Reshape(c, t)  u = Shape(c)  e = Reshape(d, u)  y = MatMul(e, w3) }"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (5, 8), "w2": (8, 6), "w3": (6, 3)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    for key, number in {"halves": [4, 4], "zero": [0], "one": [1], "rest": [-1]}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(number), key))
    onnx.save(proto, tmp_path / "net.onnx")
    report = spa_compiler.compile(tmp_path / "net.onnx", 0.3, criterion="l2", latency=False).report
    assert report["status"] == "VERIFIED" and report["compiled"]["macs"] < report["dense"]["macs"]


def test_what_follows_from_a_state_of_unknown_size_is_frozen(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[N,T,5] x, float[N,T,1] gate) => (float[N,T,3] y) {
        a = MatMul(x, w1)  r = Relu(a)  m = MatMul(r, w2)  o = Shape(m)  t = Slice(o, one, two, zero)
        p = Slice(table, zero, t, one)  b = Add(m, p)  n = Constant <value = int64 {2}> ()
        on = Constant <value = bool {1}> ()  last = Loop(n, on, b) <body = step(int64 i, bool go, float[N,S,6] s) =>
        (bool more, float[N,V,6] next) { more = Identity(go)  f = Reshape(s, flat)  k = Shape(s)
        next = Reshape(f, k) }>
        c = Mul(last, gate)  y = MatMul(c, w3) }"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (5, 8), "w2": (8, 6), "w3": (6, 3), "table": (1, 300, 6)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    for key, number in {"zero": [0], "one": [1], "two": [2], "flat": [-1, 6]}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(number), key))
    onnx.save(proto, tmp_path / "net.onnx")
    report = spa_compiler.compile(tmp_path / "net.onnx", 0.2, criterion="l2", align=1, latency=False).report
    assert report["status"] == "VERIFIED"
    assert all("w3" not in [m["value"] for m in g["members"]] for g in report["groups"] if "members" in g)


ZIPMAP = 'z = ai.onnx.ml.ZipMap <classlabels_strings = ["a", "b", "c"]> (y)'


def test_a_classifier_that_ends_in_maps_is_compiled_and_judged_as_its_matrix(tmp_path: Path) -> None:
    mapped = write_network(tmp_path / "map.onnx", "", 0, tail=ZIPMAP)
    bare = write_network(tmp_path / "matrix.onnx", "", 0)
    assert list_taps(load(mapped)) == list_taps(load(bare)) == ["l"]
    reports = [spa_compiler.compile(p, 0.3, samples=8, latency=False).report for p in (mapped, bare)]
    for r in reports:  # by their names, which differ
        r["fidelity"]["outputs"] = list(r["fidelity"]["outputs"].values())
    for name in ("fidelity", "quality"):
        assert reports[0][name] == reports[1][name]
    assert reports[0]["quality"]["evidence"]["classes"] == 3
    found = [run(p, "--ratio", "0.3", *QUICK).exit_code for p in (mapped, bare)]
    assert found == [0, 0]


def test_maps_of_rows_are_the_matrix_that_they_were_made_of(tmp_path: Path) -> None:
    path = write_network(tmp_path / "map.onnx", "", 0, tail=ZIPMAP)
    session = open_quiet_session(str(path))
    maps = session.run(None, {"x": np.ones((5, 2, 8, 8), np.float32)})[0]
    matrix = tabulate_maps(maps)
    assert matrix.shape == (5, 3)
    assert np.allclose(matrix.sum(1), 1, atol=1e-5)
    assert tabulate_maps([{"a": 1.0}, {"b": 1.0}]) == [{"a": 1.0}, {"b": 1.0}]


def test_the_class_is_read_behind_the_labels_that_stand_first() -> None:
    p = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    names, numbers = np.array(["no", "yes"], object), np.array([7, 3])
    assert find_class_output([names, p]) is p
    assert find_class_output([numbers, p]) is p
    assert find_class_output([p, numbers]) is p
    assert find_class_output([numbers[:1], p]) is not p  # no label for each row
    both: list[Any] = [numbers, p]
    assert count_hits(both, np.array([7, 7])) == 1  # what the model says is the class, whatever its column
    assert count_hits([names, p], np.array([1, 0])) == 2


LAYERS = "a = Gemm(x, w1, b1)  r = Relu(a)  c = Gemm(r, w2, b2)  t = Tanh(c)  l = MatMul(t, w3)"
LOOP = """cond = Constant <value = bool {1}> ()
    last, all = Loop(n, cond, t) <body = step(int64 i, bool go, float[N,7] s) => (bool on,
    float[N,7] next, float[N,7] each) { on = Identity(go)  next = Tanh(s)  each = Identity(next) }>
    p = ReduceMean <axes = [0], keepdims = 0> (all)  y = MatMul(p, w3)"""
ENDS = {
    "labels of text": ("float[N,5] x", "string[N] s, float[N,3] y", """y = Softmax(l)
        k = ArgMax <axis = 1, keepdims = 0> (l)
        s = ai.onnx.ml.LabelEncoder <keys_int64s = [0,1,2], values_strings = ["a","b","c"]> (k)"""),
    "text": ("float[N,5] x", "string[N,3] s", "s = Cast <to = 8> (l)"),
    "a sequence": ("float[N,5] x", "seq(float[N,3]) s", "s = SequenceConstruct(l, t)"),
    "an optional output": ("float[N,5] x", "optional(float[N,3]) s", "s = Optional(l)"),
    "an optional input": ("float[N,5] x, optional(float[N,3]) o", "float[N,3] y", """h = OptionalHasElement(o)
        y = If(h) <then_branch = yes() => (float[N,3] q) { e = OptionalGetElement(o)  q = Add(l, e) },
        else_branch = no() => (float[N,3] q) { q = Identity(l) }>"""),
    "a sequence in between": ("float[N,5] x", "float[N,3] y", """s = SplitToSequence <axis = 1> (t)
        i = Constant <value = int64 {0}> ()  q = SequenceAt(s, i)  y = MatMul(q, w4)"""),
    "a sequence as a state": ("float[N,5] x", "float[N,3] y", """n = Constant <value = int64 {1}> ()
        cond = Constant <value = bool {1}> ()  e = SequenceEmpty()  f = Loop(n, cond, e) <body = step(int64 i, bool go,
        seq(float[N,7]) s) => (bool on, seq(float[N,7]) z) { on = Identity(go)  z = SequenceInsert(s, t) }>
        q = ConcatFromSequence <axis = 1> (f)  y = MatMul(q, w3)"""),
    "scan outputs": ("float[N,5] x", "float[N,3] y", "n = Constant <value = int64 {4}> ()" + LOOP),
    "as many rounds as an input says": ("float[N,5] x, int64 n", "float[N,3] y", LOOP),
    "a classical model": ("float[N,5] x", "float[N,3] y", """u = ai.onnx.ml.LinearRegressor
        <coefficients = [0.1,0.2,0.3,0.1,0.2,0.3,0.4], intercepts = [0.5], targets = 1> (t)  y = Add(l, u)"""),
}  # fmt: skip
LAYER_WEIGHTS = {"w1": (5, 8), "b1": (8,), "w2": (8, 7), "b2": (7,), "w3": (7, 3), "w4": (1, 3)}


def write_layers(path: Path, inputs: str, outputs: str, end: str) -> Path:
    """Two layers in front of these nodes, in a file of three domains."""
    head = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "ai.onnx.ml" : 2]> net'
    proto = onnx.parser.parse_model(f"{head} ({inputs}) => ({outputs}) {{ {LAYERS} {end} }}")
    rng = np.random.default_rng(0)
    for name, shape in LAYER_WEIGHTS.items():
        array = (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("criterion", ["obspa", "l2"])
@pytest.mark.parametrize("name", ENDS)
def test_models_that_begin_or_end_in_other_values_are_compiled(name: str, criterion: str, tmp_path: Path) -> None:
    path = write_layers(tmp_path / "net.onnx", *ENDS[name])
    options: dict[str, Any] = {"calib": "white", "samples": 8} if criterion == "obspa" else {}
    result = spa_compiler.compile(path, 0.2, criterion=criterion, latency=False, **options)
    assert result.report["status"] == "VERIFIED"
    assert result.report["compiled"]["macs"] < result.report["dense"]["macs"]


def test_a_sequence_as_input_is_refused_by_name(tmp_path: Path) -> None:
    end = "i = Constant <value = int64 {0}> ()  e = SequenceAt(o, i)  y = Add(l, e)"
    path = write_layers(tmp_path / "net.onnx", "float[N,5] x, seq(float[N,3]) o", "float[N,3] y", end)
    found = run(path, "--ratio", "0.2", *QUICK)
    assert found.exit_code == 3
    assert "input 'o' is a sequence, expected a tensor" in found.stderr
