"""Widths of groups from the densities that contractions shall have: what PreCropping chooses before any training.

    solve_density_widths(graph, ladders, {"conv1": 0.5}, {})       # {"conv1.weight:0": 11.3}

A weight whose axes lie on groups of widths alpha has the density alpha_in * alpha_out, whatever its numbers are. The
widths are those whose densities are nearest to the wanted ones, by least squares of logarithms; of equally good ones
those that take least from any group. Axes that are sums (concatenations) and groups that are met twice (residual
streams) count as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim
from spa_compiler.analysis.cost import Product, make_group_widths, make_product
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.patterns import is_named, list_own_names, list_site_names
from spa_compiler.errors import UsageError, suggest_patterns
from spa_compiler.operators.site import Site
from spa_compiler.planning.width_ladder import WidthLadder

Array = NDArray[Any]
MODERATION = 1e-4
"""Weight of the logarithms of the widths beside those of densities: it decides where these leave several widths."""


def solve_density_widths(
    graph: DependencyGraph, ladders: Sequence[WidthLadder], ratios: Mapping[str, float], fixed: Mapping[Dim, float]
) -> dict[str, float]:
    """Widths, not rounded, of the groups that contractions named by patterns touch, which lose these shares of weights.

    `fixed`: widths that others have settled. Raises UsageError for a pattern that names no contraction, or none that
    may change.
    """
    wanted = _find_densities(graph, ratios)
    touched = {d for product, _ in wanted for d in _list_dims(product)}
    movable = [s for s in ladders if touched.intersection(s.group.dims)]
    _check_movable(graph, ratios, ladders)
    low = np.array([math.log(s.widths[-1] / s.group.size) for s in movable])
    targets = np.array([math.log(density) for _, density in wanted])

    def measure(logs: Array) -> Array:
        widths = dict(fixed)
        for s, value in zip(movable, logs, strict=True):
            widths |= make_group_widths(s.group, s.group.size * math.exp(value))
        densities = np.array([math.log(p(widths) / p({})) for p, _ in wanted])
        return np.concatenate([densities - targets, MODERATION * logs])

    start = np.maximum(low, targets.mean()) / 2
    found = scipy.optimize.least_squares(
        measure, start, bounds=(low - MODERATION, np.zeros(len(low)) + MODERATION * MODERATION)
    )
    return {s.group.label: s.group.size * math.exp(v) for s, v in zip(movable, found.x, strict=True)}


def list_contraction_names(graph: DependencyGraph) -> list[str]:
    """Names of the nodes that contract, outside of what only constants read."""
    return [s.name for s in graph.sites if _list_weights(graph, s)]


def _find_densities(graph: DependencyGraph, ratios: Mapping[str, float]) -> list[tuple[Product, float]]:
    """The entries of each weight that a pattern names by its node or itself, and the density that it shall have."""
    free = {d for g in graph.groups for d in g.dims}
    out, seen = list[tuple[Product, float]](), set[str]()
    for pattern, ratio in ratios.items():
        found = [(s, n) for s in graph.sites for n in _list_weights(graph, s) if _is_named(s, n, pattern)]
        if not found:
            sites = [s for s in graph.sites if _list_weights(graph, s)]
            near = suggest_patterns(pattern, [n for s in sites for n in list_site_names(s)])
            raise UsageError(f"--layer-ratio {pattern}: no contraction has such a name{near}")
        for _, name in found:
            if name not in seen:
                product = make_product(graph.values[name].axes, lambda d: None if d in free else float(d.size))
                out.append((product, 1 - ratio))
                seen.add(name)
    return [(p, density) for p, density in out if _list_dims(p)]


def _check_movable(graph: DependencyGraph, ratios: Mapping[str, float], ladders: Sequence[WidthLadder]) -> None:
    """Raise UsageError for a pattern that names contractions none of which may change."""
    free = {d for s in ladders for d in s.group.dims}
    for pattern in ratios:
        names = [n for s in graph.sites for n in _list_weights(graph, s) if _is_named(s, n, pattern)]
        if not any(free & graph.find_dims(a) for n in names for a in graph.values[n].axes):
            raise UsageError(f"--layer-ratio {pattern}: no axis of what it names has scores and may change")


def _list_weights(graph: DependencyGraph, site: Site) -> list[str]:
    """Constants with two axes or more that a contraction reads."""
    if not site.traits.is_contraction:
        return []
    return [v.name for v in site.inputs if v is not None and v.constant and len(v.shape) > 1]


def _is_named(site: Site, weight: str, pattern: str) -> bool:
    return is_named((weight, *list_own_names(site)), pattern)


def _list_dims(product: Product) -> set[Dim]:
    """Dims whose widths a product follows."""
    return {*product.dims, *(d for parts in product.sums for p in parts for d in _list_dims(p))}
