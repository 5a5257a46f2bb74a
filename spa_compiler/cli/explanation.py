"""The output of `spa explain`: what a group, a node, a value or an axis is part of, and the chain between two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spa_compiler.algebra.expr import Dim, iterate_dims
from spa_compiler.analysis.dependency_graph import Axis, DependencyGraph, Group
from spa_compiler.analysis.patterns import list_own_names
from spa_compiler.cli.inspection import analyze_file
from spa_compiler.errors import SpaError, UsageError, suggest_names
from spa_compiler.ir.memory import USUAL_MEMORY
from spa_compiler.operators.site import Site, describe_place

Chain = Sequence[tuple[Axis, str, Axis]]
GROUP, NODE, VALUE, AXIS = "group", "node", "value", "axis"
"""Kinds of things that can be asked about."""
MOST_AXES = 4
"""Axes that a line names; of the rest it says how many there are."""


@dataclass(frozen=True)
class Subject:
    """A thing that was asked about: its kind, how answers call it, its axes, and its dims on them if not all."""

    kind: str
    name: str
    axes: tuple[Axis, ...]
    dims: frozenset[Dim] | None = None


def find_subject(graph: DependencyGraph, text: str) -> Subject:
    """Find the thing that a text names: an axis (VALUE:AXIS), a group (name or label), a node, a module, or a value.

    Raises UsageError with names that are near for one that names nothing.
    """
    name, _, index = text.rpartition(":")
    if name in graph.values and index.isdigit():
        axis = (name, int(index))
        graph.axis(axis)
        return Subject(AXIS, text, (axis,))
    if (group := graph.find_group(text)) is not None:
        axes = tuple((m.value, m.axis) for m in group.members)
        return Subject(GROUP, f"group '{group.name}'", axes, frozenset(group.dims))
    if sites := [s for s in graph.sites if text in (s.name, s.module) or s.module.startswith((f"{text}.", f"{text}/"))]:
        return Subject(NODE, _describe_sites(text, sites), tuple(_list_axes(graph, sites)))
    if text in graph.values:
        return Subject(VALUE, f"value '{text}'", tuple((text, i) for i in range(len(graph.values[text].axes))))
    raise UsageError(
        f"nothing is called '{text}'{suggest_names(text, _list_names(graph))}: expected a group, a node, a value or "
        "VALUE:AXIS, for example conv1.weight:0; `spa inspect` lists the groups"
    )


def _describe_sites(text: str, sites: Sequence[Site]) -> str:
    return f"node {describe_place(sites[0])}" if len(sites) == 1 else f"module '{text}' ({len(sites)} nodes)"


def _list_axes(graph: DependencyGraph, sites: Sequence[Site]) -> Iterator[Axis]:
    """Axes of weights that nodes read, and of what they give."""
    weights = set(graph.weights)
    names = dict.fromkeys(
        v.name
        for s in sites
        for v in (*(v for v in s.inputs if v is not None and v.name in weights), *s.outputs)
        if v is not None
    )
    yield from ((n, i) for n in names for i in range(len(graph.values[n].axes)))


def _list_names(graph: DependencyGraph) -> Iterator[str]:
    yield from (n for g in graph.groups for n in (g.name, g.label))
    yield from (n for s in graph.sites for n in list_own_names(s)[:-1])
    yield from graph.values


class Explanation(dict[str, Any]):
    """Why things are coupled or frozen, as JSON and as text."""

    def lines(self) -> Iterator[str]:
        """The chain between two things, or what is known of one."""
        if self["other"] is None:
            yield from self._list_groups()
            yield from self._list_frozen()
        elif not self["coupled"]:
            yield f"nothing couples {self['axis']} with {self['other']}: no channel lies on both"
        else:
            yield from _draw_chain(self["chain"]) if self["chain"] else ("the same axis",)

    def _list_groups(self) -> Iterator[str]:
        for g in self["groups"]:
            own = "" if g["is_subject"] else f"{g['axis']} belongs to the "
            blocks = f" in each of {g['blocks']} blocks" if g["blocks"] > 1 else ""
            yield f"{own}group '{g['name']}' (label {g['label']}) of {g['size']} channels{blocks}; on it hang:"
            places = [f"{m['value']}:{m['axis']}" for m in g["members"]]
            width = max(map(len, places))
            for m, place in zip(g["members"], places, strict=True):
                yield f"    {m['role']:5}  {place:{width}}  {m['module']}".rstrip()
            if g["chain"]:
                yield f"  the chain from {g['chain'][0]['axis']} to {g['chain'][-1]['other']}:"
                yield from (f"    {line}" for line in _draw_chain(g["chain"]))

    def _list_frozen(self) -> Iterator[str]:
        parts = {g["axis"] for g in self["groups"]}
        for f in self["frozen"]:  # of an axis that a group is part of a factor, or a piece of it
            axes = [f"another part of {a}" if a in parts else a for a in f["axes"]]
            more = len(axes) - MOST_AXES
            subject = ", ".join(axes[:MOST_AXES]) + (f" and {more} more" if more > 0 else "")
            word = "is" if len(f["axes"]) == 1 else "are"
            yield f"{subject} {word} frozen: {f['reason']}" + (f" (at {f['where']})" if f["where"] else "")
            yield from (f"    {line}" for line in _draw_chain(f["chain"]))
        if not self["groups"] and not self["frozen"]:
            yield f"{self['axis']} may be pruned, but no weight has this axis"


def _draw_chain(chain: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Axes below each other, with the node between two that couples them."""
    for k, link in enumerate(chain):
        if k == 0:
            yield link["axis"]
        yield f"  |  {link['node']}"
        yield link["other"]


def explain_file(
    path: Path, a: str, b: str | None, input_shape: tuple[str, ...] = (), memory: str = USUAL_MEMORY
) -> Explanation:
    """The chain that couples two things; of one the groups that it is part of, and why the rest of it is frozen."""
    graph = analyze_file(path, input_shape, memory)
    one = find_subject(graph, a)
    if b is None:
        frozen = list(_find_reasons(graph, one)) if one.kind != GROUP else []
        return Explanation(axis=one.name, other=None, groups=list(_find_groups(graph, one)), frozen=frozen)
    two = find_subject(graph, b)
    chosen = [s.dims for s in (one, two) if s.dims is not None]
    chain = graph.find_chain(one.axes, two.axes, frozenset.intersection(*chosen) if chosen else None)
    return Explanation(
        axis=one.name, other=two.name, coupled=chain is not None, chain=_list_links(chain if chain is not None else ())
    )


def _find_groups(graph: DependencyGraph, subject: Subject) -> Iterator[dict[str, Any]]:
    """Groups that an axis of a subject is part of, each with the first such axis, all members, and a chain."""
    rows: dict[str, tuple[Group, Axis]] = {}
    for axis in subject.axes:
        dims = set(iterate_dims(graph.axis(axis))) if subject.dims is None else subject.dims
        for g in graph.groups:
            if dims & set(g.dims):
                rows.setdefault(g.label, (g, axis))
    for g, axis in rows.values():
        yield {
            "label": g.label, "name": g.name, "kind": g.kind, "size": g.size, "blocks": g.blocks,
            "is_subject": subject.kind == GROUP, "axis": _name_axis(axis),
            "members": [
                {"value": m.value, "axis": m.axis, "role": m.role, "module": _find_module(graph, m.value)}
                for m in g.members
            ],
            "chain": _list_links(_find_own_chain(graph, g, axis)),
        }  # fmt: skip


def _find_own_chain(graph: DependencyGraph, group: Group, axis: Axis) -> Chain:
    """From where the channels are made to the axis; where it is made there, to the first weight that sums over them."""
    start = next((m for m in group.members if m.role == "out"), group.members[0])
    ends = [m for m in group.members if m.role == "in"] or group.members[1:]
    first = (start.value, start.axis)
    if axis != first:
        return graph.find_chain([first], [axis], group.dims) or ()
    found = (graph.find_chain([first], [(m.value, m.axis)], group.dims) for m in ends[:1])
    return next(found, None) or ()


def _find_module(graph: DependencyGraph, weight: str) -> str:
    return next((s.module or describe_place(s) for s in graph.find_users(weight)), "")


def _find_reasons(graph: DependencyGraph, subject: Subject) -> Iterator[dict[str, Any]]:
    """Reasons with the axes that are frozen for each; where one axis was asked for, with the chain to the place."""
    rows: dict[tuple[str, str], list[Axis]] = {}
    for axis in subject.axes:
        for r in graph.find_reasons(axis) if subject.kind == AXIS or graph.axis(axis).size > 1 else ():
            axes = rows.setdefault((r.text, r.where or ""), [])
            axes += [] if axis in axes else [axis]
    for (text, where), axes in rows.items():
        chain = _list_links(_find_path(graph, axes[0], where)) if subject.kind == AXIS else []
        yield {"axes": [_name_axis(a) for a in axes], "reason": text, "where": where, "chain": chain}


def _name_axis(axis: Axis) -> str:
    return f"{axis[0]}:{axis[1]}"


def _list_links(chain: Iterable[tuple[Axis, str, Axis]]) -> list[dict[str, str]]:
    return [{"axis": _name_axis(x), "node": node, "other": _name_axis(y)} for x, node, y in chain]


def _find_path(graph: DependencyGraph, a: Axis, where: str) -> Chain:
    """The shortest chain of equations from an axis to the node or value that froze it."""
    ends = [n for n in graph.network if n[0] == where]
    for site in graph.sites:
        if describe_place(site) == where:
            ends += [(v.name, i) for v in (*site.inputs, *site.outputs) if v is not None for i in range(len(v.axes))]
    paths = []
    for end in ends:
        try:
            paths.append(graph.explain(a, end))
        except SpaError:
            continue
    return min(paths, key=len, default=[])


__all__ = ["Explanation", "Subject", "explain_file", "find_subject"]
