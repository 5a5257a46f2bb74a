"""Arrays as a model's inputs take them: type, shape, finite numbers, ids within their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.datasets.preprocess import ValueMap
from spa_compiler.errors import UsageError
from spa_compiler.execution.index_limits import find_index_limits
from spa_compiler.ir.model import Model

Array = NDArray[Any]
LABEL_NAMES = ("y", "label", "labels")
PICTURE_CHANNELS = (1, 3, 4)
"""Channels that a picture may have."""


@dataclass(frozen=True)
class InputSpec:
    """An input of the model: sizes (0: any), type, and the number of entries of what its ids point to, or 0."""

    name: str
    dims: tuple[int, ...]
    dtype: np.dtype[Any]
    limit: int = 0


def list_specs(model: Model) -> list[InputSpec]:
    """The inputs that a run has to be given."""
    limits = find_index_limits(model, fixed=True)
    return [_make_spec(vi, limits.get(vi.name, 0)) for vi in model.header.graph.input]


def _make_spec(vi: onnx.ValueInfoProto, limit: int) -> InputSpec:
    dims = tuple(d.dim_value for d in vi.type.tensor_type.shape.dim)
    return InputSpec(vi.name, dims, onnx.helper.tensor_dtype_to_np_dtype(vi.type.tensor_type.elem_type), limit)


def take_labels(arrays: dict[str, Array], specs: Sequence[InputSpec]) -> Array | None:
    """Take the labels out of the arrays, where there are some."""
    names = {s.name for s in specs}
    return next((arrays.pop(n) for n in LABEL_NAMES if n in arrays and n not in names), None)


def fit_arrays(
    where: str, arrays: Mapping[str, Array], specs: Sequence[InputSpec], values: ValueMap | None = None
) -> dict[str, Array]:
    """Arrays by input. Raises UsageError that names the array, what it is and what the model takes."""
    return {s.name: fit_array(where, s, _pick_array(where, s.name, arrays, len(specs)), values) for s in specs}


def _pick_array(where: str, name: str, arrays: Mapping[str, Array], inputs: int) -> Array:
    if name in arrays:
        return arrays[name]
    if inputs == 1 and len(arrays) == 1:
        return next(iter(arrays.values()))
    if inputs == 1 and "x" in arrays:
        return arrays["x"]
    raise UsageError(f"{where}: no array for the input '{name}'; there are {sorted(arrays)}")


def fit_array(where: str, spec: InputSpec, array: Array, values: ValueMap | None = None) -> Array:
    """The array in the input's type, its rows in the input's shape where they have as many elements."""
    what = f"{where}: the array for '{spec.name}'"
    if spec.dtype.kind != "O" and array.dtype.kind not in "biuf":
        raise UsageError(f"{what} holds {array.dtype}, the model takes {spec.dtype}: give numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"{what} holds NaN or infinity")
    wanted = spec.dims[1:]
    array = _arrange(array, wanted)
    if not is_fitting(array.shape[1:], wanted) or array.ndim != len(spec.dims):
        raise UsageError(f"{what} has shape {list(array.shape)}, the model takes {list(spec.dims)} (0 = any)")
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


def is_fitting(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Has a row these sizes (0: any)?"""
    return len(shape) == len(wanted) and all(not w or w == s for w, s in zip(wanted, shape, strict=True))


def _arrange(array: Array, wanted: Sequence[int]) -> Array:
    """Rows in the wanted shape: channels moved where the picture has them at the other end, else only counted."""
    row = array.shape[1:]
    if is_fitting(row, wanted):
        return array
    if len(row) == 3 and row[2] in PICTURE_CHANNELS and is_fitting((row[2], *row[:2]), wanted):
        return np.moveaxis(array, 3, 1)
    if len(row) == 3 and row[0] in PICTURE_CHANNELS and is_fitting((*row[1:], row[0]), wanted):
        return np.moveaxis(array, 1, 3)
    if all(wanted) and array.ndim and int(np.prod(row)) == int(np.prod(wanted)):
        return array.reshape(len(array), *wanted)
    return array


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
