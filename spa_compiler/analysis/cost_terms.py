"""Terms of multiply-accumulates, parameters and bytes: products of the axis sizes of a dependency graph.

What a Scan or a Loop repeats counts as often as it runs, once where that is not known; each branch of an If counts
half. What a contraction multiplies is told by its row in the operator tables (`operators.macs`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx

from spa_compiler.algebra.expr import Dim, Expr
from spa_compiler.analysis.cost_kinds import Term
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.ir.control_flow import find_scan_axes
from spa_compiler.ir.model import find_element_type
from spa_compiler.operators.macs import list_products
from spa_compiler.operators.site import Site

UNKNOWN_TRIPS = 1 << 31
"""Trip counts from which a Loop is one that only its condition ends; exporters write the largest integer."""


def list_mac_terms(graph: DependencyGraph) -> list[Term]:
    """Multiply-accumulates of one sample."""
    return [term for _, terms in list_contractions(graph) for term in terms]


def list_contractions(graph: DependencyGraph) -> Iterator[tuple[Site, list[Term]]]:
    """Nodes that multiply and accumulate, in the model's order, with how often they do for one sample."""
    runs = _count_runs(graph)
    for site in graph.sites:
        often, share = runs[site.path]
        if products := list_products(site):
            yield site, [Term((*axes, *often), share) for axes in products]


def _count_runs(graph: DependencyGraph) -> dict[str, tuple[tuple[Expr, ...], float]]:
    """How often each body runs, as a product of axis sizes: what a Scan runs along, a Loop's count where it is known.

    The second number is the share of runs that reach it: a half for a branch of an If.
    """
    out: dict[str, tuple[tuple[Expr, ...], float]] = {"": ((), 1.0)}
    for site in graph.sites:
        kind = site.attrs.get("kind")
        if site.op != "Body" or kind is None:
            continue
        often, share = out[site.path]
        if kind == "If":
            share /= 2
        elif kind == "Loop" and 0 in site.consts and site.consts[0].size == 1:
            count = max(int(site.consts[0].ravel()[0]), 0)
            often = (*often, Dim(count)) if count < UNKNOWN_TRIPS else often
        for slot, axis in list(find_scan_axes(len(site.inputs), site.attrs).items())[:1] if kind == "Scan" else ():
            along = site.inputs[slot]
            often = (*often, along.axes[axis]) if along is not None else often
        out[site.attrs["path"]] = often, share
    return out


def list_parameter_terms(graph: DependencyGraph) -> list[Term]:
    """Entries of all weights."""
    return [term for term, _ in _iterate_weights(graph)]


def list_byte_terms(graph: DependencyGraph) -> list[Term]:
    """Bytes of all weights, in the type that each has."""
    return [term.scale(_find_itemsize(kind)) for term, kind in _iterate_weights(graph)]


def _iterate_weights(graph: DependencyGraph) -> Iterator[tuple[Term, int]]:
    """The entries of every weight, and their type."""
    constants = graph.model.constants()
    for name in graph.weights:
        yield Term(tuple(graph.values[name].axes)), find_element_type(constants[name])
    for t in (*graph.model.inner_weights(), *graph.model.default_weights()):
        yield Term((), math.prod(t.dims)), t.data_type


def _find_itemsize(kind: int) -> float:
    if kind in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return 0.5
    return float(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
