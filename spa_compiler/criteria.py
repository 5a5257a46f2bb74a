"""Importance: one score per channel of every group, larger = keep.

    scores = criterion("l2")(graph, None, rng)      # {group label: array of group.shape}

Scores are errors: the error curve of a group is the cumulative sum of its sorted scores, so that groups compare. A
criterion is a function of the graph, the moments (None where none were taken) and a random generator; others are found
through the entry-point group `spa_compiler.criteria`. Scores are finite, whatever the weights are: `check_scores` says
so of those of a plug-in, and `Noted` tells which groups a criterion could not score as it would have liked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.axes import NOWHERE, coordinates
from spa_compiler.errors import UsageError
from spa_compiler.finite import balance, exponent, is_finite, quiet
from spa_compiler.graph import DependencyGraph, Group, Member
from spa_compiler.plugins import found_in

Array = NDArray[Any]
Scores = dict[str, NDArray[np.float64]]
Criterion = Callable[[DependencyGraph, Any, np.random.Generator], Scores]
NORMALISATIONS = ("BatchNormalization", "InstanceNormalization", "GroupNormalization")


@functools.cache
def available() -> dict[str, EntryPoint]:
    """Entry points of criteria by name. Raises UsageError when two distributions use one name."""
    return found_in("spa_compiler.criteria", "criterion")


def criterion(name: str) -> Criterion:
    """A criterion by name. Raises UsageError with the names that there are."""
    if name not in available():
        raise UsageError(f"no criterion is called '{name}'; there are {', '.join(sorted(available()))}")
    found: Criterion = available()[name].load()
    return found


class Noted(Scores):
    """Scores, and by group label why a group is scored by its weights and not as the criterion does; for the report."""

    def __init__(self, scores: Mapping[str, NDArray[np.float64]], notes: Mapping[str, str]) -> None:
        super().__init__(scores)
        self.notes = dict(notes)


def check_scores(graph: DependencyGraph, scores: Mapping[str, Any], source: str) -> Scores:
    """Scores as float64, in the shapes of their groups and finite; `source` says whose they are.

    Groups may be left out: they are not cut. Raises UsageError that names the group.
    """
    out: Scores = {}
    for label, given in scores.items():
        wanted = graph.group(label).shape
        try:
            out[label] = np.asarray(given, np.float64)
        except (TypeError, ValueError) as e:
            raise UsageError(f"{source}: the scores of '{label}' are not numbers: {e}") from e
        if out[label].shape != wanted:
            raise UsageError(
                f"{source}: group '{label}' has shape {list(wanted)}, the scores have {list(out[label].shape)}"
            )
        if not is_finite(out[label]):
            raise UsageError(f"{source}: the scores of '{label}' are not finite; every channel needs a number")
    return out


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

    def sums(self, values: Array, size: int) -> NDArray[np.float64]:
        """Per-channel sums of `values`, which has the shape of the weights."""
        idle = tuple(i for i, n in enumerate(self.channel.shape) if n == 1)
        small = values.sum(axis=idle, keepdims=True, dtype=np.float64) if idle else values
        hit = self.channel != NOWHERE
        return np.bincount(self.channel[hit], small[hit].astype(np.float64), size).astype(np.float64)


def slices(graph: DependencyGraph, group: Group) -> Iterator[Slices]:
    """Every member of a group: its weights and flat channel indices."""
    constants = graph.model.constants()
    for member in group.members:
        values = np.asarray(graph.model.array(constants[member.value]))
        yield Slices(member, values, channel_index(graph, group, member))


def channel_index(graph: DependencyGraph, group: Group, member: Member) -> NDArray[np.int64]:
    """For every element of a member its flat index into group.shape, or NOWHERE; it broadcasts over the weights."""
    axes = graph.values[member.value].axes
    place = coordinates(axes[member.axis])
    along = np.full(axes[member.axis].size, NOWHERE, np.int64)
    at = 0
    for d in group.dims:
        if d in place:
            along = np.where(place[d] != NOWHERE, place[d] + at, along)
        at += d.size
    index = _along(along, member.axis, len(axes))
    if group.block is None:
        return index
    for i, a in enumerate(axes):
        block = coordinates(a).get(group.block)
        if block is not None:
            outer = _along(block, i, len(axes))
            return np.where((index == NOWHERE) | (outer == NOWHERE), NOWHERE, outer * group.size + index)
    return index


def _along(line: NDArray[np.int64], axis: int, rank: int) -> NDArray[np.int64]:
    return line.reshape([-1 if i == axis else 1 for i in range(rank)])


def learned(graph: DependencyGraph, group: Group) -> Iterator[Slices]:
    """The slices of a group without means and variances, which say how a channel is scaled and not what it does."""
    statistics = {v.name for s in graph.sites if s.op == "BatchNormalization" for v in s.inputs[3:5] if v is not None}
    return (s for s in slices(graph, group) if s.member.value not in statistics)


def find_spoiled(graph: DependencyGraph, group: Group) -> NDArray[np.bool_]:
    """Channels of a group (flat) that have a weight which is NaN or infinite."""
    size = int(np.prod(group.shape))
    out = np.zeros(size, bool)
    for s in slices(graph, group):
        if not is_finite(s.values):
            out |= s.sums(~np.isfinite(s.values.astype(np.float64)), size) > 0
    return out


def spoiled_weights(graph: DependencyGraph) -> list[str]:
    """Weights of groups that hold NaN or infinite values."""
    names = dict.fromkeys(m.value for g in graph.groups for m in g.members)
    constants = graph.model.constants()
    return [n for n in names if not is_finite(graph.model.array(constants[n]))]


def _scores(graph: DependencyGraph, measure: Callable[[Group], NDArray[np.float64]]) -> Scores:
    """Scores of every group, divided by their mean so that groups compare.

    Channels with weights that are not finite count as much as the best: what they are worth is not known.
    """
    out: Scores = {}
    with quiet():
        for group in graph.groups:
            raw = balance(measure(group))
            raw = np.where(find_spoiled(graph, group), raw.max(initial=0.0), raw)
            mean = float(raw.mean())
            out[group.label] = (raw / mean if mean else raw).reshape(group.shape)
    return out


def _magnitude(graph: DependencyGraph, power: int) -> Scores:
    def measure(group: Group) -> NDArray[np.float64]:
        total = np.zeros(int(np.prod(group.shape)))
        for s in learned(graph, group):
            part = s.sums(np.abs(balance(s.numbers)) ** power, total.size)
            total += part / max(float(part.mean()), 1e-30)  # members of different scale count alike
        return total

    return _scores(graph, measure)


def _alike(parts: Iterable[Slices]) -> Iterator[tuple[Slices, NDArray[np.float64]]]:
    """Slices and their weights, all times one power of two: sums of their squares do not overflow."""
    held = [(s, s.numbers) for s in parts]
    largest = max((float(np.abs(v).max(initial=0.0)) for _, v in held), default=0.0)
    by = exponent(largest)
    yield from ((s, np.ldexp(v, -by) if by else v) for s, v in held)


def l1(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> Scores:
    """Group magnitude: sum of absolute weights over all coupled slices (Li et al. 2017; Fang et al. 2023)."""
    return _magnitude(graph, 1)


def l2(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> Scores:
    """Group magnitude: sum of squared weights over all coupled slices."""
    return _magnitude(graph, 2)


def bn_scale(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> Scores:
    """Absolute gain of the normalisations that a channel passes (network slimming, Liu et al. 2017); l2 elsewhere."""
    gains = {s.inputs[1].name for s in graph.sites if s.op in NORMALISATIONS and s.inputs[1] is not None}
    fallback = l2(graph, moments, rng)

    def measure(group: Group) -> NDArray[np.float64]:
        total = np.zeros(int(np.prod(group.shape)))
        hits = list(_alike(s for s in slices(graph, group) if s.member.value in gains))
        for s, values in hits:
            total += s.sums(np.abs(values), total.size)
        return total if hits else fallback[group.label].ravel()

    return _scores(graph, measure)


def uniform(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> Scores:
    """Random scores: the baseline that every criterion has to beat."""
    return _scores(graph, lambda group: rng.random(int(np.prod(group.shape))))


def fpgm(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> Scores:
    """Distance of a channel's produced weights to those of all others (geometric median, He et al. 2019)."""

    def measure(group: Group) -> NDArray[np.float64]:
        size = int(np.prod(group.shape))
        total = np.zeros(size)
        for s, values in _alike(s for s in learned(graph, group) if s.member.role != "in"):
            each = rows(s, size, values)
            square = (each**2).sum(1)
            total += np.sqrt(np.maximum(square[:, None] + square[None] - 2 * each @ each.T, 0)).sum(1)
        return total

    return _scores(graph, measure)


def rows(s: Slices, size: int, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """The weights of each channel (or these in their place) as one row; shorter ones are filled with zeros."""
    where = np.broadcast_to(s.channel, s.values.shape)
    hit = where != NOWHERE
    channel, values = where[hit], (s.values.astype(np.float64) if weights is None else weights)[hit]
    order = np.argsort(channel, kind="stable")
    counts = np.bincount(channel, minlength=size)
    rows = np.zeros((size, int(counts.max(initial=1))))
    column = np.arange(channel.size) - np.repeat(np.cumsum(counts) - counts, counts)
    rows[channel[order], column] = values[order]
    return rows
