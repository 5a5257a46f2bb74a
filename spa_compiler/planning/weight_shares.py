"""Shares that weights tell: by their shapes (ERK), by how uneven they are (PQ index), by their size over all groups.

All read the graph only; the budget then scales what they say (`shares`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.weight_slices import find_learned_slices, find_spoiled
from spa_compiler.execution.finite import find_exponent, ignore_overflow
from spa_compiler.planning.scopes import ScopeInputs, ShareScope, scope
from spa_compiler.planning.settings import PLANNING

Array = NDArray[Any]


@scope()
def erk(view: ScopeInputs) -> Mapping[str, float]:
    """Shares grow with 1 - (c_in + c_out + k_h + k_w) / (c_in c_out k_h k_w) of the weights (Erdős-Rényi kernel; RigL).

    Of a group: over all weights that it cuts, by their sizes.
    """
    return {g.label: compute_erk(view.graph, g) for g in view.graph.groups}


def compute_erk(graph: DependencyGraph, group: Group) -> float:
    """Part of a group's weights that is more than the sums of their sides; 0 where it has none with two axes."""
    shapes = [graph.values[m.value].shape for m in group.members]
    shapes = [s for s in shapes if len(s) > 1]
    entries = sum(math.prod(s) for s in shapes)
    return max(0.0, 1 - sum(map(sum, shapes)) / entries) if entries else 0.0


@dataclass(frozen=True)
class PQIndex:
    """The share that the PQ index of a group's unit norms leaves over (Diao et al. 2023, SAP).

    With p < q, I = 1 - d^(1/q - 1/p) |w|_p / |w|_q of d norms is 0 where all are equal and grows with how uneven they
    are; at least r = d (1 + eta)^(-q / (q - p)) (1 - I)^(p q / (q - p)) units are needed, and min(gamma (1 - r / d),
    beta) of them go. Of d norms of which k are equal and the others 0, r = k for eta = 0.
    """

    p: float = 1.0
    q: float = 2.0
    eta: float = 0.0
    gamma: float = 1.0
    beta: float = PLANNING.most_group_share

    def __post_init__(self) -> None:
        if not 0 < self.p < self.q:
            raise ValueError(f"the PQ index is of 0 < p < q, not of p={self.p:g} and q={self.q:g}")

    def __call__(self, view: ScopeInputs) -> Mapping[str, float]:
        """The share of every group."""
        return {g.label: self.compute_share(measure_norms(view.graph, g)[0]) for g in view.graph.groups}

    def compute_index(self, norms: Array) -> float:
        """The PQ index of norms, 0 where all of them are 0."""
        most = float(norms.max(initial=0.0))
        if most <= 0:
            return 0.0
        w, p, q = np.asarray(norms, np.float64) / most, self.p, self.q
        ratio = float((w**p).sum() ** (1 / p) / (w**q).sum() ** (1 / q))
        return float(1 - float(norms.size) ** (1 / q - 1 / p) * ratio)

    def count_needed(self, norms: Array) -> float:
        """How many of the units are needed."""
        p, q = self.p, self.q
        rest = (1 - self.compute_index(norms)) ** (p * q / (q - p))
        return float(norms.size * (1 + self.eta) ** (-q / (q - p)) * rest)

    def compute_share(self, norms: Array) -> float:
        """The share of the units that go."""
        return max(0.0, min(self.gamma * (1 - self.count_needed(norms) / norms.size), self.beta))


pq = ShareScope(PQIndex())


@scope()
def magnitude(view: ScopeInputs) -> Mapping[str, Array]:
    """The units of smallest magnitude of all groups go: the root mean square of a unit's weights, as they are."""
    out: dict[str, Array] = {}
    for g in view.graph.groups:
        norms, counts = measure_norms(view.graph, g)
        out[g.label] = (norms / np.sqrt(np.maximum(counts, 1.0))).reshape(g.shape)
    most = max((float(v[np.isfinite(v)].max(initial=0.0)) for v in out.values()), default=0.0)
    return {n: np.where(np.isfinite(v), v, most) for n, v in out.items()}


def measure_norms(graph: DependencyGraph, group: Group) -> tuple[Array, Array]:
    """The norm of each unit's weights, over all members, and how many these are: flat arrays.

    A unit with weights that are not finite has the largest norm of its group.
    """
    size = int(np.prod(group.shape))
    squares, counts = np.zeros(size), np.zeros(size)
    parts = [(s, s.numbers) for s in find_learned_slices(graph, group)]
    by = find_exponent(max((float(np.abs(v).max(initial=0.0)) for _, v in parts), default=0.0))
    with ignore_overflow():
        for s, values in parts:
            squares += s.sum_channels(np.ldexp(values, -by) ** 2, size)
            counts += s.sum_channels(np.ones(values.shape), size)
        norms = np.ldexp(np.sqrt(squares), by)
    return np.where(find_spoiled(graph, group), norms.max(initial=0.0), norms), counts
