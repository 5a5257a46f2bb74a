"""Groups that a proof cannot see: it sees one if its kept units vary, and the output of what reads them varies, too.

    watch = find_readers(graph, masks)          # per group that loses a unit: (what is read, what the reader gives)
    power = Power(graph, masks, watch, limit)
    power.record_run(reads, gives)                     # values of the runs that are made anyway
    power.find_silent(moved)                     # labels of groups that no reader sees

A Relu that never opens, NaN, or weights of zero behind it make a group silent: any channel could be exchanged for any
other and nothing would change. A group all of whose removed units are proven to be exactly zero needs no power.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, Expr, iterate_dims
from spa_compiler.algebra.masks import NO_CHANNEL, Bools, Masks, find_coordinates
from spa_compiler.analysis.dead_channels import find_dead_channels
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.execution.finite import is_finite
from spa_compiler.ir.model import Model
from spa_compiler.operators.site import Scope, Value
from spa_compiler.verification.comparison import find_peaks

Array = NDArray[Any]
MOST_READERS = 3
"""Readers of a group that are looked at."""
FAR_FACTOR = 30.0
"""Times the tolerance that a value has to move by, as a share of its own scale."""


@dataclass(frozen=True)
class Reader:
    """A node that sums over the units of a group: the value it reads them from, and what it gives."""

    read: str
    gives: tuple[str, ...]


def find_cut(graph: DependencyGraph, masks: Masks) -> list[Group]:
    """The groups that lose a unit."""
    return [g for g in graph.groups if any(d in masks and not masks[d].all() for d in g.dims)]


def find_readers(graph: DependencyGraph, masks: Masks) -> dict[str, list[Reader]]:
    """Per label of a group that loses a unit the readers that are cheapest to look at, outside of bodies."""
    cut = find_cut(graph, masks)
    owner = {d: g.label for g in cut for d in g.dims}
    found: dict[str, dict[str, Reader]] = {g.label: {} for g in cut}
    for site in graph.sites:
        if site.path:
            continue
        gives = tuple(v.name for v in site.outputs if v is not None)
        for scope in site.scopes:
            for value, dims in _find_sums(scope):
                for label in {owner[d] for d in dims if d in owner}:
                    found[label].setdefault(value.name, Reader(value.name, gives))

    def size(reader: Reader) -> int:
        return math.prod(graph.values[reader.read].shape)

    return {n: sorted(readers.values(), key=size)[:MOST_READERS] for n, readers in found.items()}


def _find_sums(scope: Scope) -> Iterator[tuple[Value, set[Dim]]]:
    """Activations that are summed over, or taken a statistic of, and over which dims."""
    for name in scope.find_contracted() | scope.stats:
        dims = set(iterate_dims(scope.env[name])) if name in scope.env else set()
        for value, output, row in scope.tensors:
            if dims and not output and not value.constant and any(name in names for names in row):
                yield value, dims


class Power:
    """Observed variation: extremes of the values of every unit, and of the outputs of its readers, over all runs."""

    def __init__(self, graph: DependencyGraph, masks: Masks, limit: float, pushed: Iterable[str] = ()) -> None:
        self.graph, self.masks, self.limit, self.pushed = graph, masks, limit, list(pushed)
        self.readers = find_readers(graph, masks)
        self.open = find_cut(graph, masks)
        every = [r for readers in self.readers.values() for r in readers]
        self.reads = list(dict.fromkeys(r.read for r in every))
        self.gives = list(dict.fromkeys(n for r in every for n in r.gives))
        dims = {d for g in self.open for d in g.dims}
        self.axes = {
            n: [i for i, a in enumerate(graph.values[n].axes) if dims & graph.find_dims(a)] for n in self.reads
        }
        self.seen: dict[tuple[str, str, int], tuple[Array, Array]] = {}
        self.lock = threading.Lock()  # several runs at once

    def record_run(self, reads: Mapping[str, Any], gives: Mapping[str, Any]) -> None:
        """Values of one run: what readers read before anything was pushed, and what they give.

        Only what is needed is looked at: the readers of groups that were not seen to move before.
        """
        with self.lock:
            done: set[tuple[str, str, int]] = set()
            self.open = [g for g in self.open if not self._is_seen(g, reads, gives, done)]

    def _is_seen(self, group: Group, reads: Mapping[str, Any], gives: Mapping[str, Any], done: set[Any]) -> bool:
        """Does the value of some kept unit move at some reader, and what this gives as well?"""
        for reader in self.readers[group.label]:
            axes = self.axes[reader.read]
            for axis in axes:
                size = self.graph.values[reader.read].axes[axis].size
                self._merge(("reads", reader.read, axis), reads.get(reader.read), done, size)
            for name in reader.gives:
                self._merge(("gives", name, -1), gives.get(name), done)
                self._merge(("gives", name, 1), gives.get(name), done)
            if self._has_moving_units(group, reader.read) and any(map(self._is_moving, reader.gives)):
                return True
        return False

    def _merge(self, key: tuple[str, str, int], array: Any, done: set[Any], size: int | None = None) -> None:
        """Extremes of one more array at every index of an axis; `done`: what this run has given already."""
        if key in done or not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or not array.size:
            return
        done.add(key)
        axis, array = key[2], array if array.ndim else array.reshape(1)
        if array.ndim <= max(axis, 0) or size not in (None, array.shape[axis]):
            return
        low, high = find_extremes(array, axis)
        old = self.seen.get(key)
        if old is not None and old[0].shape == low.shape:
            low, high = np.minimum(low, old[0]), np.maximum(high, old[1])
        self.seen[key] = low, high

    def find_silent(self, moved: bool) -> list[str]:
        """Labels of groups that no reader sees; `moved`: what bodies give is seen to change with the plan."""
        silent = [g for g in self.open if self.readers[g.label] or not moved]
        if not silent:
            return []
        dead = find_dead_channels(self.graph, 0)
        return [g.label for g in silent if not self._has_only_zeros(g, dead.get(g.label))]

    def _has_only_zeros(self, group: Group, dead: Bools | None) -> bool:
        """Is every unit that goes proven to be zero?"""
        if dead is None:
            return False
        if group.dims[0].unit:
            gone = np.array([d in self.masks and not self.masks[d].all() for d in group.dims])
        else:
            gone = ~self.masks[group.dims[0]]
        return bool((dead.reshape(gone.shape) | ~gone).all())

    def _has_moving_units(self, group: Group, name: str) -> bool:
        """Does the value of some kept unit differ between positions or inputs?

        Where pushes tell units apart, one that is the same everywhere but not zero counts, too: another in its place
        would show.
        """
        for axis in self.axes[name]:
            seen = self.seen.get(("reads", name, axis))
            if seen is None:
                continue
            kept = _find_kept_positions(self.graph.values[name].axes[axis], group, self.masks)
            low, high = np.asarray(seen[0])[kept], np.asarray(seen[1])[kept]
            if name in self.pushed:
                there = low <= high
                low, high = np.where(there, np.minimum(low, 0), low), np.where(there, np.maximum(high, 0), high)
            if is_far(low, high, self.limit) or not kept.any():
                return True
        return False

    def _is_moving(self, name: str) -> bool:
        """Does what a reader gives differ at some index of its last or second axis?"""
        found = [self.seen[k] for k in (("gives", name, -1), ("gives", name, 1)) if k in self.seen]
        return any(is_far(low, high, self.limit) for low, high in found)


def _find_kept_positions(axis: Expr, group: Group, masks: Masks) -> Bools:
    """Positions of an axis that hold a kept unit of a group."""
    out = np.zeros(axis.size, bool)
    for d, place in find_coordinates(axis, frozenset(group.dims)).items():
        mask = masks.get(d, np.ones(d.size, bool))
        left: Bools = np.asarray(mask if mask.ndim == 1 else mask.any(0))
        out |= (place != NO_CHANNEL) & left[np.maximum(place, 0)]
    return out


def find_extremes(array: Array, axis: int) -> tuple[Array, Array]:
    """Lowest and highest finite entry at every index of an axis; high below low where there is none."""
    numbers = array.astype(np.float32) if array.dtype.kind != "f" or array.dtype.itemsize < 4 else array
    high, low = find_peaks(numbers, axis), -find_peaks(-numbers, axis)
    if np.isfinite(low).all() and np.isfinite(high).all():
        return low, high
    finite = np.isfinite(numbers)
    return -find_peaks(np.where(finite, -numbers, -np.inf), axis), find_peaks(np.where(finite, numbers, -np.inf), axis)


def is_far(low: Array, high: Array, limit: float) -> bool:
    """Does something move by far more than the tolerance of its own magnitude?"""
    there = high > low
    size = np.where(there, np.maximum(np.abs(low), np.abs(high)), 0)
    with np.errstate(invalid="ignore"):  # high below low where nothing is finite
        return bool((there & (high - low > FAR_FACTOR * limit * size)).any())


def find_body_outputs(graph: DependencyGraph) -> list[str]:
    """Outputs of control nodes outside of bodies: the places where groups inside of bodies can be seen."""
    sites = [s for s in graph.sites if s.op in ("If", "Loop", "Scan") and not s.path]
    return [v.name for s in sites for v in s.outputs if v is not None]


def list_unfinite_constants(model: Model) -> list[str]:
    """Names of the constants of a model that hold NaN or infinity."""
    return [n for n, t in model.constants().items() if not is_finite(model.array(t))]
