"""Neuron merging, a baseline: removed channels are added to the most similar kept ones, by weights alone.

Neuron Merging (Kim et al. 2020, eq. 5): where the weights that produce channel r point the way of those of a kept
channel k, x_r is about s x_k with s = |w_r| / |w_k|, so that what reads r may read s x_k instead. Exact through ReLU
for parallel weights and s > 0. It is the weights' view of what `lockstep` learns from inputs, and loses to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.masks import NO_CHANNEL
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.weight_slices import Slices, find_slices, stack_rows
from spa_compiler.compensation.apply import Outcome
from spa_compiler.compensation.policy import Task, policy
from spa_compiler.compensation.settings import COMPENSATION
from spa_compiler.execution.finite import ignore_overflow, is_finite
from spa_compiler.ir.model import Model, make_constant
from spa_compiler.planning.plan import Plan
from spa_compiler.rewriting.prune import slice_array

Floats = NDArray[np.float64]


@policy()
def merge(task: Task) -> tuple[Model, Outcome]:
    """Removed channels are added to the kept ones that resemble them, by weights alone (Kim et al. 2020)."""
    model = merge_channels(task.graph, task.plan, task.small)
    before, after = task.small.constants(), model.constants()
    changed = [n for n, t in after.items() if not np.array_equal(model.array(t), task.small.array(before[n]))]
    return model, Outcome(solved=len(changed))


def merge_channels(graph: DependencyGraph, plan: Plan, small: Model) -> Model:
    """A copy of `small`, the rewrite of `graph` by `plan`, whose consumers read merged channels.

    Groups with blocks are left as they are, and so are weights that would not be finite in their type.
    """
    with ignore_overflow():
        return _merge_all(graph, plan, small)


def _merge_all(graph: DependencyGraph, plan: Plan, small: Model) -> Model:
    dense = graph.model.constants()
    weights: dict[str, Floats] = {}
    for group in graph.groups:
        mask = plan.keep.get(group.label)
        if mask is None or mask.all() or group.block is not None:
            continue
        parts = list(find_slices(graph, group))
        share = _find_shares(group, parts, mask)
        for part in parts:
            if part.member.role == "in":
                name = part.member.value
                array = weights.get(name, graph.model.array(dense[name]).astype(np.float64))
                weights[name] = _move_weights(part, share, array)
    out, masks = small.copy(), plan.masks(graph)
    constants = out.constants()
    for name, array in weights.items():
        kept = slice_array(graph, graph.values[name], array, masks).astype(graph.model.array(dense[name]).dtype)
        if name in constants and is_finite(kept):
            constants[name]._values = make_constant(name, kept)._values
    return out


def _find_shares(group: Group, parts: list[Slices], mask: NDArray[np.bool_]) -> Mapping[int, tuple[int, float]]:
    """For every removed channel that is like a kept one: which, and how much of it."""
    produced = [stack_rows(p, group.size) for p in parts if p.member.role != "in"]
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
        if cosine[r, best[r]] > COMPENSATION.least_similarity
    }


def _move_weights(part: Slices, share: Mapping[int, tuple[int, float]], array: Floats) -> Floats:
    """Weights on removed channels, scaled, added to those on the channels that they are merged into."""
    axis = part.member.axis
    along = np.moveaxis(np.broadcast_to(part.channel, array.shape), axis, 0).reshape(array.shape[axis], -1)[:, 0]
    places = {c: np.flatnonzero(along == c) for c in set(along.tolist()) - {NO_CHANNEL}}
    out = np.moveaxis(array.copy(), axis, 0)
    for removed, (kept, scale) in share.items():
        if len(places.get(removed, ())) == len(places.get(kept, ())):
            out[places[kept]] += scale * out[places[removed]]
    return np.moveaxis(out, 0, axis)
