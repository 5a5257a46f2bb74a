"""Arrays whose axes stand in another order: moved with a note where shapes tell how, refused where they do not."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from commands import run, run_spa
from inputs import load_classifier, make_classifier
from spa_compiler.analysis.dependency_graph import analyze
from spa_compiler.calibration.user_inputs import load_calibration
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.datasets.axis_order import is_fitting, plan_arrangement
from spa_compiler.datasets.dataset import open_dataset
from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.datasets.rows import Block, join_blocks
from spa_compiler.errors import UsageError
from spa_compiler.ir.reader import from_proto

WANTED = (3, 6, 8)
ROWS = np.random.default_rng(0).standard_normal((10, *WANTED)).astype(np.float32)


def open_block(given: Any, dims: list[int | str]) -> Block:
    data = open_dataset(given, load_classifier(dims), parse_preprocess(""), "the inputs")
    data.check()
    return join_blocks(data.read_batches())


def move_last(rows: np.ndarray) -> np.ndarray:
    """The same with the channels last."""
    return np.ascontiguousarray(np.moveaxis(rows, 1, -1))


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ((6, 8, 3), (3, 6, 8)),
        ((6, 6, 3), (3, 6, 6)),
        ((3, 6, 8), (6, 8, 3)),
        ((6, 8, 3), (3, 0, 0)),
        ((3, 6, 8), (0, 0, 3)),
        ((6, 8, 64), (64, 6, 8)),
        ((4, 6, 8, 3), (3, 4, 6, 8)),
        ((400, 2), (2, 400)),
        ((2, 400), (0, 2)),
        ((400, 2), (1, 2, 400)),
        ((6, 8, 3), (1, 3, 6, 8)),
    ],
    ids=str,
)
def test_channels_at_the_other_end_are_moved(row: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Every entry is where its own coordinates say."""
    found = plan_arrangement(row, wanted)
    assert found is not None and found.note and is_fitting(found.shape, wanted)
    whole = [s for s in found.shape if s != 1]
    forward = tuple(whole) == (row[-1], *row[:-1])
    rows = np.arange(2 * math.prod(row)).reshape(2, *row)
    right = np.moveaxis(rows, -1, 1) if forward else np.moveaxis(rows, 1, -1)
    np.testing.assert_array_equal(found.apply(rows).reshape(right.shape), right)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ((768,), (3, 16, 16)),
        ((16, 16), (1, 16, 16)),
        ((16, 16, 1), (1, 16, 16)),
        ((16, 16), (16, 16, 1)),
        ((1, 300), (300,)),
        ((1, 1, 300), (1, 300)),
        ((3, 16, 16), (1, 3, 0, 0)),
        ((), (1,)),
        ((28, 28), (784,)),
    ],
    ids=str,
)
def test_flat_rows_and_axes_of_one_entry_are_reshaped(row: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    found = plan_arrangement(row, wanted)
    rows = np.arange(2 * math.prod(row)).reshape(2, *row)
    assert found is not None and is_fitting(found.shape, wanted)
    np.testing.assert_array_equal(found.apply(rows).ravel(), rows.ravel())


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ((16, 3, 16), (3, 16, 16)),
        ((3, 8, 6), (3, 6, 8)),
        ((16, 16, 3), (768,)),
        ((2, 384), (3, 16, 16)),
        ((4, 192), (3, 16, 16)),
        ((3, 3, 16), (0, 0, 3)),
        ((48, 16), (3, 16, 16)),
        ((300,), (0, 80)),
        ((16, 16, 4), (3, 16, 16)),
    ],
    ids=str,
)
def test_what_shapes_do_not_tell_is_not_arranged(row: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    assert plan_arrangement(row, wanted) is None


def test_no_arrangement_scrambles() -> None:
    """Over all rows of small sizes: what is longer than one keeps its order but for one axis that changes ends."""
    for row in itertools.product((1, 2, 3, 4), repeat=3):
        for wanted in itertools.product((0, 1, 2, 3, 4, 6, 12), repeat=3):
            found = plan_arrangement(row, wanted)
            if found is None or found.is_reshaped:
                continue
            before, after = ([s for s in shape if s != 1] for shape in (row, found.shape))
            assert after in (before, before[-1:] + before[:-1], before[1:] + before[:1])


SOURCES: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "npz": lambda x, folder: (np.savez(folder / "a.npz", x=x), folder / "a.npz")[1],
    "npy": lambda x, folder: (np.save(folder / "a.npy", x), folder / "a.npy")[1],
    "array": lambda x, _: x,
    "arrays": lambda x, _: {"x": x},
    "batches": lambda x, _: iter([x[:4], x[4:]]),
    "single rows": lambda x, _: iter(list(x)),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dims", [["N", *WANTED], [5, *WANTED]], ids=str)
def test_every_source_gives_the_same_rows_in_either_order(source: str, dims: list[int | str], tmp_path: Path) -> None:
    block = open_block(SOURCES[source](move_last(ROWS), tmp_path), dims)
    np.testing.assert_array_equal(block.inputs["x"], ROWS)
    assert len(block.notes) >= 1 and "rows of 'x' are [6, 8, 3], taken as [3, 6, 8]" in block.notes[0]
    plain = open_block(SOURCES[source](ROWS, tmp_path), dims)
    np.testing.assert_array_equal(plain.inputs["x"], ROWS)
    assert plain.notes == ()


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((10, 6, 3, 8), r"takes \[0, 3, 6, 8\].*another order: transpose"),
        ((10, 3, 8, 6), "another order: transpose"),
        ((10, 12, 12), "only flat rows are reshaped"),
        ((10, 3, 6, 7), r"takes \[0, 3, 6, 8\] \(0 = any\)$"),
    ],
    ids=str,
)
@pytest.mark.parametrize("source", ["npz", "arrays", "batches"])
def test_other_orders_are_refused_and_named(shape: tuple[int, ...], says: str, source: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        open_block(SOURCES[source](np.zeros(shape, np.float32), tmp_path), ["N", *WANTED])


def make_pair() -> onnx.ModelProto:
    """Two inputs: pictures with the channels first, and series with the channels last."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,6,8] a, float[N,20,2] b) => (float[N,5] y) {
        f = Flatten(a)  s = Flatten(b)  c = Concat<axis = 1>(f, s)  h = MatMul(c, w1)  r = Relu(h)
        y = MatMul(r, w2) }""")
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (184, 12), "w2": (12, 5)}.items():
        w = rng.standard_normal(shape).astype(np.float32) / shape[0] ** 0.5
        model.graph.initializer.append(onnx.numpy_helper.from_array(w, name))
    return model


def test_each_of_several_inputs_is_arranged_by_itself() -> None:
    series = np.random.default_rng(1).standard_normal((10, 20, 2)).astype(np.float32)
    given = {"a": move_last(ROWS), "b": np.ascontiguousarray(series.transpose(0, 2, 1))}
    found = load_calibration(analyze(normalize(from_proto(make_pair(), Path("m.onnx")))[0]), given, samples=10)
    joined = {n: np.concatenate([f[n] for f in found.feeds]) for n in ("a", "b")}
    np.testing.assert_array_equal(joined["a"], ROWS)
    np.testing.assert_array_equal(joined["b"], series)
    assert len(found.notes) == 2 and "'a'" in found.notes[0] and "'b'" in found.notes[1]


def test_accuracy_is_that_of_the_order_of_the_model(tmp_path: Path) -> None:
    """--calib and --data in either order give the same file and the same accuracy, and a note each where axes moved."""
    onnx.save(make_classifier(["N", *WANTED]), tmp_path / "m.onnx")
    labels = np.arange(10) % 5
    reports = []
    for name, x in {"first": ROWS, "last": move_last(ROWS), "flat": ROWS.reshape(10, -1)}.items():
        np.savez(tmp_path / f"{name}.npz", x=x, y=labels)
        given, report, out = (tmp_path / f"{name}{end}" for end in (".npz", ".json", ".onnx"))
        options = ("--ratio", 0.3, "--calib", given, "--data", given, "--report", report, "-o", out, "--no-latency")
        result = run(tmp_path / "m.onnx", *options)
        assert result.exit_code == 0, result.output
        reports.append(json.loads(report.read_text()))
    weights = [
        [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / f"{n}.onnx").graph.initializer]
        for n in ("first", "last", "flat")
    ]
    for others in weights[1:]:
        assert all((a == b).all() for a, b in zip(weights[0], others, strict=True))
    assert len({json.dumps(r["accuracy"] | {"data": ""}) for r in reports}) == 1
    moved = [[n for n in r["notes"] if "the last axis was moved" in n] for r in reports]
    assert [bool(m) for m in moved] == [False, True, False]
    assert "moved" in reports[1]["data"]["treatment"] and "moved" in reports[1]["calibration"]["given"]["treatment"]
    for verb, more in (("verify", ["--allow-unproven"]), ("compare", [])):
        done = run_spa(verb, tmp_path / "m.onnx", tmp_path / "last.onnx", "--data", tmp_path / "last.npz", *more)
        assert done.exit_code == 0, done.output
        assert "moved" in " ".join(done.output.split())
