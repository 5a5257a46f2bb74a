"""The layers of a model for its report: multiply-accumulates, milliseconds and widths of each, dense and compiled.

A layer is a node that multiplies and accumulates; everything else hangs on one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spa_compiler.algebra.expr import Expr, iterate_dims
from spa_compiler.algebra.masks import Masks, count_kept
from spa_compiler.analysis.cost import CostModel, name_contraction
from spa_compiler.analysis.cost_terms import list_contractions
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.execution.session import open_quiet_session
from spa_compiler.operators.site import Site
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import find_widths
from spa_compiler.verification.feeds import Feed
from spa_compiler.verification.profile import Owner, profile_nodes, sum_by_contraction


def list_contraction_rows(state: State) -> list[dict[str, Any]]:
    """Every layer of the dense model, in its order; one that is gone has nothing left in the compiled model."""
    dense, graph = state.require_dense_graph(), state.require_graph()
    before = CostModel(dense).count_by_contraction({})
    after = CostModel(graph).count_by_contraction(find_widths(graph, state.plan))
    masks, left = state.plan.masks(graph), {name_contraction(s): s for s, _ in list_contractions(graph)}
    behind, out = _find_contractions_before(dense), []
    for site, _ in list_contractions(dense):
        name = name_contraction(site)
        width = _find_width(dense, site, {})
        kept = _find_width(graph, left[name], masks) if name in left else 0
        out.append(
            {
                "name": name,
                "op": site.op,
                "after": behind[id(site)],
                "width": width,
                "kept": width if kept is None else kept,
                "dense_macs": round(before[name]),
                "compiled_macs": round(after.get(name, 0.0)),
                "dense_ms": None,
                "compiled_ms": None,
            }
        )
    return out


def _find_width(graph: DependencyGraph, site: Site, masks: Masks) -> int | None:
    """Channels that a layer gives: of the axis of its output that can lose some, else of the second or last."""
    y = site.first_output
    if y is None or not y.axes:
        return None
    free = {d for g in graph.groups for d in g.dims}
    usual = 1 if site.traits.is_convolution and len(y.axes) > 1 else -1
    axis: Expr = next((a for a in y.axes if not free.isdisjoint(iterate_dims(a))), y.axes[usual])
    return count_kept(axis, masks)


def _find_contractions_before(graph: DependencyGraph) -> dict[int, list[str]]:
    """For each layer the names of those whose results reach it through nodes that are none."""
    contractions = {id(site): name_contraction(site) for site, _ in list_contractions(graph)}
    held: dict[str, tuple[str, ...]] = {}
    out: dict[int, list[str]] = {}
    for site in graph.sites:
        reads = dict.fromkeys(n for v in site.inputs if v is not None for n in held.get(v.name, ()))
        if id(site) in contractions:
            out[id(site)] = list(reads)
            reads = {contractions[id(site)]: None}
        for v in site.outputs:
            if v is not None:
                held[v.name] = tuple(reads)
    return out


def _find_owners(graph: DependencyGraph) -> dict[str, Owner]:
    """For every value that comes from one layer by nodes that are none: that layer.

    Of a sum the first of its operands that has one: onnxruntime adds the others while it computes that layer.
    """
    contractions = {id(site): name_contraction(site) for site, _ in list_contractions(graph)}
    out: dict[str, Owner] = {}
    for site in graph.sites:
        behind = next((out[v.name].contraction for v in site.inputs if v is not None and v.name in out), None)
        contraction = contractions.get(id(site), behind)
        if contraction is not None:
            out |= {v.name: Owner(site.op, contraction) for v in site.outputs if v is not None}
    return out


def time_contractions(
    contractions: list[dict[str, Any]], state: State, compiled: Path, feed: Feed, threads: int
) -> dict[str, float]:
    """Fill in the milliseconds of the layers, by onnxruntime's profile of both files; what other nodes take is given.

    Raises ModelError where one does not run.
    """
    names, owners = [contraction["name"] for contraction in contractions], _find_owners(state.require_dense_graph())
    rest: dict[str, float] = {}
    for key, file in (("dense_ms", state.source.path), ("compiled_ms", compiled)):

        def open_profiled(prefix: str, file: Path = file) -> Any:
            return open_quiet_session(str(file), 3, threads, profile=prefix)

        times = profile_nodes(open_profiled, feed, f"the {key.split('_')[0]} model")
        found, rest[key] = sum_by_contraction(times, names, owners)
        for contraction in contractions:
            contraction[key] = found[contraction["name"]]
    return rest


def summarize_contractions(report: Mapping[str, Any]) -> str:
    """How many layers there are, and how many lost something."""
    contractions = report["layers"]
    cut = sum(contraction["compiled_macs"] < contraction["dense_macs"] for contraction in contractions)
    return f"{cut} of {len(contractions)} layers have less to compute"


__all__ = ["list_contraction_rows", "summarize_contractions", "time_contractions"]
