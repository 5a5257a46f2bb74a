"""Real data that the caller gives: `--data FILE.npz` with inputs and labels, and what a model makes of it.

    data = load_data(Path("test.npz"), model)
    measure_accuracy(session, data)                       # share of rows whose largest output is the label

An array belongs to the input of the same name; with one input any array that is not the labels will do (`x`). Labels
are called `y`, `label` or `labels`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from spa_compiler.errors import UsageError
from spa_compiler.execution.index_limits import find_index_limits
from spa_compiler.execution.session import run_session
from spa_compiler.ir.model import Model

Array = NDArray[Any]
LABEL_NAMES = ("y", "label", "labels")
DATA_BATCH = 64


@dataclass(frozen=True)
class Data:
    """Arrays by input name, all with the same number of rows, and integer labels or None."""

    inputs: dict[str, Array]
    labels: Array | None
    batch: int  # rows in one run: what the model's fixed batch axis says, else BATCH

    @property
    def rows(self) -> int:
        """Rows that are used: a fixed batch leaves out an incomplete last one."""
        n = len(next(iter(self.inputs.values())))
        return n if self.batch == 0 else n - n % self.batch

    def feeds(self, limit: int | None = None) -> Iterator[dict[str, Array]]:
        """Batches in order."""
        by = self.batch or DATA_BATCH
        for at in range(0, min(self.rows, limit or self.rows), by):
            yield {n: a[at : at + by] for n, a in self.inputs.items()}


def load_npz(path: Path) -> dict[str, Array]:
    """The arrays of an .npz. Raises UsageError for anything that is not one."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {n: archive[n] for n in archive.files}
    except FileNotFoundError as e:
        raise UsageError(f"{path}: no such file") from e
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as e:
        raise UsageError(f"{path}: not an .npz of arrays ({e})") from e


def load_data(path: Path, model: Model) -> Data:
    """Read and check an .npz. Raises UsageError that names the array, what it is and what the model takes."""
    return make_data(path, load_npz(path), model)


def make_data(path: Path, arrays: dict[str, Array], model: Model) -> Data:
    """`load_data` of arrays that are there already; `path` is where they come from, for messages."""
    labels = next((arrays.pop(n) for n in LABEL_NAMES if n in arrays and n not in _list_inputs(model)), None)
    limits = find_index_limits(model, fixed=True)
    inputs = {
        vi.name: _fit_array(
            path, vi, _pick_array(path, vi.name, arrays, len(_list_inputs(model))), limits.get(vi.name, 0)
        )
        for vi in model.header.graph.input
    }
    rows = {len(a) for a in inputs.values()} | ({len(labels)} if labels is not None else set())
    if len(rows) != 1 or 0 in rows:
        raise UsageError(f"{path}: arrays of different lengths or empty: {sorted(rows)} rows")
    first = model.header.graph.input[0].type.tensor_type.shape.dim
    return Data(inputs, labels, first[0].dim_value if len(first) and first[0].dim_value > 0 else 0)


def _list_inputs(model: Model) -> list[str]:
    return [vi.name for vi in model.header.graph.input]


def _pick_array(path: Path, name: str, arrays: dict[str, Array], inputs: int) -> Array:
    if name in arrays:
        return arrays[name]
    if inputs == 1 and len(arrays) == 1:
        return next(iter(arrays.values()))
    if inputs == 1 and "x" in arrays:
        return arrays["x"]
    raise UsageError(f"{path}: no array for the input '{name}'; the file has {sorted(arrays)}")


def _fit_array(path: Path, vi: onnx.ValueInfoProto, array: Array, limit: int) -> Array:
    """The array in the input's type, its rows in the input's shape where they have as many elements.

    `limit`: how many entries there are that the input's numbers point to, or 0.
    """
    dims = [d.dim_value for d in vi.type.tensor_type.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(vi.type.tensor_type.elem_type)
    wanted = dims[1:]
    if all(wanted) and array.ndim and int(np.prod(array.shape[1:])) == int(np.prod(wanted)):
        array = array.reshape(len(array), *wanted)
    fits = array.ndim == len(dims) and all(not w or w == s for w, s in zip(wanted, array.shape[1:], strict=True))
    if not fits:
        raise UsageError(
            f"{path}: the array for '{vi.name}' has shape {list(array.shape)}, the model takes {dims} (0 = any)"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"{path}: the array for '{vi.name}' holds NaN or infinity")
    if array.dtype.kind == "f" and dtype.kind in "iu" and (array != np.rint(array)).any():
        raise UsageError(f"{path}: the array for '{vi.name}' holds fractions, the model takes {dtype}")
    if limit and array.size and not -limit <= array.min() <= array.max() < limit:
        found = f"holds {array.min()} to {array.max()}"
        raise UsageError(f"{path}: the array for '{vi.name}' {found}, the model takes ids below {limit}")
    return np.ascontiguousarray(array.astype(dtype, copy=False))


def predict_outputs(session: ort.InferenceSession, data: Data, limit: int | None = None) -> list[list[Any]]:
    """All outputs of every batch."""
    return [run_session(session, feed) for feed in data.feeds(limit)]


def measure_accuracy(outputs: list[list[Any]], data: Data) -> float | None:
    """Share of rows whose largest first output is the label; None without labels or without one row per label."""
    if data.labels is None or data.labels.dtype.kind not in "iu" or not outputs:
        return None
    first = np.concatenate([np.atleast_1d(np.asarray(o[0])) for o in outputs])
    if first.ndim < 2:
        return None
    best = first.argmax(1) if first.size == first.shape[0] * first.shape[1] else first.argmax(-1)
    labels = data.labels[: len(best)]
    if labels.size != best.size:
        return None
    return float((best.reshape(labels.shape) == labels).mean())
