"""Channels that hold nothing of their own: multiples of another channel of their dim, or one number everywhere.

    facts = find_multiples(graph)                    # {(value, dim): Multiples}
    facts["relu_1", d].root[3], .factor[3]           # 5, 2.0: channel 3 is twice channel 5

One form holds both: x_j = factor_j x_root, where the root -1 is the number 1 everywhere. A forward pass over the sites:
a product makes multiples of rows of its weight (with the bias) that are multiples of each other, and a number of a row
of zeros; functions of one number, moves, pooling, normalisation by stored statistics, sums and products by channel pass
on what stays true behind them (UDFC, MaskSparsity, OTO; mechanism "facts"). Nothing is known of what no rule passes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from spa_compiler.algebra.expr import Dim, iterate_dims
from spa_compiler.analysis.channel_rows import ChannelRows, find_free, is_unpadded, is_window
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.value_ranges import Ranges
from spa_compiler.execution.single_node import compute_node
from spa_compiler.operators.site import Site, Value

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ONE = -1
"""The root of a channel that is one number everywhere."""
ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Rows are multiples that differ by less, as a share of the largest entry."""
MOST_EQUAL = 64
"""Rows that are compared with each one of nearly the same projection."""


@dataclass(frozen=True, eq=False)
class Multiples:
    """For every channel of a dim its root and factor; one of which nothing is known is its own root, times 1."""

    root: Ints
    factor: Floats

    @classmethod
    def of_nothing(cls, size: int) -> Multiples:
        """Every channel holds something of its own."""
        return cls(np.arange(size), np.ones(size))

    @property
    def is_plain(self) -> bool:
        """Does every channel hold something of its own?"""
        return bool((self.root == np.arange(self.root.size)).all())

    def find_numbers(self) -> NDArray[np.bool_]:
        """Channels that are one number everywhere."""
        found: NDArray[np.bool_] = self.root == ONE
        return found

    def drop(self, wrong: NDArray[np.bool_]) -> Multiples:
        """The same, knowing nothing of some channels."""
        root, factor = self.root.copy(), self.factor.copy()
        at = np.flatnonzero(wrong)
        root[at], factor[at] = at, 1.0
        return Multiples(root, factor)


Facts = dict[tuple[str, Dim], Multiples]


def find_multiples(graph: DependencyGraph, tol: float = 0.0, ranges: Ranges | None = None) -> Facts:
    """Find out what is known of every value and dim that can lose channels; plain ones are left out.

    `tol`: rows and numbers of constants that lie within are zero; `ranges`: bounds by which rectifiers stop channels.
    """
    forward = _Forward(graph, tol, ranges)
    for site in graph.sites:
        forward.step(site)
    return forward.facts


class _Forward:
    """The forward pass: `facts` grows from site to site."""

    def __init__(self, graph: DependencyGraph, tol: float, ranges: Ranges | None) -> None:
        self.tol, self.ranges = tol, ranges
        self.graph, self.model, self.constants = graph, graph.model, graph.model.constants()
        self.rows = ChannelRows(graph.model)
        self.live = {d for g in graph.groups for d in g.dims}
        self.facts: Facts = {}

    def find(self, v: Value, d: Dim) -> Multiples:
        """Give what is known of an operand; of a constant that has one number a channel, these."""
        known = self.facts.get((v.name, d))
        if known is None and v.name in self.constants:
            rows = self.rows.read(v, d)
            if rows is not None and rows.shape[1] >= 1 and (rows == rows[:, :1]).all():
                known = Multiples(np.full(d.size, ONE), self.round_off(rows)[:, 0])
                self.facts[v.name, d] = known
        return known or Multiples.of_nothing(d.size)

    def round_off(self, rows: Floats) -> Floats:
        """Rows without those that lie within the tolerance."""
        return np.where(np.abs(rows).max(axis=1, keepdims=True, initial=0.0) <= self.tol, 0.0, rows)

    def step(self, site: Site) -> None:
        """Note what is known of the outputs."""
        rules: dict[str, Callable[[Site, Dim], Multiples | None]]
        rules = {"product": self.product, "sum": self.sum, "multiply": self.multiply, "gain": self.gain}
        rules |= {"pad": self.pad, "keeps": self.movement, "clip": self.clip, "resize": self.resize}
        rule = self.function if site.traits.unary else rules.get(site.traits.zero)
        if rule is None or site.path:
            return
        for y in site.outputs[:1] if site.traits.one_output else site.outputs:
            for d in {d for a in y.axes for d in iterate_dims(a)} & self.live if y is not None else ():
                found = rule(site, d)
                if y is not None and found is not None and not found.is_plain and np.isfinite(found.factor).all():
                    self.facts[y.name, d] = found

    def list_holding(self, site: Site, d: Dim) -> list[Value]:
        """Inputs that have the dim."""
        return [v for v in site.inputs if v is not None and any(d in set(iterate_dims(a)) for a in v.axes)]

    def get_only(self, site: Site, d: Dim) -> Multiples | None:
        """Give what is known of the first input, where no other one has the dim."""
        holding = self.list_holding(site, d)
        return self.find(holding[0], d) if len(holding) == 1 and holding[0] is site.inputs[0] else None

    def function(self, site: Site, d: Dim) -> Multiples | None:
        """A function of one number: equal channels stay equal, numbers stay numbers; Relu passes positive factors."""
        x = self.get_only(site, d)
        if x is not None and self.ranges is not None and site.traits.rectifies:
            stopped = self.ranges.find_stopped(site, d)
            x = Multiples(np.where(stopped, ONE, x.root), np.where(stopped, 0.0, x.factor))
        if x is None or x.is_plain or site.traits.identity or site.traits.reorders:
            return x
        numbers, factor = x.find_numbers(), x.factor.copy()
        found = self.compute(site, factor[numbers]) if numbers.any() else factor[numbers]
        factor[numbers] = np.nan if found is None else found
        passed = factor > 0 if site.traits.rectifies else factor == 1
        return Multiples(x.root, factor).drop(np.where(numbers, np.isnan(factor), ~passed))

    def compute(self, site: Site, numbers: Floats) -> Floats | None:
        """A function of numbers; None where it is not to be had."""
        try:
            proto = helper.make_node(site.op, ["x"], ["y"], **site.attrs)
        except (TypeError, ValueError):
            return None
        versions = tuple((n, v) for n, v in self.model.opset.items() if n in ("", "ai.onnx"))
        got = compute_node(proto, [numbers.astype(np.float32)], versions)
        return None if got is None else np.asarray(got[0], np.float64).reshape(numbers.shape)

    def movement(self, site: Site, d: Dim) -> Multiples | None:
        """Moves, means and the largest of each channel: factors above 0 pass, and numbers.

        A window that counts its padding makes other numbers at the edge.
        """
        holding = self.list_holding(site, d)
        if not holding or any(v.constant for v in holding) or site.traits.squashes:
            return None
        first = self.find(holding[0], d)
        for v in holding[1:]:  # Concat along another axis
            other = self.find(v, d)
            first = first.drop((other.root != first.root) | (other.factor != first.factor))
        if site.traits.reorders or site.traits.identity or site.traits.moves:
            return first
        if not (site.traits.mean or np.isinf(site.traits.neutral) or is_window(site)):
            return None
        keeps_numbers = site.traits.mean or np.isinf(site.traits.neutral) or site.traits.one_output or is_unpadded(site)
        first = first if keeps_numbers else first.drop(first.find_numbers() & (first.factor != 0))
        return first.drop((first.factor < 0) & ~first.find_numbers())

    def clip(self, site: Site, d: Dim) -> Multiples | None:
        """Equal channels stay equal, 0 stays 0 where it lies within."""
        x = self.get_only(site, d)
        return None if x is None else x.drop((x.factor != 1) | x.find_numbers())

    def pad(self, site: Site, d: Dim) -> Multiples | None:
        """Zeros around multiples leave them multiples; a number is none any more."""
        x = self.get_only(site, d)
        mode = site.attrs.get("mode", "constant")
        value = site.consts.get(2)
        is_zero = float(np.ravel(value)[0]) == 0 if value is not None else not site.attrs.get("value", 0.0)
        if mode not in ("constant", b"constant"):
            return x
        has_value = len(site.inputs) > 2 and site.inputs[2] is not None
        if x is None or not is_zero or (value is None and has_value):
            return None
        return x.drop(x.find_numbers() & (x.factor != 0))

    def resize(self, site: Site, d: Dim) -> Multiples | None:
        """Interpolation: multiples stay multiples."""
        x = self.get_only(site, d)
        crops = site.attrs.get("coordinate_transformation_mode", "") in ("tf_crop_and_resize", b"tf_crop_and_resize")
        return None if x is None or crops else x.drop(x.find_numbers() & (x.factor != 0))

    def sum(self, site: Site, d: Dim) -> Multiples | None:
        """A sum of channels is a multiple where all of them are, by one factor."""
        if not site.traits.sums:
            return None
        parts = self.list_operands(site, d)
        if all(p.find_numbers().all() for p in parts):
            return None  # a constant
        signs = [1.0] + [-1.0 if site.traits.sums == "minus" else 1.0] * (len(parts) - 1)
        total = sum(s * p.factor for s, p in zip(signs, parts, strict=True))
        return _join(parts, lambda j, k: _find_common_factor([(p.factor[j], p.factor[k]) for p in parts]), total)

    def multiply(self, site: Site, d: Dim) -> Multiples | None:
        """A product of channels is a multiple by the product of the factors, and 0 where one factor is 0."""
        parts = self.list_operands(site, d)
        total = np.prod([p.factor for p in parts], axis=0)
        found = _join(parts, lambda j, k: _divide_all([(p.factor[j], p.factor[k]) for p in parts]), total)
        zero = np.logical_or.reduce([p.find_numbers() & (p.factor == 0) for p in parts])
        return Multiples(np.where(zero, ONE, found.root), np.where(zero, 0.0, found.factor))

    def list_operands(self, site: Site, d: Dim) -> list[Multiples]:
        """Give what is known of every operand; one without the dim is the same for all channels."""
        holding = self.list_holding(site, d)
        same = Multiples(np.full(d.size, -2), np.ones(d.size))  # some number, the same for all
        return [self.find(v, d) if v in holding else same for v in site.inputs if v is not None]

    def gain(self, site: Site, d: Dim) -> Multiples | None:
        """Gain (x - mean) / deviation + bias, by stored statistics."""
        norm = site.traits.norm
        if norm is None or not norm.is_stored or len(site.inputs) < 1 + max(norm.statistics):
            return None
        slots = (norm.gain, norm.gain + 1, *norm.statistics)
        found = [self.find(site.x(slot), d) for slot in slots]
        if not all(f.find_numbers().all() for f in found):
            return None
        gain, bias, mean, variance = (f.factor for f in found)
        scale = gain / np.sqrt(variance + float(site.attrs.get("epsilon", norm.epsilon)))
        shift = bias - mean * scale
        x = self.find(site.x(), d)
        parts = [Multiples(x.root, x.factor * scale), Multiples(np.full(d.size, ONE), shift)]
        parts[0] = Multiples(np.where(scale == 0, ONE, parts[0].root), parts[0].factor)
        return _join(parts, lambda j, k: _find_common_factor([(p.factor[j], p.factor[k]) for p in parts]),
                     parts[0].factor + shift)  # fmt: skip

    def product(self, site: Site, d: Dim) -> Multiples | None:
        """Rows of the weight, with the bias, that are multiples of each other; a row of zeros gives its bias."""
        slot = site.traits.bias
        bias = site.inputs[slot] if 0 < slot < len(site.inputs) else None
        holding = [v for v in self.list_holding(site, d) if v is not bias]
        if site.traits.activation or len(holding) != 1 or float(site.attrs.get("beta", 1.0)) != 1:
            return None
        rows, shift = self.rows.read(holding[0], d), np.zeros((d.size, 1))
        if bias is not None:
            found = self.rows.read(bias, d)
            if found is None or found.shape[1] != 1:
                return None
            shift = found
        if rows is None or not np.isfinite(rows).all() or not any(n is d for n in find_free(site, holding[0])):
            return None
        return find_row_multiples(self.round_off(rows), self.round_off(shift)[:, 0])


Factor = Callable[[int, int], float]


def _join(parts: Sequence[Multiples], find_factor: Factor, total: Any) -> Multiples:
    """Channels whose operands have the same roots, by the factor that `find_factor` gives (NaN: none).

    `total` is what channels come to all of whose operands are numbers.
    """
    size = parts[0].root.size
    root, factor = np.arange(size), np.ones(size)
    firsts: dict[tuple[int, ...], list[int]] = {}
    for j in range(size):
        key = tuple(int(p.root[j]) for p in parts)
        if all(k == ONE for k in key):
            root[j], factor[j] = ONE, total[j]
            continue
        others = firsts.setdefault(key, [])
        for k in others[:MOST_EQUAL]:
            by = find_factor(j, k)
            if np.isfinite(by) and by != 0:
                root[j], factor[j] = k, by
                break
        else:
            others.append(j)
    return Multiples(root, factor)


def _find_common_factor(pairs: Iterable[tuple[float, float]]) -> float:
    """The factor by which all first numbers are the second ones; NaN where there is none."""
    pairs = list(pairs)
    a, b = max(pairs, key=lambda p: abs(p[1]))
    if b == 0:
        return float("nan")
    by = a / b
    most = max(abs(x) for x, _ in pairs)
    return by if all(abs(x - by * y) <= ROUNDING * most for x, y in pairs) else float("nan")


def _divide_all(pairs: Iterable[tuple[float, float]]) -> float:
    """The product of the quotients; NaN where one is divided by zero."""
    by = 1.0
    for a, b in pairs:
        by = by * a / b if b else float("nan")
    return by


def find_row_multiples(rows: Floats, shift: Floats) -> Multiples:
    """Rows that are multiples of an earlier one, with what is added to them; rows of zeros are the number added.

    >>> found = find_row_multiples(np.array([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]]), np.array([1.0, 2.0, 3.0]))
    >>> found.root.tolist(), found.factor.tolist()
    ([0, 0, -1], [1.0, 2.0, 3.0])
    """
    size = len(rows)
    root, factor = np.arange(size), np.ones(size)
    zero = ~rows.any(axis=1)
    root[zero], factor[zero] = ONE, shift[zero]
    own = np.flatnonzero(~zero)
    if not own.size:
        return Multiples(root, factor)
    scale = rows[own, np.abs(rows[own]).argmax(axis=1)]  # of the weights: a large number added hides no difference
    unit, added = rows[own] / scale[:, None], shift[own] / scale
    key = unit @ np.random.default_rng(0).standard_normal(unit.shape[1])
    width = 4 * ROUNDING * np.abs(unit).sum(axis=1).max()
    firsts: list[int] = []
    for at in np.lexsort((own, key)):  # by key, so that what may be equal is near
        near = [k for k in reversed(firsts[-MOST_EQUAL:]) if key[at] - key[k] <= width]
        slack = ROUNDING * max(1.0, abs(added[at]))
        match = next(
            (k for k in near
             if np.abs(unit[at] - unit[k]).max() <= ROUNDING and abs(added[at] - added[k]) <= slack), None,
        )  # fmt: skip
        if match is None:
            firsts.append(int(at))
            continue
        root[own[at]], factor[own[at]] = own[match], scale[at] / scale[match]
    return _take_first_roots(Multiples(root, factor))


def _take_first_roots(x: Multiples) -> Multiples:
    """The same with the first channel of every set as the root of the others."""
    root, factor = x.root.copy(), x.factor.copy()
    for r in {int(k) for j, k in enumerate(x.root) if k not in (ONE, j)}:
        every = np.flatnonzero(x.root == r)
        first = int(every.min())
        if first != r:
            by = x.factor[first]
            root[every], factor[every] = first, x.factor[every] / by
    return Multiples(root, factor)


__all__ = ["ONE", "Facts", "Multiples", "find_multiples", "find_row_multiples"]
