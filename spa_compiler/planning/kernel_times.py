"""Milliseconds of a model under any widths of its groups, from times of its kernels (`spa_compiler.times`).

    known = read_times(Path("t.json"), digest)         # or measure_here(model, threads)
    cost = add_times(CostModel(graph), known)
    cost.total("ms", widths)

A contraction that was timed is interpolated between the widths that were; others follow their multiply-accumulates,
and what is no contraction the numbers that it gives. All of it comes to the time of the whole dense model.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim
from spa_compiler.analysis.cost import CostModel, Evaluated, Product
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UsageError
from spa_compiler.execution.parallel import PROCESSORS, bound_threads
from spa_compiler.execution.session import open_session
from spa_compiler.ir.model import Model
from spa_compiler.operators.macs import list_products
from spa_compiler.operators.site import Site
from spa_compiler.times import TIMES_FORMAT, TIMES_VERSION, TimesError, find_cache, is_time, measure_times
from spa_compiler.verification.latency import draw_sample

Array = NDArray[Any]
UNIT = "ms"
"""The unit in which the cost is counted."""
LEAST_KERNEL = 0.001
"""Milliseconds of a kernel that does nothing: they stay whatever its size."""


@dataclass(frozen=True, eq=False)
class TimedKernel:
    """The time of one kernel: a grid over shares of its dense sizes, largest first, interpolated between them."""

    sizes: tuple[Product, ...]
    shares: tuple[tuple[float, ...], ...]  # ascending
    grid: Array  # ms, ascending as the shares

    def __call__(self, widths: Mapping[Dim, float]) -> float:
        """Milliseconds under these widths."""
        corners = [(0, 1.0)]
        for k, (size, shares) in enumerate(zip(self.sizes, self.shares, strict=True)):
            low, part = _locate(shares, size(widths))
            stride = self._strides[k]
            corners = [
                (at + stride * (low + up), weight * w)
                for at, weight in corners
                for up, w in ((0, 1 - part), (1, part))
                if w
            ]
        return sum(self._flat[at] * weight for at, weight in corners)

    def evaluate_over(self, widths: Mapping[Dim, Array]) -> Array:
        """The same for arrays of widths, which broadcast."""
        places = []
        for size, shares in zip(self.sizes, self.shares, strict=True):
            x = np.clip(size.evaluate_over(widths), shares[0], shares[-1])
            low = np.clip(np.searchsorted(shares, x, side="right") - 1, 0, max(len(shares) - 2, 0))
            wide = np.asarray(shares)
            high = np.minimum(low + 1, len(shares) - 1)
            gap = np.where(high > low, wide[high] - wide[low], 1.0)
            places.append(((low, 1 - (x - wide[low]) / gap), (high, (x - wide[low]) / gap)))
        out: Array = np.asarray(0.0)
        for chosen in itertools.product(*places):
            at = tuple(np.broadcast_arrays(*(k for k, _ in chosen)))
            out = out + self.grid[at] * math.prod(w for _, w in chosen)
        return out

    @functools.cached_property
    def _flat(self) -> list[float]:
        return [float(v) for v in self.grid.ravel()]

    @functools.cached_property
    def _strides(self) -> list[int]:
        return [math.prod(self.grid.shape[k + 1 :]) for k in range(self.grid.ndim)]

    def scale(self, by: float) -> TimedKernel:
        """So many times as long."""
        return TimedKernel(self.sizes, self.shares, self.grid * by)

    def find_dims(self) -> set[Dim]:
        """Dims that its time depends on."""
        return set().union(*(s.find_dims() for s in self.sizes))


def _locate(shares: Sequence[float], x: float) -> tuple[int, float]:
    """The share below x, and how far x is on the way to the next one."""
    if x <= shares[0] or len(shares) == 1:
        return 0, 0.0
    if x >= shares[-1]:
        return len(shares) - 1, 0.0
    low = bisect.bisect_right(shares, x) - 1
    return low, (x - shares[low]) / (shares[low + 1] - shares[low])


@dataclass(frozen=True)
class KernelTimes:
    """Times of a machine: its document, and in words where they are from."""

    document: Mapping[str, Any]
    source: str = "measured here"
    is_here: bool = True
    by_output: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def dense_ms(self) -> float:
        """Milliseconds of one run of the dense model."""
        return float(self.document["dense_ms"])

    @property
    def device(self) -> str:
        """The name of the device that the machine is; an empty text where it has none."""
        return str(self.document["device"])

    def describe(self) -> str:
        """Which machine, and how many threads."""
        threads = self.document["threads"]
        return f"{self.source}: {self.document['cpu']}, {threads} thread{'s' * (threads > 1)}"


def make_times(document: Mapping[str, Any], source: str = "measured here", is_here: bool = True) -> KernelTimes:
    """Times with their tables by what a contraction gives."""
    tables = {name: table for table in document["contractions"] for name in table["outputs"]}
    return KernelTimes(document, source, is_here, tables)


def read_times(file: Path, digest: str) -> KernelTimes:
    """Times of a file, of the model with this SHA-256. Raises UsageError with what is wrong with it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError(f"--times {file}: cannot be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise UsageError(f"--times {file}: not a file of times (`spa times` makes one): no JSON") from e
    if not isinstance(found, dict) or found.get("format") != TIMES_FORMAT:
        raise UsageError(f"--times {file}: not a file of times (`spa times` makes one)")
    if found.get("version") != TIMES_VERSION:
        raise UsageError(f"--times {file}: version {found.get('version')}, {TIMES_VERSION} is read; measure it again")
    if wrong := next(_find_faults(found), ""):
        raise UsageError(f"--times {file}: damaged: {wrong}; measure it again")
    if found["model"] != digest:
        raise UsageError(
            f"--times {file}: measured on another model (its SHA-256 begins {found['model'][:12]}, this one's "
            f"{digest[:12]}): run `spa times` on this file"
        )
    return make_times(found, file.name, is_here=False)


def _find_faults(found: Mapping[str, Any]) -> Iterator[str]:
    """Words for whatever a file of times lacks."""
    for name in ("model", "cpu", "device"):
        if not isinstance(found.get(name), str):
            yield f"'{name}' is no text"
    if not is_time(found.get("dense_ms")):
        yield "'dense_ms' is no time"
    if type(found.get("threads")) is not int or found["threads"] < 1:
        yield "'threads' is no number of them"
    kernels = found.get("kernels")
    if not isinstance(kernels, dict) or not all(v == 0 or is_time(v) for v in kernels.values()):
        yield "'kernels' has no times by operator"
    if not isinstance(found.get("inputs"), dict):
        yield "'inputs' has no shapes"
    tables = found.get("contractions")
    if not isinstance(tables, list):
        yield "'contractions' is no list"
        return
    yield from (f"contraction {k}" for k, t in enumerate(tables) if not _is_table(t))


def _is_table(table: Any) -> bool:
    """Is it a grid of times with its coordinates?"""
    try:
        sizes = [c["sizes"] for c in table["coordinates"]]
        whole = all(c["size"] == own[0] and own == sorted(set(own))[::-1] and own[-1] > 0 for c, own in zip(
            table["coordinates"], sizes, strict=True))  # fmt: skip
        placed = all(type(c["slot"]) is int and type(c["axis"]) is int and c["slot"] >= 0 for c in table["coordinates"])
        named = isinstance(table["op"], str) and all(isinstance(n, str) for n in table["outputs"])
        times = table["ms"]
        return whole and placed and named and len(times) == math.prod(map(len, sizes)) and all(map(is_time, times))
    except (KeyError, TypeError, IndexError):
        return False


def measure_here(model: Model, threads: int) -> KernelTimes | None:
    """Times of this machine, of which those of contractions are remembered on disk; None where they cannot be taken."""
    try:
        feed = draw_sample(model, [open_session(model.proto(), model.folder, 3, threads)])
        return make_times(measure_times(model.proto(), feed, bound_threads(threads) or PROCESSORS, cache=find_cache()))
    except TimesError:  # a model that does not fit into memory as one piece
        return None


def add_times(cost: CostModel, known: KernelTimes) -> CostModel:
    """The costs with milliseconds among them."""
    terms = list(_list_terms(cost, cost.graph, known))
    total = sum(t({}) for t in terms)
    rest = known.dense_ms - total
    if rest >= 0:
        terms.append(Product(rest))
    else:
        terms = [t.scale(known.dense_ms / total) for t in terms]
    cost.add_count(UNIT, terms)
    return cost


def _list_terms(cost: CostModel, graph: DependencyGraph, known: KernelTimes) -> Iterator[Evaluated]:
    """The time of every node of which something is known."""
    kernels = dict(known.document["kernels"])
    plain, others = list[Site](), list[Site]()
    seconds_per_mac = _find_rate(cost, graph, known)
    for site in graph.sites:
        timed = _make_kernel(cost, site, known)
        if timed is not None:
            kernels[site.op] = kernels.get(site.op, 0.0) - timed({})
            yield timed
        else:
            (plain if list_products(site) else others).append(site)
    for op in dict.fromkeys(s.op for s in plain):
        own = [cost.make_size(axes) for s in plain if s.op == op for axes in list_products(s) or ()]
        macs = sum(p({}) for p in own)
        spent = kernels.pop(op, None)
        rate = seconds_per_mac if spent is None else max(spent, 0.0) / max(macs, 1.0)
        yield from (p.scale(rate) for p in own)
    given = [cost.make_size(s.outputs[0].axes) for s in graph.sites if list_products(s) and s.outputs and s.outputs[0]]
    for op in dict.fromkeys(s.op for s in others):
        if (spent := kernels.pop(op, 0.0)) > 0:
            own = [cost.make_size(v.axes) for s in others if s.op == op for v in s.outputs[:1] if v is not None]
            yield from _share_out(spent, own)
    timed_ops = {t["op"] for t in known.document["contractions"]}
    left = sum(v for op, v in kernels.items() if op not in timed_ops and v > 0 and not op.startswith("Fused"))
    yield from _share_out(left, given)


def _share_out(spent: float, sizes: Sequence[Product]) -> Iterator[Product]:
    """A time that follows these sizes, but for what a kernel takes that does nothing."""
    least = min(spent, LEAST_KERNEL * len(sizes))
    whole = sum(p({}) for p in sizes)
    if whole > 0:
        yield from (p.scale((spent - least) / whole) for p in sizes)
        yield Product(least)
    else:
        yield Product(spent)


def _find_rate(cost: CostModel, graph: DependencyGraph, known: KernelTimes) -> float:
    """Milliseconds of a multiply-accumulate, over all contractions that were timed; all of the time where none was."""
    spent, macs, every = 0.0, 0.0, 0.0
    for site in graph.sites:
        own = sum(cost.make_size(axes)({}) for axes in list_products(site) or ())
        table = known.by_output.get(_name_output(site))
        every += own
        if table is not None:
            spent, macs = spent + table["ms"][0], macs + own
    return spent / macs if macs else known.dense_ms / max(every, 1.0)


def _name_output(site: Site) -> str:
    return site.outputs[0].name if site.outputs and site.outputs[0] is not None else ""


def _make_kernel(cost: CostModel, site: Site, known: KernelTimes) -> TimedKernel | None:
    """The time of a node whose contraction was timed; None where it was not, or is another one after normalising."""
    table = known.by_output.get(_name_output(site))
    if table is None or table["op"] != site.op or not list_products(site):
        return None
    sizes = list[Product]()
    for c in table["coordinates"]:
        value = site.inputs[c["slot"]] if c["slot"] < len(site.inputs) else None
        if value is None or not -len(value.axes) <= c["axis"] < len(value.axes):
            return None
        size = cost.make_size([value.axes[c["axis"]]])
        sizes.append(size.scale(1 / max(size({}), 1.0)))
    shares = tuple(tuple(n / c["size"] for n in c["sizes"][::-1]) for c in table["coordinates"])
    grid = np.array(table["ms"], np.float64).reshape([len(c["sizes"]) for c in table["coordinates"]])
    for axis in range(grid.ndim):  # a narrower kernel that takes longer is noise
        grid = np.minimum.accumulate(grid, axis)
    return TimedKernel(tuple(sizes), shares, np.ascontiguousarray(np.flip(grid)))


__all__ = ["KernelTimes", "TimedKernel", "add_times", "make_times", "measure_here", "read_times"]
