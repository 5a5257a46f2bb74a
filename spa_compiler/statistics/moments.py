"""Moments: mean and covariance of what every contraction with a constant reads, taken from calibration inputs.

    moments = collect_moments(graph, feeds, adjust=Adjust(batch_norm=True))
    moments.of[site].covariance                # (blocks, d, d), d = channels x kernel for a convolution

Inputs pass once through the dense model, node by node. Of every contraction some tens of thousands of output positions
are sampled; sums are kept in float64, the products of a chunk are float32 BLAS.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, Expr, Prod, Sum, iterate_dims
from spa_compiler.algebra.masks import find_moving_digits
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.execution.finite import describe_flaw, ignore_overflow, is_finite
from spa_compiler.execution.item_counts import count_items
from spa_compiler.interpreter.activation_maps import Adjust, measure_statistics
from spa_compiler.interpreter.chunks import Chunks, Feed
from spa_compiler.interpreter.deferred_inputs import Late
from spa_compiler.interpreter.interpreter import Step, Walk
from spa_compiler.operators import recurrent_cell
from spa_compiler.operators.contraction import Rows
from spa_compiler.operators.site import Value
from spa_compiler.statistics import expert_tables
from spa_compiler.statistics.cell_reads import find_cell_reads
from spa_compiler.statistics.contraction_reads import (
    ContractionReads,
    find_contracted_dims,
    find_contraction,
    find_read_dims,
)
from spa_compiler.statistics.covariance import Columns, Gram, estimate_shrinkage, gather_moments
from spa_compiler.statistics.residual_branch import follow_branch
from spa_compiler.statistics.wide_columns import split_columns

Array = NDArray[Any]
Floats = NDArray[np.float64]
Part = tuple[Columns, Floats, Array, Floats]
"""Columns of a contraction, their mean, covariance and shrinkage."""


@dataclass(eq=False)
class Moment:
    """One contraction of activations with a constant, or some of its columns where there are too many for one."""

    site: int
    axis: Expr  # of the activation
    contracted: frozenset[Dim]
    channels: NDArray[np.int64]  # (blocks, d): position on that axis
    weights: Floats  # (blocks, m, d)
    mean: Floats  # (blocks, d)
    covariance: Array  # (blocks, d, d)
    gain: Floats  # (m,) what becomes of an error of each output row up to where the error is measured
    energy: float = 1.0  # total variance of the value where the error is measured
    shrinkage: Floats = field(default_factory=lambda: np.zeros(1))  # (blocks,) see shrinkage()
    others: list[Moment] = field(default_factory=list)  # of the same node: gates that read other values, other columns
    value: str = ""  # the activation's name
    nature: str = ""  # what about the activation keeps its statistics from being finite, where something does

    @property
    def every(self) -> list[Moment]:
        """It and the others of its node."""
        return [self, *self.others]

    @functools.cached_property
    def flaw(self) -> str:
        """Why nothing may be concluded from it, or ''; names the value."""
        if not is_finite(self.mean, self.covariance, self.shrinkage):
            return f"'{self.value}' {self.nature or 'has statistics that are not finite'}"
        if not is_finite(self.weights):
            return f"the weights that meet '{self.value}' are not finite"
        if not (is_finite(self.energy, self.gain) and self.energy > 0):
            return f"what becomes of '{self.value}' is not finite"
        return ""


@dataclass(eq=False)
class ActivationProduct:
    """A contraction of two activations (queries with keys): mean squares along the axes that groups live on."""

    site: int
    contracted: frozenset[Dim]
    sides: list[tuple[list[Expr], Floats]]  # per operand: its axes, and mean squares with size 1 where averaged
    values: tuple[str, ...] = ()  # their names

    @property
    def flaw(self) -> str:
        """Why nothing may be concluded from it, or ''; names the values."""
        fine = is_finite(*(squares for _, squares in self.sides))
        return "" if fine else f"the squares of {' or '.join(map(repr, self.values))} are not finite"


@dataclass(eq=False)
class Moments:
    """The statistics that one pass over the dense model collects."""

    of: dict[int, Moment] = field(default_factory=dict)
    products: list[ActivationProduct] = field(default_factory=list)
    missed: dict[str, str] = field(default_factory=dict)  # contractions that left none, and why


def collect_moments(
    graph: DependencyGraph,
    feeds: Sequence[Feed],
    adjust: Adjust | None = None,
    groups: Sequence[Group] | None = None,
    seed: int = 0,
    late: Late | None = None,
) -> Moments:
    """Moments of everything that contracts a channel of `groups` (all by default).

    `adjust` is what calibration does to the dense model's values, `late` which inputs join on the way. What cannot be
    run leaves no moments.
    """
    live = frozenset(d for g in (graph.groups if groups is None else groups) for d in g.dims)
    with ignore_overflow():
        return _Collector(graph, live, adjust or Adjust(), seed).run(feeds, late)


class _Collector:
    def __init__(self, graph: DependencyGraph, live: frozenset[Dim], adjust: Adjust, seed: int) -> None:
        self.graph, self.live, self.adjust, self.seed = graph, live, adjust, seed
        self.walk = Walk(graph.model)
        self.out = Moments()
        self.lookups: dict[str, expert_tables.Lookup] = {}  # weights that are looked up, by name
        self.grams: dict[tuple[Any, ...], list[Part]] = {}
        self.measured: dict[str, list[Moment]] = {}  # value -> contractions whose error is measured there

    def run(self, feeds: Sequence[Feed], late: Late | None) -> Moments:
        for step in count_items(self.walk.run(feeds, late), len(self.walk.nodes)):
            self.walk.finish(step, self.adjust.of(self.walk, step))
            if step.node.op_type in recurrent_cell.GATES:
                self._collect_cell(step)
            else:
                self._collect_contraction(step)
            self._collect_product(step)
            self._note_missed(step)
            for name, chunks in zip(step.node.output, step.outputs, strict=True):
                for moment in self.measured.pop(name, ()):
                    moment.energy = measure_energy(chunks, moment.energy)
        for index, first in self.out.of.items():
            if flaw := next(filter(None, (m.flaw for m in first.every)), ""):
                site = self.graph.sites[index]
                self.out.missed[site.name or self.walk.nodes[index].output[0]] = f"{site.op}: {flaw}"
        return self.out

    def _collect_contraction(self, step: Step) -> None:
        reads = find_contraction(self.walk, step)
        site = self.graph.sites[step.index]
        if (looked_up := expert_tables.find_lookup(self.walk, step)) is not None:
            self.lookups[step.node.output[0]] = looked_up
        slot = next((k for k, n in enumerate(step.node.input) if n in self.lookups), None)
        if reads is None and slot is not None and step.traits.stacks:
            return self._collect_experts(step, slot)
        if reads is None or reads.x is None or step.outputs[0] is None:
            return None
        found = reads.form
        value = site.inputs[found.data]
        contracted = find_contracted_dims(site, value, site.inputs[found.weight]) & self.live
        if not contracted or value is None:
            return None
        w = self.walk.constants[reads.weight]
        weights, axis, channels = found.weights(w), join_axes([value.axes[k] for k in found.axes]), found.channels(w)
        branch = None if step.traits.activation else follow_branch(self.walk, step, self.adjust.batch_norm)
        gain, fits = np.ones(weights.shape[0] * weights.shape[1]), False
        if branch is not None and branch.has_fitting_gain(step.outputs[0][0].shape, found.out):
            gain, fits = np.broadcast_to(branch.gain, gain.shape).astype(np.float64), True
        energy = 1.0 if fits else measure_energy(step.outputs[0], 1.0)
        several = [
            Moment(
                step.index, axis, contracted, channels[:, part], weights[:, :, part], mean, covariance, gain, energy,
                shrunk, value=value.name, nature="" if is_finite(mean, covariance) else describe_flaw(reads.x),
            )
            for part, mean, covariance, shrunk in self._collect_gram(reads, step, axis, contracted, channels)
        ]  # fmt: skip
        if branch is not None and fits:
            self.measured.setdefault(branch.sum, []).extend(several)
        several[0].others = several[1:]
        self.out.of[step.index] = several[0]
        return None

    def _collect_experts(self, step: Step, slot: int) -> None:
        """Experts whose weights are looked up: a block for each, with second moments for they have no intercept."""
        site, lookup = self.graph.sites[step.index], self.lookups[step.node.input[slot]]
        value, y, reads = site.inputs[1 - slot], step.outputs[0], lookup.find_product(self.walk, step, slot)
        contracted = find_contracted_dims(site, value, site.inputs[slot]) & self.live
        if not contracted or value is None or reads is None or y is None:
            return
        left = reads.is_left
        weights, squares, counts = reads.measure(self.walk.constants[lookup.table])
        blocks, m, d = weights.shape
        shrunk = np.concatenate([estimate_shrinkage(h[None], int(n)) for h, n in zip(squares, counts, strict=True)])
        gain, columns = np.repeat(np.sqrt(counts / max(counts.sum(), 1)), m), np.tile(np.arange(d), (blocks, 1))
        self.out.of[step.index] = Moment(
            step.index, value.axes[-2 if left else -1], contracted, columns, weights, np.zeros((blocks, d)), squares,
            gain, measure_energy([c.swapaxes(-1, -2) for c in y] if left else y, 1.0), shrunk, value=value.name,
            nature="" if is_finite(squares) else describe_flaw(reads.x),
        )  # fmt: skip

    def _collect_cell(self, step: Step) -> None:
        """A recurrent operator: one moment for each set of gates that read the same values.

        Gates are measured against all of the operator's gates together, before their functions.
        """
        site, y = self.graph.sites[step.index], step.outputs[0] if step.outputs else None
        reads, r = find_cell_reads(self.walk, step), site.inputs[recurrent_cell.R]
        if isinstance(reads, str) or y is None or r is None or site.inputs[0] is None:
            return
        axis = Sum((site.inputs[0].axes[-1], Prod((r.axes[0], r.axes[2]))))
        contracted = frozenset(iterate_dims(axis)) & self.live
        if not contracted:
            return
        weights = reads.weights
        found = []
        for k, part in enumerate(reads.cell.parts):

            def read_rows(c: int, rows: Rows, part: recurrent_cell.Part = part) -> list[Array]:
                return [part.design(reads.steps(c, y, rows), weights)]

            w = part.weights(weights)
            columns, gain = part.columns(weights), np.ones(w.shape[0] * w.shape[1])
            source = reads.make_source(read_rows, (self.seed, step.index, k))
            gram = gather_moments(source, w.shape[-1], split_columns(axis, contracted, columns))
            found += [
                Moment(
                    step.index, axis, contracted, columns[:, some], w[:, :, some], mean, covariance, gain,
                    shrinkage=shrunk, value=site.inputs[0].name,
                )
                for some, mean, covariance, shrunk in measure_parts(gram)
            ]  # fmt: skip
        variances = [np.einsum("bmd,bde,bme->", m.weights, m.covariance, m.weights, optimize=True) for m in found]
        for m in found:
            m.energy = max(float(sum(variances)), 1e-30)
        found[0].others = found[1:]
        self.out.of[step.index] = found[0]

    def _note_missed(self, step: Step) -> None:
        """Note a contraction of live channels with a constant that left nothing, and why."""
        site = self.graph.sites[step.index]
        read = find_read_dims(site)
        taken = step.index in self.out.of or any(m.site == step.index for m in self.out.products)
        if taken or not read & self.live or not any(v is not None and v.constant for v in site.inputs):
            return
        cell = recurrent_cell.find_cell(step.node)
        plain = (
            cell
            if isinstance(cell, str)
            else "it lies in a body"
            if site.path
            else "this kind of product is not compensated"
        )
        self.out.missed[site.name or step.node.output[0]] = f"{site.op}: {self.walk.explain_unknown(step) or plain}"

    def _collect_gram(
        self, reads: ContractionReads, step: Step, axis: Expr, dims: frozenset[Dim], channels: Rows
    ) -> list[Part]:
        """Mean, covariance and shrinkage of a design; one for all contractions that read the same values alike.

        Where a body reads a value from outside, it does so in the runs that reach it.
        """
        form, x, y = reads.form, reads.x, step.outputs[0]
        assert x is not None and y is not None
        path, name = self.graph.sites[step.index].path, step.node.input[form.data]
        key = (path, name, form.reading_key, form.size(y[0]), len(x))  # inputs may have joined
        if key not in self.grams:
            parts = split_columns(axis, dims, channels)
            self.grams[key] = measure_parts(reads.accumulate_gram(y, parts, (self.seed, step.index)))
        return self.grams[key]

    def _collect_product(self, step: Step) -> None:
        site = self.graph.sites[step.index]
        for scope in site.scopes if step.index not in self.out.of else ():
            for name in scope.find_contracted() - scope.stats:
                dims = frozenset(iterate_dims(scope.env[name])) & self.live if name in scope.env else frozenset()
                holders = [v for v, _, row in scope.tensors if any(name in names for names in row)]
                if not dims or len(holders) != 2 or any(v.constant for v in holders):
                    continue
                chunks = [self.walk.values.get(v.name) or self._find_input(step, v.name) for v in holders]
                if all(c is not None for c in chunks):
                    pairs = zip(holders, chunks, strict=True)
                    found = [self._measure_squares(v, c) for v, c in pairs if c is not None]
                    sides = [side for side in found if side is not None]
                    names = tuple(v.name for v in holders)
                    if len(sides) == 2:
                        self.out.products.append(ActivationProduct(step.index, dims, sides, names))

    @staticmethod
    def _find_input(step: Step, name: str) -> Chunks | None:
        return next((c for n, c in zip(step.node.input, step.inputs, strict=True) if n == name), None)

    def _measure_squares(self, value: Value, chunks: Chunks) -> tuple[list[Expr], Floats] | None:
        """The axes of a value and its mean squares, averaged over the axes that no group and no block of one lives on.

        Of an axis that multiplies a symbol and channels, `(n h)`, the symbol's digits are averaged over, too: the
        inputs need not have the sizes of the analysis. None where it is not known which channels the positions carry.
        """
        kept = self.live | {self.graph.blocks[d] for d in self.live if d in self.graph.blocks}
        axes, live = list(value.axes), [bool(kept & self.graph.find_dims(a)) for a in value.axes]
        idle = tuple(i for i, hit in enumerate(live) if not hit)
        squares = [np.square(c, dtype=np.float32) for c in chunks]
        means = [np.asarray(np.mean(s, axis=idle, keepdims=True, dtype=np.float64)) for s in squares]
        for i in (i for i, a in enumerate(axes) if live[i]):
            digits = find_moving_digits(axes[i], self.graph.size_writer.fixed) if value.dynamic[i] else None
            if digits is not None:
                major, _, minor = digits
                axes[i] = Prod((major, minor))
                means = [_average_moving(m, i, major.size, minor.size) for m in means]
            elif any(m.shape[i] != axes[i].size for m in means):
                return None
        sizes = [c.size for c in chunks]
        weights = sizes if len(set(sizes)) > 1 else None
        return axes, np.asarray(np.average(means, axis=0, weights=weights))


def measure_parts(gram: Gram) -> list[Part]:
    """The statistics of every part of the columns of a Gram."""
    found = [(part, gram.mean()[:, part], gram.covariance(k)) for k, part in enumerate(gram.parts)]
    return [(part, mean, c, estimate_shrinkage(c, gram.rows())) for part, mean, c in found]


def _average_moving(a: Floats, axis: int, major: int, minor: int) -> Floats:
    """The average over all but the major and the minor positions of an axis."""
    before, after = a.shape[:axis], a.shape[axis + 1 :]
    return np.asarray(a.reshape(*before, major, -1, minor, *after).mean(axis + 1).reshape(*before, -1, *after))


def join_axes(axes: list[Expr]) -> Expr:
    """Several axes as one, row-major."""
    return axes[0] if len(axes) == 1 else Prod(tuple(axes))


def measure_energy(chunks: Chunks | None, otherwise: float) -> float:
    """Total variance over the channels: of axis 1 for images, else of the last axis."""
    if chunks is None:
        return otherwise
    if chunks[0].ndim != 4:
        chunks = [c.reshape(-1, *c.shape[-1:] or (1,)) for c in chunks]
    return max(float(measure_statistics(chunks)[1].sum()), 1e-30)  # NaN stays


def exclude_unmeasured(graph: DependencyGraph, moments: Moments) -> tuple[list[str], Moments]:
    """Contractions inside bodies that left no moments, and the moments of channels that none of them reads.

    Half of the story is worse than none: the state of a recurrence would be judged by what it gives to the outside.
    """
    live = {d for g in graph.groups for d in g.dims}
    names: list[str] = []
    blind: set[Dim] = set()
    for k, site in enumerate(graph.sites):
        read = {
            d for s in site.scopes for n in s.find_contracted() if n in s.env for d in iterate_dims(s.env[n])
        } & live
        if site.path and site.traits.is_contraction and read and k not in moments.of:
            names.append(site.name)
            blind |= read
    return names, replace(moments, of={k: m for k, m in moments.of.items() if not m.contracted & blind})
