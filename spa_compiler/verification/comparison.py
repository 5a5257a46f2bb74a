"""The comparison of two values: index by index, so that no large number hides a wrong small one.

    measure_difference(pruned, masked)      # Difference(error=3e-07, compared=4096)

The error of an array is the largest difference at an index of its second or last axis (a class, a coordinate, a token,
a channel) over the largest magnitude of the reference at that index. Three bounds belong to rounding and not to the
model: an entry is never measured by less than itself; an index by no more than PEAK times what is typical of it
(-1e9 in place of invalid scores hides nothing), and by no less than FLOOR times that (an index of zeros is no division
by zero). Where both sides have the same NaN or infinity nothing is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.ir.model import find_element_type

Array = NDArray[Any]
FLOAT_TOLERANCE, HALF_TOLERANCE, COARSE_TOLERANCE = 1e-5, 1e-2, 5e-2
"""Largest error that is rounding: for float32 and wider, float16 and bfloat16."""
SCALE_FLOOR, PEAK_RATIO = 0.5, 100.0
TYPICAL_SAMPLE = 4096
"""Entries from which the typical magnitude of an array is taken."""


@dataclass(frozen=True)
class Difference:
    """`error`: the largest one, infinite where shapes, NaN or infinities disagree; `compared`: entries that count."""

    error: float
    compared: int

    def __or__(self, other: Difference) -> Difference:
        """Both at once."""
        return Difference(max(self.error, other.error), self.compared + other.compared)


NO_DIFFERENCE = Difference(0.0, 0)
INFINITE_DIFFERENCE = Difference(float("inf"), 1)


def choose_tolerance(graph: DependencyGraph) -> float:
    """The tolerance for rounding, by the coarsest type of the weights and of the values."""
    constants = graph.model.constants()
    kinds = {find_element_type(constants[n]) for n in graph.weights}
    kinds |= set(graph.model.shapes.kind.values()) if graph.model.shapes is not None else set()
    if onnx.TensorProto.BFLOAT16 in kinds:
        return COARSE_TOLERANCE
    return HALF_TOLERANCE if onnx.TensorProto.FLOAT16 in kinds else FLOAT_TOLERANCE


def measure_difference(x: Any, reference: Any, least: float = 0.0) -> Difference:
    """How far a value is from its reference: arrays of numbers and text, sequences, maps and None.

    An error below `least` may come out as `least`: who looks for the largest of many gives the largest so far.
    """
    if isinstance(x, dict) and isinstance(reference, dict):
        return (
            _join_differences((x[k], reference[k]) for k in reference)
            if x.keys() == reference.keys()
            else INFINITE_DIFFERENCE
        )
    if isinstance(x, list | tuple) and isinstance(reference, list | tuple):
        found, expected = _read_table(x), _read_table(reference)
        if found is not None and expected is not None and found[0] == expected[0]:
            return measure_difference(found[1], expected[1], least)
        return _join_differences(zip(x, reference, strict=True)) if len(x) == len(reference) else INFINITE_DIFFERENCE
    if x is None or reference is None:
        return NO_DIFFERENCE if x is reference else INFINITE_DIFFERENCE
    a, b = np.asarray(x), np.asarray(reference)
    if a.shape != b.shape or a.dtype != b.dtype:
        return INFINITE_DIFFERENCE
    if b.dtype.kind == "V":  # float8 and bfloat16 where numpy has no name for them
        return (
            NO_DIFFERENCE if a.tobytes() == b.tobytes() else _measure(a.astype(np.float32), b.astype(np.float32), least)
        )
    if b.dtype.kind not in "fiub":
        return Difference(0.0 if np.array_equal(a, b) else float("inf"), b.size)
    return _measure(a, b, least)


def _read_table(rows: Sequence[Any]) -> tuple[list[Any], Array] | None:
    """Maps from the same keys to numbers as the keys and a matrix, so that a class is measured by the whole class."""
    keys = list(rows[0]) if rows and isinstance(rows[0], dict) else None
    if not keys or not all(isinstance(row, dict) and list(row) == keys for row in rows):
        return None
    values = [[row[k] for k in keys] for row in rows]
    if not all(isinstance(v, int | float | np.number) for row in values for v in row):
        return None
    return keys, np.array(values, np.float32 if isinstance(values[0][0], float) else None)


def _join_differences(pairs: Iterable[tuple[Any, Any]]) -> Difference:
    out = NO_DIFFERENCE
    for a, b in pairs:
        out |= measure_difference(a, b)
    return out


def _measure(x: Array, reference: Array, least: float) -> Difference:
    if not reference.size:
        return NO_DIFFERENCE
    kind = np.float64 if reference.dtype.kind in "iu" or reference.dtype.itemsize > 4 else np.float32
    a: Array = x.astype(kind, copy=False)
    b: Array = reference.astype(kind, copy=False)
    with np.errstate(all="ignore"):
        gap: Array = np.asarray(a - b)
        np.abs(gap, out=gap)
        worst = float(gap.max())
    if worst == 0:
        return Difference(0.0, b.size)
    compared = b.size
    if np.isfinite(worst) and worst <= least * SCALE_FLOOR * find_typical(b):  # no scale is smaller
        return Difference(least, compared)
    size = np.abs(b)
    if not np.isfinite(worst):
        finite = np.isfinite(b)
        if not (np.array_equal(np.isfinite(a), finite) and np.array_equal(a[~finite], b[~finite], equal_nan=True)):
            return INFINITE_DIFFERENCE
        gap, size, compared = np.where(finite, gap, 0), np.where(finite, size, 0), int(finite.sum())
    return Difference(_scale_gap(gap, size), compared)


def _scale_gap(gap: Array, size: Array) -> float:
    """The largest gap by the scale of its index, over both axes of indices."""
    usual = find_typical(size)
    tiny = float(np.finfo(size.dtype).tiny)
    low, high = max(SCALE_FLOOR * usual, tiny), PEAK_RATIO * usual
    error = 0.0
    for axis in sorted({min(1, size.ndim - 1), size.ndim - 1}):
        peak = find_peaks(size, axis)
        worst = find_peaks(gap, axis)
        error = max(error, float((worst / np.maximum(peak, low)).max()))
        for k in np.flatnonzero((peak > high) & (worst > 0)) if size.ndim > 1 else ():
            own = size.take(k, axis)
            most = max(high, PEAK_RATIO * find_typical(own), tiny)
            error = max(error, float((gap.take(k, axis) / np.maximum(min(float(peak[k]), most), own)).max()))
    return error


def find_typical(values: Array) -> float:
    """The median of the magnitudes that are not zero, over an even sample; 0 where all are."""
    flat = np.abs(values.reshape(-1)[:: max(1, values.size // TYPICAL_SAMPLE)])
    flat = flat[(flat > 0) & np.isfinite(flat)]
    if not flat.size:
        return float(np.abs(values).max(initial=0.0, where=np.isfinite(values)))
    half = flat.size // 2
    if flat.size % 2:
        return float(np.partition(flat, half)[half])
    low, high = np.partition(flat, (half - 1, half))[half - 1 : half + 1]
    return float(low + (high - low) / 2)


def find_peaks(a: Array, axis: int) -> Array:
    """The largest entry at every index of an axis; the entry itself of a number."""
    if a.ndim < 2:
        return a
    axis %= a.ndim
    if axis == a.ndim - 1:
        return np.asarray(a.reshape(-1, a.shape[-1]).max(0))
    rows = a.reshape(-1, a.shape[axis], int(np.prod(a.shape[axis + 1 :])))
    return np.asarray(rows.max(2).max(0))
