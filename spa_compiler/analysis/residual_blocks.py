"""Residual blocks: sums of a shortcut and of a branch that computes more, and the nodes that the branch alone runs.

for block in find_residual_blocks(graph):
    block.shortcut, block.total            # names of what it reads and of what it gives, of one shape
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.operators.site import Site, Value


@dataclass(frozen=True)
class ResidualBlock:
    """A sum: the value beside the branch, the value that it gives, and the numbers of the branch's own nodes."""

    shortcut: str
    total: str
    sites: frozenset[int]

    def has_group(self, graph: DependencyGraph, group: Group) -> bool:
        """Do only nodes of the branch read the weights of a group?"""
        numbers = {id(s): k for k, s in enumerate(graph.sites)}
        return all(numbers[id(s)] in self.sites for m in group.members for s in graph.readers.get(m.value, ()))


def find_residual_blocks(graph: DependencyGraph) -> list[ResidualBlock]:
    """The blocks in the order of the graph; a block may lie in another one."""
    return list(_iterate_blocks(graph))


def find_blocks_of_groups(graph: DependencyGraph) -> dict[str, ResidualBlock]:
    """The smallest block around each group, by label, where it lies in one."""
    blocks = sorted(find_residual_blocks(graph), key=lambda b: len(b.sites))
    found = ((g.label, next((b for b in blocks if b.has_group(graph, g)), None)) for g in graph.groups)
    return {label: b for label, b in found if b is not None}


def _iterate_blocks(graph: DependencyGraph) -> Iterator[ResidualBlock]:
    before: dict[str, int] = {}  # nodes that a value follows from: bits of a number
    for k, site in enumerate(graph.sites):
        read = [before.get(v.name, 0) for v in site.inputs if v is not None]
        mask = 1 << k
        for part in read:
            mask |= part
        before |= {v.name: mask for v in site.outputs if v is not None}
        operands = _find_operands(site)
        if operands is None:
            continue
        a, b = operands
        only = [before.get(x.name, 0) & ~before.get(y.name, 0) for x, y in ((a, b), (b, a))]
        sites = [frozenset(_list_bits(m)) for m in only]
        work = [sum(graph.sites[i].traits.is_contraction for i in s) for s in sites]
        if work[0] != work[1]:
            branch = int(work[1] > work[0])
            yield ResidualBlock((b, a)[branch].name, site.outputs[0].name, sites[branch])  # type: ignore[union-attr]


def _find_operands(site: Site) -> tuple[Value, Value] | None:
    """Two different activations of one shape that a node adds, outside of bodies."""
    values = [v for v in site.inputs if v is not None]
    if site.path or site.traits.arithmetic != "add" or len(values) != 2 or not site.outputs or site.outputs[0] is None:
        return None
    a, b = values
    if a.constant or b.constant or a is b or a.shape != b.shape:
        return None
    return a, b


def _list_bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
