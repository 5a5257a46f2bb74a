"""factor: make two products of one whose matrix is the product of two smaller ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.patterns import is_site_named, suggest_sites
from spa_compiler.errors import UsageError
from spa_compiler.operators.site import Site
from spa_compiler.pipeline.state import State
from spa_compiler.rewriting.factored_products import factor_products

FACTOR_KINDS = ("svd", "monarch")


@dataclass(frozen=True)
class Factor:
    """Changes no output: a matrix becomes a pair only where the pair gives it again.

    `kind`: `svd` for matrices of low rank, whose rank is then a dim that is pruned like any other; `monarch` for
    products of two block-diagonal matrices with a permutation between (arXiv 2204.00595). `tol`: distance of the pair
    from the matrix, as a share of its norm. `growth`: the pair may take so many times the multiplications of the matrix
    (at 2, `svd` gives every matrix a rank to prune). `exclude` and `include`: patterns of weights, nodes or operators.
    """

    kind: str = "svd"
    tol: float = 1e-6
    growth: float = 1.0
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    name: ClassVar[str] = "factor"
    after: ClassVar[tuple[str, ...]] = ("analyze", "redirect", "basis")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("model",)
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.kind not in FACTOR_KINDS:
            raise UsageError(f"factor: no kind is called '{self.kind}'; there are {', '.join(FACTOR_KINDS)}")
        if not 0 <= self.tol < 1:
            raise UsageError(f"factor: tol is a share of a weight's norm, from 0 to below 1, and not {self.tol:g}")
        if not 0 < self.growth <= 2:
            raise UsageError(f"factor: growth is above 0 and at most 2, and not {self.growth:g}")

    def run(self, state: State) -> State:
        """The state with the edited model; notes say what was factored, and how far the nearest other matrix is."""
        self._check_patterns(state.require_graph())
        found = factor_products(state.require_graph(), self.kind, self._is_open, self.tol, self.growth)
        unit = "rank" if self.kind == "svd" else "blocks"
        notes = [
            f"factor: '{n}' is two products ({unit} {p.inner}), {p.distance:.1e} of its norm away"
            for n, p in found.factored.items()
        ]
        if found.nearest:
            n, d = min(found.nearest.items(), key=lambda item: item[1])
            others = f"factor: {len(found.nearest)} matrices are no such product within {self.tol:g} of their norm"
            notes.append(f"{others} and stay: the nearest is '{n}', {d:.1e} away")
        made = replace(state, model=found.model) if found.factored else state
        return made.add_notes(*notes)

    def _is_open(self, site: Site) -> bool:
        is_included = not self.include or any(is_site_named(site, p) for p in self.include)
        return is_included and not any(is_site_named(site, p) for p in self.exclude)

    def _check_patterns(self, graph: DependencyGraph) -> None:
        """Raise UsageError for a pattern that names no node."""
        for pattern in (*self.include, *self.exclude):
            if not any(is_site_named(s, pattern) for s in graph.sites):
                raise UsageError(f"factor: the pattern '{pattern}' names no node{suggest_sites(graph, pattern)}")
