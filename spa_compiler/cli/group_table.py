"""The output of `spa inspect`: the groups as a table, and parameters that are frozen, by node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from spa_compiler.analysis.cost import CostModel, make_group_widths
from spa_compiler.analysis.cost_kinds import CountedCost
from spa_compiler.analysis.cost_registry import list_table_costs
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.cli.inspection import analyze_file
from spa_compiler.ir.memory import USUAL_MEMORY
from spa_compiler.report.document import format_si

PARAMETERS = "params"
"""The unit of the cost of which `spa inspect` also says what is frozen."""
MOST_MODULES = 2
"""Modules that a cell of the table names; of the rest it says how many there are."""
OVERLAP = "shares overlap: a weight between two groups counts for both, so that columns do not add up"
BY_WIDTH, BY_NAME, BY_GRAPH = "width", "name", "order"
"""Orders of the groups beside those by a cost; the last is that of the graph."""


def list_orders() -> list[str]:
    """The words of --sort."""
    return [*(c.unit for c in list_table_costs()), BY_WIDTH, BY_NAME, BY_GRAPH]


def _sort_groups(groups: Sequence[dict[str, Any]], word: str) -> list[dict[str, Any]]:
    if word == BY_GRAPH:
        return list(groups)
    if word == BY_NAME:
        return sorted(groups, key=lambda g: str(g["name"]))
    return sorted(groups, key=lambda g: -float(g["units"] if word == BY_WIDTH else g["shares"][word]))


class Inspection(dict[str, Any]):
    """The groups and what is frozen, as JSON and as text."""

    def arrange(self, sort: str, top: int | None) -> Inspection:
        """The same with the groups in an order, and no more than `top` of them and of the nodes that are frozen."""
        nodes = self["frozen_nodes"][:top]
        return Inspection({**self, "groups": _sort_groups(self["groups"], sort)[:top], "frozen_nodes": nodes})

    def list_totals(self) -> Iterator[str]:
        """Groups, parameters that can go, and what the model costs."""
        total, frozen = self["parameters"], sum(self["frozen"].values())
        others = "".join(f", {format_si(self[c.unit])} {c.title}" for c in _list_other_costs())
        prunable = f"{total - frozen:,} of {total:,} parameters are prunable{others}"
        yield f"{self['count']} groups; {prunable}"

    def list_members(self) -> Iterator[str]:
        """The axes that each group cuts."""
        for g in self["groups"]:
            stat = " (a statistic is taken over them)" if g["statistic"] else ""
            yield f"{g['name']} (label {g['label']}): {format_width(g)} units, {g['channels']} channels{stat}"
            yield from (f"    {m['role']:5} {m['value']}:{m['axis']}" for m in g["members"])


def inspect_file(path: Path, input_shape: tuple[str, ...] = (), memory: str = USUAL_MEMORY) -> Inspection:
    """Groups with members, size, and what would go with all channels of a group: parameters, MACs and added costs."""
    graph = analyze_file(path, input_shape, memory)
    cost, units = CostModel(graph), [c.unit for c in _list_other_costs()]
    totals = cost.totals({})
    groups = []
    for g in graph.groups:
        none = make_group_widths(g, 0)
        hang = {u: round(cost.of_group(g, u, {}) - cost.of_group(g, u, none)) for u in (PARAMETERS, *units)}
        shares = {u: hang[u] / totals[u] if totals[u] else 0.0 for u in hang}
        groups.append(
            {
                "label": g.label, "name": g.name, "kind": g.kind,
                "size": g.size, "blocks": g.blocks, "units": g.size * g.blocks,
                "channels": graph.count_channels(g), "statistic": g.stat,
                "parameters": hang.pop(PARAMETERS), **hang, "shares": shares,
                "writers": list(g.writers), "readers": list(g.readers),
                "members": [{"value": m.value, "axis": m.axis, "role": m.role} for m in g.members],
            }
        )  # fmt: skip
    frozen, others = graph.frozen_parameters(), {u: totals[u] for u in units}
    return Inspection(
        count=len(groups), groups=groups, frozen=frozen, frozen_nodes=list_frozen_nodes(graph),
        parameters=totals[PARAMETERS], **others,
    )  # fmt: skip


def list_frozen_nodes(graph: DependencyGraph) -> list[dict[str, Any]]:
    """Nodes whose weights no group can cut: how many parameters they hold, and why; most parameters first."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name, reason in graph.list_frozen_weights():
        user = next(iter(graph.find_users(name)), None)
        node = f"{user.op} '{user.name}'" if user is not None else ""
        row = rows.setdefault((node, reason), {"node": node, "module": "", "weights": [], "parameters": 0})
        row |= {"module": user.module if user is not None else "", "reason": reason}
        row["weights"].append(name)
        row["parameters"] += graph.count_parameters(name)
    by_reason: dict[str, int] = {}
    for row in rows.values():
        by_reason[row["reason"]] = by_reason.get(row["reason"], 0) + row["parameters"]
    others = {r: n - by_reason.get(r, 0) for r, n in graph.frozen_parameters().items()}  # in bodies, and defaults
    rest = [{"node": "", "module": "", "weights": [], "parameters": n, "reason": r} for r, n in others.items() if n]
    return sorted([*rows.values(), *rest], key=lambda row: -row["parameters"])


def make_group_table(found: Mapping[str, Any]) -> Table:
    """One row a group."""
    costs = _list_other_costs()
    columns = [Column(c.title, justify="right") for c in costs] + [Column("parameters", justify="right")]
    numbers = [part for c in columns for part in (c, Column("%", justify="right"))]
    words = (Column("group", overflow="fold"), Column("width", justify="right"))
    ends = (Column("written by", overflow="fold"), Column("read by", overflow="fold"))
    table = Table(*words, *numbers, *ends, box=None, pad_edge=False, caption=OVERLAP, caption_justify="left")
    for g in found["groups"]:
        names = [*((c.unit, c.unit) for c in costs), ("parameters", PARAMETERS)]
        cells = [text for key, unit in names for text in (format_si(g[key]), f"{100 * g['shares'][unit]:.1f}")]
        row = (g["name"], format_width(g), *cells, *(_format_names(g[side]) for side in ("writers", "readers")))
        table.add_row(*map(Text, row))  # brackets in names are no markup
    return table


def make_frozen_table(found: Mapping[str, Any]) -> Table:
    """One row a node and reason."""
    head = (Column("frozen parameters", justify="right"), Column("of", overflow="fold"), "because")
    table = Table(*head, box=None, pad_edge=False)
    for row in found["frozen_nodes"]:
        place = row["module"] or row["node"] or _format_names(row["weights"])
        table.add_row(*map(Text, (f"{row['parameters']:,}", place, row["reason"])))
    return table


def format_width(group: Mapping[str, Any]) -> str:
    """Units of a group, `4 x 16` where each of four blocks has sixteen."""
    return f"{group['blocks']} x {group['size']}" if group["blocks"] > 1 else str(group["size"])


def _format_names(names: list[str]) -> str:
    more = len(names) - MOST_MODULES
    return ", ".join(names[:MOST_MODULES]) + (f" and {more} more" if more > 0 else "")


def _list_other_costs() -> list[CountedCost]:
    """Costs beside the parameters."""
    return [c for c in list_table_costs() if c.unit != PARAMETERS]
