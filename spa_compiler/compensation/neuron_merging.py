"""Merging: what reads a removed channel reads the kept ones that make it up best, by weights alone.

For removed channel j the factors s are ridge least squares over all kept channels K of its group,

    s = (G_KK + lambda I)^-1 G_Kj,     W[:, K] += W[:, j] s^T,

where G holds the products of channels on white inputs: of the rows that produce them (with bias, times the gain of
BatchNormalization) where only linear maps follow (UDFC, Bai et al. 2023), and behind a rectifier the arc-cosine
kernel |a| |b| (sin t + (pi - t) cos t) / 2 pi of rows at an angle t, which is E relu(a x) relu(b x) (Cho and Saul
2009). A channel that kept ones make up exactly goes exactly: a linear combination, behind a rectifier a positive
multiple. It is the weights' view of what `lockstep` learns from inputs, and loses to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import iterate_dims
from spa_compiler.algebra.masks import NO_CHANNEL
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.weight_slices import Slices, find_slices, stack_rows
from spa_compiler.compensation.apply import Outcome
from spa_compiler.compensation.policy import Task, policy
from spa_compiler.compensation.quantized_weights import STORED
from spa_compiler.compensation.settings import COMPENSATION
from spa_compiler.execution.finite import ignore_overflow, is_finite
from spa_compiler.ir.model import Model, make_constant
from spa_compiler.planning.plan import Plan
from spa_compiler.rewriting.prune import slice_array

Floats = NDArray[np.float64]


@policy()
def merge(task: Task) -> tuple[Model, Outcome]:
    """Removed channels are added to all kept ones by ridge least squares on the weights that make them (UDFC)."""
    numbers = range(len(task.graph.sites)) if task.only is None else task.only
    read = {v.name for k in numbers for v in task.graph.sites[k].inputs if v is not None}
    return merge_channels(task.graph, task.plan, task.small, frozenset(read))


def merge_channels(
    graph: DependencyGraph, plan: Plan, small: Model, changeable: frozenset[str] | None = None
) -> tuple[Model, Outcome]:
    """A copy of `small`, the rewrite of `graph` by `plan`, whose consumers read merged channels, and which do not.

    Channels of a block are made up of others of that block. Only `changeable` constants change (None: all). Integers
    stay as they are, and so do weights that would not be finite in their type.
    """
    with ignore_overflow():
        return _merge_all(graph, plan, small, changeable)


def _merge_all(
    graph: DependencyGraph, plan: Plan, small: Model, changeable: frozenset[str] | None
) -> tuple[Model, Outcome]:
    dense, found = graph.model.constants(), Outcome()
    weights: dict[str, Floats] = {}
    for group in graph.groups:
        mask = plan.keep.get(group.label)
        if mask is None or mask.all():
            continue
        parts = list(find_slices(graph, group))
        share = _find_shares(find_rows(graph, group, parts), mask, is_rectified(graph, group))
        for part in parts:
            name = part.member.value
            if part.member.role != "in" or (changeable is not None and name not in changeable):
                continue
            if graph.model.array(dense[name]).dtype.kind != "f":
                found.left[name] = STORED
                continue
            array = weights.get(name, graph.model.array(dense[name]).astype(np.float64))
            moved = _move_weights(part, share, array)
            if moved is None:
                found.left[name] = "its axes do not hold the channels of each block once"
            else:
                weights[name] = moved
    out, masks = small.copy(), plan.masks(graph)
    constants = out.constants()
    for name, array in weights.items():
        kept = slice_array(graph, graph.values[name], array, masks).astype(graph.model.array(dense[name]).dtype)
        if name in constants and is_finite(kept):
            constants[name]._values = make_constant(name, kept)._values
            found.solved += 1
    return out, found


def find_rows(graph: DependencyGraph, group: Group, parts: list[Slices]) -> Floats:
    """The weights that produce each channel, one row a channel, as a normalisation by stored statistics scales them."""
    factors, idle, shifts, size = dict[str, Floats](), set[str](), list[Floats](), int(np.prod(group.shape))
    by_name = {p.member.value: p for p in parts}
    for site in graph.sites:
        norm, x = site.traits.norm, site.inputs[0] if site.inputs else None
        maker = graph.makers.get(x.name) if x is not None else None
        if norm is None or not norm.is_stored or maker is None or not maker.traits.is_contraction:
            continue
        names = [site.x(k).name for k in (norm.gain, norm.gain + 1, *norm.statistics)]
        if not all(n in by_name for n in names):
            continue
        gain, bias, mean, variance = (by_name[n].sum_channels(by_name[n].numbers, size) for n in names)
        factor = gain / np.sqrt(np.maximum(variance, 0) + float(site.attrs.get("epsilon", norm.epsilon)))
        factors |= {v.name: factor for v in maker.inputs[1:] if v is not None}
        idle.update(names)
        shifts.append(bias - mean * factor)
    rows = [
        stack_rows(p, size) * factors.get(p.member.value, np.ones(size))[:, None]
        for p in parts
        if p.member.role != "in" and p.member.value not in idle
    ]
    return np.concatenate([*rows, *(s[:, None] for s in shifts), np.zeros((size, 0))], axis=1)


def _find_shares(rows: Floats, mask: NDArray[np.bool_], rectified: bool) -> Floats:
    """How much of each kept channel every removed one of its block is: (channels, channels), zeros elsewhere."""
    out = np.zeros((mask.size, mask.size))
    if not rows.any() or not is_finite(rows):
        return out
    gram, numbers = _multiply_channels(rows, rectified), np.arange(mask.size).reshape(-1, mask.shape[-1])
    for at, own in zip(numbers, mask.reshape(numbers.shape), strict=True):
        kept, removed = at[own], at[~own]
        inner, cross = gram[np.ix_(kept, kept)], gram[np.ix_(kept, removed)]
        strength = COMPENSATION.merge_ridge * max(float(np.trace(inner)) / kept.size, 1e-30)
        out[np.ix_(kept, removed)] = np.linalg.solve(inner + strength * np.eye(kept.size), cross)
    return out


def _multiply_channels(rows: Floats, rectified: bool) -> Floats:
    """Mean products of channels on white inputs, from the rows that produce them."""
    gram = rows @ rows.T
    if not rectified:
        return gram
    norms = np.linalg.norm(rows, axis=1)
    size = norms[:, None] * norms[None]
    cosine = np.clip(np.divide(gram, size, out=np.zeros_like(gram), where=size > 0), -1, 1)
    angle = np.arccos(cosine)
    return np.asarray(size * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi))


def is_rectified(graph: DependencyGraph, group: Group) -> bool:
    """Does a function that cuts off one side act on the channels of a group?"""
    dims = set(group.dims)
    for site in graph.sites:
        traits, x = site.traits, site.inputs[0] if site.inputs else None
        acts = traits.rectifies or traits.zero == "clip" or (traits.unary and traits.zero == "keeps")
        linear = traits.identity or traits.reorders or traits.moves or traits.squashes
        if acts and not linear and x is not None and any(not dims.isdisjoint(iterate_dims(a)) for a in x.axes):
            return True
    return False


def _move_weights(part: Slices, share: Floats, array: Floats) -> Floats | None:
    """Weights on removed channels, scaled, added to those on the channels that they are merged into.

    None where an axis does not hold each channel equally often.
    """
    axis = part.member.axis
    along = np.moveaxis(np.broadcast_to(part.channel, array.shape), axis, 0).reshape(array.shape[axis], -1)[:, 0]
    places = {c: np.flatnonzero(along == c) for c in sorted(set(along.tolist()) - {NO_CHANNEL})}
    if len(places) < len(share) or len({p.size for p in places.values()}) != 1:
        return None
    at = np.stack(list(places.values()))  # (channels, places)
    out = np.moveaxis(array.copy(), axis, 0)
    out[at] += np.einsum("kr,rp...->kp...", share, out[at])
    return np.moveaxis(out, 0, axis)
