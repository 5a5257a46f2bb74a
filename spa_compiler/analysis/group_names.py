"""Names of groups: the module that writes their channels, and their kind: `layers.0.attn heads`, `conv1 channels`.

    name_groups(groups, sites, weights)      # sets `name`, `kind`, `writers` and `readers` of every group

Every node gets the module that it lies in, too, where that is known (`Site.module`).

A name follows from the graph and from names of modules alone, never from numbers in weights: exports of one network
with other weights have the same names. It is unique: where the module around all nodes that write and read a group is
no answer, the first that writes it is named, and what is left is counted in the order of the graph.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum

from spa_compiler.algebra.expr import Dim, Expr, Prod, iterate_dims, resolve
from spa_compiler.algebra.masks import multiplicity
from spa_compiler.analysis.groups import Group
from spa_compiler.analysis.scope_names import count_levels, find_common_scope, read_path, read_stem
from spa_compiler.operators.site import Site, Value


class Kind(StrEnum):
    """Kinds of groups, as their names end in them."""

    CHANNELS = "channels"
    HIDDEN = "hidden"
    UNITS = "units"
    EMBEDDING = "embedding"
    HEADS = "heads"
    QUERIES = "query heads"
    KEYS = "q/k dim"
    HEAD_VALUES = "v dim"
    PARTS = "groups"
    STREAM = "residual stream"


WIDE_KINDS = frozenset((Kind.HIDDEN, Kind.HEADS, Kind.QUERIES, Kind.KEYS, Kind.HEAD_VALUES, Kind.STREAM))
"""Kinds that are named by the module around all that writes and reads them; others by that which writes them first."""
MOST_LEVELS = 2
"""A module around a node is its name where it is at most so many levels further out."""


def name_groups(groups: Sequence[Group], sites: Sequence[Site], weights: Collection[str]) -> None:
    """Give every group its name, its kind and the modules around it, and every node its module."""
    namer = _Namer(sites, frozenset(weights))
    names = [
        namer.name_site(k) if read else s.module for k, (s, read) in enumerate(zip(sites, namer.weights, strict=True))
    ]
    for s, name in zip(sites, names, strict=True):
        s.module = name or (read_path(s.name) if "/" in s.name else "")
    if not groups:
        return
    kinds = _KindFinder(groups, sites)
    rows = [(g, *namer.list_writers_and_readers(g)) for g in groups]
    for g, writers, readers in rows:
        g.writers, g.readers = (tuple(dict.fromkeys(map(namer.name_site, ks))) for ks in (writers, readers))
    around = {g.dims[0]: readers for g, _, readers in rows}  # of heads: where what they give is read
    rows = [
        (g, writers, readers or (around.get(g.block, []) if g.block is not None else []))
        for g, writers, readers in rows
    ]
    rows.sort(key=lambda row: min((*row[1], *row[2]), default=len(sites)))
    for g, writers, _ in rows:
        g.kind = kinds.find_kind(g, [sites[k] for k in writers])
    choices = [list(namer.list_choices(g, *rest)) for g, *rest in rows]
    names = _choose_names(choices, {g.label for g in groups})
    for (g, *_), name in zip(rows, names, strict=True):
        g.name = name


def keep_names(groups: Sequence[Group], earlier: Sequence[Group]) -> None:
    """Call groups as they were called before an edit, by their labels: a pattern names the same ones in every pass."""
    before = {g.label: g for g in earlier}
    kept = {g.label: old for g in groups if (old := before.get(g.label)) is not None}
    rest = [g for g in groups if g.label not in kept]
    taken = {g.label for g in groups} | {old.name for old in kept.values()}
    for g, name in zip(rest, _choose_names([[g.name] for g in rest], taken), strict=True) if rest else ():
        g.name = name
    for g in groups:
        if (old := kept.get(g.label)) is not None:
            g.name, g.kind = old.name, old.kind


def _choose_names(choices: Sequence[Sequence[str]], taken: set[str]) -> list[str]:
    """One name of each list: the first that no other has, else the last with a number."""
    names = [c[0] for c in choices]
    for level in range(1, max(map(len, choices))):
        counts = Counter(names)
        names = [c[min(level, len(c) - 1)] if counts[n] > 1 else n for n, c in zip(names, choices, strict=True)]
    counts, used, out = Counter(names), set(taken) | {n for n, k in Counter(names).items() if k == 1}, list[str]()
    for name in names:
        k, found = 1, name
        while (counts[name] > 1 or name in taken) and (found := f"{name} {k}") in used:
            k += 1
        used.add(found)
        out.append(found)
    return out


class _Namer:
    """Names of the nodes that work on activations, by the weights that they read, the metadata and their paths."""

    def __init__(self, sites: Sequence[Site], weights: frozenset[str]) -> None:
        self.sites = sites
        self.weights: list[list[str]] = []  # of each node, through nodes that work on constants only
        self.users: dict[str, list[int]] = {}  # of each weight: nodes that give activations
        self.readers: dict[str, list[int]] = {}
        self._names: dict[int, str] = {}
        source: dict[str, list[str]] = {}
        for k, site in enumerate(sites):
            inputs = list(dict.fromkeys(v.name for v in site.inputs if v is not None))
            for n in inputs:
                self.readers.setdefault(n, []).append(k)
            read = [w for n in inputs for w in source.get(n, [n] if n in weights else [])]
            self.weights.append(read)
            outputs = [v for v in site.outputs if v is not None]
            if all(v.constant for v in outputs):
                source |= {v.name: read for v in outputs}
            else:
                for w in dict.fromkeys(read):
                    self.users.setdefault(w, []).append(k)

    def list_writers_and_readers(self, group: Group) -> tuple[list[int], list[int]]:
        """Nodes that make the channels of a group, and nodes that sum over them; those that scale them for neither."""
        roles: dict[str, set[int]] = {}
        for m in group.members:
            roles.setdefault(m.role, set()).update(self.users.get(m.value, ()))
        writers = roles.get("out") or roles.get("scale", set())
        work = {k for k in writers if self.sites[k].traits.is_contraction or self.sites[k].traits.lookup}
        return sorted(work or writers), sorted(roles.get("in", ()))

    def list_choices(self, group: Group, writers: list[int], readers: list[int]) -> Iterable[str]:
        """Names for a group, the nicest first."""
        own = [self.name_site(k) for k in writers or readers] or [group.label]
        every = own if group.kind == Kind.STREAM else [*own, *(self.name_site(k) for k in readers)]
        around = self._find_module_around(every) if group.kind in WIDE_KINDS else ""
        if around or group.kind == Kind.STREAM:
            yield _join_words(around, group.kind)
        if group.kind != Kind.STREAM:
            yield _join_words(own[0], group.kind)

    def _find_module_around(self, names: Sequence[str]) -> str:
        """The module around all of these, where it is near the first and not that of the whole model."""
        around = find_common_scope(names)
        levels = count_levels(names[0]) - count_levels(around)
        return "" if self.root == around or self.root.startswith(around) or levels > MOST_LEVELS else around

    @functools.cached_property
    def root(self) -> str:
        """The module that everything with weights lies in, or ''."""
        names = [self.name_site(k) for k, s in enumerate(self.sites) if self.weights[k] and s.traits.is_contraction]
        return find_common_scope(sorted(set(names)))

    def name_site(self, k: int) -> str:
        """The module of a node."""
        if k not in self._names:
            self._names[k] = self._find_stem(k) or self._find_module(k)
        return self._names[k]

    def _find_module(self, k: int) -> str:
        site = self.sites[k]
        after = self._find_adding_site(site)
        return (
            site.module
            or ("/" in site.name and read_path(site.name))
            or (self._find_stem(after) if after is not None else "")
            or site.name.strip("/")
        )

    def _find_stem(self, k: int) -> str:
        """The module by a weight that this node alone reads, wide ones first."""
        own = [w for w in dict.fromkeys(self.weights[k]) if self.users.get(w) == [k]]
        return next(filter(None, map(read_stem, own)), "")

    def _find_adding_site(self, site: Site) -> int | None:
        """The node that adds a bias to what this one gives, where that is all that reads it."""
        found = self.readers.get(site.outputs[0].name, []) if site.outputs and site.outputs[0] is not None else []
        is_sum = len(found) == 1 and self.sites[found[0]].traits.arithmetic == "add" and bool(self.weights[found[0]])
        return found[0] if is_sum else None


def _join_words(scope: str, kind: str) -> str:
    return f"{scope} {kind}".strip()


class _KindFinder:
    """Kinds of groups by the nodes that carry their dims."""

    def __init__(self, groups: Sequence[Group], sites: Sequence[Site]) -> None:
        self.outer: set[Dim] = {g.block for g in groups if g.block is not None}
        self.keys: set[Dim] = set()
        self.queries: set[Dim] = set()
        self.streams: set[Dim] = set()
        self._find_products(groups, sites)
        self._find_streams(sites)

    def find_kind(self, group: Group, writers: Sequence[Site]) -> str:
        """The word for a group."""
        dims, is_convolution = set(group.dims), any(s.traits.is_convolution for s in writers)
        is_read = bool(writers) and any(m.role == "in" for m in group.members)  # by another weight
        if dims & self.keys and not is_read:
            return Kind.KEYS
        if dims & self.outer:
            return Kind.PARTS if is_convolution else Kind.HEADS
        if group.block is not None and dims & self.queries:
            return Kind.QUERIES
        if dims & self.streams:
            return Kind.STREAM
        if any(s.traits.zero == "cell" for s in writers):
            return Kind.UNITS
        if is_convolution:
            return Kind.CHANNELS
        if group.block is not None:
            return Kind.HEAD_VALUES if is_read else Kind.KEYS
        return Kind.EMBEDDING if writers and all(s.traits.lookup for s in writers) else Kind.HIDDEN

    def _find_products(self, groups: Sequence[Group], sites: Sequence[Site]) -> None:
        """Dims of groups that a product of two different activations sums over, and those that it keeps."""
        held = {d for g in groups for d in g.dims}
        for scope in (scope for s in sites for scope in s.scopes):
            contracted = scope.find_contracted()
            for name in contracted & scope.env.keys():
                both = [v for v, output, row in scope.tensors if not output and any(name in names for names in row)]
                found = held.intersection(iterate_dims(scope.env[name]))
                if found and len({v.name for v in both}) > 1 and not any(v.constant for v in both):
                    self.keys |= found
                    sides = [row for _, output, row in scope.tensors if any(name in names for names in row)]
                    kept = {n for row in sides for names in row for n in names} - contracted
                    self.queries.update(d for n in kept & scope.env.keys() for d in iterate_dims(scope.env[n]))

    def _find_streams(self, sites: Sequence[Site]) -> None:
        """Dims of sums of a value and of a branch that computes something of it."""
        before: dict[str, int] = {}  # contractions that a value follows from: bits of a number
        for k, site in enumerate(sites):
            mask = 0
            for v in (v for v in site.inputs if v is not None):
                mask |= before.get(v.name, 0)
            for operands in _list_sums(site):
                a, b = (before.get(v.name, 0) for v in operands)
                if a != b and (a & ~b == 0 or b & ~a == 0 or a & b):
                    axes = map(resolve, operands[0].axes)  # a part of a product is no whole axis, nor are several gates
                    self.streams.update(d for e in axes for d in _list_whole_dims(e))
            mask |= (1 << k) if site.traits.is_contraction else 0
            before |= {v.name: mask for v in site.outputs if v is not None}


def _list_whole_dims(e: Expr) -> Iterable[Dim]:
    """Dims of an axis that are, each once, all that it has."""
    return [d for d, times in multiplicity(e).items() if times == 1] if not isinstance(e, Prod) else []


def _list_sums(site: Site) -> Iterable[tuple[Value, Value]]:
    """Two different activations of one shape that a node adds."""
    norm = site.traits.norm
    is_sum = site.traits.arithmetic == "add" or (norm is not None and norm.sum_output is not None)
    is_sum = is_sum and not site.path  # the states of a loop are none
    found = [v for v in site.inputs if v is not None and not v.constant] if is_sum else []
    if len(found) == 2 and found[0] is not found[1] and found[0].shape == found[1].shape:
        yield found[0], found[1]


__all__ = ["Kind", "keep_names", "name_groups"]
