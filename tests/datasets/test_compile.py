"""Compiles on inputs that people have: one command, a report that shows them, and refusals that lose nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import spa_compiler
from commands import check_report, folder, last, run, run_spa
from inputs import make_classifier, save_picture
from networks import graph_of
from spa_compiler.calibration.user_inputs import load_calibration
from spa_compiler.errors import UsageError
from zoo import Case

ROOT = Path(__file__).resolve().parents[2]
FAST = ("--no-latency", "--samples", 64)


def make_mobile_network(side: int = 96, classes: int = 1000) -> onnx.ModelProto:
    """A network of ImageNet's shape: a stem, two separable convolutions, classes."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        mobile (float[N,3,{side},{side}] image) => (float[N,{classes}] logits) {{
        a = Conv <strides = [4,4], kernel_shape = [3,3], pads = [1,1,1,1]> (image, w0, b0)  ar = Relu(a)
        d = Conv <group = 16, kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]> (ar, w1, b1)  dr = Relu(d)
        p = Conv(dr, w2, b2)  pr = Relu(p)  g = GlobalAveragePool(pr)  f = Flatten(g)  logits = MatMul(f, w3) }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    shapes = {"w0": (16, 3, 3, 3), "w1": (16, 1, 3, 3), "w2": (32, 16, 1, 1), "w3": (32, classes)}
    for name, shape in shapes.items():
        w = rng.standard_normal(shape) * (2 / np.prod(shape[1:] if len(shape) == 4 else shape[:1])) ** 0.5
        model.graph.initializer.append(onnx.numpy_helper.from_array(w.astype(np.float32), name))
    for name, size in {"b0": 16, "b1": 16, "b2": 32}.items():
        b = rng.uniform(0, 0.5, size)
        model.graph.initializer.append(onnx.numpy_helper.from_array(b.astype(np.float32), name))
    return model


@pytest.fixture
def mobile(tmp_path: Path) -> Path:
    onnx.save(make_mobile_network(), tmp_path / "mobile.onnx")
    return tmp_path / "mobile.onnx"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for k in range(12):
        save_picture(tmp_path / "photos" / f"{k}.jpg", 80 + 9 * k, 150 - 5 * k, seed=k)
    return tmp_path / "photos"


def test_a_folder_of_64_photographs_calibrates_a_mobile_network(mobile: Path) -> None:
    """README's command, on the folder that the tool makes."""
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("maker", ROOT / "tools" / "make_photographs_folder.py")
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    maker.make_folder(mobile.parent / "photographs")
    report = mobile.with_name("r.json")
    result = run(mobile, "--ratio", 0.3, "--calib", mobile.parent / "photographs", "--report", report, "--no-latency")
    assert result.exit_code == 0, result.output
    found = json.loads(report.read_text())
    check_report(found)
    given = found["calibration"]["given"]
    assert (given["kind"], given["rows"], given["of"], given["apart"]) == ("pictures", 64, 64, 0)
    assert "shorter side resized to 110, 96x96 cut from the middle, NCHW" in given["treatment"]
    assert given["decided"] == "the model's answers" and given["ranges"]["image"]["shape"] == [3, 96, 96]
    assert len(given["thumbnails"]) == 8 and all(len(t) < 8000 for t in given["thumbnails"])
    assert "calibrated on 64 inputs from photographs" in result.output and "base64" not in result.output


def test_the_page_shows_the_pictures_once(mobile: Path, photographs: Path) -> None:
    page = mobile.with_name("r.html")
    result = run(mobile, "--ratio", 0.3, "--calib", photographs, "--data", photographs, "--report", page, *FAST)
    assert result.exit_code == 0, result.output
    assert page.read_text().count("data:image/jpeg") == 16 and page.read_text().count("<h2>Data</h2>") == 1


def test_what_is_said_is_done_and_reported(mobile: Path, photographs: Path) -> None:
    report, said = mobile.with_name("r.json"), "resize=128,scale=1/255,mean=0.5,std=0.25"
    options = ["--ratio", 0.3, "--calib", photographs, "--preprocess", said, "--report", report]
    assert run(mobile, *options, *FAST).exit_code == 0
    given = json.loads(report.read_text())["calibration"]["given"]
    assert given["decided"] == "--preprocess" and given["values"] == "scale=1/255,mean=0.5,std=0.25"
    assert "resized to 128" in given["treatment"]
    low, high = given["ranges"]["image"]["low"], given["ranges"]["image"]["high"]
    assert len(low) == 3 and min(low) >= -2 and max(high) <= 2 and max(high) > 1


def test_the_pipeline_of_the_report_makes_the_same_file_again(mobile: Path, photographs: Path) -> None:
    first, again, report = (mobile.with_name(n) for n in ("a.onnx", "b.onnx", "r.json"))
    said = ["--calib", photographs, "--preprocess", "scale=1/255,mean=0.485,0.456,0.406"]
    assert run(mobile, "--ratio", 0.3, *said, "-o", first, "--report", report, *FAST).exit_code == 0
    text = json.loads(report.read_text())["pipeline"]
    assert run(mobile, "--pipeline", text, "-o", again, "--no-latency").exit_code == 0
    assert first.read_bytes() == again.read_bytes()


def test_a_labelled_folder_gives_the_accuracy(tmp_path: Path) -> None:
    onnx.save(make_classifier(["N", 3, 8, 8]), tmp_path / "m.onnx")
    for k in range(20):
        save_picture(tmp_path / "test" / str(k % 5) / f"{k}.png", seed=k)
    report = tmp_path / "r.json"
    result = run(tmp_path / "m.onnx", "--ratio", 0.3, "--data", tmp_path / "test", "--report", report, *FAST)
    assert result.exit_code == 0, result.output
    found = json.loads(report.read_text())
    check_report(found)
    assert found["accuracy"]["samples"] == 20 and found["accuracy"]["data"] == "test" and "accuracy" in last(result)
    assert "number of the class" in found["data"]["labels"]
    small = tmp_path / "m.pruned.onnx"
    for verb in (("verify", "--allow-unproven"), ("compare",)):
        done = run_spa(*verb, tmp_path / "m.onnx", small, "--data", tmp_path / "test")
        assert done.exit_code == 0, done.output
        assert f"{found['accuracy']['compiled']:.2%}" in done.output


def break_folder(photos: Path, how: str) -> Path:
    """The folder with something wrong in it."""
    if how == "text":
        (photos / "notes.md").write_text("from the summer")
    elif how == "cut off":
        (photos / "3.jpg").write_bytes((photos / "3.jpg").read_bytes()[:900])
    elif how == "empty":
        photos = photos.parent / "nothing"
        photos.mkdir()
    elif how == "wrong label":
        save_picture(photos.parent / "classes" / "0" / "a.jpg")
        save_picture(photos.parent / "classes" / "1000" / "b.jpg")
        photos = photos.parent / "classes"
    return photos


@pytest.mark.parametrize("option", ["--calib", "--data"])
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("text", r"notes.md: a file of another kind"),
        ("cut off", "3.jpg: the picture is broken"),
        ("empty", "nothing: no inputs in this folder"),
        ("wrong label", "a label is 1000"),
    ],
)
def test_bad_input_is_exit_2_and_nothing_is_lost(
    mobile: Path, photographs: Path, option: str, how: str, says: str
) -> None:
    broken = break_folder(photographs, how)
    before = {p: p.read_bytes() for p in mobile.parent.rglob("*") if p.is_file()}
    result = run(mobile, "--ratio", 0.3, option, broken, "--criterion", "obspa", *FAST)
    assert result.exit_code == 2 and says in result.stderr, result.output
    assert {p: p.read_bytes() for p in mobile.parent.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "options",
    [
        ["--preprocess", "scale=1/255"],
        ["--preprocess", "scale=1/255", "--criterion", "l2"],
        ["--preprocess", "scale=1/255", "--calib", "photographs"],
        ["--preprocess", "scale=1/255", "--calib", "FOLDER", "--criterion", "l2"],
        ["--preprocess", "shrink=2", "--calib", "FOLDER"],
        ["--preprocess", "shrink=2", "--data", "FOLDER"],
        ["--calib", "python:calib"],
        ["--data", "python:data"],
    ],
    ids=" ".join,
)
def test_what_would_change_nothing_is_refused(mobile: Path, photographs: Path, options: list[str]) -> None:
    before = folder(mobile.parent / "photos"), mobile.read_bytes()
    result = run(mobile, "--ratio", 0.3, *[str(photographs) if o == "FOLDER" else o for o in options], "--no-latency")
    assert result.exit_code == 2 and "internal error" not in result.stderr, result.output
    assert (folder(mobile.parent / "photos"), mobile.read_bytes()) == before


def test_nothing_is_written_onto_an_input(mobile: Path, photographs: Path) -> None:
    before = folder(photographs)
    for option in ("--calib", "--data"):
        result = run(mobile, "--ratio", 0.3, option, photographs, "--report", photographs / "4.jpg", *FAST)
        assert result.exit_code == 2 and "4.jpg: this file is" in result.stderr
    assert folder(photographs) == before


@pytest.mark.parametrize("kind", ["array", "dict", "iterator", "reader"])
def test_python_gives_objects(tmp_path: Path, kind: str) -> None:
    onnx.save(make_classifier(["N", 3, 8, 8]), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3, 8, 8)).astype(np.float32), rng.integers(0, 5, 40)

    class Reader:
        def __init__(self) -> None:
            self.rows = iter(x)

        def get_next(self) -> dict[str, Any] | None:
            row = next(self.rows, None)
            return None if row is None else {"x": row[None]}

    given: Any = {"array": x, "dict": {"x": x}, "iterator": iter(x), "reader": Reader()}[kind]
    data: Any = ((x[k], y[k]) for k in range(40)) if kind == "iterator" else {"x": x, "y": y}
    result = spa_compiler.compile(tmp_path / "m.onnx", ratio=0.4, calib=given, data=data, latency=False, quality=False)
    check_report(result.report)
    assert result.report["calibration"]["given"]["rows"] == 40 and result.report["accuracy"]["samples"] == 40
    assert "source=python:calib" in result.report["pipeline"]
    whole = spa_compiler.compile(
        tmp_path / "m.onnx", ratio=0.4, calib=x, data={"x": x, "y": y}, latency=False, quality=False
    )
    assert whole.report["accuracy"] == result.report["accuracy"]
    assert whole.model.graph == result.model.graph


SCALED = Case(
    "(float[N,3,16,16] x) => (float[N,4] y) { n = Mul(x, s)  a = Conv <pads = [1,1,1,1]> (n, w1, b1)  r = Relu(a)"
    "  p = GlobalAveragePool(r)  f = Flatten(p)  y = Gemm <transB = 1> (f, w2, b2) }",
    {"s": np.array(1 / 255, np.float32), "w1": (8, 3, 3, 3), "b1": (8,), "w2": (4, 8), "b2": (4,)},
    None,
)


@pytest.mark.parametrize(("factor", "is_far"), [(1.0, False), (1 / 255, True), (200.0, True)])
def test_values_far_from_the_scale_are_a_note_with_the_option(factor: float, is_far: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 3, 16, 16)).astype(np.float32)
    weights = {"w2": np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32) * 20}
    found = load_calibration(graph_of(SCALED, **weights), pixels * np.float32(factor))
    assert bool(found.notes) == is_far
    if is_far:
        assert "the model seems to take 0 to 255" in found.notes[0]
        assert "give --preprocess scale=" in found.notes[0]


def test_the_note_is_in_the_report(tmp_path: Path) -> None:
    onnx.save(make_mobile_network(32, 10), tmp_path / "m.onnx")
    x = np.random.default_rng(0).integers(0, 256, (30, 3, 32, 32)).astype(np.float32)
    report = spa_compiler.compile(tmp_path / "m.onnx", ratio=0.3, calib=x, data=x, latency=False, quality=False).report
    assert sum("--preprocess scale=1/255" in n for n in report["notes"]) == 2
    said = {"calib": x, "data": x, "preprocess": "scale=1/255,mean=0.485,0.456,0.406,std=0.229,0.224,0.225"}
    quiet = spa_compiler.compile(tmp_path / "m.onnx", ratio=0.3, latency=False, quality=False, **said).report
    assert not any("--preprocess" in n for n in quiet["notes"])


def test_objects_are_no_text() -> None:
    with pytest.raises(UsageError, match="the inputs given: it is of type int"):
        load_calibration(graph_of(SCALED), 7)
