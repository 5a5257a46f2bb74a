"""Models run side by side on a data set, batch by batch: how close their outputs are, and how often each is right.

found = measure_on_data([dense, compiled], data)
found.fidelity[1].cosine, found.accuracy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from spa_compiler.datasets.dataset import Dataset
from spa_compiler.datasets.rows import Block
from spa_compiler.errors import UsageError
from spa_compiler.execution.outputs import find_class_output, is_label, run_arrays
from spa_compiler.execution.session import list_outputs
from spa_compiler.verification.fidelity import Fidelity, FidelitySums

Array = NDArray[Any]


@dataclass(frozen=True)
class DataResult:
    """By session: closeness to the first one and accuracy (None without labels); `first` is the first batch.

    `outputs` are those of the first batches, as many rows as were asked for.
    """

    fidelity: list[Fidelity]
    accuracy: list[float | None]
    rows: int
    first: Block
    outputs: list[list[list[Any]]]


@dataclass
class HitCount:
    """Rows whose largest first output is the label."""

    hits: int = 0
    labels: int = 0
    is_counting: bool = field(default=True)

    def add(self, outputs: list[Any], labels: Array | None) -> None:
        """Outputs of a batch; one without a label for each row ends the counting."""
        found = count_hits(outputs, labels)
        self.is_counting = self.is_counting and found is not None
        if found is not None and labels is not None:
            self.hits, self.labels = self.hits + found, self.labels + labels.size

    def share(self) -> float | None:
        """The accuracy, where there are labels for all."""
        return self.hits / self.labels if self.is_counting and self.labels else None


def count_hits(outputs: list[Any], labels: Array | None) -> int | None:
    """Rows whose class is the label; None without whole numbers as labels, or without one a row.

    The class is what the model itself gives as a whole number for each row, else where its first output is largest.
    """
    if labels is None or labels.dtype.kind not in "iu" or not outputs:
        return None
    found = find_class_output(outputs)
    if found is not outputs[0] and is_label(outputs[0]) and outputs[0].dtype.kind in "iu":
        return int((outputs[0] == labels.ravel()).sum()) if labels.size == outputs[0].size else None
    first = np.atleast_1d(np.asarray(found))
    if first.ndim < 2:
        return None
    best = first.argmax(1) if first.size == first.shape[0] * first.shape[1] else first.argmax(-1)
    return int((best.reshape(labels.shape) == labels).sum()) if labels.size == best.size else None


def measure_on_data(sessions: Sequence[ort.InferenceSession], data: Dataset, keep: int = 0) -> DataResult:
    """Run every session on every batch, and keep the outputs of `keep` rows or a few more.

    Raises UsageError where there is not one batch.
    """
    outputs_kept: list[list[list[Any]]] = [[] for _ in sessions]
    sums = [FidelitySums(list_outputs(sessions[0])) for _ in sessions]
    hits = [HitCount() for _ in sessions]
    rows, first = 0, None
    for block in data.read_batches():
        outputs = [run_arrays(s, block.inputs) for s in sessions]
        for k, got in enumerate(outputs):
            sums[k].add(outputs[0], got)
            hits[k].add(got, block.labels)
            if rows < keep:
                outputs_kept[k].append(got)
        rows, first = rows + block.rows, first or block
    if first is None:
        fixed = f": the model runs {data.batch} rows at a time" if data.batch else ""
        raise UsageError(f"{data.name}: not enough rows for one run{fixed}")
    return DataResult([s.finish(data.name) for s in sums], [h.share() for h in hits], rows, first, outputs_kept)
