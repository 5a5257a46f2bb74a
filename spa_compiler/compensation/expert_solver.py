"""New weights of experts: matrices that are looked up in a table for every row (`statistics.expert_tables`)."""

from __future__ import annotations

from spa_compiler.compensation.model_pair import ModelPair
from spa_compiler.compensation.options import Options
from spa_compiler.compensation.solutions import NewTable, Refusal, Solution, Unfit
from spa_compiler.execution.finite import is_finite
from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.interpreter.interpreter import Step
from spa_compiler.statistics.expert_tables import Lookup, find_agreement, find_lookup


class ExpertSolver:
    """Solves products with matrices that were looked up, expert by expert."""

    def __init__(self, pair: ModelPair, options: Options) -> None:
        self.pair, self.options = pair, options
        self.lookups: dict[str, tuple[Lookup, Lookup]] = {}  # by the value that is looked up: dense and compiled

    def note_lookup(self, mine: Step, theirs: Step) -> None:
        """Note a node that looks up matrices in both models."""
        dense, compiled = find_lookup(self.pair.dense, mine), find_lookup(self.pair.compiled, theirs)
        if dense is not None and compiled is not None:
            self.lookups[theirs.node.output[0]] = dense, compiled

    def solve(self, mine: Step, theirs: Step, raw: Chunks) -> Solution:
        """A new table for a product that alone reads it: a second solution would win."""
        slot, name = next((k, n) for k, n in enumerate(theirs.node.input) if n in self.lookups)
        output, compiled = self.pair.graph.sites[mine.index].first_output, self.pair.compiled
        dense, lookup = self.lookups[name]
        reads = lookup.find_product(compiled, theirs, slot)
        if output is None or reads is None or len(compiled.liveness.readers[name]) > 1:
            return Refusal("its weights are looked up at run time")
        reason, target = self.pair.explain_fixed(lookup.table), self.pair.slice_chunks(output, raw)
        if reason or self.options.bias_only:
            return Refusal(reason)
        if not is_finite(*reads.x, *target):
            return Unfit(reads.x, target)
        agreed = find_agreement(dense.index(self.pair.dense), reads.index)
        table = compiled.constants[lookup.table]
        new = reads.solve(table, agreed, target, self.options.ridge, self.options.shrink)
        return NewTable(lookup.table, name, new, reads.index)
