"""Recurrent operators with constant weights, and what they read: moments and compensation see them through this.

reads = find_cell_reads(walk, step)            # or the reason why it is none, as text
for part in reads.cell.parts:                  # gates that read the same values: a contraction of its own
    reads.make_source(read, seed)              # `read` makes rows of reads.steps(chunk, y, rows)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.interpreter.interpreter import Step, Walk
from spa_compiler.operators import recurrent_cell
from spa_compiler.operators.contraction import Rows
from spa_compiler.operators.recurrent_cell import Cell, Steps, Weights
from spa_compiler.statistics.covariance import Source

Array = NDArray[Any]


@dataclass(frozen=True)
class CellReads:
    """A recurrent operator: its cell, its constant weights, and chunks of its input and its initial state."""

    cell: Cell
    tensors: tuple[Array, Array, Array | None]  # W, R and B as the operator has them
    x: Chunks
    h0: Chunks | None

    @functools.cached_property
    def weights(self) -> Weights:
        """The weights gate by gate."""
        return Weights.of(self.cell.gates, *self.tensors)

    def steps(self, chunk: int, y: Chunks, rows: Rows) -> Steps:
        """Inputs and states before each step, at these rows of a chunk; y are the operator's first outputs."""
        return self.cell.steps(self.x[chunk], y[chunk], None if self.h0 is None else self.h0[chunk], rows)

    def make_source(self, read: Callable[[int, Rows], list[Array]], seed: tuple[int, ...]) -> Source:
        """Rows that `read` gives chunk by chunk at sampled steps."""
        return Source([self.cell.size(c) for c in self.x], read, sum(self.cell.batch(c) for c in self.x), seed)


def find_cell_reads(walk: Walk, step: Step) -> CellReads | str:
    """A recurrent operator with constant weights, or the reason why it cannot be solved."""
    cell = recurrent_cell.find_cell(step.node)
    tensors, x = recurrent_cell.read_weights(step.node, walk.constants), step.inputs[0]
    if not isinstance(cell, Cell) or tensors is None or x is None:
        return cell if isinstance(cell, str) else "its weights are not constant"
    return CellReads(cell, tensors, x, recurrent_cell.find_initial_state(step.inputs))
