"""Plans, masks, options and models that are damaged: an exit code and a message that names what and where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from commands import QUICK, folder, run


def write_plan(source: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A right plan of the model, with one entry changed."""
    file = source.with_name("plan.json")
    assert run(source, "--ratio", 0.4, "--dry-run", "--save-plan", file, *QUICK).exit_code == 0
    plan = json.loads(file.read_text())
    edit(next(iter(plan["groups"].values())))
    file.write_text(json.dumps(plan))
    return file


@pytest.mark.parametrize("size", [float("inf"), float("nan"), -1, 2.5, True, "8", 10**15, None], ids=str)
def test_a_size_in_a_plan_is_a_number_of_channels(source: Path, size: Any) -> None:
    plan = write_plan(source, lambda entry: entry.update(size=size))
    before = folder(source.parent)
    result = run(source, "--plan", plan, "--no-latency")
    assert result.exit_code == 2
    assert str(plan) in result.stderr
    assert folder(source.parent) == before


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"groups":' * 50_000, "", "[]", "\x00"], ids=["deep", "objects", "empty", "list", "nul"]
)
def test_a_plan_that_is_none_is_refused(source: Path, text: str) -> None:
    plan = source.with_name("plan.json")
    plan.write_text(text)
    result = run(source, "--plan", plan, "--no-latency")
    assert result.exit_code == 2
    assert str(plan) in result.stderr


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.uint8, np.str_])
def test_a_mask_holds_booleans(source: Path, kind: type[Any]) -> None:
    plan = write_plan(source, lambda entry: None)
    groups = json.loads(plan.read_text())["groups"]
    masks = {n: np.isin(np.arange(e["size"]), e["keep"]) for n, e in groups.items()}
    file = source.with_name("mask.npz")
    np.savez(file, **masks)
    assert run(source, "--mask", file, "--no-latency", "--no-quality").exit_code == 0
    np.savez(file, **{n: m.astype(kind) for n, m in masks.items()})
    result = run(source, "--mask", file, "--no-latency")
    assert result.exit_code == 2
    assert "expected booleans" in result.stderr and str(file) in result.stderr


@pytest.mark.parametrize("option", ["--max-group-ratio", "--time-limit"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1"])
def test_numbers_of_options_are_finite(source: Path, option: str, value: str) -> None:
    assert run(source, "--ratio", 0.4, option, value, *QUICK).exit_code == 2


def save_network(path: Path, text: str, **weights: Any) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items())
    onnx.save(model, path)
    return path


WEIGHT = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)


def test_a_tensor_that_is_a_segment_is_refused(tmp_path: Path) -> None:
    path = save_network(tmp_path / "m.onnx", "(float[2, 8] x) => (float[2, 8] y) { y = MatMul(x, w) }", w=WEIGHT)
    model = onnx.load(path)
    model.graph.initializer[0].segment.begin, model.graph.initializer[0].segment.end = 0, 64
    onnx.save(model, path)
    result = run(path, "--ratio", 0.4, *QUICK)
    assert result.exit_code == 3
    assert "'w'" in result.stderr and "segment" in result.stderr


@pytest.mark.parametrize("dims", [-9, -1])
def test_positions_that_end_the_process_are_not_given_to_the_libraries(tmp_path: Path, dims: int) -> None:
    text = f"(float[2, 8] x) => (float[2, 8] y) {{ h = MatMul(x, w) y = GatherND<batch_dims = {dims}>(h, i) }}"
    path = save_network(tmp_path / "m.onnx", text, w=WEIGHT, i=np.array([[0], [1]]))
    result = run(path, "--ratio", 0.4, *QUICK)
    assert result.exit_code == 3
    assert f"batch_dims {dims}" in result.stderr


@pytest.mark.parametrize("shape", [[-4, 8], [2, -8]])
def test_a_size_below_zero_is_no_size(tmp_path: Path, shape: list[int]) -> None:
    text = "(float[2, 8] x) => (float[2, 8] y) { c = ConstantOfShape(s) h = MatMul(x, w) y = Add(h, c) }"
    path = save_network(tmp_path / "m.onnx", text, w=WEIGHT, s=np.array(shape))
    assert run(path, "--ratio", 0.4, *QUICK).exit_code == 3


PARTS = "p, q = Split <axis = 1> (a, s)  y = MatMul(p, v)"
ROUNDS = """p, q = Loop(n, , a) <body = l (int64 i, bool c, float[2,8] h) => (bool d, float[2,8] t, float[2,8] o) {
    d = Identity(c)  t = Tanh(h)  o = Neg(t) }>  y = MatMul(p, v)"""


@pytest.mark.parametrize("tail", [PARTS, ROUNDS], ids=["Split", "Loop"])
@pytest.mark.parametrize("left", [0, 1])
def test_outputs_that_onnxruntime_writes_to_without_asking_have_names(tail: str, left: int, tmp_path: Path) -> None:
    sizes = np.array([4, 4])
    rows = 4 if tail is PARTS else 8
    text = f"(float[2, 8] x) => (float[2, 8] y) {{ a = MatMul(x, w) {tail} }}"
    path = save_network(tmp_path / "m.onnx", text, w=WEIGHT, v=WEIGHT[:rows], s=sizes, n=np.array(2))
    model = onnx.load(path)
    model.graph.node[1].output[left] = ""
    model.graph.node[2].input[0] = "q" if left == 0 else "p"
    onnx.save(model, path)
    result = run(path, "--ratio", 0.4, *QUICK)
    assert result.exit_code == 3
    assert f"leaves output {left} out" in result.stderr
