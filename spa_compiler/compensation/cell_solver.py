"""New weights of a recurrent operator, from compiled inputs and the dense states that are kept to the dense gates.

Each set of gates that read the same values is a contraction of its own; states are those of the dense model, which the
compiled one then follows (solving again from its own states gives nothing more: docs/data-free).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.compensation.apply import Replacement
from spa_compiler.compensation.model_pair import ModelPair
from spa_compiler.compensation.options import Options
from spa_compiler.compensation.solutions import Refusal, Solution, Unfit, solve_weights
from spa_compiler.execution.finite import is_finite
from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.interpreter.interpreter import Step
from spa_compiler.operators.contraction import Rows
from spa_compiler.operators.recurrent_cell import B as BIAS
from spa_compiler.operators.recurrent_cell import Part, Steps, Weights, compute_gates
from spa_compiler.operators.recurrent_cell import R as RECURRENCE
from spa_compiler.operators.recurrent_cell import W as WEIGHT
from spa_compiler.rewriting.prune import find_kept_states
from spa_compiler.statistics.cell_reads import CellReads, find_cell_reads
from spa_compiler.statistics.wide_columns import gather_evidence

Array = NDArray[Any]


class CellSolver:
    """Solves recurrent operators, one set of gates after another."""

    def __init__(self, pair: ModelPair, options: Options) -> None:
        self.pair, self.options = pair, options

    def solve(self, mine: Step, theirs: Step, y: Chunks) -> Solution:
        """New W, R and B of a node that is `mine` in the dense model, where it gives y, and `theirs` in the other."""
        small, full = find_cell_reads(self.pair.compiled, theirs), find_cell_reads(self.pair.dense, mine)
        if isinstance(small, str) or isinstance(full, str):
            return Refusal(small if isinstance(small, str) else str(full))
        names = [n for n in theirs.node.input[WEIGHT : BIAS + 1] if n]
        if reason := next(filter(None, map(self.pair.explain_fixed, names)), ""):
            return Refusal(reason)
        is_uncut = full.weights.w.shape == small.weights.w.shape and full.weights.r.shape == small.weights.r.shape
        if is_uncut and not self.options.everything:
            return None
        r = self.pair.graph.sites[mine.index].inputs[RECURRENCE]
        assert r is not None
        kept = find_kept_states(r, self.pair.masks, self.pair.graph)
        new = small.weights
        for k, part in enumerate(small.cell.parts):
            new = self._solve_part(part, full, small, y, kept, new, (self.options.seed, mine.index, k))
        tensors = new.to_operator_form(small.tensors[0].dtype)
        if not is_finite(*tensors):
            return Unfit(small.x, y)
        return Replacement(dict(zip((WEIGHT, RECURRENCE, BIAS), tensors, strict=True)))

    def _solve_part(
        self, part: Part, full: CellReads, small: CellReads, y: Chunks, kept: Rows, new: Weights, seed: tuple[int, ...]
    ) -> Weights:
        """The weights with those of one set of gates solved; `kept` are the states that stay, by direction."""

        def read(c: int, rows: Rows) -> list[Array]:
            steps = full.steps(c, y, rows)
            gates = compute_gates(part, steps, full.weights).reshape(*steps.h.shape[:2], len(part.gates), -1)
            target = np.take_along_axis(gates, kept[None, :, None], axis=3).reshape(*steps.h.shape[:2], -1)
            cut = Steps(small.cell.inputs(small.x[c], rows), np.take_along_axis(steps.h, kept[None], axis=2))
            return [part.design(cut, new), target]

        before = part.weights(new)
        pairs = gather_evidence(full.make_source(read, seed), len(before), before.shape[-1])
        w = solve_weights(before, pairs, self.options)
        return part.replace_weights(new, w, pairs.mean(1) - np.einsum("bmd,bd->bm", w, pairs.mean()))
