"""The weights of a group, member by member, and the channel of the group that each element belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.masks import NO_CHANNEL, find_coordinates
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group, Member
from spa_compiler.execution.finite import is_finite
from spa_compiler.operators.site import Site

Array = NDArray[Any]


@dataclass(frozen=True)
class Slices:
    """A member's weights, and which channel (and block) of the group each element belongs to."""

    member: Member
    values: Array  # as in the file
    channel: NDArray[np.int64]  # flat index into group.shape or NOWHERE; size 1 along axes that do not matter

    @property
    def numbers(self) -> NDArray[np.float64]:
        """The weights as float64; what is not finite counts as nothing (`find_spoiled` tells of which channels)."""
        values = self.values.astype(np.float64)
        return values if is_finite(values) else np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)

    def sum_channels(self, values: Array, size: int) -> NDArray[np.float64]:
        """Per-channel sums of `values`, which has the shape of the weights."""
        idle = tuple(i for i, n in enumerate(self.channel.shape) if n == 1)
        small = values.sum(axis=idle, keepdims=True, dtype=np.float64) if idle else values
        hit = self.channel != NO_CHANNEL
        return np.bincount(self.channel[hit], small[hit].astype(np.float64), size).astype(np.float64)


def find_slices(graph: DependencyGraph, group: Group) -> Iterator[Slices]:
    """Every member of a group: its weights and flat channel indices."""
    for member in group.members:
        values = np.asarray(graph.model.array(graph.constants[member.value]))
        yield Slices(member, values, index_channels(graph, group, member))


def index_channels(graph: DependencyGraph, group: Group, member: Member) -> NDArray[np.int64]:
    """For every element of a member its flat index into group.shape, or NOWHERE; it broadcasts over the weights."""
    axes = graph.values[member.value].axes
    place = find_coordinates(axes[member.axis], frozenset(group.dims))
    along = np.full(axes[member.axis].size, NO_CHANNEL, np.int64)
    at = 0
    for d in group.dims:
        if d in place:
            along = np.where(place[d] != NO_CHANNEL, place[d] + at, along)
        at += d.size
    index = _broadcast_along(along, member.axis, len(axes))
    if group.block is None:
        return index
    for i, a in enumerate(axes):
        block = find_coordinates(a, (group.block,)).get(group.block)
        if block is not None:
            outer = _broadcast_along(block, i, len(axes))
            return np.where((index == NO_CHANNEL) | (outer == NO_CHANNEL), NO_CHANNEL, outer * group.size + index)
    return index


def _broadcast_along(line: NDArray[np.int64], axis: int, rank: int) -> NDArray[np.int64]:
    return line.reshape([-1 if i == axis else 1 for i in range(rank)])


def find_learned_slices(graph: DependencyGraph, group: Group) -> Iterator[Slices]:
    """The slices of a group without means and variances, which say how a channel is scaled and not what it does.

    Where a normalisation with stored statistics follows a product, its gain is a factor of the weights before it, and
    neither gain nor bias counts beside them.
    """
    slices = list(find_slices(graph, group))
    reading = {id(r): r for s in slices for r in graph.readers.get(s.member.value, ())}.values()
    norms = [(s, s.traits.norm) for s in reading if s.traits.norm is not None]
    stored = [s.inputs[k] for s, norm in norms for k in norm.statistics if k < len(s.inputs)]
    idle = {v.name for v in stored if v is not None}
    factors: dict[str, NDArray[np.float64]] = {}
    for scaled in _find_scaled(graph, [s for s, _ in norms]):
        parts = [s for s in slices if s.member.value == scaled.gain]
        if not parts or not scaled.weights.intersection(s.member.value for s in slices):
            continue
        size = int(np.prod(group.shape))
        hits = parts[0].sum_channels(np.ones(parts[0].values.shape), size) > 0
        factor = np.where(hits, parts[0].sum_channels(np.broadcast_to(scaled.factor, parts[0].values.shape), size), 1.0)
        factors |= dict.fromkeys(scaled.weights, factor)
        idle |= {scaled.gain, scaled.bias}
    for s in slices:
        if s.member.value in idle:
            continue
        if s.member.value in factors and s.member.role != "in":
            there = np.where(s.channel == NO_CHANNEL, 1.0, factors[s.member.value][np.maximum(s.channel, 0)])
            yield replace(s, values=s.values.astype(np.float64) * there)
        else:
            yield s


@dataclass(frozen=True)
class ScaledWeights:
    """Weights and bias of a product that only a normalisation reads, and what that multiplies each channel by."""

    weights: frozenset[str]
    gain: str
    bias: str
    factor: NDArray[np.float64]


def _find_scaled(graph: DependencyGraph, norms: Sequence[Site]) -> Iterator[ScaledWeights]:
    """Products behind which one of these normalisations with stored statistics stands, and nothing else reads them."""
    constants = graph.constants
    given = {t.name for t in graph.model.graph.outputs}
    for site in norms:
        norm, x = site.traits.norm, site.inputs[0] if site.inputs else None
        maker = graph.makers.get(x.name) if x is not None else None
        if norm is None or not norm.is_stored or x is None or maker is None or not maker.traits.is_contraction:
            continue
        names = [v.name if v is not None else "" for v in site.inputs]
        gain, bias = names[norm.gain], names[norm.gain + 1]
        if x.name in given or len(graph.readers.get(x.name, ())) > 1 or not {gain, bias} <= constants.keys():
            continue
        weights = frozenset(v.name for v in maker.inputs[1:] if v is not None and v.name in constants)
        factor = graph.model.array(constants[gain]).astype(np.float64)
        factor = factor if is_finite(factor) else np.nan_to_num(factor, nan=0.0, posinf=0.0, neginf=0.0)
        yield ScaledWeights(weights, gain, bias, factor)


def find_gains(graph: DependencyGraph) -> set[str]:
    """Values that normalisations multiply each channel by."""
    norms = [(s, s.traits.norm) for s in graph.sites if s.traits.norm is not None and s.traits.norm.is_per_channel]
    return {v.name for s, norm in norms if (v := s.inputs[norm.gain]) is not None}


def find_spoiled(graph: DependencyGraph, group: Group) -> NDArray[np.bool_]:
    """Channels of a group (flat) that have a weight which is NaN or infinite."""
    size = int(np.prod(group.shape))
    out = np.zeros(size, bool)
    for s in find_slices(graph, group):
        if not is_finite(s.values):
            out |= s.sum_channels(~np.isfinite(s.values.astype(np.float64)), size) > 0
    return out


def find_spoiled_weights(graph: DependencyGraph) -> list[str]:
    """Weights of groups that hold NaN or infinite values."""
    names = dict.fromkeys(m.value for g in graph.groups for m in g.members)
    return [n for n in names if not is_finite(graph.model.array(graph.constants[n]))]


def stack_rows(s: Slices, size: int, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """The weights of each channel (or these in their place) as one row; shorter ones are filled with zeros."""
    where = np.broadcast_to(s.channel, s.values.shape)
    hit = where != NO_CHANNEL
    channel, values = where[hit], (s.values.astype(np.float64) if weights is None else weights)[hit]
    order = np.argsort(channel, kind="stable")
    counts = np.bincount(channel, minlength=size)
    rows = np.zeros((size, int(counts.max(initial=1))))
    column = np.arange(channel.size) - np.repeat(np.cumsum(counts) - counts, counts)
    rows[channel[order], column] = values[order]
    return rows
