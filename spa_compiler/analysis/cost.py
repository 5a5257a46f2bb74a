"""The cost of a model, as a function of the channels each dim keeps: MACs, parameters, and whatever else is registered.

    cost = CostModel(graph)
    cost.total("macs", {})                   # dense
    cost.total("macs", {dim: 32})            # with 32 channels of one dim

Costs are for one sample: symbolic batch axes count as 1, other symbols as bound by the analysis. Every term of a cost
(`cost_terms`) is a product of axis sizes, and every axis size is a sum of products of dims, so a change of one group
touches few terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, Expr, Sum, iterate_dims, resolve
from spa_compiler.analysis.cost_registry import find_counted_costs
from spa_compiler.analysis.cost_terms import list_contractions
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.ir.symbols import list_symbols
from spa_compiler.operators.macs import list_products
from spa_compiler.operators.site import Site, describe_place

Array = NDArray[Any]
Widths = Mapping[Dim, float]
"""Channels kept of each dim (per block). A unit of a group that keeps 3 of 10 has width 0.3."""
SHOWN_NAMES = 5
"""Contractions without a count that a note names."""


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

    def evaluate_over(self, widths: Mapping[Dim, Array]) -> Array:
        """The same for arrays of widths, which broadcast."""
        out = np.asarray(self.factor, np.float64)
        for d in self.dims:
            out = out * widths.get(d, d.size)
        for parts in self.sums:
            out = out * sum(part.evaluate_over(widths) for part in parts)
        return out

    def __mul__(self, other: Product) -> Product:
        return Product(self.factor * other.factor, self.dims + other.dims, self.sums + other.sums)

    def scale(self, by: float) -> Product:
        """The product so many times."""
        return Product(self.factor * by, self.dims, self.sums)

    def find_dims(self) -> set[Dim]:
        """Dims on whose widths it depends."""
        return {*self.dims, *(d for parts in self.sums for p in parts for d in p.find_dims())}


class Evaluated(Protocol):
    """A part of a cost, as a function of widths: a product of sizes, or one that was measured."""

    def __call__(self, widths: Widths) -> float: ...

    def evaluate_over(self, widths: Mapping[Dim, Array]) -> Array: ...

    def scale(self, by: float) -> Evaluated: ...

    def find_dims(self) -> set[Dim]: ...


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


class CostModel:
    """Costs of a graph under any widths of its groups' dims, each counted when it is first asked for."""

    def __init__(self, graph: DependencyGraph) -> None:
        self.graph = graph
        self.uncounted = [describe_place(s) for s in graph.sites if list_products(s) is None]
        """Contractions whose multiply-accumulates are not known; they count as none."""
        self._batch, self._free = _find_batch_dims(graph), {d for g in graph.groups for d in g.dims}
        self._counts: dict[str, _Count] = {}

    def total(self, unit: str, widths: Widths) -> float:
        """All of a unit, such as "macs", "params" or "bytes"."""
        return math.fsum(p(widths) for p in self._count(unit).products)

    def total_over(self, unit: str, widths: Mapping[Dim, Array]) -> Array:
        """The totals under arrays of widths, which broadcast."""
        return np.asarray(sum(p.evaluate_over(widths) for p in self._count(unit).products))

    def totals(self, widths: Widths) -> dict[str, int]:
        """Every unit, rounded."""
        return {u: round(self.total(u, widths)) for u in find_counted_costs()}

    def of_group(self, group: Group, unit: str, widths: Widths) -> float:
        """The part of the total in which this group takes part."""
        return math.fsum(p(widths) for p in self._count(unit).find_parts(group))

    def find_neighbours(self, group: Group, unit: str) -> set[Dim]:
        """Dims that share a term with this group: their costs change when it does."""
        return self._count(unit).find_neighbours(group)

    def find_shared(self, dims: set[Dim], unit: str) -> set[Dim]:
        """Those of some dims that take part in the total."""
        return dims & self._count(unit).find_dims()

    def count_by_contraction(self, widths: Widths) -> dict[str, float]:
        """Multiply-accumulates of every node that has some, by its name, in the model's order."""
        out: dict[str, float] = {}
        for site, terms in list_contractions(self.graph):
            products = [make_product(t.axes, self._find_fixed, t.factor) for t in terms]
            name = name_contraction(site)
            out[name] = out.get(name, 0.0) + math.fsum(p(widths) for p in products)
        return out

    def add_count(self, unit: str, parts: Sequence[Evaluated]) -> None:
        """One more cost, which is the sum of these parts."""
        self._counts[unit] = _Count(parts, [p.find_dims() for p in parts])

    def make_size(self, axes: Iterable[Expr]) -> Product:
        """The product of the sizes of axes, as a function of widths; for one sample, as every cost."""
        return make_product(axes, self._find_fixed)

    def _count(self, unit: str) -> _Count:
        if unit not in self._counts:
            terms = list(find_counted_costs()[unit].terms(self.graph))
            dims = [{d for a in t.axes for d in iterate_dims(a)} for t in terms]
            self._counts[unit] = _Count([make_product(t.axes, self._find_fixed, t.factor) for t in terms], dims)
        return self._counts[unit]

    def _find_fixed(self, d: Dim) -> float | None:
        """The size of a dim that has no width of its own."""
        return 1.0 if d in self._batch else None if d in self._free else float(d.size)


class _Count:
    """The terms of one cost as functions of widths, and which of them a dim is part of."""

    def __init__(self, products: Sequence[Evaluated], dims: list[set[Dim]]) -> None:
        self.products = products
        self._dims = dims
        self._by_dim: dict[Dim, list[int]] = {}
        self._parts: dict[str, list[Evaluated]] = {}
        for k, own in enumerate(dims):
            for d in own:
                self._by_dim.setdefault(d, []).append(k)

    def find_dims(self) -> set[Dim]:
        """Dims of all products."""
        return set(self._by_dim)

    def find_parts(self, group: Group) -> list[Evaluated]:
        """Terms in which a group takes part, each once."""
        if group.label not in self._parts:
            self._parts[group.label] = [self.products[k] for k in self._find_terms(group)]
        return self._parts[group.label]

    def find_neighbours(self, group: Group) -> set[Dim]:
        """Dims of these terms."""
        return {d for k in self._find_terms(group) for d in self._dims[k]}

    def _find_terms(self, group: Group) -> dict[int, None]:
        return dict.fromkeys(k for d in group.dims for k in self._by_dim.get(d, ()))


def name_contraction(site: Site) -> str:
    """The name of a node in reports: its own, else that of what it gives."""
    given = next((v.name for v in site.outputs if v is not None), "")
    return site.name or given


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


__all__ = ["CostModel", "Widths", "describe_uncounted", "make_group_widths", "name_contraction"]
