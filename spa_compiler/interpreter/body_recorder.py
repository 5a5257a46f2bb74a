"""Records of what contractions inside bodies of If, Loop and Scan read and give, made while the control node runs.

recorder = BodyRecorder(BodyIndex(model), runner)
recorder.execute(index, node, values)                  # the control node runs where its first body begins
recorder.records[index].inputs                         # chunks by input slot; see `body_taps`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.interpreter.body_taps import OUTPUT_SLOT, BodyIndex, Span, Tap
from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.interpreter.liveness import list_reads
from spa_compiler.interpreter.node_runner import NodeRunner, Row
from spa_compiler.interpreter.values import Values

Array = NDArray[Any]
TAP_BYTES = 1 << 27
"""Bytes that may be recorded inside one control node."""


@dataclass
class Record:
    """Inputs and outputs of a contraction in all runs; `runs` says in which run each chunk was."""

    inputs: dict[int, list[Array]] = field(default_factory=dict)
    output: list[Array] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)

    def put(self, tap: Tap, run: int, array: Array) -> None:
        """Add what a tap gave in one run."""
        found = tap.chunks(array)
        (self.output if tap.slot == OUTPUT_SLOT else self.inputs.setdefault(tap.slot, [])).extend(found)
        self.runs += [run] * len(found) if tap.slot == OUTPUT_SLOT else []


class BodyRecorder:
    """Runs control nodes as a whole and records what the contractions in their bodies read and give."""

    def __init__(self, index: BodyIndex, runner: NodeRunner) -> None:
        self.index, self.runner = index, runner
        self.records: dict[int, Record] = {}  # of the control node that was run last
        self.most = 0  # runs to record; 0: as many as there is room for
        self._added: dict[str, Array] = {}  # what is added to values inside, by name

    def is_inside(self, index: int) -> bool:
        """Does a node lie in a body, or is it a control node?"""
        return index in self.index.around

    def inputs_of(self, index: int) -> Mapping[int, Chunks]:
        """Chunks that a contraction in a body has read, by input slot."""
        return self.records[index].inputs if index in self.records else {}

    def execute(self, index: int, node: onnx.NodeProto, values: Values) -> list[Chunks | None]:
        """Outputs of a node inside a body, or of a control node: that runs where its first body begins."""
        span = self.index.around[index]
        if index == span.start:
            self._run_control(span, values)
        record = self.records.get(index)
        given = [values.get(n) for n in node.output] if index == span.end else []
        outputs: list[Chunks | None] = [record.output] if record else given
        return outputs + [None] * (len(node.output) - len(outputs))

    def amend(self, index: int, name: str, bias: Array, values: Values) -> None:
        """Add to what a node inside a body gives, and run the control node around it again."""
        self._added[name] = bias
        self._run_control(self.index.around[index], values)

    def forget(self, index: int) -> None:
        """Drop the records at the end of their control node."""
        if index in self.index.around and self.index.around[index].end == index:
            self.records = {}

    def _run_control(self, span: Span, values: Values) -> None:
        """Run a control node: its outputs go into the values, what was tapped into the records."""
        node, taps = self.index.node(span, self._added)
        self.records = {}
        rows = values.list_rows(list_reads(node))
        if rows is None:
            return
        plain = list(node.output)[: len(node.output) - len(taps)]
        constants = values.find_constants(rows[0]) if rows else set()
        got: list[list[Array]] = []
        given: list[list[Array]] = []  # what follows sees the branches that are taken, not those that are looked into
        for some in (force_both_branches(node, rows), rows):
            try:
                got = self._run_tapped(node, some, constants, plain)
                given = got if some is rows else self.runner.run(node, rows, constants, [n for n in plain if n])
                break
            except Exception:  # an operator that wants its context; a branch may be for other sizes than these
                continue
        for k, name in enumerate(plain):
            if name and given:
                values[name] = [row[k] for row in given]
        for tap, k in zip(taps, range(len(plain), len(node.output)), strict=True):
            record = self.records.setdefault(tap.index, Record())
            for run, row in enumerate(got):
                if row[k] is not None:
                    record.put(tap, run, row[k])
        self.records = {i: r for i, r in self.records.items() if r.output}

    def _run_tapped(
        self, node: onnx.NodeProto, rows: list[Row], constants: set[str], plain: list[str]
    ) -> list[list[Array]]:
        """Run a control node; taps are None where there is no more room for them."""
        every, few = [n for n in node.output if n], [n for n in plain if n]
        got = self.runner.run(node, rows[:1], constants, every)
        room = self.most or max(1, TAP_BYTES // max(1, sum(a.nbytes for a in got[0][len(plain) :])))
        tapped = self.runner.run(node, rows[1:room], constants, every)
        return [*got, *tapped, *self.runner.run(node, rows[room:], constants, few)]


def force_both_branches(node: onnx.NodeProto, rows: list[Row]) -> list[Row]:
    """Where all inputs would take the same branch of an If, every second one takes the other: both are calibrated."""
    if node.op_type != "If" or len({bool(r[node.input[0]].ravel()[0]) for r in rows}) > 1:
        return rows
    cond = node.input[0]
    return [{**r, cond: np.asarray(~r[cond])} if k % 2 else r for k, r in enumerate(rows)]
