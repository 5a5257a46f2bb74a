"""The weight and bias update that absorbs what was removed, in topological order, dense and compiled side by side.

    better = compensate(graph, masks, rewrite(graph, masks), feeds)

Every contraction whose input has changed is solved anew: from the inputs that it gets in the compiled model to the
outputs that it had in the dense one, least squares with intercept and a ridge towards the old weights,

    W = W0 + (C_tx - W0 C_xx) (C_xx + lambda I)^-1,     b = mean(t) - W mean(x)

and where its output feeds a residual Add, the target is the dense sum minus the compiled shortcut, so that errors of
earlier blocks are corrected, not passed on (docs/data-free; OSSCAR, Meng et al. 2024, without its targets).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from spa_compiler.algebra.masks import Masks
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.compensation.apply import Outcome, Replacement, Update, apply_updates, find_key
from spa_compiler.compensation.cell_solver import CellSolver
from spa_compiler.compensation.contraction_solver import NOT_COMPENSATED, ContractionSolver
from spa_compiler.compensation.expert_solver import ExpertSolver
from spa_compiler.compensation.model_pair import ModelPair
from spa_compiler.compensation.norm_solver import NormSolver, Rescaling
from spa_compiler.compensation.options import Options
from spa_compiler.compensation.solutions import NewTable, Refusal, Solution, Unfit
from spa_compiler.errors import Conflict
from spa_compiler.execution.finite import describe_flaw, has_overflow, ignore_overflow
from spa_compiler.execution.item_counts import count_items
from spa_compiler.interpreter.chunks import Affine, Chunks, Feed
from spa_compiler.interpreter.interpreter import Step, Walk
from spa_compiler.ir.model import Model
from spa_compiler.operators.recurrent_cell import GATES
from spa_compiler.rewriting.prune import find_kept
from spa_compiler.statistics.contraction_reads import find_contraction, find_read_dims


def compensate(
    graph: DependencyGraph, masks: Masks, small: Model, feeds: Sequence[Feed], options: Options | None = None
) -> Model:
    """A copy of `small` (the rewrite of `graph` by `masks`) with new weights and biases."""
    return compensate_weights(graph, masks, small, feeds, options or Options())[0]


def compensate_weights(
    graph: DependencyGraph, masks: Masks, small: Model, feeds: Sequence[Feed], options: Options
) -> tuple[Model, Outcome]:
    """`compensate`, with what became of every contraction that was cut."""
    run = Lockstep(graph, masks, small, options)
    with ignore_overflow():
        return apply_updates(small, run.run(feeds)), run.outcome


class Lockstep:
    """Runs the dense and the compiled model side by side and solves every node whose inputs have changed."""

    def __init__(self, graph: DependencyGraph, masks: Masks, small: Model, options: Options) -> None:
        self.options, self.pair = options, ModelPair(graph, masks, Walk(graph.model), Walk(small))
        self.dense, self.compiled = self.pair.dense, self.pair.compiled
        self.contractions = ContractionSolver(self.pair, options)
        self.norms = NormSolver(self.pair, options)
        self.cells, self.experts = CellSolver(self.pair, options), ExpertSolver(self.pair, options)
        self.place = {n.output[0]: i for i, n in enumerate(self.dense.nodes) if n.output}
        kept = {n.output[0] for n in self.compiled.nodes if n.output}
        self.alone = deque(i for i, n in enumerate(self.dense.nodes) if n.output and n.output[0] not in kept)
        self.updates: dict[str, Update | Replacement] = {}
        self.outcome = Outcome()

    def run(self, feeds: Sequence[Feed]) -> dict[str, Update | Replacement]:
        """The updates of the model that is written, by the key of a node (`find_key`)."""
        late = self.options.late
        self.dense.start(feeds, late)
        self.compiled.start(feeds, late)
        for name in self.compiled.inputs:
            self.compiled.values[name] = self.dense.values[name]
        for j, node in count_items(enumerate(self.compiled.nodes), len(self.compiled.nodes)):
            i = self.place.get(node.output[0]) if node.output else None
            if late is not None and i is not None and i >= late.at and self.dense.deferred.waiting:
                self._join_late()
            if i is None:
                self.compiled.finish(self.compiled.step(j))
            else:
                self._run_alone(i)
                self._run_pair(i, j)
                self.dense.forget(i)
            self.compiled.forget(j)
        return self.updates

    def _run_alone(self, stop: int) -> None:
        """Nodes before this one that the compiled model has no more: a size that it holds as a number, say."""
        while self.alone and self.alone[0] < stop:
            i = self.alone.popleft()
            if not self.dense.bodies.is_inside(i):
                step = self.dense.step(i)
                self.dense.finish(step, self.options.adjust.of(self.dense, step))
            self.dense.forget(i)

    def _join_late(self) -> None:
        """The late inputs reach both models; what was the same for the first inputs is the same for all."""
        same = [n for n, chunks in self.compiled.values.items() if self.dense.values.get(n) is chunks]
        self.dense.join()
        self.compiled.join()
        self.compiled.values |= {n: self.dense.values[n] for n in same if n in self.dense.values}

    def _run_pair(self, i: int, j: int) -> None:
        """The same node of both models."""
        mine, theirs = self.dense.step(i), self.compiled.step(j)
        if self.dense.bodies.is_inside(i):
            return self._run_inside(i, j, mine, theirs)
        affine = self.options.adjust.of(self.dense, mine)
        if not mine.outputs and not (affine is not None and mine.is_normalised):
            self.dense.execute(mine)
        raw = mine.outputs[0] if mine.outputs else None
        same = self._is_same(mine, theirs)
        update = None if same else self._solve(mine, theirs, raw)
        self.dense.finish(mine, affine)
        if same:
            self.compiled.deferred.note_change(theirs.index, affine, None)
            for name in theirs.node.output:
                if name in self.dense.values:
                    self.compiled.values[name] = self.dense.values[name]
                elif name in self.dense.constants:
                    self.compiled.constants[name] = self.dense.constants[name]
        else:
            bias = update.form.spread(update.bias, update.weights) if isinstance(update, Update) else None
            cut = self._cut_affine(i, affine)
            if isinstance(update, Rescaling) and cut is not None:
                cut = update.compose(cut)
            self.compiled.finish(theirs, cut, bias)
        return None

    def _run_inside(self, i: int, j: int, mine: Step, theirs: Step) -> None:
        """A node of a body: what it reads and gives was recorded when the control node around it ran."""
        self.dense.execute(mine)
        self.compiled.bodies.most = max((r.runs[-1] + 1 for r in self.dense.bodies.records.values()), default=0)
        self.compiled.execute(theirs)
        for name, a, b in zip(theirs.node.output, mine.outputs, theirs.outputs, strict=True):
            if a is not None and b is not None and name in self.dense.values and all(map(np.array_equal, a, b)):
                self.compiled.values[name] = self.dense.values[name]  # what follows has not changed
        known, found = self.dense.bodies.records.get(i), self.compiled.bodies.records.get(j)
        sized = bool(self.pair.graph.sites[i].outputs)  # its shape is known
        if known is None or found is None or known.runs != found.runs or mine.outputs[0] is None or not sized:
            self._note_refusal(i, theirs, Refusal("what it reads in its body was not recorded"))
            return
        same = mine.node == theirs.node and all(
            len(a) == len(b) and all(map(np.array_equal, a, b))
            for a, b in zip(known.inputs.values(), found.inputs.values(), strict=True)
        )
        update = None if same else self._solve(mine, theirs, mine.outputs[0])
        if isinstance(update, Update):
            bias = update.form.spread(update.bias, update.weights)
            self.compiled.amend(j, theirs.node.output[0], bias.astype(update.weights.dtype))

    def _is_same(self, mine: Step, theirs: Step) -> bool:
        """Nothing upstream of the node and nothing in it has changed."""
        if mine.node.SerializeToString() != theirs.node.SerializeToString():
            return False
        for name in self.dense.liveness.reads[mine.index]:
            a, b = self.dense.constants.get(name), self.compiled.constants.get(name)
            if name in self.dense.values:
                if self.dense.values[name] is not self.compiled.values.get(name):
                    return False
            elif a is None or b is None or not (a is b or (a.shape == b.shape and np.array_equal(a, b))):
                return False
        return True

    def _cut_affine(self, i: int, affine: Affine | None) -> Affine | None:
        value = self.pair.graph.sites[i].first_output
        if affine is None or value is None:
            return None
        shape = (*value.shape[:1], affine.scale.size, *value.shape[2:])  # its channels may be counted with the batch
        try:
            positions = find_kept(self.pair.graph, value, self.pair.masks, shape).positions[1]
        except Conflict:  # an axis has grown, and it is not known where: it runs as the file has it
            return None
        if positions is None:
            return affine
        return Affine(affine.scale[positions.ravel()], affine.shift[positions.ravel()])

    def _solve(self, mine: Step, theirs: Step, raw: Chunks | None) -> Update | Rescaling | None:
        """Solve a node and put its new weights into the compiled model; an update whose bias has yet to be added.

        A normalisation that calibration replaces by a map gives how that changes.
        """
        if self.options.only is not None and mine.index not in self.options.only:
            return None
        try:
            solution = self._find_solution(mine, theirs, raw)
        except Conflict as e:  # an axis has grown, and it is not known where
            solution = Refusal(str(e))
        if isinstance(solution, Refusal):
            self._note_refusal(mine.index, theirs, solution)
        elif isinstance(solution, Unfit):
            self._note_unfit(mine.index, theirs, solution)
        elif solution is not None:
            self._put(theirs, solution)
            self.outcome.solved += 1
            if theirs.node.op_type in GATES:
                name = self.pair.graph.sites[mine.index].name
                self.outcome.recurrent.append(name or find_key(theirs.node.output))
        return solution if isinstance(solution, Update | Rescaling) else None

    def _find_solution(self, mine: Step, theirs: Step, raw: Chunks | None) -> Solution:
        """New weights, from compiled inputs to dense outputs, by the solver for this kind of node."""
        if mine.traits.norm is not None and self.options.norms:
            return self.norms.solve(mine, theirs, raw)
        if not self.options.contractions or self._is_left_to_norm(theirs):
            return None
        if raw is None:
            return Refusal("its outputs are not known")
        if theirs.node.op_type in GATES:
            return self.cells.solve(mine, theirs, raw)
        self.experts.note_lookup(mine, theirs)
        if theirs.node.output[0] in self.experts.lookups:
            return None
        if (reads := find_contraction(self.pair.compiled, theirs)) is not None:
            return self.contractions.solve(mine, theirs, reads, raw)
        output = self.pair.graph.sites[mine.index].first_output
        if output is not None and any(n in self.experts.lookups for n in theirs.node.input):
            return self.experts.solve(mine, theirs, raw)
        return Refusal(NOT_COMPENSATED)

    def _is_left_to_norm(self, theirs: Step) -> bool:
        """Does a normalisation alone read it, by stored statistics, which is solved and takes any bias?"""
        walk, name = self.compiled, theirs.node.output[0] if theirs.node.output else ""
        readers = walk.liveness.readers_of.get(name, [])
        if self.options.norms != "affine" or len(readers) != 1 or len(walk.liveness.readers[name]) != 1:
            return False
        step = walk.step(readers[0])
        return step.is_normalised and self.norms.can_solve(step)

    def _put(self, theirs: Step, solution: Update | Replacement | NewTable) -> None:
        """New weights for the nodes that follow, and for the model that is written."""
        compiled = self.pair.compiled
        if isinstance(solution, NewTable):
            compiled.replace(solution.table, solution.values)
            compiled.values[solution.looked_up] = [solution.values[k] for k in solution.index]
            self.updates[solution.looked_up] = Replacement({0: solution.values})
            return
        if isinstance(solution, Update):
            compiled.replace(theirs.node.input[solution.form.weight], solution.weights)
        else:
            for slot, values in solution.constants.items():
                compiled.replace(compiled.name_slot(theirs.index, slot), values)
        self.updates[find_key(theirs.node.output)] = solution

    def _note_refusal(self, i: int, step: Step, refusal: Refusal) -> None:
        """Note a contraction of cut channels with a constant that keeps its old weights."""
        site = self.pair.graph.sites[i]
        has_constant = any(v is not None and (v.constant or v.name in self.experts.lookups) for v in site.inputs)
        if has_constant and not find_read_dims(site).isdisjoint(self.pair.masks):
            reason = self.pair.compiled.explain_unknown(step) or refusal.reason
            self.outcome.left[site.name or step.node.output[0]] = f"{site.op}: {reason}"

    def _note_unfit(self, i: int, step: Step, unfit: Unfit) -> None:
        """Note a contraction that keeps its old weights because least squares has no finite solution."""
        site = self.pair.graph.sites[i]
        name = site.name or step.node.output[0]
        sides = (("reads", unfit.x), ("gives", unfit.target))
        whose = next((f"what it {does} {describe_flaw(c)}" for does, c in sides if has_overflow(c)), "")
        self.outcome.left[name] = f"{site.op}: {whose or 'its least squares have no finite solution'}"
        self.outcome.unfit.append(name)
