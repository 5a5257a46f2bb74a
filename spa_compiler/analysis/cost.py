"""The cost of a model: multiply-accumulates, parameters and bytes, as functions of the channels each dim keeps.

    cost = CostModel(graph)
    cost.total("macs", {})                   # dense
    cost.total("macs", {dim: 32})            # with 32 channels of one dim

A MAC count is for one sample: symbolic batch axes count as 1, other symbols as bound by the analysis. What a Scan or a
Loop repeats counts as often as it runs, once where that is not known; each branch of an If counts half. What a
contraction multiplies is told by its row in the operator tables (`Site.products`). Every term is a product of axis
sizes, and every axis size is a sum of products of dims, so a change of one group touches few terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx

from spa_compiler.algebra.expr import Dim, Expr, Sum, iterate_dims, resolve
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.ir.control_flow import find_scan_axes
from spa_compiler.ir.model import find_element_type
from spa_compiler.ir.symbols import list_symbols
from spa_compiler.operators.site import describe_place

Widths = Mapping[Dim, float]
"""Channels kept of each dim (per block). A unit of a group that keeps 3 of 10 has width 0.3."""
COST_UNITS = ("macs", "params", "bytes")
SHOWN_NAMES = 5
"""Contractions without a count that a note names."""
UNKNOWN_TRIPS = 1 << 31
"""Trip counts from which a Loop is one that only its condition ends; exporters write the largest integer."""


@dataclass(frozen=True, slots=True)
class Product:
    """A number, times the widths of dims, times sums: what the sizes of axes come to when analysis is over."""

    factor: float
    dims: tuple[Dim, ...] = ()
    sums: tuple[tuple[Product, ...], ...] = ()

    def __call__(self, widths: Widths) -> float:
        """Its value under these widths; dims without one have their size."""
        out = self.factor
        for d in self.dims:
            out *= widths.get(d, d.size)
        for parts in self.sums:
            out *= math.fsum(part(widths) for part in parts)
        return out

    def __mul__(self, other: Product) -> Product:
        return Product(self.factor * other.factor, self.dims + other.dims, self.sums + other.sums)


def make_product(axes: Iterable[Expr], find_fixed: Callable[[Dim], float | None], factor: float = 1.0) -> Product:
    """Factor times the sizes of axes, where `find_fixed` gives the size of a dim that has no width of its own."""
    out = Product(factor)
    for e in map(resolve, axes):
        if isinstance(e, Dim):
            known = find_fixed(e)
            out *= Product(1.0, (e,)) if known is None else Product(known)
        elif isinstance(e, Sum):
            parts = [make_product([p], find_fixed) for p in e.parts]
            moving = [p for p in parts if p.dims or p.sums]
            fixed = Product(math.fsum(p.factor for p in parts if not p.dims and not p.sums))
            out *= Product(1.0, (), ((fixed, *moving),)) if moving else fixed
        else:
            out *= make_product(e.parts, find_fixed)
    return out


@dataclass(frozen=True)
class Term:
    """factor times the product of axis sizes."""

    unit: str
    axes: tuple[Expr, ...]
    factor: float
    where: str


class CostModel:
    """Costs of a graph under any widths of its groups' dims."""

    def __init__(self, graph: DependencyGraph) -> None:
        self.graph = graph
        self.terms = [*_list_mac_terms(graph), *_list_weight_terms(graph)]
        self.uncounted = [describe_place(s) for s in graph.sites if s.products is None]
        """Contractions whose multiply-accumulates are not known; they count as none."""
        batch, free = _find_batch_dims(graph), {d for g in graph.groups for d in g.dims}
        self._by_dim: dict[Dim, list[Term]] = {}
        self._all: dict[str, list[Product]] = {u: [] for u in COST_UNITS}
        self._products: dict[int, Product] = {}

        def find_fixed(d: Dim) -> float | None:
            return 1.0 if d in batch else None if d in free else float(d.size)

        for t in self.terms:
            made = self._products[id(t)] = make_product(t.axes, find_fixed, t.factor)
            self._all[t.unit].append(made)
            for d in {d for a in t.axes for d in iterate_dims(a)}:
                self._by_dim.setdefault(d, []).append(t)
        self._parts: dict[tuple[str, str], list[Product]] = {}

    def total(self, unit: str, widths: Widths) -> float:
        """All of a unit: "macs", "params" or "bytes"."""
        return math.fsum(p(widths) for p in self._all[unit])

    def totals(self, widths: Widths) -> dict[str, int]:
        """Every unit, rounded."""
        return {u: round(self.total(u, widths)) for u in COST_UNITS}

    def of_group(self, group: Group, unit: str, widths: Widths) -> float:
        """The part of the total in which this group takes part."""
        parts = self._parts.get((group.label, unit))
        if parts is None:
            terms = {id(t): t for d in group.dims for t in self._by_dim.get(d, ()) if t.unit == unit}
            parts = self._parts[group.label, unit] = [self._products[k] for k in terms]
        return math.fsum(p(widths) for p in parts)

    def find_neighbours(self, group: Group) -> set[Dim]:
        """Dims that share a term with this group: their costs change when it does."""
        return {x for d in group.dims for t in self._by_dim.get(d, ()) for a in t.axes for x in iterate_dims(a)}


def describe_uncounted(cost: CostModel) -> list[str]:
    """A note for the report where multiply-accumulates are missing from the count, and whose they are."""
    names = cost.uncounted
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    text = f"multiply-accumulates that are not known count as none: those of {', '.join(names[:SHOWN_NAMES])}{more}"
    return [text] if names else []


def make_group_widths(group: Group, kept: float) -> dict[Dim, float]:
    """Widths of a group's dims when it keeps `kept` channels (per block)."""
    if group.dims[0].unit:
        return dict.fromkeys(group.dims, kept / len(group.dims))
    return {group.dims[0]: float(kept)}


def _find_batch_dims(graph: DependencyGraph) -> set[Dim]:
    """Dims of the inputs' symbolic batch axes."""
    out: set[Dim] = set()
    for s in list_symbols(graph.model):
        value = graph.values.get(s.input)
        if s.batch and value is not None:
            out |= set(iterate_dims(value.axes[s.axis]))
    return out


def _list_mac_terms(graph: DependencyGraph) -> list[Term]:
    out: list[Term] = []
    runs = _count_runs(graph)
    for site in graph.sites:
        often, share = runs[site.path]
        out += [Term("macs", (*axes, *often), share, describe_place(site)) for axes in site.products or ()]
    return out


def _count_runs(graph: DependencyGraph) -> dict[str, tuple[tuple[Expr, ...], float]]:
    """How often each body runs, as a product of axis sizes: what a Scan runs along, a Loop's count where it is known.

    The second number is the share of runs that reach it: a half for a branch of an If.
    """
    out: dict[str, tuple[tuple[Expr, ...], float]] = {"": ((), 1.0)}
    for site in graph.sites:
        kind = site.attrs.get("kind")
        if site.op != "Body" or kind is None:
            continue
        often, share = out[site.path]
        if kind == "If":
            share /= 2
        elif kind == "Loop" and 0 in site.consts and site.consts[0].size == 1:
            count = max(int(site.consts[0].ravel()[0]), 0)
            often = (*often, Dim(count)) if count < UNKNOWN_TRIPS else often
        for slot, axis in list(find_scan_axes(len(site.inputs), site.attrs).items())[:1] if kind == "Scan" else ():
            along = site.inputs[slot]
            often = (*often, along.axes[axis]) if along is not None else often
        out[site.attrs["path"]] = often, share
    return out


def _list_weight_terms(graph: DependencyGraph) -> list[Term]:
    out: list[Term] = []
    constants = graph.model.constants()
    for name in graph.weights:
        axes = tuple(graph.values[name].axes)
        out.append(Term("params", axes, 1.0, name))
        out.append(Term("bytes", axes, _find_itemsize(find_element_type(constants[name])), name))
    for t in (*graph.model.inner_weights(), *graph.model.default_weights()):
        elements = math.prod(t.dims)
        out.append(Term("params", (), elements, t.name))
        out.append(Term("bytes", (), elements * _find_itemsize(t.data_type), t.name))
    return out


def _find_itemsize(kind: int) -> float:
    if kind in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return 0.5
    return float(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


__all__ = ["COST_UNITS", "CostModel", "Widths", "describe_uncounted", "make_group_widths"]
