"""Fidelity: how close the outputs of a compiled model are to the dense one's, output by output, where both are finite.

Each output is measured by its own scale, and the model by its worst one: a large output hides no small one, and what is
passed through hides nothing. Numbers with a fraction are compared; integers are only where no output has a fraction and
they stand for numbers (8 bits, quantised values): ids have no distance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
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
class Closeness:
    """How close one output is; None where nothing of it was compared."""

    cosine: float | None
    snr_db: float | None


@dataclass(frozen=True)
class Fidelity:
    """How close the outputs are to the dense model's; `top1` where the last axis looks like logits.

    `cosine` and `snr_db` are those of the output where each is least, and None where no number of the dense outputs is
    finite: then nothing was compared. `outputs` has them for every output.
    """

    cosine: float | None
    snr_db: float | None
    top1: float | None
    inputs: str
    outputs: dict[str, Closeness] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return asdict(self)


class OutputSums:
    """Sums over one output, or over its numbers of one kind."""

    def __init__(self) -> None:
        self.dot = self.left = self.right = self.noise = 0.0
        self.compared = 0
        self.broken = False

    def add(self, x: Array, y: Array) -> None:
        """An array of each model."""
        a, b = x.astype(np.float64), y.astype(np.float64)
        if a.shape != b.shape:  # another number of detections: nothing agrees
            lost = [float((v[np.isfinite(v)] ** 2).sum()) for v in (a, b)]
            self.left, self.right, self.noise = self.left + lost[0], self.right + lost[1], self.noise + sum(lost)
            self.compared += a.size
            return
        finite = np.isfinite(a)
        self.broken = self.broken or not np.isfinite(b[finite]).all()
        a, b = a[finite], b[finite]
        self.compared += a.size
        if not self.broken:
            self.left, self.right = self.left + float((a**2).sum()), self.right + float((b**2).sum())
            self.dot += float((a * b).sum())
            self.noise += float(((a - b) ** 2).sum())

    def finish(self) -> Closeness:
        """The measures of this output."""
        if not self.compared:
            return Closeness(None, None)
        if self.broken:
            return Closeness(0.0, -SNR_LIMIT)
        both = self.left and self.right
        cosine = self.dot / max((self.left * self.right) ** 0.5, 1e-30) if both else float(self.left == self.right)
        snr = 10 * float(np.log10(max(self.left, 1e-30) / max(self.noise, 1e-30)))
        return Closeness(cosine, max(min(snr, SNR_LIMIT), -SNR_LIMIT))


class FidelitySums:
    """Sums of what `measure_fidelity` measures: outputs are added batch by batch, and none is kept."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = list(names)
        self.floats: dict[str, OutputSums] = {}
        self.codes: dict[str, OutputSums] = {}
        self.same = self.rows = 0

    def add(self, dense: list[Any], compiled: list[Any]) -> None:
        """Outputs of one run of each model."""
        for k, (one, other) in enumerate(zip(dense, compiled, strict=True)):
            name = self.names[k] if k < len(self.names) else str(k)
            for x, y in _numeric(one, other):
                if x.dtype.kind == "f":
                    self.floats.setdefault(name, OutputSums()).add(x, y)
                    self._count_same(x, y)
                elif x.dtype.kind in "iu" and x.dtype.itemsize == 1:
                    self.codes.setdefault(name, OutputSums()).add(x, y)

    def _count_same(self, x: Array, y: Array) -> None:
        """Rows with the same largest entry, of a matrix."""
        if x.shape == y.shape and x.ndim == 2 and x.shape[1] >= 2 and np.isfinite(x).all():
            self.same, self.rows = self.same + int((x.argmax(1) == y.argmax(1)).sum()), self.rows + len(x)

    def finish(self, inputs: str) -> Fidelity:
        """The measures; `inputs` says what was run."""
        top1 = self.same / self.rows if self.rows else None
        outputs = {n: s.finish() for n, s in (self.floats or self.codes).items()}
        cosine = min((c.cosine for c in outputs.values() if c.cosine is not None), default=None)
        snr = min((c.snr_db for c in outputs.values() if c.snr_db is not None), default=None)
        return Fidelity(cosine, snr, top1, inputs, outputs)


def measure_fidelity(
    dense: list[list[Any]], compiled: list[list[Any]], inputs: str, names: Sequence[str] = ()
) -> Fidelity:
    """Cosine and signal-to-noise ratio of every output, and the share of rows with the same largest entry.

    `names` are those of the outputs. Entries that are not finite in the dense outputs are left out; where only the
    compiled ones are not, all of the output is lost.
    """
    sums = FidelitySums(names)
    for row, other in zip(dense, compiled, strict=True):
        sums.add(row, other)
    return sums.finish(inputs)


def _numeric(x: Any, y: Any) -> Iterator[tuple[Array, Array]]:
    """Arrays of numbers of two values, those in sequences and maps among them."""
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

    The mean over the outputs, whatever their scale. 0 where the compiled outputs are not finite although the dense ones
    are; an output that is the same for every input counts where it changed, as one of which nothing is explained.
    """
    lost: list[float] = []
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
        a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        mean = np.where(finite, a.sum(0) / count, 0)
        error, variance = float(((a - b) ** 2).sum()), float(((a - mean) ** 2).sum())
        if variance or error:
            lost.append(error / variance if variance else 1.0)
    return 1 - float(np.mean(lost)) if lost else 1.0


def draw_feeds(model: Model, seed: int = 0, ranges: Ranges | None = None) -> list[Feed]:
    """Inputs to measure fidelity on where none are given; others than those of the proof."""
    sizes = list_analysis_sizes(model)[0]
    return [draw_inputs(model, sizes, 1000 + 4 * seed + k, ranges) for k in range(4)]
