"""A baseline: removed channels are merged into the most similar kept ones, judged by weights alone.

Neuron Merging (Kim et al. 2020, eq. 5): where the weights that produce channel r point the way of those of a kept
channel k, x_r is about s x_k with s = |w_r| / |w_k|, so that what reads r may read s x_k instead. Exact through ReLU
for parallel weights and s > 0. It is the weights' view of what `solvers` learns from inputs, and loses to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.masks import NOWHERE
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.weight_slices import Slices, rows, slices
from spa_compiler.execution.finite import is_finite, quiet
from spa_compiler.ir.model import Model, constant
from spa_compiler.planning.plan import Plan
from spa_compiler.rewriting.prune import sliced

SIMILAR = 0.45
"""Cosine from which channels are merged (their threshold for convolutions)."""
Floats = NDArray[np.float64]


def merge(graph: DependencyGraph, plan: Plan, small: Model) -> Model:
    """A copy of `small`, the rewrite of `graph` by `plan`, whose consumers read merged channels.

    Groups with blocks are left as they are, and so are weights that would not be finite in their type.
    """
    with quiet():
        return _merged(graph, plan, small)


def _merged(graph: DependencyGraph, plan: Plan, small: Model) -> Model:
    dense = graph.model.constants()
    weights: dict[str, Floats] = {}
    for group in graph.groups:
        mask = plan.keep.get(group.label)
        if mask is None or mask.all() or group.block is not None:
            continue
        parts = list(slices(graph, group))
        share = _shares(group, parts, mask)
        for part in parts:
            if part.member.role == "in":
                name = part.member.value
                array = weights.get(name, graph.model.array(dense[name]).astype(np.float64))
                weights[name] = _moved(part, share, array)
    out, masks = small.copy(), plan.masks(graph)
    constants = out.constants()
    for name, array in weights.items():
        kept = sliced(graph, graph.values[name], array, masks).astype(graph.model.array(dense[name]).dtype)
        if name in constants and is_finite(kept):
            constants[name]._values = constant(name, kept)._values
    return out


def _shares(group: Group, parts: list[Slices], mask: NDArray[np.bool_]) -> Mapping[int, tuple[int, float]]:
    """For every removed channel that is like a kept one: which, and how much of it."""
    produced = [rows(p, group.size) for p in parts if p.member.role != "in"]
    if not produced:
        return {}
    w = np.concatenate(produced, axis=1)
    norms = np.linalg.norm(w, axis=1) + 1e-30
    cosine = np.nan_to_num(w @ w.T, nan=-1.0, posinf=-1.0, neginf=-1.0) / norms[:, None] / norms[None]
    cosine[:, ~mask] = -np.inf
    best = cosine.argmax(axis=1)
    return {
        int(r): (int(best[r]), float(norms[r] / norms[best[r]]))
        for r in np.flatnonzero(~mask)
        if cosine[r, best[r]] > SIMILAR
    }


def _moved(part: Slices, share: Mapping[int, tuple[int, float]], array: Floats) -> Floats:
    """Weights on removed channels, scaled, added to those on the channels that they are merged into."""
    axis = part.member.axis
    along = np.moveaxis(np.broadcast_to(part.channel, array.shape), axis, 0).reshape(array.shape[axis], -1)[:, 0]
    places = {c: np.flatnonzero(along == c) for c in set(along.tolist()) - {NOWHERE}}
    out = np.moveaxis(array.copy(), axis, 0)
    for removed, (kept, scale) in share.items():
        if len(places.get(removed, ())) == len(places.get(kept, ())):
            out[places[kept]] += scale * out[places[removed]]
    return np.moveaxis(out, 0, axis)
