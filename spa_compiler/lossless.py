"""Channels that can go without any loss: what they hold is zero, or whatever reads them multiplies it by zero.

    dead = dead_channels(graph)       # {group label: boolean array of group.shape, True = removable for free}

A forward pass over the sites tells, for every activation and dim, which channels are exactly zero: produced by zero
weights and no bias, and passed on by functions with f(0) = 0. A channel is dead when in every contraction that sums
over it one operand is zero there. Sigmoid(0) is not 0, so what passes one is not dead (algorithm.md, exactness traps).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.axes import NOWHERE, Bools, coordinates
from spa_compiler.dims import Dim, atoms
from spa_compiler.graph import DependencyGraph, Group
from spa_compiler.spec import Scope, Site, Value

Zeros = dict[tuple[str, Dim], Bools]
KEEPS_ZERO = set(
    """Abs Asin Asinh Atan Cast Ceil Celu Elu Erf Floor Gelu HardSwish Identity LeakyRelu Mish Neg Relu Round Selu Sign Sin
    Sinh Softsign Sqrt Swish Tan Tanh PRelu Dropout MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool Reshape
    Flatten Squeeze Unsqueeze Transpose Concat Split Slice Gather Expand Tile DepthToSpace SpaceToDepth Pad Resize
    Upsample ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2""".split()
)
SUMS = {"Add", "Sub", "Sum", "Max", "Min", "Mean"}
PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "FusedConv"}


def dead_channels(graph: DependencyGraph) -> dict[str, Bools]:
    """Per group the channels that can go for free; at least one channel of a group (and block) is never dead."""
    live = {d for g in graph.groups for d in g.dims}
    zeros = _constants(graph, live)
    forward = _Forward(zeros, live)
    for site in graph.sites:
        forward.step(site)
    consumed = _consumptions(graph, live)
    out: dict[str, Bools] = {}
    for group in graph.groups:
        if not group.stat:
            dead = np.concatenate([_dead(d, consumed.get(d, []), zeros) for d in group.dims])
            if dead.any():
                out[group.label] = _leave_one(group, dead)
    return out


def _leave_one(group: Group, dead: Bools) -> Bools:
    if dead.all():
        dead = dead.copy()
        dead[0] = False
    return np.broadcast_to(dead, group.shape).copy()


def _constants(graph: DependencyGraph, live: set[Dim]) -> Zeros:
    """Channels of constants all of whose entries are zero."""
    zeros: Zeros = {}
    constants = graph.model.constants()
    for name in graph.weights:
        value = graph.values[name]
        if any(d in live for a in value.axes for d in atoms(a)):
            filled = np.asarray(graph.model.array(constants[name])) != 0
            for i, a in enumerate(value.axes):
                along = filled.any(axis=tuple(k for k in range(filled.ndim) if k != i))
                _note(zeros, value, a, along, live)
    return zeros


def _note(zeros: Zeros, value: Value, axis: Any, along: Bools, live: set[Dim]) -> None:
    for d, place in coordinates(axis).items():
        if d in live:
            hit = place != NOWHERE
            used = np.bincount(place[hit], along[hit].astype(float), d.size) > 0
            zeros[value.name, d] = zeros.get((value.name, d), np.ones(d.size, bool)) & ~used


class _Forward:
    """The forward pass: `zeros` grows from site to site."""

    def __init__(self, zeros: Zeros, live: set[Dim]) -> None:
        self.zeros, self.live = zeros, live
        self.held: dict[str, set[Dim]] = {}

    def dims(self, v: Value) -> set[Dim]:
        if v.name not in self.held:
            self.held[v.name] = {d for a in v.axes for d in atoms(a)} & self.live
        return self.held[v.name]

    def zero(self, v: Value, d: Dim) -> Bools:
        return self.zeros.get((v.name, d), np.zeros(d.size, bool))

    def step(self, site: Site) -> None:
        """Which channels of the outputs are zero."""
        rules: dict[str, Callable[[Site, list[Value], Dim], Bools | None]]
        rules = {**dict.fromkeys(PRODUCTS, self.product), **dict.fromkeys(SUMS, self.sum), "Mul": self.mul}
        rules |= {**dict.fromkeys(KEEPS_ZERO, self.movement), "BatchNormalization": self.batch_norm}
        rule = rules.get(site.op)
        if rule is None:
            return
        inputs = [v for v in site.inputs if v is not None]
        for y in site.outputs[:1] if site.op in ("MaxPool", "Dropout") else site.outputs:
            for d in self.dims(y) if y is not None else ():
                found = rule(site, [v for v in inputs if d in self.dims(v)], d)
                if y is not None and found is not None and found.any():
                    self.zeros[y.name, d] = found

    def movement(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """Zero where every input that has the channel is."""
        return np.logical_and.reduce([self.zero(v, d) for v in holding]) if holding else None

    def sum(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """An input without the channel is added to all of them."""
        whole = len(holding) == sum(v is not None for v in site.inputs)
        return self.movement(site, holding, d) if whole else None

    def mul(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """Zero where any factor is."""
        return np.logical_or.reduce([self.zero(v, d) for v in holding]) if holding else None

    def product(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """A product is zero where its weight or its input is; a bias has to be zero, too."""
        bias = site.inputs[2] if len(site.inputs) > 2 else None
        factors = [v for v in holding if v is not bias]
        if not factors or (bias is not None and d not in self.dims(bias)):
            return None
        found: Bools = np.logical_or.reduce([self.zero(v, d) for v in factors])
        return found if bias is None else found & self.zero(bias, d)

    def batch_norm(self, site: Site, holding: list[Value], d: Dim) -> Bools | None:
        """Gain and bias zero: zero whatever comes in."""
        return self.zero(site.x(1), d) & self.zero(site.x(2), d)


def _consumptions(graph: DependencyGraph, live: set[Dim]) -> dict[Dim, list[list[Value]]]:
    """For every dim the operands of each contraction that sums over it."""
    out: dict[Dim, list[list[Value]]] = {}
    for site in graph.sites:
        for scope in site.scopes:
            for name, dims in _summed(scope, live):
                held = [v for v, output, row in scope.tensors if not output and any(name in names for names in row)]
                for d in dims:
                    out.setdefault(d, []).append(held)
    return out


def _summed(scope: Scope, live: set[Dim]) -> list[tuple[str, set[Dim]]]:
    """Contracted names, and names that one tensor has twice (a recurrence feeds back into itself)."""
    names = scope.contracted()
    for _, _, row in scope.tensors:
        flat = [n for part in row for n in part]
        names |= {n for n in flat if flat.count(n) > 1}
    return [(n, dims) for n in sorted(names) if n in scope.env and (dims := set(atoms(scope.env[n])) & live)]


def _dead(d: Dim, consumed: list[list[Value]], zeros: Zeros) -> NDArray[np.bool_]:
    """Dead in every contraction; channels that nothing sums over are unused and dead as well."""
    out = np.ones(d.size, bool)
    for operands in consumed:
        out &= np.logical_or.reduce([zeros.get((v.name, d), np.zeros(d.size, bool)) for v in operands])
    return out
