"""Costs that come from outside, one of each kind."""

from __future__ import annotations

from collections.abc import Iterator

from spa_compiler import DependencyGraph, Model
from spa_compiler.analysis.cost_kinds import CountedCost, GroupShare, MeasuredCost, Term
from spa_compiler.analysis.cost_terms import list_byte_terms, list_mac_terms
from spa_compiler.analysis.dependency_graph import Group
from spa_compiler.operators.macs import list_products


def list_activations(graph: DependencyGraph) -> Iterator[Term]:
    """Entries of what contractions give."""
    for site in graph.sites:
        if list_products(site):
            yield Term(tuple(site.y.axes))


def list_energy_terms(graph: DependencyGraph) -> list[Term]:
    """Energy of one sample: 4.6 pJ a multiply-accumulate, 20 pJ a byte of weights."""
    return [*(t.scale(4.6) for t in list_mac_terms(graph)), *(t.scale(20) for t in list_byte_terms(graph))]


def measure_file(dense: Model, small: Model, threads: int) -> tuple[float, float]:
    """Bytes of a file with all weights in it."""
    return float(dense.proto().ByteSize()), float(small.proto().ByteSize())


def count_heads(group: Group, kept: int) -> int:
    """Units of groups whatever a unit is; the blocks of a group count once."""
    return kept


energy = CountedCost(terms=list_energy_terms, title="energy (pJ)", suffix="J", scales={"p": 1, "n": 1e3, "u": 1e6})
file = MeasuredCost(measure=measure_file, title="bytes of the file", suffix="Bytes", gain="smaller")
heads = GroupShare(count=count_heads)
