"""Dead channels: their values are zero, or every reader multiplies them by zero, so removing them changes nothing.

    dead = find_dead_channels(graph)       # {group label: boolean array of group.shape, True = removable for free}

A forward pass over the sites tells, for every activation and dim, which channels are exactly zero: produced by zero
weights and no bias, or filled with zeros, and passed on by functions with f(0) = 0. A channel is dead when in every
contraction that sums over it one operand is zero there. Sigmoid(0) is not 0, so what passes one is not dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx

from spa_compiler.algebra.expr import Dim, Sum, iterate_dims
from spa_compiler.algebra.masks import NO_CHANNEL, Bools, find_coordinates
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.value_ranges import Ranges
from spa_compiler.analysis.weight_slices import find_spoiled
from spa_compiler.ir.model import find_element_type
from spa_compiler.operators.recurrent_cell import STATES, B, R, W, find_zero_units
from spa_compiler.operators.site import Scope, Site, Value

Zeros = dict[tuple[str, Dim], Bools]
ZERO_TESTED_TYPES = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}


def find_dead_channels(
    graph: DependencyGraph, least: int = 1, tol: float = 0.0, ranges: Ranges | None = None, counted: bool = False
) -> dict[str, Bools]:
    """Per group the channels that can go for free; `least` channels of a group (and block) stay, dead or not.

    `tol`: entries of constants within are zero; `ranges`: bounds by which rectifiers stop channels. `counted`: those of
    groups over which statistics are taken, in place of all others: they are for free where the statistics are corrected
    for their number (`rewriting.counted_statistics`).
    """
    live = {d for g in graph.groups for d in g.dims}
    zeros = _find_zero_constants(graph, live, tol)
    forward = _Forward(graph, zeros, live, ranges)
    for site in graph.sites:
        forward.step(site)
    consumed = _find_consumptions(graph, live, zeros)
    out: dict[str, Bools] = {}
    for group in graph.groups:
        if bool(group.stat) == counted:
            dead = np.concatenate([_find_dead(d, consumed.get(d, [])) for d in group.dims])
            if dead.any():  # zero times infinity is no zero
                dead &= ~find_spoiled(graph, group).reshape(-1, group.size).any(axis=0)
            if dead.any():
                out[group.label] = _keep_least(group, dead, least)
    return {label: dead for label, dead in out.items() if dead.any()}


def _keep_least(group: Group, dead: Bools, least: int) -> Bools:
    short = max(0, least - int((~dead).sum()))
    dead = dead.copy()
    dead[np.flatnonzero(dead)[:short]] = False
    return np.broadcast_to(dead, group.shape).copy()


def _find_zero_constants(graph: DependencyGraph, live: set[Dim], tol: float) -> Zeros:
    """Channels of constants all of whose entries are zero; the zero of a quantized weight lies elsewhere."""
    zeros: Zeros = {}
    constants = graph.model.constants()
    for name in graph.weights:
        value = graph.values[name]
        if find_element_type(constants[name]) in ZERO_TESTED_TYPES and any(
            d in live for a in value.axes for d in iterate_dims(a)
        ):
            filled = ~(np.abs(np.asarray(graph.model.array(constants[name]))) <= tol)  # NaN is no zero
            for i, a in enumerate(value.axes):
                along = filled.any(axis=tuple(k for k in range(filled.ndim) if k != i))
                _note_zeros(zeros, value, a, along, live)
    return zeros


def _note_zeros(zeros: Zeros, value: Value, axis: Any, along: Bools, live: set[Dim]) -> None:
    for d, place in find_coordinates(axis, live).items():
        hit = place != NO_CHANNEL
        used = np.bincount(place[hit], along[hit].astype(float), d.size) > 0
        zeros[value.name, d] = zeros.get((value.name, d), np.ones(d.size, bool)) & ~used


class _Forward:
    """The forward pass: `zeros` grows from site to site."""

    def __init__(self, graph: DependencyGraph, zeros: Zeros, live: set[Dim], ranges: Ranges | None) -> None:
        self.ranges = ranges
        self.model, self.constants = graph.model, graph.model.constants()
        self.zeros, self.live = zeros, live
        self.held: dict[str, set[Dim]] = {}
        self.empty: set[str] = set()

    def dims(self, v: Value) -> set[Dim]:
        if v.name not in self.held:
            self.held[v.name] = {d for a in v.axes for d in iterate_dims(a)} & self.live
        return self.held[v.name]

    def zero(self, v: Value, d: Dim) -> Bools:
        return self.zeros.get((v.name, d), np.zeros(d.size, bool))

    def step(self, site: Site) -> None:
        """Which channels of the outputs are zero."""
        if self.is_all_zero(site):
            self.note_zeros(site.outputs[:1])
            return
        rules: dict[str, Callable[[Site, list[Value], Dim], Bools | None]]
        rules = {"product": self.product, "sum": self.sum, "multiply": self.multiply, "keeps": self.movement}
        rules |= {"gain": self.gain, "clip": self.clip, "pad": self.pad, "resize": self.resize}
        rules |= {"cell": self.cell}
        rule = self.square if _is_of_squares(site) else rules.get(site.traits.zero)
        rule = self.first if site.traits.power or site.traits.divides else rule
        if rule is None:
            return
        inputs = [v for v in site.inputs if v is not None]
        for y in site.outputs[:1] if site.traits.one_output else site.outputs:
            for d in self.dims(y) if y is not None else ():
                found = rule(site, [v for v in inputs if d in self.dims(v)], d)
                if found is not None and self.ranges is not None and site.traits.rectifies:
                    found = found | self.ranges.find_stopped(site, d)
                if y is not None and found is not None and found.any():
                    self.zeros[y.name, d] = found

    def is_all_zero(self, site: Site) -> bool:
        """Is all of the first output zero, on whatever axes: filled with zeros, or made of nothing but such values?"""
        if site.traits.zero == "fill":
            return "value" not in site.attrs or not np.any(np.asarray(site.attrs["value"].values))
        passed = [v for v in site.inputs if v is not None and self.is_number(v)]
        return site.traits.zero == "keeps" and bool(passed) and all(map(self.is_empty, passed))

    def note_zeros(self, values: Sequence[Value | None]) -> None:
        """Every entry of these values is zero."""
        for v in (v for v in values if v is not None):
            self.empty.add(v.name)
            self.zeros |= {(v.name, d): np.ones(d.size, bool) for d in self.dims(v)}

    def is_number(self, v: Value) -> bool:
        """Does it hold numbers with a fraction, and no sizes or positions?"""
        shapes = self.model.shapes
        return shapes is not None and shapes.kind.get(v.name, 0) in ZERO_TESTED_TYPES

    def is_empty(self, v: Value) -> bool:
        """Is every entry of this value zero?"""
        if v.name in self.constants and not self.dims(v) and v.name not in self.empty:
            tensor = self.constants[v.name]
            if not np.any(np.asarray(self.model.array(tensor))):
                self.empty.add(v.name)
        return v.name in self.empty

    def movement(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """Zero where every input that has the channel is."""
        return np.logical_and.reduce([self.zero(v, d) for v in holding]) if holding else None

    def number(self, site: Site, slot: int, attr: str, default: float) -> float:
        """A constant operand, or the attribute that held it in older opsets; NaN when it is computed."""
        value = site.inputs[slot] if slot < len(site.inputs) else None
        if value is None:
            return float(site.attrs.get(attr, default))
        tensor = self.constants.get(value.name)
        return float("nan") if tensor is None else float(np.ravel(self.model.array(tensor))[0])

    def clip(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """Clip(0) is 0 where its range holds 0."""
        inside = self.number(site, 1, "min", -np.inf) <= 0 <= self.number(site, 2, "max", np.inf)
        return self.movement(site, holding, d) if inside else None

    def pad(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """Padding with zeros, which may be channels of their own, or with what is there."""
        constant = site.attrs.get("mode", "constant") in ("constant", b"constant")
        if constant and self.number(site, 2, "value", 0.0) != 0:
            return None
        return self.movement(site, holding, d) if holding or not constant else np.ones(d.size, bool)

    def resize(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """Interpolation; only tf_crop_and_resize brings in another value."""
        crops = site.attrs.get("coordinate_transformation_mode", "") == "tf_crop_and_resize"
        return None if crops else self.movement(site, holding, d)

    def sum(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """An input without the channel is added to all of them."""
        whole = len(holding) == sum(v is not None for v in site.inputs)
        return self.movement(site, holding, d) if whole else None

    def multiply(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """Zero where any factor is."""
        return np.logical_or.reduce([self.zero(v, d) for v in holding]) if holding else None

    def product(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """A product is zero where its weight or its input is; a bias has to be zero, too."""
        slot = site.traits.bias
        bias = site.inputs[slot] if 0 < slot < len(site.inputs) else None
        factors = [v for v in _find_carriers(site, d) if v is not bias]
        if not factors or (bias is not None and d not in self.dims(bias)):
            return None
        found: Bools = np.logical_or.reduce([self.zero(v, d) for v in factors])
        return found if bias is None else found & self.zero(bias, d)

    def gain(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """Gain and bias zero: zero whatever comes in."""
        slot = site.traits.norm.gain if site.traits.norm is not None else 1
        return self.zero(site.x(slot), d) & self.zero(site.x(slot + 1), d)

    def first(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """A quotient, or a power by a constant above 0, is zero where the first operand is."""
        other = site.x(1)
        exponent = self.constants.get(other.name)
        if site.traits.power and (exponent is None or not (np.asarray(self.model.array(exponent)) > 0).all()):
            return None
        return self.zero(site.x(), d) if site.x() in holding else None

    def square(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """A norm of mean squares divides every channel by one number: zero where what it sums is."""
        gain = site.traits.norm.gain if site.traits.norm is not None else 1
        added = [v for k, v in enumerate(site.inputs) if k != gain and v is not None]
        return np.asarray(np.logical_and.reduce([self.zero(v, d) for v in added]))

    def cell(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """Recurrent units whose candidate gate is zero, and that start from zero."""
        w, r, b = (self.read(site, slot) for slot in (W, R, B))
        if w is None or r is None or (b is None and len(site.inputs) > B and site.inputs[B] is not None):
            return None
        units = find_zero_units(w, r, b, site.attrs.get("activations") or ())
        place = find_coordinates(site.x(R).axes[2], (d,)).get(d)
        if place is None:
            return None
        hit = place != NO_CHANNEL
        found = np.bincount(place[hit], (~units)[hit].astype(float), d.size) == 0
        states = [v for v in site.inputs[STATES] if v is not None and not self.is_empty(v)]
        return np.asarray(np.logical_and.reduce([found, *(self.zero(v, d) for v in states)]))

    def read(self, site: Site, slot: int) -> Any:
        """The numbers of a constant operand; None where it is computed, or stored as integers."""
        value = site.inputs[slot] if slot < len(site.inputs) else None
        tensor = None if value is None else self.constants.get(value.name)
        is_plain = tensor is not None and find_element_type(tensor) in ZERO_TESTED_TYPES
        return np.asarray(self.model.array(tensor)) if is_plain else None


def _is_of_squares(site: Site) -> bool:
    """Does a node divide its input by the root of its mean square?"""
    norm = site.traits.norm
    return norm is not None and norm.over == "axis" and not norm.centred and not norm.is_stored


def _find_carriers(site: Site, d: Dim) -> list[Value]:
    """Inputs that share a name with the output that stands for this dim: not those that only sum over it."""
    out = []
    for scope in site.scopes:
        passed = frozenset().union(*(n for _, output, row in scope.tensors if output for n in row))
        names = {n for n in passed if d in set(iterate_dims(scope.env.get(n, Sum(()))))}
        out += [v for v, output, row in scope.tensors if not output and names & frozenset().union(*row)]
    return out


def _find_consumptions(graph: DependencyGraph, live: set[Dim], zeros: Zeros) -> dict[Dim, list[Bools]]:
    """For every dim and each contraction that sums over it: the channels that add nothing there."""
    out: dict[Dim, list[Bools]] = {}
    for site in graph.sites:
        # a sum of products needs one factor that is zero, anything else that all operands are
        join = np.logical_or if site.traits.is_contraction else np.logical_and
        for scope in site.scopes:
            for held, dims in _find_summed(scope, live):
                if scope.stats:
                    held = _find_counted(site, held)
                if site.traits.zero == "cell":  # the state is one of the factors, and an output
                    held = [*held, *(y for y in site.outputs[:1] if y is not None)]
                for d in dims:
                    none = np.zeros(d.size, bool)
                    out.setdefault(d, []).append(join.reduce([zeros.get((v.name, d), none) for v in held] or [none]))
    return out


def _find_counted(site: Site, held: list[Value]) -> list[Value]:
    """The operands of a statistic that zeros change by their number alone; none where they change it otherwise."""
    if _is_of_squares(site):
        gain = site.traits.norm.gain if site.traits.norm is not None else 1
        return [v for k, v in enumerate(site.inputs) if k != gain and v is not None]
    return held if site.traits.mean else []


def _find_summed(scope: Scope, live: set[Dim]) -> Iterator[tuple[list[Value], set[Dim]]]:
    """Operands that are contracted together, and over which dims.

    A tensor that has a name twice (a recurrent weight) is summed over by itself: what it meets is not an operand.
    """
    contracted = scope.find_contracted()
    for name in sorted(scope.env):
        dims = set(iterate_dims(scope.env[name])) & live
        inputs = [(v, [n for part in row for n in part].count(name)) for v, output, row in scope.tensors if not output]
        if dims and name in contracted:
            yield [v for v, times in inputs if times], dims
        elif dims:
            yield from (([v], dims) for v, times in inputs if times > 1)


def _find_dead(d: Dim, consumed: list[Bools]) -> Bools:
    """Dead in every contraction; channels that nothing sums over are unused and dead as well."""
    out: Bools = np.logical_and.reduce([np.ones(d.size, bool), *consumed])
    return out
