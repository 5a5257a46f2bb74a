"""Scripts, readers, generators and Python objects: read in batches, checked item by item, never held whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs import graph_of_classifier, load_classifier
from spa_compiler.calibration.user_inputs import LEAST_MEASURED, MOST_APART, load_calibration
from spa_compiler.datasets.dataset import Dataset, open_dataset
from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.datasets.rows import join_blocks
from spa_compiler.errors import UsageError

SHAPE: list[int | str] = ["N", 6]
X = np.random.default_rng(0).standard_normal((10, 6)).astype(np.float32)
SCRIPT = """
import numpy as np
X = np.random.default_rng(0).standard_normal((10, 6)).astype(np.float32)
rows = {"x": X, "y": np.arange(10) % 5}
def array(): return X
def arrays(): return {"x": X}
def generator():
    for row in X: yield {"x": row[None]}
def single():
    for row in X: yield row
def labelled():
    for k, row in enumerate(X): yield row[None], k % 5
class Reader:
    def __init__(self): self.at = 0
    def get_next(self):
        self.at += 1
        return {"x": X[self.at - 1 : self.at]} if self.at <= len(X) else None
reader = Reader()
listed = [{"x": X[:5]}, {"x": X[5:]}]
def raising():
    yield {"x": X}
    raise RuntimeError("the disk is gone")
class Broken(Reader):
    def get_next(self): raise KeyError("x")
def leaving(): raise SystemExit(0)
def nothing(): return None
def ended(): return iter(())
def text(): return iter(["a"])
def odd():
    yield {"x": X}
    yield {"x": X[:, :3]}
def spoilt():
    yield {"x": X}
    yield {"x": np.where(X > 1, np.nan, X)}
def other(): yield {"z": X, "w": X}
"""


def open_given(given: Any) -> Dataset:
    data = open_dataset(given, load_classifier(SHAPE), parse_preprocess(""), "the inputs")
    data.check()
    return data


def write(folder: Path, text: str = SCRIPT) -> Path:
    (folder / "inputs.py").write_text(text)
    return folder / "inputs.py"


@pytest.mark.parametrize(
    "name", ["rows", "array", "arrays", "generator", "single", "labelled", "Reader", "reader", "listed"]
)
def test_a_script_gives_rows_in_many_ways(tmp_path: Path, name: str) -> None:
    found = join_blocks(open_given(f"{write(tmp_path)}:{name}").read_batches())
    np.testing.assert_array_equal(found.inputs["x"], X)
    if name in ("rows", "labelled"):
        assert found.labels is not None and found.labels.tolist() == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raising", r"inputs\.py: raising\(\): it raises RuntimeError: the disk is gone"),
        ("Broken", r"inputs\.py: Broken\(\): it raises KeyError"),
        ("leaving", r"inputs\.py: leaving\(\) ends with SystemExit"),
        ("nothing", r"inputs\.py: nothing\(\): it is nothing: expected an array"),
        ("ended", r"inputs\.py: ended\(\): it ends at once"),
        ("text", r"inputs\.py: text\(\), item 1: .*holds <U1"),
        ("odd", r"inputs\.py: odd\(\), item 2: .* has shape \[10, 3\], the model takes \[0, 6\]"),
        ("spoilt", r"inputs\.py: spoilt\(\), item 2: .*NaN or infinity"),
        ("other", r"inputs\.py: other\(\), item 1: no array for the input 'x'; there are \['w', 'z'\]"),
        ("missing", r"inputs\.py: it defines no function, class or value 'missing'"),
    ],
)
def test_what_a_script_does_wrong_is_named(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        list(open_given(f"{write(tmp_path)}:{name}").read_batches())


@pytest.mark.parametrize("text", ["def f(:", "\0\1binary", "1/0", "import not_there_at_all", "raise SystemExit"])
def test_a_script_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"inputs\.py: the script ends with"):
        open_given(f"{write(tmp_path, text)}:f")


def test_only_the_script_that_was_named_is_run(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("raise SystemExit")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit")
    assert open_given(f"{write(tmp_path)}:array").rows.count == 10


@pytest.mark.parametrize(
    "given",
    [X, X.tolist(), X.astype(np.float64), {"x": X}, [{"x": X}], iter([X[:3], X[3:]]), (X[k] for k in range(10))],
    ids=lambda g: type(g).__name__,
)
def test_python_gives_arrays_dictionaries_and_iterables(given: Any) -> None:
    np.testing.assert_array_equal(join_blocks(open_given(given).read_batches()).inputs["x"], X)


@pytest.mark.parametrize(
    "given",
    [3, object(), lambda: X, iter(()), [], {"x": ["a"]}, {"x": np.zeros((0, 6))}],
    ids=["number", "object", "function", "iterator", "list", "texts", "empty"],
)
def test_python_objects_that_are_no_inputs_are_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="the inputs"):
        open_given(given)


@pytest.mark.parametrize("labels", [np.array(["cat"] * 10), np.arange(9) % 5, np.full(10, 5), np.full(10, -1)], ids=str)
def test_wrong_labels_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"label|lengths"):
        open_given({"x": X, "y": labels})


def count_up(counter: list[int], rows: int) -> Iterator[np.ndarray]:
    for k in itertools.count() if rows < 0 else range(rows):
        counter.append(k)
        yield np.full((1, 6), k, np.float32)


@pytest.mark.parametrize("rows", [-1, 5000])
def test_of_a_long_stream_no_more_is_read_than_is_wanted(rows: int) -> None:
    counter: list[int] = []
    found = load_calibration(graph_of_classifier(SHAPE), count_up(counter, rows), samples=100)
    assert found.samples == 100 and len(counter) == 100 + MOST_APART
    assert found.apart is not None and found.summary["of"] is None
    assert {int(v) for f in found.apart(20) for v in f["x"][:, 0]} <= set(range(100, 100 + MOST_APART))


@pytest.mark.parametrize(
    ("rows", "apart"), [(5, 0), (LEAST_MEASURED, 0), (LEAST_MEASURED + 1, 1), (200, 40), (1000, 200), (1600, 256)]
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_of_more_rows_than_moments_need_a_share_is_kept_apart(rows: int, apart: int, is_stream: bool) -> None:
    x = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 6, 1)
    found = load_calibration(graph_of_classifier(SHAPE), iter([x]) if is_stream else x)
    seen = {int(v) for f in found.feeds for v in f["x"][:, 0]}
    assert found.samples == rows - apart and found.summary["apart"] == apart
    if not apart:
        assert found.apart is None
        return
    assert found.apart is not None
    other = [int(v) for f in found.apart(1000) for v in f["x"][:, 0]]
    assert len(other) == apart and not seen & set(other) and seen | set(other) == set(range(rows))
    assert sum(len(f["x"]) for f in found.apart(3)) == min(3, apart)


def test_who_says_how_many_samples_gets_them() -> None:
    assert load_calibration(graph_of_classifier(SHAPE), np.zeros((200, 6), np.float32), samples=200).samples == 200


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((4, 6), np.inf), "NaN or infinity"),
        (np.array([["a"] * 6]), "give numbers"),
        (np.zeros((4, 6), complex), "give numbers"),
        (np.zeros((4, 7)), "has shape"),
        (np.zeros(()), "lengths|shape"),
    ],
)
def test_arrays_that_hold_no_inputs_are_refused(tmp_path: Path, array: np.ndarray, says: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UsageError, match=f"{says}|not an .npy of rows"):
        open_given(tmp_path / "a.npy")


def test_channels_go_where_the_model_has_them() -> None:
    x = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3)).astype(np.float32)
    data = open_dataset(x, load_classifier(["N", 3, 8, 8]), parse_preprocess(""), "x")
    np.testing.assert_array_equal(join_blocks(data.read_batches()).inputs["x"], np.moveaxis(x, 3, 1))
