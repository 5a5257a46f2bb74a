"""Between which bounds the values of a graph lie where its inputs lie between given ones: interval arithmetic.

    found = find_ranges(graph, {"x": (0.0, 1.0)})
    found.find_stopped(site, d)         # channels of dim d that a rectifier makes 0: nothing is above it
    found.is_untouched(site)            # does a rectifier change nothing, because nothing is below 0?

An input of which nothing is given may be any number. For y = W x + b the bounds are b + W+ [l, u] + W- [u, l], widened
by what a sum of so many products may be rounded (n eps sum |W x|, Higham 2002, Accuracy and Stability, section 3.1);
growing functions map the ends. Nothing is known behind operators without a rule here. (Serra et al. 2021, Scaling up
exact neural network compression by ReLU stability.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from spa_compiler.algebra.expr import Dim, iterate_dims
from spa_compiler.algebra.masks import NO_CHANNEL, find_coordinates
from spa_compiler.analysis.channel_rows import EXACT_TYPES, ChannelRows, find_free, is_covering, is_unpadded, is_window
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.execution.single_node import compute_node
from spa_compiler.operators.site import Site, Value

Floats = NDArray[np.float64]
EPSILON = float(np.finfo(np.float32).eps)
"""The share by which one operation of a kernel is rounded."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds: one pair for all, or one for every channel of a dim."""

    low: Floats
    high: Floats

    @classmethod
    def of(cls, low: float, high: float) -> Bounds:
        """The same bounds for all."""
        return cls(np.asarray(low, np.float64), np.asarray(high, np.float64))

    def unite(self, other: Bounds) -> Bounds:
        """The bounds of what lies in either."""
        return Bounds(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def meet(self, other: Bounds) -> Bounds:
        """The bounds of what lies in both."""
        return Bounds(np.maximum(self.low, other.low), np.minimum(self.high, other.high))

    def widen(self, by: Any) -> Bounds:
        """The same with this much more on both sides."""
        return Bounds(self.low - by, self.high + by)

    def merge_channels(self) -> Bounds:
        """One pair of bounds for all channels."""
        return Bounds.of(float(np.min(self.low)), float(np.max(self.high)))


UNKNOWN = Bounds.of(-np.inf, np.inf)


@dataclass
class Ranges:
    """Bounds of whole values, and of the channels of dims that can lose some."""

    whole: dict[str, Bounds] = field(default_factory=dict)
    along: dict[tuple[str, Dim], Bounds] = field(default_factory=dict)

    def find(self, v: Value | None, d: Dim | None = None) -> Bounds:
        """The tightest bounds that are known of a value, by the channels of a dim if there is one."""
        if v is None:
            return Bounds.of(0.0, 0.0)
        own = self.along.get((v.name, d)) if d is not None else None
        return own or self.whole.get(v.name, UNKNOWN)

    def find_stopped(self, site: Site, d: Dim) -> NDArray[np.bool_]:
        """Channels of which a rectifier lets nothing pass."""
        return np.broadcast_to(self.find(site.x(), d).high <= 0, d.size).copy()

    def is_untouched(self, site: Site) -> bool:
        """Does a rectifier let all pass as it is?"""
        return bool(self.whole.get(site.x().name, UNKNOWN).low >= 0)


def find_ranges(graph: DependencyGraph, given: Mapping[str, tuple[float, float]]) -> Ranges:
    """Bounds of all values; `given` has those of inputs."""
    forward = _Forward(graph, given)
    for site in graph.sites:
        forward.step(site)
    return forward.found


class _Forward:
    """The forward pass: what is found grows from site to site."""

    def __init__(self, graph: DependencyGraph, given: Mapping[str, tuple[float, float]]) -> None:
        self.model, self.constants = graph.model, graph.model.constants()
        self.rows = ChannelRows(graph.model)
        self.live = {d for g in graph.groups for d in g.dims}
        self.found = Ranges({name: Bounds.of(*bounds) for name, bounds in given.items()})

    def list_dims(self, v: Value) -> list[Dim]:
        """Dims of a value that can lose channels."""
        return [d for d in dict.fromkeys(d for a in v.axes for d in iterate_dims(a)) if d in self.live]

    def find(self, v: Value | None, d: Dim | None = None) -> Bounds:
        """Bounds of an operand; those of a constant are its numbers."""
        if v is not None and v.name in self.constants and (v.name, d) not in self.found.along:
            rows = None if d is None else self.rows.read(v, d)
            if d is not None and rows is not None and rows.size:
                self.found.along[v.name, d] = Bounds(rows.min(axis=1), rows.max(axis=1))
            elif v.name not in self.found.whole:
                self.found.whole[v.name] = self.read_whole(v)
        return self.found.find(v, d)

    def read_whole(self, v: Value) -> Bounds:
        """Bounds of all numbers of a constant."""
        array = np.asarray(self.model.array(self.constants[v.name]))
        if array.dtype.kind not in "fiub" or not array.size:
            return UNKNOWN
        numbers = array.astype(np.float64)
        return Bounds.of(float(numbers.min()), float(numbers.max())) if np.isfinite(numbers).all() else UNKNOWN

    def step(self, site: Site) -> None:
        """Note the bounds of the first output."""
        y = site.outputs[0] if site.outputs else None
        rule = self.choose_rule(site)
        kind = 0 if y is None or self.model.shapes is None else self.model.shapes.kind.get(y.name, 0)
        if y is None or rule is None or site.path or kind not in EXACT_TYPES:
            return
        whole = rule(site, None)
        for d in self.list_dims(y):
            known = rule(site, d)
            if known is None or np.isnan(known.low).any() or np.isnan(known.high).any():
                continue
            self.found.along[y.name, d] = known
            if is_covering(y, d):
                own = known.merge_channels()
                whole = (
                    own if whole is None else Bounds(np.maximum(own.low, whole.low), np.minimum(own.high, whole.high))
                )
        if whole is not None and not np.isnan([whole.low, whole.high]).any():
            self.found.whole[y.name] = whole

    def choose_rule(self, site: Site) -> Callable[[Site, Dim | None], Bounds | None] | None:
        """The rule of an operator; none for one of which nothing is known here."""
        t = site.traits
        if t.rectifies or t.squashes:
            return self.grow
        if t.identity or t.reorders or t.moves or t.mean or (t.zero == "keeps" and np.isinf(t.neutral)):
            return self.gather
        rules: dict[str, Callable[[Site, Dim | None], Bounds | None]]
        rules = {"product": self.product, "multiply": self.multiply, "gain": self.normalise, "clip": self.clip,
                 "pad": self.pad}  # fmt: skip
        return self.add if t.sums else rules.get(t.zero)

    def grow(self, site: Site, d: Dim | None) -> Bounds | None:
        """A function that grows maps the ends."""
        x = self.find(site.x(), d)
        if site.traits.rectifies:
            return Bounds(np.maximum(x.low, 0), np.maximum(x.high, 0))
        try:
            proto = helper.make_node(site.op, ["x"], ["y"], **site.attrs)
        except (TypeError, ValueError):
            return None
        versions = tuple((n, v) for n, v in self.model.opset.items() if n in ("", "ai.onnx"))
        ends = [compute_node(proto, [np.atleast_1d(e).astype(np.float32)], versions) for e in (x.low, x.high)]
        if any(e is None for e in ends):
            return None
        low, high = (np.asarray(e[0], np.float64).reshape(x.low.shape) for e in ends if e is not None)
        return Bounds(low, high).widen(4 * EPSILON)

    def gather(self, site: Site, d: Dim | None) -> Bounds | None:
        """Numbers of the inputs in other places, the largest of some, or means, which lie between them."""
        parts = [v for v in site.inputs if v is not None]
        if site.traits.identity or site.traits.reorders or not site.traits.moves:
            parts = parts[:1]
        holding = [v for v in parts if d in self.list_dims(v)] if d is not None else parts
        if not holding:
            return None
        found = self.find(holding[0], d)
        for v in holding[1:]:
            found = found.unite(self.find(v, d))
        if site.traits.mean:
            if is_window(site) and not is_unpadded(site):
                found = found.unite(Bounds.of(0, 0))
            found = found.widen(self.count_entries(site) * EPSILON * np.maximum(np.abs(found.low), np.abs(found.high)))
        return found

    def count_entries(self, site: Site) -> float:
        """At most so many numbers make one of the output: those of the whole input."""
        return float(np.prod([max(1, n) for n in site.x().shape])) if all(site.x().shape) else np.inf

    def add(self, site: Site, d: Dim | None) -> Bounds | None:
        """The sum of bounds, or their difference."""
        parts = [self.find(v, d) for v in site.inputs if v is not None]
        if site.traits.sums == "minus":
            parts[1:] = [Bounds(-p.high, -p.low) for p in parts[1:]]
        low, high = (
            np.sum(np.broadcast_arrays(*ends), axis=0) for ends in zip(*((p.low, p.high) for p in parts), strict=True)
        )
        most = sum(np.maximum(np.abs(p.low), np.abs(p.high)) for p in parts)
        return Bounds(np.asarray(low), np.asarray(high)).widen(len(parts) * EPSILON * most)

    def multiply(self, site: Site, d: Dim | None) -> Bounds | None:
        """Products of the ends."""
        parts = [self.find(v, d) for v in site.inputs if v is not None]
        if len(parts) != 2:
            return None
        ends = [_times(a, b) for a in (parts[0].low, parts[0].high) for b in (parts[1].low, parts[1].high)]
        low, high = np.minimum.reduce(np.broadcast_arrays(*ends)), np.maximum.reduce(np.broadcast_arrays(*ends))
        return Bounds(low, high).widen(EPSILON * np.maximum(np.abs(low), np.abs(high)))

    def normalise(self, site: Site, d: Dim | None) -> Bounds | None:
        """Gain (x - mean) / deviation + bias, by stored statistics."""
        norm = site.traits.norm
        if d is None or norm is None or not norm.is_stored or len(site.inputs) < 1 + max(norm.statistics):
            return None
        found = [self.rows.read(site.x(slot), d) for slot in (norm.gain, norm.gain + 1, *norm.statistics)]
        if any(f is None or f.shape[1] != 1 for f in found):
            return None
        gain, bias, mean, variance = (np.asarray(f)[:, 0] for f in found)
        scale = gain / np.sqrt(variance + float(site.attrs.get("epsilon", norm.epsilon)))
        x = self.find(site.x(), d)
        ends = [_times(scale, x.low), _times(scale, x.high)]
        shift = bias - mean * scale
        size = np.maximum(np.abs(ends[0]), np.abs(ends[1])) + np.abs(bias) + np.abs(mean * scale)
        return Bounds(np.minimum(*ends) + shift, np.maximum(*ends) + shift).widen(8 * EPSILON * size)

    def clip(self, site: Site, d: Dim | None) -> Bounds | None:
        """Both ends are cut."""
        bounds = [self.find_number(site, 1, "min", -np.inf), self.find_number(site, 2, "max", np.inf)]
        x = self.find(site.x(), d)
        if np.isnan(bounds).any():
            return None
        return Bounds(np.clip(x.low, bounds[0], bounds[1]), np.clip(x.high, bounds[0], bounds[1]))

    def pad(self, site: Site, d: Dim | None) -> Bounds | None:
        """The input, and the number around it."""
        x = self.find(site.x(), d)
        if site.attrs.get("mode", "constant") not in ("constant", b"constant"):
            return x
        number = self.find_number(site, 2, "value", 0.0)
        return None if np.isnan(number) else x.unite(Bounds.of(number, number))

    def find_number(self, site: Site, slot: int, attr: str, default: float) -> float:
        """A constant operand, or the attribute of older opsets; NaN where it is computed."""
        value = site.inputs[slot] if slot < len(site.inputs) else None
        if value is None:
            return float(site.attrs.get(attr, default))
        tensor = self.constants.get(value.name)
        return float("nan") if tensor is None else float(np.ravel(self.model.array(tensor))[0])

    def product(self, site: Site, d: Dim | None) -> Bounds | None:
        """Bounds of every row of a weight times what it reads, and the bias."""
        operands = self.split_operands(site)
        if d is None or operands is None:
            return None
        weight, x, bias = operands
        rows = self.rows.read(weight, d)
        if rows is None or not np.isfinite(rows).all() or not any(n is d for n in find_free(site, weight)):
            return None
        shift = np.zeros((d.size, 1)) if bias is None else self.rows.read(bias, d)
        if shift is None or shift.shape[1] != 1:
            return None
        low, high = self.spread(weight, x, d, rows.shape)
        if not is_unpadded(site):
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        ends = [_times(rows, low), _times(rows, high)]
        most = np.maximum(np.abs(ends[0]), np.abs(ends[1])).sum(axis=1) + np.abs(shift[:, 0])
        found = Bounds(np.minimum(*ends).sum(axis=1) + shift[:, 0], np.maximum(*ends).sum(axis=1) + shift[:, 0])
        return found.widen((rows.shape[1] + 2) * EPSILON * most)

    def split_operands(self, site: Site) -> tuple[Value, Value, Value | None] | None:
        """Weight, activation and bias of a product; None where it is not linear in one operand, or scales."""
        slot = site.traits.bias
        bias = site.inputs[slot] if 0 < slot < len(site.inputs) else None
        others = [v for v in site.inputs if v is not None and v is not bias]
        plain = all(float(site.attrs.get(n, 1.0)) == 1 for n in ("alpha", "beta"))
        if not site.traits.is_linear or not plain or len(others) != 2:
            return None
        held = [v for v in others if v.name in self.constants]
        if len(held) != 1:
            return None
        return held[0], next(v for v in others if v is not held[0]), bias

    def spread(self, weight: Value, x: Value, d: Dim, shape: Sequence[int]) -> tuple[Floats, Floats]:
        """Bounds of what each entry of the rows of a weight is multiplied with."""
        whole = self.find(x)
        low, high = np.full(weight.shape, whole.low), np.full(weight.shape, whole.high)
        for i, axis in enumerate(weight.axes):
            for c, place in find_coordinates(axis, self.live - {d}).items():
                own = self.found.along.get((x.name, c))
                if own is None or len(place) != weight.shape[i]:
                    continue
                hit = place != NO_CHANNEL
                for bound, ends in ((low, own.low), (high, own.high)):
                    np.moveaxis(bound, i, -1)[..., hit] = np.broadcast_to(ends, c.size)[place[hit]]
        at = next(i for i, a in enumerate(weight.axes) if d in set(iterate_dims(a)))
        return tuple(np.moveaxis(b, at, 0).reshape(shape) for b in (low, high))  # type: ignore[return-value]


def _times(a: Any, b: Any) -> Floats:
    """The product, in which zero times infinity is zero."""
    with np.errstate(invalid="ignore"):
        return np.where((np.asarray(a) == 0) | (np.asarray(b) == 0), 0.0, np.asarray(a) * b)


__all__ = ["Bounds", "Ranges", "find_ranges"]
