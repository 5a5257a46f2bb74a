"""Width ladders: the widths that a group may take, and the error that each of them costs.

    for s in make_ladders(graph, scores, Limits(align=8), left={}):
        s.widths, s.error(at=2)

The widths of a group are a staircase: only some pay on real kernels. Its error curve is the cumulative sum of its
sorted scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.patterns import is_group_named, suggest_groups
from spa_compiler.errors import UsageError
from spa_compiler.execution.finite import find_exponent
from spa_compiler.ir.model import find_element_type
from spa_compiler.planning.device import Device
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.scores import Scores, check_scores
from spa_compiler.planning.settings import PLANNING

Curve = NDArray[np.float64]
LEAST_OF_STATISTIC = 2
"""Channels that stay where a statistic is taken over them: the deviation of a single one from its mean is 0."""


@dataclass(frozen=True)
class Limits:
    """Limits of what a group may lose. Patterns are those of `analysis.patterns`."""

    align: int = 0  # widths in multiples of this; 0: what the kernels of the device need
    device: Device = field(default_factory=lambda: Device(convolution=16))  # whose kernels the widths are to fill
    min_keep: int = 1
    max_group_ratio: float = PLANNING.most_group_share  # where the group has no ratio of its own
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    group_ratio: Mapping[str, float] = field(default_factory=dict)
    layer_ratio: Mapping[str, float] = field(default_factory=dict)


def find_width_step(graph: DependencyGraph, group: Group, limits: Limits) -> int:
    """Widths of a group are multiples of this.

    Kernels work on blocks of channels, which the device knows: of onnxruntime's convolutions, a width that is no
    multiple of 4 leaves the fast path, one that is no multiple of the block gains nothing (measured in
    tools/measure/staircase.py), and matrix products have no staircase. Narrow groups take smaller steps, so that at
    least four widths remain.
    """
    if limits.align:
        return limits.align
    kernels = {s.traits.kernel for m in group.members for s in graph.readers.get(m.value, ())}
    integers = has_integer_weights(graph, group)
    most = max((limits.device.find_step(k, integers) for k in kernels), default=1)
    size = group.size * (group.blocks if group.block is not None else 1)
    wanted = next((s for s in (most, 16, 8, 4, 2) if s <= most and size >= 4 * s), 1)
    return max(1, wanted // math.gcd(wanted, group.blocks)) if group.block is not None else wanted


def fill_steps(graph: DependencyGraph, plan: Plan, limits: Limits) -> Plan:
    """The plan of dead channels without those that fill the last block of a kernel.

    Where they go, the width leaves the fast kernels or gains nothing: MobileNetV2 without its ten dead channels is
    slower than with them. Blocks are left as they are.
    """
    keep = dict(plan.keep)
    for label, mask in plan.keep.items():
        group = graph.group(label)
        if mask.ndim == 1 and group.block is None:
            step, kept = find_width_step(graph, group, limits), int(mask.sum())
            missing = min(-(-kept // step) * step, mask.size) - kept
            keep[label] = mask.copy()
            keep[label][np.flatnonzero(~mask)[:missing]] = True
    return Plan({n: m for n, m in keep.items() if not m.all()}, plan.turned)


def has_integer_weights(graph: DependencyGraph, group: Group) -> bool:
    """Is a weight with channels of this group made of integers?"""
    kinds = {find_element_type(graph.constants[w]) for w in {m.value for m in group.members}}
    return any(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(k)).kind in "iu" for k in kinds)


@dataclass(eq=False)
class WidthLadder:
    """One group's widths from wide to narrow, and its error curve."""

    group: Group
    widths: list[int]
    curve: Curve
    by: int  # widths that pay are multiples of this
    at: int = 0

    @property
    def width(self) -> int:
        return self.widths[self.at]

    def error(self, at: int) -> float:
        return float(self.curve[self.group.size - self.widths[at]])

    def find_nearest(self, width: float) -> int:
        """The stair whose width is nearest to this one; the narrower of two."""
        return min(range(len(self.widths)), key=lambda i: (abs(self.widths[i] - width), self.widths[i]))

    def refine(self, by: int) -> None:
        """Add the multiples of `by` to the widths."""
        widths = {*self.widths, *(w for w in range(self.widths[-1], self.widths[0]) if w % by == 0)}
        here = self.width
        self.widths = sorted(widths, reverse=True)
        self.at = self.widths.index(here)


def refine_all(ladders: Iterable[WidthLadder], most: int) -> None:
    """Add finer widths to all ladders: a convolution's stay multiples of `most` where that is more than 1."""
    for s in ladders:
        s.refine(min(s.by, most))


def find_open_groups(graph: DependencyGraph, exclude: tuple[str, ...], include: tuple[str, ...]) -> Iterator[Group]:
    """Groups that these patterns leave open to change. Raises UsageError for a pattern that matches none."""
    for pattern in (*exclude, *include):
        check_pattern(graph, pattern)
    for group in graph.groups:
        wanted = not include or any(is_group_named(graph, group, p) for p in include)
        if wanted and not any(is_group_named(graph, group, p) for p in exclude):
            yield group


def check_pattern(graph: DependencyGraph, pattern: str) -> None:
    """Raise UsageError for a pattern that matches no group."""
    if not any(is_group_named(graph, g, pattern) for g in graph.groups):
        near = suggest_groups(graph, pattern)
        raise UsageError(f"the pattern '{pattern}' matches no group{near}; `spa inspect` lists them")


def make_ladders(graph: DependencyGraph, scores: Scores, limits: Limits, left: Mapping[str, int]) -> list[WidthLadder]:
    """The staircase of every group that may change, from what is `left` of it downwards.

    Errors are the sums of scores, all divided by one power of two where they are so large that sums would overflow.
    Raises UsageError for scores that are not finite.
    """
    out: list[WidthLadder] = []
    scores = check_scores(graph, scores, "allocate")
    by = find_exponent(max((float(np.abs(s).max(initial=0.0)) for s in scores.values()), default=0.0))
    scores = {n: np.ldexp(s, -by) for n, s in scores.items()} if by > 0 else scores
    for group in find_open_groups(graph, limits.exclude, limits.include):
        if group.label in scores:
            wide = left.get(group.label, group.size)
            most = max(limits.max_group_ratio, find_own_ratio(graph, group, limits) or 0.0)
            found = _make_ladder(
                group, scores[group.label], find_width_step(graph, group, limits), limits.min_keep, most, wide
            )
            out += [found] if len(found.widths) > 1 else []
    for pattern in limits.group_ratio:
        check_pattern(graph, pattern)
        if not any(is_group_named(graph, s.group, pattern) for s in out):
            raise UsageError(f"--group-ratio {pattern}: no group that it names has scores and may change")
    return out


def find_own_ratio(graph: DependencyGraph, group: Group, limits: Limits) -> float | None:
    """The ratio that the caller has given this group."""
    return next((r for p, r in limits.group_ratio.items() if is_group_named(graph, group, p)), None)


def make_curve(scores: Curve, size: int) -> Curve:
    """Error after removing 0, 1, ... channels from each block: the cumulative sum of the sorted scores."""
    ordered = np.sort(scores.reshape(-1, size), axis=1).sum(0)
    return np.concatenate([[0.0], np.cumsum(ordered)])


def _make_ladder(group: Group, scores: Curve, by: int, least: int, most: float, wide: int) -> WidthLadder:
    least = max(least, LEAST_OF_STATISTIC if group.stat else 1)
    floor = max(1, min(least, group.size), math.ceil(group.size * (1 - most) - 1e-9))
    return WidthLadder(group, [wide, *range((wide - 1) // by * by, floor - 1, -by)], make_curve(scores, group.size), by)
