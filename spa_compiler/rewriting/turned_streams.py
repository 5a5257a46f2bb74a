"""Residual streams in another basis: what they carry stands in few channels, and no output changes.

    model = turn_streams(graph, model, find_streams(graph, graph.groups), products)

With U the directions of the rows that norms give, most first, channels become those of Q = U where nothing reads their
mean. Where it is subtracted, it has to stay the mean: Q = [1/sqrt(D), U] H, with H Helmert's matrix, of
which row k holds nothing behind entry k: what lies in the first k directions stands in the first k + 1 channels, and
the ones stay ones. What is written loses its mean, which no norm sees; gains go into the weights that read.
[SliceGPT, arXiv 2401.15024, section 3.2; Helmert, 1876]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.mixable_dims import Columns
from spa_compiler.analysis.normed_streams import Normed, Stream
from spa_compiler.execution.finite import is_finite
from spa_compiler.ir.model import Model, make_constant

Floats = NDArray[np.float64]
LARGEST_SHIFT = 100.0
"""A bias over its gain: larger ones would drown what is normalised."""


def find_turn(products: Floats, keeps_mean: bool) -> Floats:
    """The orthogonal matrix (D, D) whose columns are the new channels, for mean products (D, D) of normed rows.

    >>> q = find_turn(np.diag([1.0, 9.0, 4.0]), keeps_mean=True)
    >>> bool(np.allclose(q @ q.T, np.eye(3)) and np.allclose(q.sum(0), 1) and np.allclose(q.sum(1), 1))
    True
    """
    d = len(products)
    if not keeps_mean:
        return np.asarray(np.linalg.eigh(products)[1][:, ::-1])
    centre = np.eye(d) - 1 / d
    u = np.linalg.eigh(centre @ products @ centre)[1][:, ::-1]
    basis = np.linalg.qr(np.column_stack([np.ones(d), u[:, : d - 1]]))[0]
    basis[:, 0] = 1 / np.sqrt(d)
    return np.asarray(basis @ scipy.linalg.helmert(d, full=True))


def can_turn(graph: DependencyGraph, stream: Stream) -> bool:
    """May gains be taken out of the norms? All numbers are finite, and no bias is much larger than its gain."""
    read = _Reader(graph)
    return all(is_finite(read(c)) for c in [*stream.written, *(r for n in stream.norms for r in n.readers)]) and all(
        _find_shift(read, n) is not None for n in stream.norms
    )


def turn_streams(
    graph: DependencyGraph, model: Model, streams: Sequence[Stream], products: Mapping[str, Floats]
) -> Model:
    """A copy of a model (one whose constants may have changed since the analysis) with these streams turned.

    `products` (D, D) by label of the group, of rows as the norms give them before their gain.
    """
    read, out = _Reader(graph, model), model.copy()
    new: dict[str, Floats] = {}
    for stream in streams:
        q = find_turn(products[stream.group.label], stream.keeps_mean)
        for c in stream.written:
            rows = read(c)
            read.write(c, (rows - rows.mean(1, keepdims=True) if stream.is_centred else rows) @ q, new)
        for norm in stream.norms:
            gain, shift = _read_gain(read, norm), _find_shift(read, norm)
            for c in norm.readers:
                read.write(c, read(c) * gain @ q, new)
            if norm.gain is not None:
                read.write(norm.gain, np.ones_like(gain)[None], new)
            if norm.bias is not None and shift is not None:
                read.write(norm.bias, (shift @ q)[None], new)
    constants = out.constants()
    for name, array in new.items():
        dtype = np.asarray(out.array(constants[name])).dtype
        constants[name]._values = make_constant(name, array.astype(dtype))._values
    return out


def _find_shift(read: _Reader, norm: Normed) -> Floats | None:
    """The bias of a norm in times of its gain; None where a channel has a bias and next to no gain."""
    gain = _read_gain(read, norm)
    bias = read(norm.bias)[0] if norm.bias is not None else np.zeros_like(gain)
    if not is_finite(gain) or not is_finite(bias):
        return None
    live = bias != 0
    shift = np.zeros_like(gain)
    with np.errstate(divide="ignore", over="ignore"):
        shift[live] = bias[live] / gain[live]
    return shift if np.abs(shift).max(initial=0.0) <= LARGEST_SHIFT else None


def _read_gain(read: _Reader, norm: Normed) -> Floats:
    """The gain of a norm, ones where it has none."""
    return read(norm.gain)[0] if norm.gain is not None else np.ones(norm.readers[0].positions[0].shape[1])


class _Reader:
    """Rows [rows, D] of constants, in double precision."""

    def __init__(self, graph: DependencyGraph, model: Model | None = None) -> None:
        self.model = model or graph.model
        self.constants = self.model.constants()
        self.arrays: dict[str, Floats] = {}

    def __call__(self, c: Columns) -> Floats:
        if c.value not in self.arrays:
            self.arrays[c.value] = np.array(self.model.array(self.constants[c.value]), np.float64)
        return np.asarray(self.arrays[c.value].ravel()[c.positions[0]])

    def write(self, c: Columns, rows: Floats, into: dict[str, Floats]) -> None:
        """Put down new rows of a constant."""
        self(c)
        into.setdefault(c.value, self.arrays[c.value].copy()).reshape(-1)[c.positions[0]] = rows


__all__ = ["can_turn", "find_turn", "turn_streams"]
