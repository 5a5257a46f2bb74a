"""Routed experts: products whose weights are looked up in a constant, one matrix for each row.

    (R, o, d) = table[index],  y = MatMul(table[index], x)  or  MatMul(x, table[index])

Every matrix of the table is solved on its own, from the rows that take it in the dense and in the compiled model alike.
There is no intercept: a bias would have to be looked up, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.execution.finite import is_finite
from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.interpreter.interpreter import Step, Walk
from spa_compiler.operators.contraction import read_attributes
from spa_compiler.statistics.covariance import estimate_shrinkage, solve_least_squares

Array = NDArray[Any]
NO_EXPERT = -1


@dataclass(frozen=True)
class ExpertReads:
    """A product with matrices that were looked up: what it reads, and which expert every row of that takes."""

    slot: int  # of the matrices; the first: (o, d) times (d, p)
    x: Chunks
    index: list[Array]

    @property
    def is_left(self) -> bool:
        """Do the matrices stand before what they meet?"""
        return self.slot == 0

    def measure(self, table: Array) -> tuple[Array, Array, Array]:
        """Of every expert its weights (experts, m, d), second moments (experts, d, d) of what it reads, how often."""
        weights = np.asarray(table if self.is_left else table.transpose(0, 2, 1), np.float64)
        squares, counts = np.zeros((len(table), *weights.shape[-1:] * 2)), np.zeros(len(table), np.int64)
        for k, a in zip(self.index, self.x, strict=True):
            flat = _flatten_rows(a, self.is_left)
            for e in range(len(table)):
                rows = flat[k.ravel() == e].reshape(-1, flat.shape[-1]).astype(np.float64)
                squares[e] += rows.T @ rows
                counts[e] += len(rows)
        return weights, squares / np.maximum(counts, 1)[:, None, None], counts

    def solve(self, table: Array, index: Sequence[Array], target: Chunks, ridge: float, shrink: bool) -> Array:
        """The table with every matrix solved to the target, from the rows that take it by this `index`.

        A matrix stays where there is no finite solution.
        """
        out, left = table.copy(), self.is_left
        flat = [
            (k.ravel(), _flatten_rows(a, left), _flatten_rows(t, left))
            for k, a, t in zip(index, self.x, target, strict=True)
        ]
        for e, matrix in enumerate(table):
            rows = np.concatenate([a[k == e].reshape(-1, a.shape[-1]) for k, a, _ in flat]).astype(np.float64)
            wanted = np.concatenate([t[k == e].reshape(-1, t.shape[-1]) for k, _, t in flat]).astype(np.float64)
            if not len(rows):
                continue
            square, cross = (rows.T @ rows / len(rows))[None], (wanted.T @ rows / len(rows))[None]
            before = np.asarray(matrix if left else matrix.T, np.float64)[None]
            try:
                w = solve_least_squares(
                    before, square, cross, ridge, estimate_shrinkage(square, len(rows)) if shrink else 0.0
                )[0]
            except np.linalg.LinAlgError:
                continue
            new = (w if left else w.T).astype(table.dtype)
            out[e] = new if is_finite(new) else matrix
        return out


@dataclass(frozen=True)
class Lookup:
    """A look-up: the name of the constant (experts, rows, columns), and of the value that says which expert."""

    table: str
    by: str
    nested: bool  # GatherND: a last axis of one

    def index(self, walk: Walk) -> list[Array]:
        """Chunk by chunk, which expert every row takes."""
        size, found = len(walk.constants[self.table]), walk.values.chunks_of(self.by) or []
        return [np.where(k < 0, k + size, k) for k in (k[..., 0] if self.nested else k for k in found)]

    def find_product(self, walk: Walk, step: Step, slot: int) -> ExpertReads | None:
        """The product that a node is with the matrices in one of its operands, a row of the other for each; or None."""
        if not step.traits.stacks:
            return None
        x, index = step.inputs[1 - slot], self.index(walk)
        if x is None or x[0].shape[:-2] != index[0].shape:
            return None
        return ExpertReads(slot, x, index)


def find_lookup(walk: Walk, step: Step) -> Lookup | None:
    """A Gather of whole matrices from a constant, or None. Which it takes is kept as long as what it gives."""
    node, attrs = step.node, read_attributes(step.node)
    if not step.traits.lookup or node.input[0] not in walk.constants or step.inputs[1] is None:
        return None
    index, table = step.inputs[1], walk.constants[node.input[0]]
    if attrs.get("axis", 0) or attrs.get("batch_dims", 0) or table.ndim != 3:
        return None
    nested = step.traits.lookup == "nested"
    if nested and index[0].shape[-1] != 1:
        return None
    walk.liveness.keep(node.input[1], node.output[0])
    return Lookup(node.input[0], node.input[1], nested)


def find_agreement(dense: Sequence[Array], compiled: Sequence[Array]) -> list[Array]:
    """Which expert a row takes where both models take the same, else NO_EXPERT."""
    return [np.where(a == b, a, NO_EXPERT) for a, b in zip(dense, compiled, strict=True)]


def _flatten_rows(a: Array, left: bool) -> Array:
    """(rows of the index, positions, channels)"""
    flat = a.reshape(-1, *a.shape[-2:])
    return flat.transpose(0, 2, 1) if left else flat
