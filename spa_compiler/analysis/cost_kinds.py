"""Kinds of costs: counted from the graph, measured on a model that is run, or a share of what the groups hold.

    energy = CountedCost(terms=list_energy_terms, title="energy (pJ)", suffix="J", scales={"n": 1e3, "u": 1e6})

A cost is found by the name of its entry point (`cost_registry`); what it does not say follows from this name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from spa_compiler.algebra.expr import Expr
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.ir.model import Model

SCALES: dict[str, float] = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Term:
    """factor times the product of axis sizes."""

    axes: tuple[Expr, ...]
    factor: float = 1.0

    def scale(self, by: float) -> Term:
        """The term so many times."""
        return Term(self.axes, self.factor * by)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A quantity that a budget can be a share of, or state as a number.

    `name` is that of `--of`, given by the registry. `unit` is what reports and gates call it (`UNIT_reduction`),
    `title` what people call it, `row` its row in the summary. `suffix` stands behind a number in `--target`, with a
    prefix of `scales` between them ("" for none; letters count in either case), and `example` shows one. Costs are
    listed by `rank`, then by name.
    """

    name: str = ""
    unit: str = ""
    title: str = ""
    row: str = ""
    suffix: str = ""
    scales: Mapping[str, float] = field(default_factory=lambda: SCALES)
    example: str = ""
    rank: int = 100

    def rename(self, name: str) -> Self:
        """The cost under a name, from which follows what it does not say."""
        title = self.title or name
        return replace(self, name=name, unit=self.unit or name, title=title, row=self.row or title)

    def _describe(self, function: Callable[..., Any]) -> None:
        """Let the docstring of a function say what the cost is; `spa passes` shows it."""
        object.__setattr__(self, "__doc__", function.__doc__)


@dataclass(frozen=True, kw_only=True)
class CountedCost(Cost):
    """A sum of products of axis sizes, and so known for any widths without a run.

    Totals are rounded to whole units. `in_tables`: shown where there is room for few costs (inspect, compare, sweep);
    `in_summary`: in the table that a compile prints.
    """

    terms: Callable[[DependencyGraph], Iterable[Term]]
    in_tables: bool = True
    in_summary: bool = True

    def __post_init__(self) -> None:
        self._describe(self.terms)

    def rename(self, name: str) -> Self:
        """As for every cost; a target ends with the name where no suffix is said."""
        return replace(super().rename(name), suffix=self.suffix or name)


@dataclass(frozen=True, kw_only=True)
class MeasuredCost(Cost):
    """A number that is found by running the dense and the pruned model, with so many threads; both at once, to compare.

    `stand_in` is the counted cost whose share is varied until the measured one is met; `gain` ends the sentence "no
    plan tried is 30% ...". `is_of_machine`: another machine gives another number. `apart`: the report has a part for
    it, NAME, with `dense_UNIT` and `compiled_UNIT`; others stand among the counted costs, rounded, where they were
    asked for.
    """

    measure: Callable[[Model, Model, int], tuple[float, float]]
    stand_in: str = "macs"
    gain: str = "lower"
    is_of_machine: bool = False
    apart: bool = False

    def __post_init__(self) -> None:
        self._describe(self.measure)


@dataclass(frozen=True, kw_only=True)
class GroupShare(Cost):
    """A sum over groups, each of which loses the same share: `count` says what one holds that keeps so many channels.

    `stand_in` is the counted cost that is tracked meanwhile.
    """

    count: Callable[[Group, int], float]
    stand_in: str = "params"

    def __post_init__(self) -> None:
        self._describe(self.count)
