"""Dims that only linear maps touch: any invertible matrix may be put between those that make them and those that read.

    found = find_mixable(graph)          # {"layers.0.attn.in_proj_weight:0": Mixable(left=[...], right=[...])}

Of heads of attention these are the channels of values (made by a product, read by a product) and those of queries and
keys (made by two products that meet in a third). With A the weights of one side and B those of the other, rows by
everything else and columns by channel, the model depends on A B^T alone. Nothing is known of any model here: a dim is
followed through the nodes that touch it, and each has to be a contraction with a weight of its own, a product of two
values, a sum of values that all have the dim, a factor without it, or a movement.
[SliceGPT, arXiv 2401.15024; MoDeGPT, arXiv 2408.09632]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim
from spa_compiler.analysis.channel_rows import EXACT_TYPES
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.weight_slices import index_channels
from spa_compiler.ir.model import find_element_type
from spa_compiler.operators.site import Site, Value

Ints = NDArray[np.int64]
Tag = str
"""The weight that a value with the dim was made by."""


@dataclass(frozen=True)
class Columns:
    """Where a constant holds the channels: for every block the flat positions [rows, channels]."""

    value: str
    positions: list[Ints]


@dataclass(frozen=True)
class Mixable:
    """The two sides that meet in a dim of a group; `is_product`: both are made, and a product of values reads them."""

    group: Group
    left: list[Columns]
    right: list[Columns]
    is_product: bool


@dataclass
class _Flow:
    """All that touches one dim, as far as it was followed."""

    made: dict[Tag, list[str]] = field(default_factory=dict)  # weights that make it, and what is added to each
    added: list[tuple[str, frozenset[Tag]]] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    met: list[tuple[frozenset[Tag], frozenset[Tag]]] = field(default_factory=list)
    tags: dict[str, frozenset[Tag]] = field(default_factory=dict)


def find_mixable(graph: DependencyGraph, groups: Sequence[Group]) -> list[Mixable]:
    """Those of the groups whose channels may be mixed, with the two sides of each."""
    touching = list_touching(graph)
    found = (_find_sides(graph, g, touching.get(g.dims[0], [])) for g in groups if len(g.dims) == 1)
    return [m for m in found if m is not None]


def list_touching(graph: DependencyGraph) -> dict[Dim, list[Site]]:
    """The nodes that read or give a value with a dim, in their order."""
    touching: dict[Dim, list[Site]] = {}
    for site in graph.sites:
        held = {d for v in (*site.inputs, *site.outputs) if v is not None for a in v.axes for d in graph.find_dims(a)}
        for d in held:
            touching.setdefault(d, []).append(site)
    return touching


def _find_sides(graph: DependencyGraph, group: Group, sites: list[Site]) -> Mixable | None:
    d = group.dims[0]
    if d.stat or d.unit or not all(is_own(graph, m.value) for m in group.members):
        return None
    flow = _Flow()
    if any(_trace_site(graph, site, d, flow) is None for site in sites):
        return None
    used = {*flow.made, *flow.read, *(n for n, _ in flow.added), *(n for row in flow.made.values() for n in row)}
    if used != {m.value for m in group.members} or len(used) != len(group.members):
        return None
    return _split_sides(graph, group, flow)


def is_own(graph: DependencyGraph, name: str) -> bool:
    """May the entries of a constant be changed? They are numbers with a fraction, and one node alone reads them."""
    tensor = graph.constants.get(name)
    if tensor is None or find_element_type(tensor) not in EXACT_TYPES or name in graph.model.captured:
        return False
    given = any(t.name == name for t in graph.model.graph.outputs)
    return not given and len(graph.readers.get(name, ())) == 1 and len(tensor.outputs) == 1


def _trace_site(graph: DependencyGraph, site: Site, d: Dim, flow: _Flow) -> frozenset[Tag] | None:
    """The weights that made what a node gives; None where it does what a change of basis does not leave alone."""
    holding = [v for v in site.inputs if v is not None and is_held(graph, v, d)]
    made = [v for v in site.outputs if v is not None and is_held(graph, v, d)]
    if not made and all(v.name in flow.tags for v in holding) and site.shape_reads is not None:
        return frozenset()
    if site.path or site.traits.activation:
        return None
    known = frozenset(t for v in holding for t in flow.tags.get(v.name, ()))
    found: frozenset[Tag] | None = None
    if site.traits.is_linear:
        found = _trace_contraction(graph, site, d, flow, holding)
    elif site.traits.sums:
        found = _trace_sum(site, flow, holding, known)
    elif site.traits.zero == "multiply":
        is_first = len(holding) == 1 and (site.traits.arithmetic == "multiply" or holding[0] is site.inputs[0])
        found = known if is_first and not holding[0].constant else None
    elif site.traits.reorders or site.traits.moves or site.traits.identity:
        found = known if holding and not any(v.constant for v in holding) else None
    if found is not None:
        flow.tags |= {v.name: found for v in made}
    return found


def is_held(graph: DependencyGraph, value: Value, d: Dim) -> bool:
    """Has a value the dim on one of its axes?"""
    return any(d in graph.find_dims(a) for a in value.axes)


def _trace_contraction(
    graph: DependencyGraph, site: Site, d: Dim, flow: _Flow, holding: list[Value]
) -> frozenset[Tag] | None:
    """Tags of what a product gives, empty where it sums over the dim."""
    slot = site.traits.bias
    bias = site.inputs[slot] if 0 < slot < len(site.inputs) else None
    weights = [v for v in holding if v.constant and v is not bias]
    values = [v for v in holding if not v.constant]
    summed = is_summed(graph, site, d)
    if len(weights) == 1 and not values and not summed and float(site.attrs.get("alpha", 1.0)) == 1:
        beside = [bias.name] if bias is not None and bias in holding else []
        if bias is not None and (not beside or not bias.constant or float(site.attrs.get("beta", 1.0)) != 1):
            return None
        flow.made[weights[0].name] = beside
        return frozenset({weights[0].name})
    if len(weights) == 1 and len(values) == 1 and summed:
        flow.read.append(weights[0].name)
        return frozenset()
    if len(values) == 2 and not weights and summed:
        flow.met.append((flow.tags.get(values[0].name, frozenset()), flow.tags.get(values[1].name, frozenset())))
        return frozenset()
    if len(values) == 1 and not weights and not summed:
        return flow.tags.get(values[0].name)
    return None


def is_summed(graph: DependencyGraph, site: Site, d: Dim) -> bool:
    """Does a contraction sum over the dim?"""
    scope = site.scopes[0]
    return any(d in graph.find_dims(scope.env[n]) for n in scope.find_contracted() if n in scope.env)


def _trace_sum(site: Site, flow: _Flow, holding: list[Value], known: frozenset[Tag]) -> frozenset[Tag] | None:
    """A sum of values that all have the dim; constants among them are turned with what they are added to."""
    values = [v for v in holding if not v.constant]
    if len(holding) != sum(v is not None for v in site.inputs) or not values:
        return None
    constants = [v.name for v in holding if v.constant]
    if constants and site.traits.sums != "plus":
        return None
    flow.added += [(n, known) for n in constants]
    return known


def _split_sides(graph: DependencyGraph, group: Group, flow: _Flow) -> Mixable | None:
    known: dict[str, Columns] = {}
    for m in group.members:
        found = find_columns(graph, group, m.value)
        if found is None:
            return None
        known[m.value] = found
    if not flow.met:
        makers = [*flow.made, *(n for row in flow.made.values() for n in row), *(n for n, _ in flow.added)]
        is_whole = flow.made and flow.read
        return Mixable(group, [known[n] for n in makers], [known[n] for n in flow.read], False) if is_whole else None
    if flow.read or len({frozenset(pair) for pair in flow.met}) != 1:
        return None
    first, second = flow.met[0]
    sides = _halve_sides(known, flow) if first == second else _tell_sides(known, flow, first, second)
    return Mixable(group, *sides, True) if sides is not None else None


def _halve_sides(known: dict[str, Columns], flow: _Flow) -> tuple[list[Columns], list[Columns]] | None:
    """Queries and keys that are made by one weight, one behind the other."""
    both = [h for h in map(_halve, known.values()) if h is not None]
    if len(flow.made) != 1 or len(both) != len(known):
        return None
    return [a for a, _ in both], [b for _, b in both]


def _tell_sides(
    known: dict[str, Columns], flow: _Flow, first: frozenset[Tag], second: frozenset[Tag]
) -> tuple[list[Columns], list[Columns]] | None:
    """Queries and keys that are made by weights of their own."""
    if first & second or first | second != set(flow.made):
        return None
    sides = []
    for tags in (first, second):
        beside = [*(n for t in tags for n in flow.made[t]), *(n for n, others in flow.added if others <= tags)]
        sides.append([known[n] for n in sorted({*tags, *beside})])
    return (sides[0], sides[1]) if len(sides[0]) + len(sides[1]) == len(known) else None


def find_columns(graph: DependencyGraph, group: Group, name: str) -> Columns | None:
    """The channels of a constant, block by block; rows go by the place on the axis of the channels first."""
    member = next(m for m in group.members if m.value == name)
    shape = graph.values[name].shape
    owner = np.broadcast_to(index_channels(graph, group, member), shape).ravel()
    place = np.unravel_index(np.arange(owner.size), shape)[member.axis]
    order = np.lexsort((np.arange(owner.size), place))
    positions = []
    for block in range(group.blocks):
        rows = [order[owner[order] == block * group.size + c] for c in range(group.size)]
        if len({len(r) for r in rows}) != 1 or not len(rows[0]):
            return None
        positions.append(np.stack(rows, axis=1))
    return Columns(name, positions)


def _halve(columns: Columns) -> tuple[Columns, Columns] | None:
    """The two places where one constant holds the channels, one behind the other on the axis."""
    if any(len(p) % 2 for p in columns.positions):
        return None
    first = [p[: len(p) // 2] for p in columns.positions]
    second = [p[len(p) // 2 :] for p in columns.positions]
    return Columns(columns.value, first), Columns(columns.value, second)


__all__ = ["Columns", "Mixable", "find_columns", "find_mixable", "is_held", "is_own", "is_summed", "list_touching"]
