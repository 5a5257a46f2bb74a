"""Patterns: shell patterns of groups, nodes, modules, weights and operators, wherever something is named by one.

    is_group_named(graph, group, "layers.*.attn heads")
    is_site_named(site, "type:Conv")

A group is named by itself (name or label), by its members (`weight` or `weight:axis`), and by nodes that read one; a
node by itself, its module, the constants that it reads, and `type:` with its operator.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.groups import Group
from spa_compiler.errors import suggest_patterns
from spa_compiler.operators.site import Site

TYPE = "type:"
"""The start of a pattern of operators."""


def is_named(names: Iterable[str], pattern: str) -> bool:
    """Does a shell pattern match one of these?"""
    return any(fnmatch.fnmatchcase(n, pattern) for n in names)


def is_site_named(site: Site, pattern: str) -> bool:
    """Does a pattern name this node?"""
    return is_named(list_site_names(site), pattern)


def is_group_named(graph: DependencyGraph, group: Group, pattern: str) -> bool:
    """Does a pattern name this group?"""
    return is_named(list_group_names(graph, group), pattern)


def list_own_names(site: Site) -> list[str]:
    """Names of a node but for those of constants that it reads."""
    return [n for n in (site.name, site.module, f"{TYPE}{site.op}") if n]


def list_site_names(site: Site) -> Iterator[str]:
    """Everything that names a node."""
    yield from list_own_names(site)
    yield from (v.name for v in site.inputs if v is not None and v.constant)


def list_group_names(graph: DependencyGraph, group: Group) -> Iterator[str]:
    """Everything that names a group."""
    yield from (group.name, group.label)
    for m in group.members:
        yield from (m.value, f"{m.value}:{m.axis}")
    sites = {id(s): s for m in group.members for s in (*graph.readers.get(m.value, ()), *graph.find_users(m.value))}
    for site in sites.values():
        yield from list_own_names(site)


def suggest_groups(graph: DependencyGraph, pattern: str) -> str:
    """The same of all that names groups: their own names first."""
    own = [n for g in graph.groups for n in (g.name, g.label)]
    return suggest_patterns(pattern, [*own, *(n for g in graph.groups for n in list_group_names(graph, g))])


def suggest_sites(graph: DependencyGraph, pattern: str) -> str:
    """The same of all that names nodes, and of the folders that these lie in."""
    names = [n for s in graph.sites for n in list_site_names(s)]
    return suggest_patterns(pattern, [*list_prefixes(s.name for s in graph.sites), *names])


def list_prefixes(names: Iterable[str]) -> list[str]:
    """Names and the folders that they lie in, with what would name all in these."""
    out: dict[str, None] = {}
    for name in names:
        out |= dict.fromkeys(f"{name[:k]}/*" for k, c in enumerate(name) if c == "/" and k)
        out |= {name: None}
    return list(out)


__all__ = [
    "is_group_named",
    "is_named",
    "is_site_named",
    "list_own_names",
    "list_site_names",
    "suggest_groups",
    "suggest_sites",
]
