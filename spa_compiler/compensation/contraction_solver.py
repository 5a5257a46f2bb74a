"""New weights of a contraction with a constant.

Least squares with intercept from what it reads in the compiled model to what it gives in the dense one; where its
output feeds a residual Add, the target is the dense sum minus the compiled shortcut.
"""

from __future__ import annotations

import numpy as np

from spa_compiler.compensation.apply import Replacement, Update
from spa_compiler.compensation.model_pair import ModelPair
from spa_compiler.compensation.options import Options
from spa_compiler.compensation.quantized_weights import Grid
from spa_compiler.compensation.solutions import Refusal, Solution, Unfit, solve_weights, solve_without_intercept
from spa_compiler.execution.finite import is_finite
from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.interpreter.interpreter import Step
from spa_compiler.operators.contraction import Form
from spa_compiler.operators.site import Value
from spa_compiler.operators.tables import find_traits
from spa_compiler.statistics.contraction_reads import ContractionReads
from spa_compiler.statistics.covariance import Floats
from spa_compiler.statistics.residual_branch import follow_branch, measure_lost_shortcut

NOT_COMPENSATED = "this kind of product is not compensated"


class ContractionSolver:
    """Solves contractions with a constant, from compiled inputs to dense outputs."""

    def __init__(self, pair: ModelPair, options: Options) -> None:
        self.pair, self.options = pair, options

    def solve(self, mine: Step, theirs: Step, reads: ContractionReads, raw: Chunks) -> Solution:
        """New weights of a node that is `mine` in the dense model, where it gives `raw`, and `theirs` in the other."""
        output = self.pair.graph.sites[mine.index].first_output
        if output is None or reads.x is None:
            return Refusal(NOT_COMPENSATED)
        grid = self.pair.find_grid(reads.weight)
        if isinstance(grid, str):
            return Refusal(grid)
        dense, compiled = (w.constants[reads.weight] for w in (self.pair.dense, self.pair.compiled))
        if dense.shape == compiled.shape and not self.options.everything:
            return None
        if mine.traits.activation and grid is not None:
            return Refusal(self.pair.explain_fixed(reads.weight))
        if mine.traits.activation:
            return self._solve_fused(mine, theirs, reads, output)
        target = self._find_target(reads.form, mine, output, raw)
        return self._regress(reads, mine, theirs, target, grid) or Unfit(reads.x, target)

    def _solve_fused(self, mine: Step, theirs: Step, reads: ContractionReads, output: Value) -> Solution:
        """A contraction with a function behind it: solved before the function, with the bias in its own input."""
        slot, beta = reads.form.bias, getattr(reads.form, "beta", 1.0)
        raw = self.pair.dense.before_activation(mine)
        name = theirs.node.input[slot] if slot is not None and slot < len(theirs.node.input) else ""
        if slot is None or beta == 0 or (name and name not in self.pair.compiled.constants):
            return Refusal("its bias is no constant, and a function follows within the node")
        if reason := self.pair.explain_fixed(name) if name else "":
            return Refusal(reason)
        target = self.pair.slice_chunks(output, raw or [])
        update = self._regress(reads, mine, theirs, target) if target else None
        if update is None:
            return Unfit(reads.x or [], target)
        bias = (_measure_old_bias(reads.form, theirs, update.bias.size) + update.bias) / beta
        return Replacement({reads.form.weight: update.weights, slot: bias.astype(update.weights.dtype)})

    def _find_target(self, form: Form, mine: Step, output: Value, raw: Chunks) -> Chunks:
        """Dense outputs on the kept channels, plus what the compiled shortcut lacks where a residual Add follows."""
        pair, out = self.pair, self.pair.slice_chunks(output, raw)
        branch = follow_branch(pair.dense, mine, self.options.adjust.batch_norm) if self.options.residual else None
        if branch is None or not branch.has_fitting_gain(raw[0].shape, form.out):
            return out
        shortcuts = pair.dense.values.get(branch.shortcut), pair.compiled.values.get(branch.shortcut)
        lacks = measure_lost_shortcut(pair.graph, pair.masks, branch, output, raw, form.out, *shortcuts)
        return out if lacks is None else [t + lack for t, lack in zip(out, lacks, strict=True)]

    def _regress(
        self, reads: ContractionReads, mine: Step, theirs: Step, target: Chunks, grid: Grid | None = None
    ) -> Update | None:
        """New weights, on the grid of quantised ones, and what they change in the bias.

        None where they would not be finite in the weights' type.
        """
        form, old = reads.form, self.pair.compiled.constants[reads.weight]
        pairs = reads.gather_pairs(target, target, (self.options.seed, mine.index))
        solved = solve_weights(form.weights(old), pairs, self.options)
        weights = form.restore(solved, old)
        if not is_finite(weights):
            return None
        if grid is None and not self.options.bias_only and self._has_no_bias(form, theirs, pairs.mean(1).size):
            plain = solve_without_intercept(form.weights(old), solved, pairs, self.options)
            if plain is not None and is_finite(weights := form.restore(plain, old)):
                return Update(form, weights, np.zeros(plain.shape[0] * plain.shape[1]))
            weights = form.restore(solved, old)
        grids = None if grid is None else (grid, grid.widen(weights))
        weights = weights if grids is None else grids[1].round(weights)
        bias = pairs.mean(1) - np.einsum("bmd,bd->bm", form.weights(weights), pairs.mean())
        change = bias.ravel() - _measure_old_bias(form, theirs, bias.size)
        new = np.stack([bias.ravel(), change]) / (getattr(form, "beta", 1.0) or 1.0)
        return Update(form, weights, change, grids) if is_finite(weights, new.astype(weights.dtype)) else None

    def _has_no_bias(self, form: Form, theirs: Step, rows: int) -> bool:
        """Would a bias of so many rows be a node of its own, behind a product that no constant is added to?"""
        walk, output = self.pair.compiled, theirs.node.output[0]
        readers = walk.liveness.readers_of.get(output, [])
        if form.bias is not None:
            return False
        if len(readers) != 1 or len(walk.liveness.readers[output]) != 1:
            return True
        node = walk.nodes[readers[0]]
        added = [walk.constants[n].size for n in node.input if n in walk.constants]
        return find_traits(node).arithmetic != "add" or added != [rows]


def _measure_old_bias(form: Form, step: Step, rows: int) -> Floats:
    """The bias that the node adds by itself, on average."""
    chunks = step.inputs[form.bias] if form.bias is not None and form.bias < len(step.inputs) else None
    if chunks is None:
        return np.zeros(rows)
    every = [c.ravel() for c in {id(c): c for c in chunks}.values()]  # one, where it is constant
    return np.broadcast_to(getattr(form, "beta", 1.0) * np.mean(every, 0, np.float64), (rows,))
