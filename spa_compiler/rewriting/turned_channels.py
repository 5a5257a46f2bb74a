"""Channels of mixable dims in another basis: few of them carry most, and no output changes.

    turned = turn_channels(graph, find_mixable(graph, graph.groups))      # Model

With A B^T = U S V^T, A becomes U S^1/2 and B V S^1/2, of every block on its own: channels come in the order of what
they carry, and those that carry nothing are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.mixable_dims import Columns, Mixable
from spa_compiler.execution.finite import is_finite
from spa_compiler.ir.model import Model, make_constant

NOTHING = 1e-7
"""Share of the largest singular value below which one is rounding."""


def turn_channels(graph: DependencyGraph, found: Sequence[Mixable]) -> Model:
    """A copy of the analysed model with these dims in the basis of their singular vectors.

    A block whose weights hold NaN or infinity stays as it is.
    """
    model = graph.model.copy()
    constants = model.constants()
    names = dict.fromkeys(c.value for m in found for c in (*m.left, *m.right))
    old = {n: np.asarray(graph.model.array(constants[n])) for n in names}
    new = {n: np.array(a, np.float64) for n, a in old.items()}
    for mixable in found:
        for block in range(mixable.group.blocks):
            left, right = (_read(side, block, new) for side in (mixable.left, mixable.right))
            if is_finite(left) and is_finite(right):
                turned = find_basis(left, right)
                _write(mixable.left, block, turned[0], new)
                _write(mixable.right, block, turned[1], new)
    for name, array in new.items():
        constants[name]._values = make_constant(name, array.astype(old[name].dtype))._values
    return model


def _read(side: Sequence[Columns], block: int, arrays: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([arrays[c.value].ravel()[c.positions[block]] for c in side])


def _write(
    side: Sequence[Columns], block: int, rows: NDArray[np.float64], arrays: Mapping[str, NDArray[np.float64]]
) -> None:
    at = 0
    for c in side:
        positions = c.positions[block]
        arrays[c.value].reshape(-1)[positions] = rows[at : at + len(positions)]
        at += len(positions)


def find_basis(
    left: NDArray[np.float64], right: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two matrices of the same shapes with the same product of the first and the second transposed, turned.

    >>> a, b = find_basis(np.array([[1.0, 1.0]]), np.array([[2.0, 2.0], [0.0, 0.0]]))
    >>> np.round(a @ b.T, 9).tolist(), (np.abs(a[:, 1]) + np.abs(b[:, 1]).sum()).tolist()
    ([[4.0, 0.0]], [0.0])
    """
    k = left.shape[1]
    first, r = np.linalg.qr(left)
    second, s = np.linalg.qr(right)
    u, values, v = np.linalg.svd(r @ s.T, full_matrices=False)
    values = np.where(values > NOTHING * values.max(initial=0.0), values, 0.0)
    root = np.sqrt(values)
    out = []
    for basis in (first @ u * root, second @ v.T * root):
        wide = np.zeros((len(basis), k))
        wide[:, : basis.shape[1]] = basis[:, :k]
        out.append(wide)
    return out[0], out[1]


__all__ = ["find_basis", "turn_channels"]
