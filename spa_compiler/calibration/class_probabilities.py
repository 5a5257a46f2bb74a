"""Probabilities of classes as a model's first output gives them, and how much they tell of its inputs.

>>> read_probabilities([np.array([[0.0, 0.0], [0.0, 100.0]])]).round(3).tolist()
[[0.5, 0.5], [0.0, 1.0]]
>>> bool(np.isclose(measure_information(np.eye(2)), np.log(2)))
True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from spa_compiler.execution.outputs import find_class_output, run_arrays
from spa_compiler.execution.parallel import map_parallel

Array = NDArray[Any]
Feed = dict[str, Array]
MOST_CLASSES = 20_000
"""Columns up to which a matrix of outputs may be one of classes."""
LEAST_MASS = 1e-12
"""Added to probabilities whose logarithm is taken."""


def read_probabilities(outputs: Sequence[Any]) -> Array | None:
    """Class probabilities (n, classes) of the outputs of several runs; None where they are no classifier's.

    Each is a matrix, with axes of 1 beside, of at least two columns: of probabilities as they are, else of logits.
    """
    rows = []
    for y in outputs:
        if not isinstance(y, np.ndarray) or y.dtype.kind != "f" or y.ndim < 2 or not y.size:
            return None
        classes = y.size // len(y)
        if max(y.shape[1:]) != classes or not 2 <= classes <= MOST_CLASSES:
            return None
        rows.append(y.reshape(len(y), classes).astype(np.float64))
    if not rows or len({r.shape[1] for r in rows}) != 1:
        return None
    p = np.concatenate(rows)
    if not np.isfinite(p).all():
        return None
    if (p < -1e-6).any() or np.abs(p.sum(1) - 1).max() > 1e-2:
        p = np.exp(p - p.max(1, keepdims=True))
    p = np.maximum(p, 0.0)
    return np.asarray(p / p.sum(1, keepdims=True))


def compute_probabilities(session: ort.InferenceSession, feeds: Sequence[Feed], n: int) -> Array | None:
    """Class probabilities (n, classes) of the output that says the class, or None for no classifier."""
    outputs = list(map_parallel(lambda f: find_class_output(run_arrays(session, f)), feeds))
    rows = [len(next(iter(f.values()))) for f in feeds]
    if any(not isinstance(y, np.ndarray) or y.shape[:1] != (k,) for k, y in zip(rows, outputs, strict=True)):
        return None
    p = read_probabilities(outputs)
    return None if p is None or len(p) != n else p


def measure_information(p: Array) -> float:
    """Mutual information of inputs and their predictions p (n, classes), in nats."""
    return measure_entropy(p.mean(0)) - float(np.mean([measure_entropy(row) for row in p]))


def measure_entropy(p: Array) -> float:
    """The entropy of one distribution p (classes), in nats."""
    return float(-(p * np.log(p + LEAST_MASS)).sum())


__all__ = ["Feed", "compute_probabilities", "measure_entropy", "measure_information", "read_probabilities"]
