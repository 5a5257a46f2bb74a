"""Arrays as a model's inputs take them: type, shape, finite numbers, ids within their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.datasets.axis_order import describe_misfit, plan_arrangement
from spa_compiler.datasets.preprocess import ValueMap
from spa_compiler.errors import UsageError
from spa_compiler.execution.index_limits import find_index_limits
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import get_tensor_type

Array = NDArray[Any]
LABEL_NAMES = ("y", "label", "labels")
PICTURE_CHANNELS = (1, 3, 4)
"""Channels that a picture may have."""


@dataclass(frozen=True)
class InputSpec:
    """An input of the model: sizes (0: any), type, and the number of entries of what its ids point to, or 0.

    `is_whole`: a row is all that a run is given, and the first axis counts the runs; the model has one axis less.
    """

    name: str
    dims: tuple[int, ...]
    dtype: np.dtype[Any]
    limit: int = 0
    is_whole: bool = False

    def make_whole(self) -> InputSpec:
        """The same input where rows are whole runs."""
        return self if self.is_whole else replace(self, dims=(0, *self.dims), is_whole=True)


def list_specs(model: Model) -> list[InputSpec]:
    """The inputs that a run has to be given."""
    limits = find_index_limits(model, fixed=True)
    return [_make_spec(vi, limits.get(vi.name, 0)) for vi in model.header.graph.input]


def _make_spec(vi: onnx.ValueInfoProto, limit: int) -> InputSpec:
    t = get_tensor_type(vi.type)
    if not t.elem_type:
        raise UsageError(f"input '{vi.name}' is a sequence or a map, and no array can be given for it")
    dims = tuple(d.dim_value for d in t.shape.dim)
    return InputSpec(vi.name, dims, onnx.helper.tensor_dtype_to_np_dtype(t.elem_type), limit)


def take_labels(arrays: dict[str, Array], specs: Sequence[InputSpec]) -> Array | None:
    """Take the labels out of the arrays, where there are some."""
    names = {s.name for s in specs}
    return next((arrays.pop(n) for n in LABEL_NAMES if n in arrays and n not in names), None)


def fit_arrays(
    where: str, arrays: Mapping[str, Array], specs: Sequence[InputSpec], values: ValueMap | None = None
) -> dict[str, Array]:
    """Arrays by input. Raises UsageError that names the array, what it is and what the model takes."""
    return {s.name: fit_array(where, s, pick_array(where, s.name, arrays, len(specs)), values) for s in specs}


def list_moves(where: str, arrays: Mapping[str, Array], specs: Sequence[InputSpec]) -> tuple[str, ...]:
    """Notes on arrays whose axes stand in another order than the model's, which `fit_arrays` puts right."""
    found: list[str] = []
    for s in specs:
        row, wanted = pick_array(where, s.name, arrays, len(specs)).shape[1:], s.dims[1:]
        arrangement = plan_arrangement(row, wanted)
        if arrangement is not None and arrangement.note:
            shape, taken = list(row), list(arrangement.shape)
            found.append(f"{where}: rows of '{s.name}' are {shape}, taken as {taken}: {arrangement.note}")
    return tuple(found)


def pick_array(where: str, name: str, arrays: Mapping[str, Array], inputs: int) -> Array:
    """The array for an input. Raises UsageError that names the input where there is none."""
    if name in arrays:
        return arrays[name]
    if inputs == 1 and len(arrays) == 1:
        return next(iter(arrays.values()))
    if inputs == 1 and "x" in arrays:
        return arrays["x"]
    raise UsageError(f"{where}: no array for the input '{name}'; there are {sorted(arrays)}")


def fit_array(where: str, spec: InputSpec, array: Array, values: ValueMap | None = None) -> Array:
    """The array in the input's type, its rows in the input's shape where that can be told from theirs."""
    what = f"{where}: the array for '{spec.name}'"
    if spec.dtype.kind != "O" and array.dtype.kind not in "biuf":
        raise UsageError(f"{what} holds {array.dtype}, the model takes {spec.dtype}: give numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"{what} holds NaN or infinity")
    arrangement = plan_arrangement(array.shape[1:], spec.dims[1:]) if array.ndim and spec.dims else None
    if arrangement is None and array.shape != spec.dims:
        hint = describe_misfit(array.shape[1:], spec.dims[1:])
        shape, dims = (list(sizes)[spec.is_whole :] for sizes in (array.shape, spec.dims))
        raise UsageError(f"{what} has shape {shape}, the model takes {dims} (0 = any){hint}")
    array = arrangement.apply(array) if arrangement is not None else array
    if values is not None and not values.is_identity:
        array = values.apply(array, find_channel_axis(array.shape))
    _check_numbers(what, spec, array)
    return np.ascontiguousarray(array.astype(spec.dtype, copy=False))


def _check_numbers(what: str, spec: InputSpec, array: Array) -> None:
    """Raise UsageError for numbers that the input cannot hold."""
    if not array.size or spec.dtype.kind not in "iu":
        return
    if array.dtype.kind == "f" and (array != np.rint(array)).any():
        raise UsageError(f"{what} holds fractions, the model takes {spec.dtype}")
    found = f"{what} holds {array.min()} to {array.max()}"
    if spec.limit and not -spec.limit <= array.min() <= array.max() < spec.limit:
        raise UsageError(f"{found}, the model takes ids below {spec.limit}")
    info = np.iinfo(spec.dtype)
    if not info.min <= array.min() <= array.max() <= info.max:
        raise UsageError(f"{found}, the model takes {spec.dtype}: {info.min} to {info.max}")


def find_channel_axis(shape: Sequence[int]) -> int:
    """The axis of the channels of rows of this shape (the rows first): the second, or the last one of NHWC."""
    if len(shape) == 4 and shape[3] in PICTURE_CHANNELS and shape[1] not in PICTURE_CHANNELS:
        return 3
    return min(1, len(shape) - 1)


def count_rows(where: str, arrays: Mapping[str, Array], labels: Array | None) -> int:
    """Rows of a block. Raises UsageError where its arrays and labels do not have equally many, or none."""
    rows = {len(a) for a in arrays.values() if a.ndim} | (
        {len(labels)} if labels is not None and labels.ndim else set()
    )
    if len(rows) != 1 or 0 in rows:
        raise UsageError(f"{where}: arrays of different lengths or empty: {sorted(rows)} rows")
    return next(iter(rows))
