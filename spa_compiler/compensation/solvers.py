"""The weight and bias update that absorbs what was removed, in topological order, dense and compiled side by side.

    better = compensate(graph, masks, rewrite(graph, masks), feeds)

Every contraction whose input has changed is solved anew: from the inputs that it gets in the compiled model to the
outputs that it had in the dense one, least squares with intercept and a ridge towards the old weights,

    W = W0 + (C_tx - W0 C_xx) (C_xx + lambda I)^-1,     b = mean(t) - W mean(x)

and where its output feeds a residual Add, the target is the dense sum minus the compiled shortcut, so that errors of
earlier blocks are corrected, not passed on (docs/data-free; OSSCAR, Meng et al. 2024, without its targets).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.masks import Bools, Masks
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.compensation.apply import Outcome, Replacement, Update, apply_updates, find_key
from spa_compiler.execution.finite import describe_flaw, has_overflow, ignore_overflow, is_finite
from spa_compiler.interpreter.activation_maps import Adjust
from spa_compiler.interpreter.chunks import Affine, Chunks, Feed
from spa_compiler.interpreter.deferred_inputs import Late
from spa_compiler.interpreter.interpreter import Step, Walk
from spa_compiler.ir.model import Model
from spa_compiler.operators import recurrent_cell
from spa_compiler.operators.contraction import Form, Rows
from spa_compiler.operators.site import Value
from spa_compiler.operators.tables import find_traits
from spa_compiler.rewriting.prune import find_kept_states, slice_array
from spa_compiler.statistics import expert_tables
from spa_compiler.statistics.covariance import (
    Floats,
    Gram,
    estimate_shrinkage,
    gather_moments,
    repair_variance,
    solve_least_squares,
)
from spa_compiler.statistics.moments import accumulate_gram, find_read_dims, find_step_form
from spa_compiler.statistics.residual_branch import follow_branch, measure_lost_shortcut

Array = NDArray[Any]


@dataclass(frozen=True)
class Options:
    """How to compensate.

    ridge       share of the mean diagonal of C_xx, towards the old weights
    adjust      what calibration does to values of both models (synthetic inputs)
    residual    correct the errors of earlier blocks at residual Adds
    shrink      shrink covariances towards their diagonal by what so few inputs cannot tell
    everything  solve contractions that were not cut, but whose inputs changed, too
    bias_only   only the intercept (FLAP): W stays
    repair      largest factor by which the deviation of an output row may be restored; 1: not at all
    late        inputs that join on the way
    """

    ridge: float = 0.02
    adjust: Adjust = field(default_factory=Adjust)
    residual: bool = True
    shrink: bool = True
    everything: bool = True
    bias_only: bool = False
    repair: float = 1.0
    late: Late | None = None
    seed: int = 0


def compensate(
    graph: DependencyGraph, masks: Masks, small: Model, feeds: Sequence[Feed], options: Options | None = None
) -> Model:
    """A copy of `small` (the rewrite of `graph` by `masks`) with new weights and biases."""
    return compensate_weights(graph, masks, small, feeds, options or Options())[0]


def compensate_weights(
    graph: DependencyGraph, masks: Masks, small: Model, feeds: Sequence[Feed], options: Options
) -> tuple[Model, Outcome]:
    """`compensate`, with what became of every contraction that was cut."""
    run = _Lockstep(graph, masks, small, options)
    with ignore_overflow():
        return apply_updates(small, run.run(feeds)), run.outcome


class _Lockstep:
    def __init__(self, graph: DependencyGraph, masks: Masks, small: Model, options: Options) -> None:
        self.graph, self.masks, self.options = graph, masks, options
        self.dense, self.compiled = Walk(graph.model), Walk(small)
        self.place = {n.output[0]: i for i, n in enumerate(self.dense.nodes) if n.output}
        self.stored = {n for node in self.compiled.nodes if find_traits(node).dequantizes for n in node.output}
        self.updates: dict[str, Update | Replacement] = {}
        self.lookups: dict[
            str, tuple[expert_tables.Lookup, expert_tables.Lookup]
        ] = {}  # weights looked up, dense and compiled
        self.outcome = Outcome()

    def run(self, feeds: Sequence[Feed]) -> dict[str, Update | Replacement]:
        late = self.options.late
        self.dense.start(feeds, late)
        self.compiled.start(feeds, late)
        for name in self.compiled.inputs:
            self.compiled.values[name] = self.dense.values[name]
        for j, node in enumerate(self.compiled.nodes):
            i = self.place.get(node.output[0]) if node.output else None
            if late is not None and i is not None and i >= late.at and self.dense.deferred.waiting:
                self._join_late()
            if i is None:
                self.compiled.finish(self.compiled.step(j))
            else:
                self._run_pair(i, j)
                self.dense.forget(i)
            self.compiled.forget(j)
        return self.updates

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
        if same:
            update = None
        elif raw is None:
            update = self._note_skipped(i, theirs, "its outputs are not known")
        else:
            update = self._solve(i, mine, theirs, raw)
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
            self.compiled.finish(theirs, self._cut_affine(i, affine), bias)
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
        sized = bool(self.graph.sites[i].outputs)  # its shape is known
        if known is None or found is None or known.runs != found.runs or mine.outputs[0] is None or not sized:
            self._note_skipped(i, theirs, "what it reads in its body was not recorded")
            return
        same = mine.node == theirs.node and all(
            len(a) == len(b) and all(map(np.array_equal, a, b))
            for a, b in zip(known.inputs.values(), found.inputs.values(), strict=True)
        )
        update = None if same else self._solve(i, mine, theirs, mine.outputs[0])
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
        value = self.graph.sites[i].outputs[0]
        if affine is None or value is None:
            return None
        shape = (1, -1, *(1,) * (len(value.axes) - 2))
        both = [slice_array(self.graph, value, a.reshape(shape), self.masks) for a in (affine.scale, affine.shift)]
        return Affine(both[0].ravel(), both[1].ravel())

    def _solve(self, i: int, mine: Step, theirs: Step, raw: Chunks) -> Update | Replacement | None:
        """New weights, from compiled inputs to dense outputs; None where there is nothing to solve."""
        if theirs.node.op_type in recurrent_cell.GATES:
            return self._solve_cell(i, mine, theirs, raw)
        form = find_step_form(self.graph, self.compiled, theirs)
        output = self.graph.sites[i].outputs[0]
        found = expert_tables.find_lookup(self.dense, mine), expert_tables.find_lookup(self.compiled, theirs)
        if found[0] is not None and found[1] is not None:
            self.lookups[theirs.node.output[0]] = found[0], found[1]
            return None
        if form is None and output is not None and any(n in self.lookups for n in theirs.node.input):
            return self._solve_experts(i, theirs, [slice_array(self.graph, output, c, self.masks) for c in raw])
        if form is None or output is None or theirs.inputs[form.data] is None:
            return self._note_skipped(i, theirs, "this kind of product is not compensated")
        weight = theirs.node.input[form.weight]
        if reason := self._explain_fixed(weight):
            return self._note_skipped(i, theirs, reason)
        uncut = self.dense.constants[weight].shape == self.compiled.constants[weight].shape
        if uncut and not self.options.everything:
            return None
        if mine.traits.activation:
            return self._solve_fused(i, mine, theirs, form, output)
        target = self._find_target(form, mine, output, raw)
        update = self._regress(form, theirs, target, (self.options.seed, i))
        if update is None:
            return self._note_unfit(i, theirs, theirs.inputs[form.data] or [], target)
        self.updates[find_key(theirs.node.output)] = update
        self.outcome.solved += 1
        self.compiled.replace(weight, update.weights)
        return update

    def _solve_fused(self, i: int, mine: Step, theirs: Step, form: Form, output: Value) -> Update | Replacement | None:
        """A contraction with a function behind it: solved before the function, with the bias in its own input."""
        raw, slot, beta = self.dense.before_activation(mine), form.bias, getattr(form, "beta", 1.0)
        name = theirs.node.input[slot] if slot is not None and slot < len(theirs.node.input) else ""
        if slot is None or beta == 0 or (name and name not in self.compiled.constants):
            return self._note_skipped(i, theirs, "its bias is no constant, and a function follows within the node")
        if reason := self._explain_fixed(name) if name else "":
            return self._note_skipped(i, theirs, reason)
        target = [slice_array(self.graph, output, c, self.masks) for c in raw or ()]
        update = self._regress(form, theirs, target, (self.options.seed, i)) if target else None
        if update is None:
            return self._note_unfit(i, theirs, theirs.inputs[form.data] or [], target)
        bias = ((self._measure_old_bias(form, theirs, update.bias.size) + update.bias) / beta).astype(
            update.weights.dtype
        )
        found = Replacement({form.weight: update.weights, slot: bias})
        for k, values in found.constants.items():
            self.compiled.replace(self.compiled.name_slot(theirs.index, k), values)
        theirs.inputs = self.compiled.step(theirs.index).inputs
        self.updates[find_key(theirs.node.output)] = found
        self.outcome.solved += 1
        return found

    def _solve_experts(self, i: int, theirs: Step, target: Chunks) -> Replacement | None:
        """Experts whose weights are looked up for every row, by this product alone: a second solution would win."""
        slot, name = next((k, n) for k, n in enumerate(theirs.node.input) if n in self.lookups)
        (dense, found), x = self.lookups[name], theirs.inputs[1 - slot]
        index = found.index(self.compiled)
        product = theirs.traits.stacks and len(self.compiled.liveness.readers[name]) == 1
        fits = product and x is not None and x[0].shape[:-2] == index[0].shape
        reason = self._explain_fixed(found.table) if fits else "its weights are looked up at run time"
        if x is None or reason or self.options.bias_only:
            self._note_skipped(i, theirs, reason)
            return None
        if not is_finite(*x, *target):
            self._note_unfit(i, theirs, x, target)
            return None
        by, table = self.options, self.compiled.constants[found.table]
        agreed = expert_tables.find_agreement(dense.index(self.dense), index)
        new = expert_tables.solve_experts(table, slot == 0, agreed, x, target, by.ridge, by.shrink)
        self.compiled.replace(found.table, new)
        self.compiled.values[name] = [new[k] for k in index]
        self.outcome.solved += 1
        self.updates[name] = Replacement({0: new})
        return Replacement({})

    def _explain_fixed(self, weight: str) -> str:
        """Why a weight must stay as it is, or ''."""
        if len(self.compiled.liveness.readers[weight]) > 1:
            return "its weight is read elsewhere, too"
        if weight in self.stored or self.compiled.constants[weight].dtype.kind != "f":
            return "its weight is stored as integers"
        return ""

    def _note_skipped(self, i: int, step: Step, reason: str) -> Update | Replacement | None:
        """Note a contraction of cut channels with a constant that keeps its old weights."""
        site = self.graph.sites[i]
        held = any(v is not None and (v.constant or v.name in self.lookups) for v in site.inputs)
        if held and not find_read_dims(site).isdisjoint(self.masks):
            self.outcome.left[site.name or step.node.output[0]] = (
                f"{site.op}: {self.compiled.explain_unknown(step) or reason}"
            )
        return None

    def _note_unfit(self, i: int, step: Step, x: Chunks, target: Chunks) -> Update | Replacement | None:
        """Note a contraction that keeps its old weights because least squares has no finite solution."""
        site = self.graph.sites[i]
        name = site.name or step.node.output[0]
        sides = (("reads", x), ("gives", target))
        whose = next((f"what it {does} {describe_flaw(c)}" for does, c in sides if has_overflow(c)), "")
        self.outcome.left[name] = f"{site.op}: {whose or 'its least squares have no finite solution'}"
        self.outcome.unfit.append(name)
        return None

    def _solve_cell(self, i: int, mine: Step, theirs: Step, y: Chunks) -> Update | Replacement | None:
        """A recurrent operator, from compiled inputs and the dense states that are kept to the dense gates.

        Each set of gates that read the same values is a contraction of its own; states are those of the dense model,
        which the compiled one then follows (solving again from its own states gives nothing more: docs/data-free).
        """
        cell, node = recurrent_cell.find_cell(theirs.node), theirs.node
        full, held = (
            recurrent_cell.read_weights(mine.node, self.dense.constants),
            recurrent_cell.read_weights(node, self.compiled.constants),
        )
        x, small = mine.inputs[0], theirs.inputs[0]
        if not isinstance(cell, recurrent_cell.Cell) or full is None or held is None or x is None or small is None:
            return self._note_skipped(i, theirs, cell if isinstance(cell, str) else "its weights are not constant")
        names = [n for n in node.input[recurrent_cell.W : recurrent_cell.B + 1] if n]
        if reason := next(filter(None, map(self._explain_fixed, names)), ""):
            return self._note_skipped(i, theirs, reason)
        if full[0].shape == held[0].shape and full[1].shape == held[1].shape and not self.options.everything:
            return None
        r = self.graph.sites[i].inputs[recurrent_cell.R]
        assert r is not None
        kept = find_kept_states(r, self.masks, self.graph)
        dense, new = recurrent_cell.Weights.of(cell.gates, *full), recurrent_cell.Weights.of(cell.gates, *held)
        h0 = recurrent_cell.find_initial_state(mine.inputs)
        for k, part in enumerate(cell.parts):

            def read(
                c: int, rows: Rows, part: recurrent_cell.Part = part, new: recurrent_cell.Weights = new
            ) -> list[Array]:
                steps = cell.steps(x[c], y[c], None if h0 is None else h0[c], rows)
                target = recurrent_cell.compute_gates(part, steps, dense).reshape(
                    *steps.h.shape[:2], len(part.gates), -1
                )
                target = np.take_along_axis(target, kept[None, :, None], axis=3).reshape(*steps.h.shape[:2], -1)
                cut = recurrent_cell.Steps(cell.inputs(small[c], rows), np.take_along_axis(steps.h, kept[None], axis=2))
                return [part.design(cut, new), target]

            before = part.weights(new)
            sizes, inputs = [cell.size(c) for c in x], sum(cell.batch(c) for c in x)
            gram = gather_moments(sizes, before.shape[-1], read, inputs, (self.options.seed, i, k), self.graph)
            w = self._solve_weights(before, gram)
            new = part.replace_weights(new, w, gram.mean(1) - np.einsum("bmd,bd->bm", w, gram.mean()))
        slots = dict(
            zip(
                (recurrent_cell.W, recurrent_cell.R, recurrent_cell.B), new.to_operator_form(held[0].dtype), strict=True
            )
        )
        if not is_finite(*slots.values()):
            return self._note_unfit(i, theirs, small, y)
        for slot, values in slots.items():
            self.compiled.replace(self.compiled.name_slot(theirs.index, slot), values)
        update = self.updates[find_key(node.output)] = Replacement(slots)
        self.outcome.solved += 1
        self.outcome.recurrent.append(self.graph.sites[i].name or find_key(node.output))
        return update

    def _find_target(self, form: Form, mine: Step, output: Value, raw: Chunks) -> Chunks:
        """Dense outputs on the kept channels, plus what the compiled shortcut lacks where a residual Add follows."""
        out = [slice_array(self.graph, output, c, self.masks) for c in raw]
        branch = follow_branch(self.dense, mine, self.options.adjust.batch_norm) if self.options.residual else None
        if branch is None or not branch.has_fitting_gain(raw[0].shape, form.out):
            return out
        shortcuts = self.dense.values.get(branch.shortcut), self.compiled.values.get(branch.shortcut)
        lacks = measure_lost_shortcut(self.graph, self.masks, branch, output, raw, form.out, *shortcuts)
        return out if lacks is None else [t + lack for t, lack in zip(out, lacks, strict=True)]

    def _regress(self, form: Form, step: Step, target: Chunks, seed: tuple[int, ...]) -> Update | None:
        """New weights and what they change in the bias; None where they would not be finite in the weights' type."""
        x = step.inputs[form.data]
        assert x is not None
        old = self.compiled.constants[step.node.input[form.weight]]
        gram = accumulate_gram(form, x, target, target, seed, self.graph)
        weights = form.restore(self._solve_weights(form.weights(old), gram), old)
        bias = gram.mean(1) - np.einsum("bmd,bd->bm", form.weights(weights), gram.mean())
        change = bias.ravel() - self._measure_old_bias(form, step, bias.size)
        new = np.stack([bias.ravel(), change]) / (getattr(form, "beta", 1.0) or 1.0)
        return Update(form, weights, change) if is_finite(weights, new.astype(weights.dtype)) else None

    def _solve_weights(self, before: Floats, gram: Gram) -> Floats:
        """The weights (blocks, m, d) that the options ask for; NaN where there is no solution."""
        if self.options.bias_only:
            return before
        covariance = gram.covariance()
        shrink = estimate_shrinkage(covariance, gram.rows()) if self.options.shrink else 0.0
        try:
            w = solve_least_squares(before, covariance, gram.cross(), self.options.ridge, shrink)
        except np.linalg.LinAlgError:
            return np.full_like(before, np.nan)
        return repair_variance(w, covariance, gram.variance(), self.options.repair)

    def _measure_old_bias(self, form: Form, step: Step, rows: int) -> Floats:
        """The bias that the node adds by itself, on average."""
        chunks = step.inputs[form.bias] if form.bias is not None and form.bias < len(step.inputs) else None
        if chunks is None:
            return np.zeros(rows)
        every = [c.ravel() for c in {id(c): c for c in chunks}.values()]  # one, where it is constant
        return np.broadcast_to(getattr(form, "beta", 1.0) * np.mean(every, 0, np.float64), (rows,))


__all__ = ["Bools", "Options", "Outcome", "compensate", "compensate_weights", "repair_variance", "solve_least_squares"]
