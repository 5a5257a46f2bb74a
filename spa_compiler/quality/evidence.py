"""Evidence for what a compiled model is worth: its outputs beside the dense model's on the same inputs, in numbers.

>>> a = [[np.array([[2.0, 0.0], [0.0, 1.0]])]]
>>> found = collect_evidence(a, a)
>>> found.agreement, found.explained_variance, found.expected_loss
(1.0, 1.0, 0.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.calibration.class_probabilities import read_probabilities
from spa_compiler.calibration.front_end_choice import INPUTS_PER_CLASS
from spa_compiler.execution.outputs import find_class_output
from spa_compiler.verification.fidelity import explain_variance

Array = NDArray[Any]
LEAST_PROBABILITY = 1e-6
"""Probabilities below count as this: float32 tells no smaller ones from 0."""


@dataclass(frozen=True)
class Evidence:
    """How far compiled outputs are from dense ones, over the inputs that both ran on.

    explained_variance  share of the variance of the dense outputs (of their log-probabilities for a classifier) that
                        the compiled ones explain; 1 is the same, 0 no better than the mean, negative is worse
    agreement           share of inputs of which both say the same class
    expected_loss       how much less probable the dense model finds the compiled model's answers than its own, on
                        average: where it is as sure as it is right, the share of right answers that is lost
    divergence          of the compiled from the dense distribution over the classes (Kullback and Leibler), in nats
    confidence          mean probability that the dense model gives its own answer
    classes             how many there are

    All but the first are None, and `classes` is 0, where the first output is no distribution over classes.
    """

    explained_variance: float
    samples: int
    agreement: float | None = None
    expected_loss: float | None = None
    divergence: float | None = None
    confidence: float | None = None
    classes: int = 0

    def document(self) -> dict[str, Any]:
        """As a dictionary for the report."""
        return asdict(self)


def collect_evidence(dense: Sequence[Sequence[Any]], compiled: Sequence[Sequence[Any]], numbers: int = 0) -> Evidence:
    """Compare the outputs of two models, run by run; each run is a list of outputs, the first axis the samples.

    `numbers`: how many an input has, where they are no ids; a model with more outputs than a part of them is no
    classifier, it may give its input again.
    """
    samples = sum(_count_rows(row) for row in dense)
    before, after = read_log_probabilities(dense), read_log_probabilities(compiled)
    if before is None or (numbers and before.shape[1] * INPUTS_PER_CLASS > numbers):
        return Evidence(explain_variance([list(r) for r in dense], [list(r) for r in compiled]), samples)
    if after is None or before.shape != after.shape:  # not finite, say
        sure = float(np.exp(before).max(1).mean())
        return Evidence(0.0, samples, 0.0, 1.0, -float(np.log(LEAST_PROBABILITY)), sure, before.shape[1])
    p, own, other = np.exp(before), before.argmax(1), after.argmax(1)
    rows = np.arange(len(p))
    error, variance = ((before - after) ** 2).sum(), ((before - before.mean(0)) ** 2).sum()
    return Evidence(
        explained_variance=1 - float(error / variance) if variance else float(error == 0),
        samples=samples,
        agreement=float((own == other).mean()),
        expected_loss=float((p[rows, own] - p[rows, other]).mean()),
        divergence=max(float((p * (before - after)).sum(1).mean()), 0.0),
        confidence=float(p[rows, own].mean()),
        classes=p.shape[1],
    )


def read_log_probabilities(outputs: Sequence[Sequence[Any]]) -> Array | None:
    """Logarithms of class probabilities [n, classes] of the output that says the class; None for no classifier."""
    p = read_probabilities([find_class_output(run) for run in outputs])
    if p is None:
        return None
    p = np.maximum(p, LEAST_PROBABILITY)
    return np.asarray(np.log(p / p.sum(1, keepdims=True)))


def _count_rows(run: Sequence[Any]) -> int:
    first = run[0] if len(run) else None
    return len(first) if isinstance(first, np.ndarray) and first.ndim else 1


__all__ = ["Evidence", "collect_evidence", "read_log_probabilities"]
