"""A pass and a criterion that come from outside: what a plugin needs, and no more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from spa_compiler import DependencyGraph, Plan, State


@dataclass(frozen=True)
class EveryOther:
    """Keep every `step`-th channel of every group."""

    step: int = 2
    name: ClassVar[str] = "every_other"
    after: ClassVar[tuple[str, ...]] = ("erase", "normalize")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("plan",)

    def run(self, state: State) -> State:
        """The state with such a plan."""
        groups = state.analyzed().groups
        keep = {g.label: np.broadcast_to(np.arange(g.size) % self.step == 0, g.shape) for g in groups}
        return replace(state, plan=Plan(keep).merged(state.plan)).remark("every other channel went")


def position(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """Later channels matter more."""
    return {g.label: np.broadcast_to(np.arange(g.size, dtype=np.float64), g.shape) for g in graph.groups}
