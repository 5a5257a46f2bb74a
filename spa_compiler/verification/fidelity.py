"""Fidelity: how close the outputs of a compiled model are to the dense one's, where both are finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.ir.model import Model
from spa_compiler.verification.feeds import Feed, Ranges, draw_inputs
from spa_compiler.verification.sizes import list_analysis_sizes

Array = NDArray[Any]
SNR_LIMIT = 200.0
"""Decibels that are told at most, either way."""


@dataclass(frozen=True)
class Fidelity:
    """How close the outputs are to the dense model's; `top1` where the last axis looks like logits.

    `cosine` and `snr_db` are None where no number of the dense outputs is finite: then nothing was compared.
    """

    cosine: float | None
    snr_db: float | None
    top1: float | None
    inputs: str

    def document(self) -> dict[str, Any]:
        return asdict(self)


class FidelitySums:
    """Sums of what `measure_fidelity` measures: outputs are added batch by batch, and none is kept."""

    def __init__(self) -> None:
        self.dot = self.left = self.right = self.noise = 0.0
        self.same = self.rows = self.compared = 0
        self.broken = False

    def add(self, dense: list[Any], compiled: list[Any]) -> None:
        """Outputs of one run of each model."""
        for x, y in numeric_pairs([dense], [compiled]):
            self._add_pair(x, y)

    def _add_pair(self, x: Array, y: Array) -> None:
        a, b = x.astype(np.float64), y.astype(np.float64)
        if a.shape != b.shape:  # another number of detections: nothing agrees
            lost = [float((v[np.isfinite(v)] ** 2).sum()) for v in (a, b)]
            self.left, self.right, self.noise = self.left + lost[0], self.right + lost[1], self.noise + sum(lost)
            self.compared += a.size
            return
        finite = np.isfinite(a)
        self.broken = self.broken or not np.isfinite(b[finite]).all()
        if x.dtype.kind == "f" and a.ndim == 2 and a.shape[1] >= 2 and finite.all():
            self.same, self.rows = self.same + int((a.argmax(1) == b.argmax(1)).sum()), self.rows + len(a)
        a, b = a[finite], b[finite]
        self.compared += a.size
        if not self.broken:
            self.left, self.right = self.left + float((a**2).sum()), self.right + float((b**2).sum())
            self.dot += float((a * b).sum())
            self.noise += float(((a - b) ** 2).sum())

    def finish(self, inputs: str) -> Fidelity:
        """The measures; `inputs` says what was run."""
        top1 = self.same / self.rows if self.rows else None
        if not self.compared:
            return Fidelity(None, None, top1, inputs)
        if self.broken:
            return Fidelity(0.0, -SNR_LIMIT, top1, inputs)
        both = self.left and self.right
        cosine = self.dot / max((self.left * self.right) ** 0.5, 1e-30) if both else float(self.left == self.right)
        snr = 10 * float(np.log10(max(self.left, 1e-30) / max(self.noise, 1e-30)))
        return Fidelity(cosine, min(snr, SNR_LIMIT), top1, inputs)


def measure_fidelity(dense: list[list[Any]], compiled: list[list[Any]], inputs: str) -> Fidelity:
    """Cosine and signal-to-noise ratio over all outputs, and the share of rows with the same largest entry.

    Entries that are not finite in the dense outputs are left out; where only the compiled ones are not, all is lost.
    """
    sums = FidelitySums()
    for row, other in zip(dense, compiled, strict=True):
        sums.add(row, other)
    return sums.finish(inputs)


def numeric_pairs(a: list[list[Any]], b: list[list[Any]]) -> Iterator[tuple[Array, Array]]:
    """Arrays of numbers of two runs, those in sequences and maps among them."""
    for row, other in zip(a, b, strict=True):
        for x, y in zip(row, other, strict=True):
            yield from _numeric(x, y)


def _numeric(x: Any, y: Any) -> Iterator[tuple[Array, Array]]:
    if isinstance(x, list) and isinstance(y, list) and len(x) == len(y):
        for one, same in zip(x, y, strict=True):
            yield from _numeric(one, same)
    elif isinstance(x, dict) and isinstance(y, dict) and x.keys() == y.keys():
        for k in x:
            yield from _numeric(np.asarray(x[k]), np.asarray(y[k]))
    elif isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.dtype.kind in "fiub":
        yield x, y


def explain_variance(dense: list[list[Any]], compiled: list[list[Any]]) -> float:
    """Share of the dense outputs' variance that the compiled ones explain: 1 is perfect, 0 no better than the mean.

    0 where the compiled outputs are not finite although the dense ones are.
    """
    error = variance = 0.0
    for column, other in zip(zip(*dense, strict=True), zip(*compiled, strict=True), strict=True):
        if not isinstance(column[0], np.ndarray) or column[0].dtype.kind != "f" or column[0].ndim == 0:
            continue
        if any(x.shape != y.shape for x, y in zip(column, other, strict=True)):  # numbers of detections
            continue
        if len({x.shape[1:] for x in column}) > 1:  # sizes follow the inputs: one mean for all numbers
            column, other = (tuple(np.ravel(x)[:, None] for x in rows) for rows in (column, other))
        a, b = (np.concatenate(rows).astype(np.float64) for rows in (column, other))
        finite = np.isfinite(a)
        if not np.isfinite(b[finite]).all():
            return 0.0
        count = np.maximum(finite.sum(0), 1)
        mean = np.where(finite, a, 0).sum(0) / count
        error += float(((a - b)[finite] ** 2).sum())
        variance += float(((a - mean)[finite] ** 2).sum())
    return 1 - error / variance if variance else float(error == 0.0)


def draw_feeds(model: Model, seed: int = 0, ranges: Ranges | None = None) -> list[Feed]:
    """Inputs to measure fidelity on where none are given; others than those of the proof."""
    sizes = list_analysis_sizes(model)[0]
    return [draw_inputs(model, sizes, 1000 + 4 * seed + k, ranges) for k in range(4)]
