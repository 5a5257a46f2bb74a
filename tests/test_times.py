"""`spa times`: kernels at several widths, measured here or by a copy of one file on a machine without spa-compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from commands import run_spa
from spa_compiler import times
from spa_compiler.times import (
    WIDTH_SHARES,
    Contraction,
    TimesError,
    list_coordinates,
    list_points,
    make_feed,
    measure_times,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spa-compile" / "times"


def tables_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = found["contractions"]
    return tables


@pytest.mark.parametrize("name", ["digits_resnet", "digits_mobilenet", "digits_vit", "digits_gru"])
def test_every_contraction_of_a_model_has_times_at_several_widths(name: str, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    got = run_spa("times", models / f"{name}.onnx", "-o", out, "--threads", 1)
    assert got.exit_code == 0, got.output
    found = json.loads(out.read_text())
    assert found["format"] == times.TIMES_FORMAT and found["dense_ms"] > 0 and found["threads"] == 1
    assert found["device"] in ("avx2", "avx512", "arm64")
    names = {n for t in tables_of(found) for n in t["outputs"]}
    nodes = onnx.load(models / f"{name}.onnx").graph.node
    assert names >= {n.output[0] for n in nodes if n.op_type in ("Conv", "Gemm", "GRU")}
    for t in tables_of(found):
        assert len(t["ms"]) == int(np.prod([len(c["sizes"]) for c in t["coordinates"]]))
        assert all(c["sizes"][0] == c["size"] and c["sizes"] == sorted(c["sizes"])[::-1] for c in t["coordinates"])
        assert all(times.is_time(ms) for ms in t["ms"])


def test_a_copy_of_the_file_runs_without_spa_compile(models: Path, tmp_path: Path) -> None:
    script, out = tmp_path / "far" / "times.py", tmp_path / "t.json"
    script.parent.mkdir()
    assert run_spa("times", "--script", script).exit_code == 0
    blocked = (
        "import sys, runpy\n"
        "class Block:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in ('spa_compiler', 'click', 'rich', 'scipy', 'networkx', 'sympy'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        f"sys.argv = ['times.py', {str(models / 'digits_gru.onnx')!r}, '-o', {str(out)!r}, '--seconds', '5']\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked], cwd=script.parent, capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "contractions" in done.stdout
    assert tables_of(json.loads(out.read_text()))


def make_one(op: str, shapes: dict[str, tuple[int, ...]], **attributes: Any) -> onnx.ModelProto:
    """A model of one node whose first input is the graph's and whose others are weights."""
    names = list(shapes)
    held = [numpy_helper.from_array(np.ones(shapes[n], np.float32), n) for n in names[1:]]
    x = helper.make_tensor_value_info(names[0], TensorProto.FLOAT, shapes[names[0]])
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)], "g", [x], [onnx.ValueInfoProto(name="y")], held
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CASES = {
    "Conv": (make_one("Conv", {"x": (1, 24, 8, 8), "w": (32, 24, 3, 3), "b": (32,)}), {"in": 24, "out": 32}),
    "Conv in groups": (make_one("Conv", {"x": (1, 24, 8, 8), "w": (36, 8, 3, 3)}, group=3), {"in": 8, "out": 36}),
    "Conv depthwise": (make_one("Conv", {"x": (1, 24, 8, 8), "w": (48, 1, 3, 3)}, group=24), {"groups": 48}),
    "ConvTranspose": (make_one("ConvTranspose", {"x": (1, 16, 4, 4), "w": (16, 12, 2, 2)}), {"in": 16, "out": 12}),
    "Gemm": (make_one("Gemm", {"x": (3, 40), "w": (20, 40), "b": (20,)}, transB=1), {"in": 40, "out": 20}),
    "MatMul": (make_one("MatMul", {"x": (2, 3, 40), "w": (40, 20)}), {"in": 40, "out": 20}),
    "LSTM": (
        make_one("LSTM", {"x": (5, 1, 10), "w": (1, 64, 10), "r": (1, 64, 16), "b": (1, 128)}, hidden_size=16),
        {"in": 10, "hidden": 16},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_widths_are_told_by_axes_of_inputs_and_every_one_runs(case: str) -> None:
    proto, wanted = CASES[case]
    found = measure_times(proto, make_feed(proto, {}), threads=1, seconds=5)
    (table,) = tables_of(found)
    shapes = [i.type.tensor_type.shape.dim for i in proto.graph.input]
    dims = [tuple(d.dim_value for d in shapes[0]), *(tuple(t.dims) for t in proto.graph.initializer)]
    assert {c["name"]: c["size"] for c in table["coordinates"]} == wanted
    assert all(dims[c["slot"]][c["axis"]] == c["size"] for c in table["coordinates"])
    assert len(table["ms"]) > 3


def test_a_product_of_two_activations_has_stacks_too() -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    found = list_coordinates(node, [(1, 4, 9, 8), (1, 4, 8, 9)], [False, False])
    assert {c.name: c.size for c in found} == {"in": 8, "out": 9, "stack": 4}
    made = Contraction(node, [(1, 4, 9, 8), (1, 4, 8, 9)], [np.dtype("f4")] * 2, [False, False], found)
    _, shapes = made.resize({"in": 4, "out": 3, "stack": 2})
    assert shapes == [(1, 2, 9, 4), (1, 2, 4, 3)]


def test_wider_takes_longer() -> None:
    proto = make_one("Conv", {"x": (1, 128, 28, 28), "w": (128, 128, 3, 3)})
    (table,) = tables_of(measure_times(proto, make_feed(proto, {}), threads=1, seconds=10))
    grid = np.reshape(table["ms"], [len(c["sizes"]) for c in table["coordinates"]])
    assert grid[0, 0] > 1.5 * grid[2, 0] and grid[0, 0] > 1.5 * grid[0, 2] and grid[0, 0] > 4 * grid[-1, -1]


def test_times_are_remembered_by_all_that_they_depend_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto, _ = CASES["Gemm"]
    feed = make_feed(proto, {})
    first = measure_times(proto, feed, 1, 5, cache)
    files = sorted(cache.glob("*.json"))
    assert len(files) == 2  # the dense width alone, then all
    calls = []
    monkeypatch.setattr(times, "measure_points", lambda *given: calls.append(given) or [])
    assert measure_times(proto, feed, 1, 5, cache)["contractions"] == first["contractions"]
    assert not calls
    measure_times(proto, feed, 2, 5, cache)
    monkeypatch.setattr(times, "find_cpu", lambda: "another")
    measure_times(proto, feed, 1, 5, cache)
    assert len(calls) == 2 and sorted(cache.glob("*")) == files


@pytest.mark.parametrize("text", ["", "{", "[]", "[1, -2]", '["a"]', "[NaN]", "[" * 100_000, "\x00"])
def test_a_broken_file_of_the_cache_is_none(text: str, cache: Path) -> None:
    proto, _ = CASES["Gemm"]
    feed = make_feed(proto, {})
    measure_times(proto, feed, 1, 5, cache)
    for file in cache.glob("*.json"):
        file.write_text(text)
    assert tables_of(measure_times(proto, feed, 1, 5, cache))
    assert all(json.loads(f.read_text())[0] > 0 for f in cache.glob("*.json"))
    assert not list(cache.glob(".times-*"))


def test_a_place_where_no_cache_can_be_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    proto, _ = CASES["Gemm"]
    assert tables_of(measure_times(proto, make_feed(proto, {}), 1, 5, tmp_path / "file" / "cache"))


def test_time_is_bounded_and_fewer_widths_are_measured_where_it_is_short() -> None:
    proto = make_one("Conv", {"x": (1, 256, 56, 56), "w": (256, 256, 3, 3)})
    start = time.perf_counter()
    found = measure_times(proto, make_feed(proto, {}), 1, 1.0)
    assert time.perf_counter() - start < 20
    assert all(len(t["ms"]) <= 9 for t in tables_of(found))


def test_widths_fill_blocks() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    made = Contraction(node, [(1, 64, 8, 8), (256, 64, 3, 3)], [np.dtype("f4")] * 2, [False, True])
    made.coordinates = list_coordinates(node, made.shapes, made.constant)
    sizes, points = list_points(made, WIDTH_SHARES)
    assert all(n % 16 == 0 for own in sizes for n in own)
    assert len(points) == len(sizes[0]) * len(sizes[1])


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ((), 2, "give IN.onnx and -o T.json"),
        (("{source}",), 2, "give IN.onnx and -o T.json"),
        (("{source}", "-o", "{source}"), 2, "this file is the model"),
        (("{source}", "-o", "{here}/none/t.json"), 2, "not a file in a folder that exists"),
        (("{source}", "-o", "{here}/t.json", "--input-shape", "z:1x2"), 2, "no input is called z"),
        (("{source}", "-o", "{here}/t.json", "--input-shape", "x"), 2, "expected NAME:1x3x224x224"),
        (("{source}", "-o", "{here}/t.json", "--input-shape", "x:1x3x7x7"), 3, "onnxruntime cannot run the model"),
        (("{here}/gone.onnx", "-o", "{here}/t.json"), 3, "cannot be read as a model"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    given: tuple[str, ...], code: int, words: str, models: Path, tmp_path: Path
) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes((models / "digits_resnet.onnx").read_bytes())
    before = {p.name for p in tmp_path.iterdir()}
    proto = onnx.load(source)
    shape = proto.graph.input[0].name
    arguments = [a.format(source=source, here=tmp_path).replace("x:1x3", f"{shape}:1x3") for a in given]
    got = run_spa("times", *arguments)
    assert got.exit_code == code, got.output
    assert words in " ".join(got.output.split())
    assert {p.name for p in tmp_path.iterdir()} - {"cache"} == before


def test_the_script_says_what_is_wrong_with_the_same_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert times.main([str(tmp_path / "no.onnx"), "-o", str(tmp_path / "t.json")]) == 3
    assert "cannot be read as a model" in capsys.readouterr().err
    with pytest.raises(TimesError, match="expected NAME"):
        times.parse_shape("x:0x3")
