"""Outputs of a run as arrays, and which of them says the class.

Classical classifiers (scikit-learn's, WinML's) end in ZipMap: a label and, beside it, a map of probabilities for each
row. The maps of all rows are the matrix that ZipMap reads, with a column for each key.

>>> tabulate_maps([{"cat": 0.9, "dog": 0.1}, {"cat": 0.2, "dog": 0.8}]).tolist()
[[0.9, 0.1], [0.2, 0.8]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from spa_compiler.execution.session import run_session

Array = NDArray[Any]


def run_arrays(session: ort.InferenceSession, feed: Mapping[str, Array], what: str = "the model") -> list[Any]:
    """All outputs of one run, sequences of maps as matrices. Raises ModelError as `run_session` does."""
    return [tabulate_maps(y) for y in run_session(session, feed, what)]


def tabulate_maps(output: Any) -> Any:
    """A sequence of maps from the same keys to numbers as a matrix [maps, keys]; anything else as it is."""
    if not isinstance(output, list) or not output or not all(isinstance(row, dict) for row in output):
        return output
    keys = list(output[0])
    if any(list(row) != keys for row in output):
        return output
    found = np.array([[row[k] for k in keys] for row in output])
    return found if found.dtype.kind in "fiub" else output


def find_class_output(outputs: Sequence[Any]) -> Any:
    """The output whose largest entry says the class: the first, or the one behind the labels of the rows."""
    first = outputs[0] if len(outputs) else None
    if first is None or len(outputs) < 2 or not is_label(first) or not _is_matrix(outputs[1]):
        return first
    return outputs[1] if len(first) == len(outputs[1]) else first


def is_label(output: Any) -> bool:
    """Is this one name or one whole number for each row?"""
    return isinstance(output, np.ndarray) and output.ndim == 1 and output.dtype.kind in "iuOSU"


def _is_matrix(output: Any) -> bool:
    return isinstance(output, np.ndarray) and output.ndim == 2 and output.dtype.kind == "f"


__all__ = ["find_class_output", "is_label", "run_arrays", "tabulate_maps"]
