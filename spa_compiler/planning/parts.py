"""Parts of a model that have budgets of their own: the nodes that a pattern names, their cost, and their groups.

    for part in find_parts(graph, {"unet/*": 0.35}):
        part.name, part.ratio, part.cost.total("macs", {})

A node is named as `analysis.patterns` says. A group is that of the smallest part with all nodes that read
its weights; a channel that leaves a part belongs to none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from spa_compiler.analysis.cost import CostModel, Widths
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.patterns import is_site_named, suggest_sites
from spa_compiler.errors import UsageError
from spa_compiler.operators.site import Site


class PartCost(CostModel):
    """Costs of some nodes of a graph, as functions of the widths of all of its groups."""

    def __init__(self, graph: DependencyGraph, sites: frozenset[int]) -> None:
        inside = [s for k, s in enumerate(graph.sites) if k in sites]
        read = {v.name for s in inside for v in s.inputs if v is not None}
        around = [s for k, s in enumerate(graph.sites) if k in sites or s.op == "Body"]  # how often bodies run
        super().__init__(replace(graph, sites=around, weights=[n for n in graph.weights if n in read]))
        self._rest = CostModel(replace(graph, sites=[], weights=[]))
        """Costs that belong to no node: those of weights in bodies that are not opened."""

    def total(self, unit: str, widths: Widths) -> float:
        """All of a unit that these nodes cost."""
        return super().total(unit, widths) - self._rest.total(unit, {})


@dataclass(frozen=True, eq=False)
class Part:
    """Nodes (numbers of sites), the share of their cost that shall go, and that cost."""

    name: str
    ratio: float
    sites: frozenset[int]
    cost: CostModel


def find_parts(graph: DependencyGraph, ratios: Mapping[str, float]) -> list[Part]:
    """The parts, smaller ones first. Raises UsageError for a pattern that names no node, with names that are near."""
    out = list[Part]()
    for pattern, ratio in ratios.items():
        sites = frozenset(k for k, s in enumerate(graph.sites) if is_site_named(s, pattern))
        if not sites:
            near = suggest_sites(graph, pattern)
            raise UsageError(f"--ratio {pattern}={ratio:g}: the pattern matches no node{near}")
        out.append(Part(pattern, ratio, sites, PartCost(graph, sites)))
    return sorted(out, key=lambda p: len(p.sites))


def measure_part(part: Part, unit: str, widths: Widths) -> float:
    """The share of its cost that a part loses at these widths."""
    dense = part.cost.total(unit, {})
    return 1 - part.cost.total(unit, widths) / dense if dense else 0.0


def find_groups_of_parts(graph: DependencyGraph, parts: Iterable[Part]) -> dict[str, Part]:
    """The smallest part around each group, by label, where there is one."""
    numbers, parts = {id(s): k for k, s in enumerate(graph.sites)}, list(parts)
    out: dict[str, Part] = {}
    for g in graph.groups:
        sites = {numbers[id(s)] for s in list_readers(graph, g)}
        found = next((p for p in parts if sites <= p.sites), None)
        out |= {g.label: found} if found is not None and sites else {}
    return out


def list_readers(graph: DependencyGraph, group: Group) -> list[Site]:
    """Nodes that read the weights of a group and give activations."""
    found = (s for m in group.members for s in graph.readers.get(m.value, ()))
    return [s for s in found if not all(v is None or v.constant for v in s.outputs)]
