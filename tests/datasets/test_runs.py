"""Inputs that share no first axis are given run by run, and rows of several lengths side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spa_compiler
from laws import analyze_proto
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.user_inputs import LEAST_MEASURED, load_calibration
from spa_compiler.datasets.dataset import open_dataset
from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.datasets.rows import merge_blocks, take_rows
from spa_compiler.errors import UsageError
from spa_compiler.quality.inputs import match_scale
from zoo_base import Case, build

NETWORK = Case(  # nodes with features, and which are joined
    """(float[n,16] x, float[n,n] joined) => (float[n,5] y) {
        a = MatMul(x, w1)  b = MatMul(joined, a)  r = Relu(b)  y = MatMul(r, w2) }""",
    {"w1": (16, 24), "w2": (24, 5)},
    None,
)
STEP = Case(  # rows, the state of each at another place, and a number
    """(float[N,8] x, float[2,N,6] h, float t) => (float[N,5] y) {
        a = MatMul(x, w1)  g = Gather<axis=0>(h, first)  b = MatMul(g, w2)  s = Add(a, b)  m = Mul(s, t)
        r = Tanh(m)  y = MatMul(r, w3) }""",
    {"w1": (8, 24), "first": 0, "w2": (6, 24), "w3": (24, 5)},
    None,
)
TEXT = Case(
    """(int64[N,L] ids) => (float[N,5] y) {
        e = Gather(table, ids)  a = MatMul(e, w1)  r = Relu(a)  p = ReduceMean<keepdims=0>(r, axis)
        y = MatMul(p, w2) }""",
    {"table": (50, 8), "w1": (8, 24), "axis": [1], "w2": (24, 5)},
    None,
)
Run = dict[str, np.ndarray]


def draw_network(k: int, nodes: int | None = None) -> Run:
    rng = np.random.default_rng(k)
    n = nodes or 7 + k
    joined = (rng.random((n, n)) < 0.3).astype(np.float32)
    return {"x": rng.standard_normal((n, 16)).astype(np.float32), "joined": joined}


def graph_of(case: Case) -> DependencyGraph:
    return analyze_proto(build(case))


def assert_same(found: list[Run], wanted: list[Run]) -> None:
    assert len(found) == len(wanted)
    for f, w in zip(found, wanted, strict=True):
        assert f.keys() == w.keys()
        for name in w:
            np.testing.assert_array_equal(f[name], w[name])


RUNS = [draw_network(k) for k in range(4)]
STACKED = {n: np.stack([draw_network(k, 9)[n] for k in range(4)]) for n in RUNS[0]}


class Reader:
    """As onnxruntime's quantiser reads."""

    def __init__(self) -> None:
        self.runs = iter(RUNS)

    def get_next(self) -> Run | None:
        return next(self.runs, None)


def save_runs(folder: Path) -> Path:
    for k, run in enumerate(RUNS):
        np.savez(folder / f"{k}.npz", **run)  # type: ignore[arg-type]
    return folder


def save_one(folder: Path, run: Run) -> Path:
    np.savez(folder / "one.npz", **run)  # type: ignore[arg-type]
    return folder / "one.npz"


@pytest.mark.parametrize("how", ["a file", "a stack", "a folder", "a list", "an iterator", "a reader", "a dictionary"])
def test_runs_are_taken_as_they_are(tmp_path: Path, how: str) -> None:
    ways: dict[str, tuple[Any, list[Run]]] = {
        "a list": (RUNS, RUNS),
        "an iterator": (iter(RUNS), RUNS),
        "a reader": (Reader(), RUNS),
        "a dictionary": (RUNS[0], RUNS[:1]),
    }
    if how == "a folder":
        ways[how] = save_runs(tmp_path), RUNS
    if how == "a stack":
        ways[how] = save_one(tmp_path, STACKED), [draw_network(k, 9) for k in range(4)]
    if how == "a file":
        ways[how] = save_one(tmp_path, RUNS[2]), RUNS[2:3]
    given, wanted = ways[how]
    found = load_calibration(graph_of(NETWORK), given)
    assert_same(list(found.feeds), wanted)
    assert found.source.startswith(f"{len(wanted)} sets of inputs from ")


def test_of_many_runs_some_are_kept_apart() -> None:
    runs = [draw_network(k, 3 + k % 5) for k in range(LEAST_MEASURED + 40)]
    found = load_calibration(graph_of(NETWORK), runs)
    assert found.apart is not None
    apart = found.apart(1000)
    assert len(found.feeds) + len(apart) == len(runs)
    taken = {f["x"].tobytes() for f in found.feeds}
    assert not any(f["x"].tobytes() in taken for f in apart)


def test_what_all_runs_share_is_given_once() -> None:
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal((3, 4, 8)).astype(np.float32), rng.standard_normal((2, 4, 6)).astype(np.float32)
    found = load_calibration(graph_of(STEP), {"x": x, "h": h, "t": 0.5})
    assert_same(list(found.feeds), [{"x": row, "h": h, "t": np.array(0.5, np.float32)} for row in x])


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ({"x": np.zeros((5, 15)), "joined": np.zeros((5, 5))}, r"'x' has shape \[5, 15\], the model takes \[0, 16\]"),
        ({"x": np.zeros((5, 16))}, "no array for the input 'joined'"),
        ({"x": np.zeros((3, 5, 16)), "joined": np.zeros((2, 5, 5))}, "arrays of different lengths"),
        ({"x": np.zeros((2, 3, 5, 16)), "joined": np.zeros((5, 5))}, r"'x' has shape \[3, 5, 16\]"),
    ],
)
def test_runs_that_do_not_fit_are_refused(run: Run, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_calibration(graph_of(NETWORK), run)


def test_a_model_is_compiled_with_runs_of_several_sizes(tmp_path: Path) -> None:
    labelled = [{**run, "y": np.arange(len(run["x"])) % 5} for run in RUNS]
    result = spa_compiler.compile(build(NETWORK), ratio=0.4, calib=RUNS, data=labelled, latency=False)
    assert result.report["accuracy"]["samples"] == len(RUNS)
    assert result.report["calibration"]["given"]["rows"] == len(RUNS)


def draw_texts() -> Iterator[Run]:
    for k in range(12):
        yield {"ids": np.random.default_rng(k).integers(0, 50, (2, 3 + k // 4))}


def test_rows_of_several_lengths_are_chunks_of_their_own() -> None:
    found = load_calibration(graph_of(TEXT), draw_texts())
    assert [f["ids"].shape for f in found.feeds] == [(8, 3), (8, 4), (8, 5)]
    data = open_dataset(draw_texts(), graph_of(TEXT).model, parse_preprocess(""), "texts")
    assert [b.inputs["ids"].shape for b in data.read_batches()] == [(8, 3), (8, 4), (8, 5)]


def test_rows_are_counted_through_blocks_of_several_shapes() -> None:
    data = open_dataset(draw_texts(), graph_of(TEXT).model, parse_preprocess(""), "texts")
    blocks = merge_blocks(data.read_batches())
    assert [b.inputs["ids"].shape for b in take_rows(blocks, [1, 2, 9, 23])] == [(2, 3), (1, 4), (1, 5)]
    assert take_rows(blocks, range(24)) == blocks


def test_single_numbers_stay_arrays_where_they_are_brought_to_a_scale() -> None:
    drawn = [{"t": np.array(v, np.float32)} for v in (0.0, 1.0)]
    (first, second) = match_scale(drawn, [{"t": np.array(v, np.float32)} for v in (100.0, 300.0)])
    assert isinstance(first["t"], np.ndarray) and first["t"].dtype == np.float32
    assert (float(first["t"]), float(second["t"])) == (100.0, 300.0)
