"""The costs of this distribution, one object each; `pyproject.toml` registers them under `spa_compiler.costs`.

Those of others are added in the same way (CONTRIBUTING.md).
"""

from __future__ import annotations

from spa_compiler.analysis.cost_kinds import SCALES, CountedCost, GroupShare, MeasuredCost, Term
from spa_compiler.analysis.cost_terms import list_byte_terms, list_mac_terms, list_parameter_terms
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.ir.memory import BINARY_SCALES
from spa_compiler.planning.latency_model import measure_milliseconds


def count_channels(group: Group, kept: int) -> int:
    """Channels of all groups."""
    return kept * group.blocks


def list_operation_terms(graph: DependencyGraph) -> list[Term]:
    """Floating-point operations of one sample: a multiplication and an addition for each MAC."""
    return [t.scale(2) for t in list_mac_terms(graph)]


macs = CountedCost(terms=list_mac_terms, title="MACs", suffix="MACs", example="1.2GMACs", rank=0)
flops = CountedCost(
    terms=list_operation_terms, title="FLOPs", suffix="FLOPs", example="2.4GFLOPs", rank=5, in_tables=False,
    in_summary=False,
)  # fmt: skip
params = CountedCost(terms=list_parameter_terms, title="parameters", suffix="params", example="8Mparams", rank=1)
size = CountedCost(
    terms=list_byte_terms, unit="bytes", title="size", row="weights (bytes)", suffix="B", example="20MB", rank=2,
    in_tables=False, scales={**SCALES, **BINARY_SCALES},
)  # fmt: skip
latency = MeasuredCost(
    measure=measure_milliseconds, unit="ms", suffix="ms", scales={"": 1.0}, example="15ms", rank=3, gain="faster",
    is_of_machine=True, apart=True,
)  # fmt: skip
channels = GroupShare(count=count_channels, rank=4)
