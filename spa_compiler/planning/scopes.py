"""Scopes: how groups share a budget. They compete, or each loses a share that is measured before.

    @scope(needs="inputs")
    def by_distance(view: ScopeInputs) -> Mapping[str, float]: ...      # a number per group label

A scope of shares gives one number for each group: what it loses is in proportion to it (`kept=True`: what it keeps), as
far as its limits go. It may also give an array per group, one number for each of its units: those of all groups are put
in one order, and the lowest go. A plain function reads the graph only. Scopes of any distribution are found through the
entry points `spa_compiler.scopes`; the budget is met whatever they say.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UsageError
from spa_compiler.execution.finite import is_finite
from spa_compiler.planning.cost_tracker import CostTracker
from spa_compiler.planning.dynamic_programming import remove_exactly
from spa_compiler.planning.greedy_removal import remove_greedily
from spa_compiler.planning.scores import Scores
from spa_compiler.planning.shares import RankShares, Shares, ValueShares
from spa_compiler.plugins import find_entry_points

AUTO_SCOPE = "auto"
"""The scope that follows the criterion."""
Needs = Literal["weights", "inputs"]
Numbers = Mapping[str, float] | Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class ScopeInputs:
    """The dense graph, scores, and calibration inputs (none where a scope needs weights only)."""

    graph: DependencyGraph
    scores: Scores
    feeds: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Strategy:
    """Groups are moved by the costs and errors of their steps. `is_exact`: what it gives is not mended afterwards."""

    remove: Callable[[CostTracker], None]
    is_exact: bool = False
    needs: Needs = "weights"

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.remove.__doc__)


@dataclass(frozen=True)
class ShareScope:
    """Groups lose shares that follow from one number each, or from one for each unit. `kept`: they keep them."""

    measure: Callable[[ScopeInputs], Numbers]
    needs: Needs = "weights"
    kept: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.measure.__doc__)

    def make_shares(self, view: ScopeInputs, name: str) -> Shares:
        """The shares. Raises UsageError where they are not finite, or where inputs are missing."""
        if self.needs == "inputs" and not view.feeds:
            raise UsageError(f"--scope {name} needs inputs: put `calibrate` before `allocate`")
        found = self.measure(view)
        arrays = {n: np.asarray(v, np.float64) for n, v in found.items()}
        if unknown := sorted(arrays.keys() - {g.label for g in view.graph.groups}):
            raise UsageError(f"--scope {name}: no group is called '{unknown[0]}'")
        if not is_finite(*arrays.values()) or any((v < 0).any() for v in arrays.values()):
            raise UsageError(f"--scope {name}: its numbers have to be finite and at least 0")
        if any(v.ndim for v in arrays.values()):
            return RankShares({n: _average_blocks(v) for n, v in arrays.items()})
        return ValueShares({n: float(v) for n, v in arrays.items()}, self.kept)


def _average_blocks(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of blocks that lose equally many units: the mean of their lowest numbers, of the second lowest, and so on."""
    return np.asarray(np.sort(numbers.reshape(-1, numbers.shape[-1]), axis=1).mean(0))


Scope = Strategy | ShareScope


def scope(needs: Needs = "weights", kept: bool = False) -> Callable[[Callable[[ScopeInputs], Numbers]], ShareScope]:
    """Make a function a scope that says what it needs and gives."""
    return lambda measure: ShareScope(measure, needs, kept)


@scope()
def uniform(view: ScopeInputs) -> Mapping[str, float]:
    """All groups lose the same share."""
    return {g.label: 1.0 for g in view.graph.groups}


def compete(tracker: CostTracker) -> None:
    """Groups compete by error per cost."""
    remove_greedily(tracker)


def minimize(tracker: CostTracker) -> None:
    """The plan of least error within the budget (dynamic programming)."""
    remove_exactly(tracker)


competing = Strategy(compete)
least_error = Strategy(minimize, is_exact=True)


@functools.cache
def find_scope_points() -> dict[str, EntryPoint]:
    """Entry points of scopes by name. Raises UsageError when two distributions use one name."""
    return find_entry_points("spa_compiler.scopes", "scope")


def list_scope_names() -> list[str]:
    """Names that may be asked for."""
    return [AUTO_SCOPE, *sorted(find_scope_points())]


def find_scope(name: str) -> Scope:
    """A scope by name. Raises UsageError with the names that there are, or why it cannot be loaded."""
    if name not in find_scope_points():
        raise UsageError(f"no scope is called '{name}'; there are {', '.join(list_scope_names())}")
    point = find_scope_points()[name]
    try:
        found = point.load()
    except Exception as e:
        raise UsageError(f"the scope '{name}' ({point.value}) cannot be loaded: {e}") from e
    if isinstance(found, Strategy | ShareScope):
        return found
    if not callable(found):
        raise UsageError(f"the scope '{name}' ({point.value}) is neither a scope nor a function")
    return ShareScope(found)
