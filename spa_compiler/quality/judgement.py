"""The worth of the compiled file beside the dense one: accuracy where labels are given, fidelity, and the verdict.

worth = measure_worth(sessions, inputs)                             # no labels
worth, _ = measure_worth_on_data(sessions, data)                    # the caller's inputs, perhaps with labels
worth.quality.verdict, worth.quality.drop                           # GOOD, 1.4 points
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from spa_compiler.datasets.dataset import Dataset
from spa_compiler.datasets.rows import Block
from spa_compiler.execution.outputs import run_arrays
from spa_compiler.execution.session import list_outputs
from spa_compiler.quality.estimate import estimate_drop
from spa_compiler.quality.evidence import Evidence, collect_evidence
from spa_compiler.quality.inputs import MOST_INPUTS, InputKind, JudgedInputs
from spa_compiler.quality.verdict import Quality
from spa_compiler.verification.feeds import Feed
from spa_compiler.verification.fidelity import Fidelity, measure_fidelity
from spa_compiler.verification.on_data import measure_on_data


@dataclass(frozen=True)
class Worth:
    """Everything that was measured on outputs; `accuracy` only with labels."""

    fidelity: Fidelity
    quality: Quality
    evidence: Evidence
    inputs: str
    kind: InputKind
    samples: int
    accuracy: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """Sections of the report."""
        judged = {"inputs": self.inputs, "kind": self.kind, "evidence": self.evidence.document()}
        return {
            "fidelity": self.fidelity.document(),
            "accuracy": self.accuracy,
            "quality": self.quality.document() | judged,
        }


def measure_worth(sessions: Sequence[ort.InferenceSession], inputs: JudgedInputs) -> Worth:
    """Run the dense and the compiled model on inputs without labels, and estimate what was lost."""
    dense, compiled = ([run_arrays(s, f) for f in inputs.feeds] for s in sessions)
    numbers = count_numbers(inputs.feeds[0]) if inputs.feeds else 0
    evidence = collect_evidence(dense, compiled, numbers)
    fidelity = measure_fidelity(dense, compiled, inputs.source, list_outputs(sessions[0]))
    quality = judge_quality(dense, compiled, evidence, inputs.kind, inputs.reason)
    return Worth(fidelity, quality, evidence, inputs.source, inputs.kind, evidence.samples)


def measure_worth_on_data(sessions: Sequence[ort.InferenceSession], data: Dataset) -> tuple[Worth, Block]:
    """The same on inputs of the caller, batch by batch; where they have labels the drop is measured.

    The evidence is of the first rows. The second value is the first batch. Raises UsageError as `measure_on_data` does.
    """
    found = measure_on_data(sessions, data, MOST_INPUTS)
    dense, compiled = found.outputs
    evidence = collect_evidence(dense, compiled, count_numbers(found.first.inputs))
    before, after = found.accuracy
    accuracy = None
    if before is None or after is None:
        quality = judge_quality(dense, compiled, evidence, "given")
    else:
        quality = Quality.of_measured(before, after)
        accuracy = {"dense": before, "compiled": after, "samples": found.rows, "data": data.name}
    worth = Worth(found.fidelity[1], quality, evidence, data.name, "given", found.rows, accuracy)
    return worth, found.first


def count_numbers(feed: Feed) -> int:
    """Numbers of one input; 0 where some are ids."""
    if any(a.dtype.kind != "f" for a in feed.values()):
        return 0
    return sum(a.size // max(len(a), 1) for a in feed.values() if a.ndim)


def judge_quality(
    dense: list[list[Any]], compiled: list[list[Any]], evidence: Evidence, kind: InputKind, reason: str = ""
) -> Quality:
    """The verdict on outputs: none is needed where they are equal, none is possible where inputs tell nothing.

    Equal outputs tell nothing where the dense model says the same to all inputs.
    """
    if silence := find_silence(dense):
        return Quality.of_nothing(silence)
    if is_equal(dense, compiled):
        return Quality("GOOD", "measured", 0.0, 0.0, 0.0)
    estimate = estimate_drop(evidence, kind)
    return Quality.of_nothing(reason) if estimate is None else Quality.of_estimate(estimate)


def find_silence(dense: Sequence[Sequence[Any]]) -> str:
    """Why outputs of the dense model (run by run) tell nothing, whatever the compiled one gives; "" where they do."""
    floats = [a for run in dense for a in run if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    if floats and not any(np.isfinite(a).any() for a in floats):
        return "the dense model gives no finite number on the inputs at hand"
    rows = [list(map(_list_rows, output)) for output in zip(*dense, strict=True)]
    if any(len({r for run in output for r in run}) > 1 for output in rows):
        return ""
    is_many = any(sum(map(len, output)) > 1 for output in rows)
    return "the dense model gives the same for all inputs at hand" if is_many else ""


def _list_rows(output: Any) -> list[bytes]:
    """Bytes of each row of an output; what has no rows is one."""
    if isinstance(output, np.ndarray) and output.ndim and output.dtype.kind != "O":
        return [row.tobytes() for row in output]
    return [str(output).encode()]


def is_equal(dense: list[list[Any]], compiled: list[list[Any]]) -> bool:
    """Do both models give the same, bit for bit?"""

    def is_same(x: Any, y: Any) -> bool:
        if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
            return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        return type(x) is type(y) and str(x) == str(y)

    pairs = [(x, y) for a, b in zip(dense, compiled, strict=True) for x, y in zip(a, b, strict=True)]
    return all(is_same(x, y) for x, y in pairs)


__all__ = ["Worth", "find_silence", "is_equal", "judge_quality", "measure_worth", "measure_worth_on_data"]
