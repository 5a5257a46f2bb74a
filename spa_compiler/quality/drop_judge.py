"""The drop of one compiled model after another beside the same dense one, whose outputs are computed once.

judge = DropJudge(source, inputs, threads)          # JudgedInputs, or a Dataset of the caller
judge.measure(model).drop                           # points of the metric
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spa_compiler.datasets.dataset import Dataset
from spa_compiler.errors import UsageError
from spa_compiler.execution.outputs import run_arrays
from spa_compiler.execution.session import open_exact_session
from spa_compiler.ir.model import Model
from spa_compiler.quality.evidence import collect_evidence
from spa_compiler.quality.inputs import MOST_INPUTS, JudgedInputs
from spa_compiler.quality.judgement import count_numbers, judge_quality
from spa_compiler.quality.verdict import Quality
from spa_compiler.verification.feeds import Feed
from spa_compiler.verification.on_data import HitCount


class DropJudge:
    """Measures the drop where the inputs have labels, and estimates it where they have none."""

    def __init__(self, dense: Model, inputs: JudgedInputs | Dataset, threads: int) -> None:
        """Run the dense model. Raises UsageError for a data set that does not give one batch."""
        self.threads = threads
        self.data = inputs if isinstance(inputs, Dataset) else None
        self.inputs = inputs if isinstance(inputs, JudgedInputs) else JudgedInputs((), inputs.name, "given")
        self.accuracy, self.dense = self._run(dense)

    @property
    def basis(self) -> str:
        """Where a drop comes from, in words."""
        return f"{'measured' if self.accuracy is not None else 'estimated'} on {self.inputs.source}"

    def measure(self, compiled: Model) -> Quality:
        """The quality of a compiled model."""
        accuracy, outputs = self._run(compiled)
        if self.accuracy is not None:
            return Quality.of_measured(self.accuracy, accuracy or 0.0)
        numbers = count_numbers(self.inputs.feeds[0]) if self.inputs.feeds else 0
        evidence = collect_evidence(self.dense, outputs, numbers)
        return judge_quality(self.dense, outputs, evidence, self.inputs.kind, self.inputs.reason)

    def _run(self, model: Model) -> tuple[float | None, list[list[Any]]]:
        """The accuracy on all inputs where they have labels, and the outputs of the first."""
        session = open_exact_session(model.proto(), model.folder, 3, self.threads)
        if self.data is None:
            return None, [run_arrays(session, f) for f in self.inputs.feeds]
        hits, feeds, outputs = HitCount(), list[Feed](), list[list[Any]]()
        rows = 0
        for block in self.data.read_batches():
            got = run_arrays(session, block.inputs)
            hits.add(got, block.labels)
            if rows < MOST_INPUTS:
                feeds.append(dict(block.inputs))
                outputs.append(got)
            rows += block.rows
        if not rows:
            raise UsageError(f"{self.data.name}: not enough rows for one run")
        self.inputs = replace(self.inputs, feeds=feeds)
        return hits.share(), outputs


__all__ = ["DropJudge"]
