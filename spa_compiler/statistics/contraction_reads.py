"""Contractions with a constant, and what they read: moments and compensation see them through this.

reads = find_contraction(walk, step)           # None: the node is no contraction with a constant
reads.accumulate_gram(y, parts, seed)          # moments of what it reads, at sampled output positions
reads.gather_pairs(y, target, seed)            # of that and a target beside it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, iterate_dims
from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.interpreter.interpreter import Step, Walk
from spa_compiler.operators import recurrent_cell
from spa_compiler.operators.contraction import Form, Rows, find_form
from spa_compiler.operators.site import Site, Value
from spa_compiler.statistics.covariance import Columns, Gram, Source, gather_moments
from spa_compiler.statistics.settings import STATISTICS
from spa_compiler.statistics.wide_columns import Evidence, gather_evidence

Array = NDArray[Any]


@dataclass(frozen=True)
class ContractionReads:
    """A contraction with a constant: where its operands are, the constant's name, and the chunks that it reads."""

    form: Form
    weight: str
    x: Chunks | None  # None: not known, or empty

    def accumulate_gram(self, y: Chunks, parts: Sequence[Columns], seed: tuple[int, ...]) -> Gram:
        """Gram of the design at sampled positions of the outputs y, of parts of its columns."""
        form, x = self.form, self.x
        assert x is not None
        source = self._make_source(y, lambda k, rows: [form.design(x[k], y[k], rows)], seed)
        return gather_moments(source, self._measure_design(y)[1], parts)

    def gather_pairs(self, y: Chunks, target: Chunks, seed: tuple[int, ...]) -> Evidence:
        """The design at sampled positions of the outputs y, and beside it the rows of `target` (shaped as y)."""
        form, x = self.form, self.x
        assert x is not None

        def read(k: int, rows: Rows) -> list[Array]:
            return [form.design(x[k], y[k], rows), form.target(target[k], rows)]

        return gather_evidence(self._make_source(y, read, seed), *self._measure_design(y))

    def _measure_design(self, y: Chunks) -> tuple[int, int]:
        """Blocks and columns."""
        assert self.x is not None
        first = next((k for k, c in enumerate(self.x) if c.size), 0)
        _, blocks, columns = self.form.design(self.x[first], y[first], np.zeros(1, np.int64)).shape
        return blocks, columns

    def _make_source(self, y: Chunks, read: Callable[[int, Rows], list[Array]], seed: tuple[int, ...]) -> Source:
        assert self.x is not None
        worth = STATISTICS.grid_rows if self.x[0].ndim >= 4 else STATISTICS.independent_rows
        return Source([self.form.size(b) for b in y], read, sum(len(a) for a in self.x), seed, worth)


def find_contraction(walk: Walk, step: Step) -> ContractionReads | None:
    """The contraction with a constant that a node is, or None."""
    names = list(step.node.input[:2])
    if len(names) < 2 or not all(names):
        return None
    constant = [n in walk.constants for n in names]
    shapes = [None if c is None or not isinstance(c[0], np.ndarray) else c[0].shape for c in step.inputs]
    form = find_form(step.node, shapes, constant)
    if form is None:
        return None
    x = step.inputs[form.data]
    has_entries = x is not None and any(c.size for c in x)  # a Loop that runs no round gives none
    return ContractionReads(form, step.node.input[form.weight], x if has_entries else None)


def find_read_dims(site: Site) -> set[Dim]:
    """Dims that a node sums over; a recurrent operator does so over its states, too."""
    read = {d for s in site.scopes for n in s.find_contracted() - s.stats if n in s.env for d in iterate_dims(s.env[n])}
    r = site.inputs[recurrent_cell.R] if site.op in recurrent_cell.GATES else None
    return read if r is None else read | set(iterate_dims(r.axes[2]))


def find_contracted_dims(site: Site, value: Value | None, weight: Value | None) -> frozenset[Dim]:
    """Dims that a node sums over between its activation and its weight."""
    found: set[Dim] = set()
    for scope in site.scopes:
        for name in scope.find_contracted():
            holders = [v for v, _, row in scope.tensors if any(name in names for names in row)]
            if name in scope.env and value in holders and weight in holders:
                found |= set(iterate_dims(scope.env[name]))
    return frozenset(found)
