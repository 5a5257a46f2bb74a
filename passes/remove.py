"""remove: apply the plan to the graph: slice the weights and rewrite the shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.rewriting.prune import rewrite


@dataclass(frozen=True)
class Remove:
    """No options: the plan says everything."""

    name: ClassVar[str] = "remove"
    after: ClassVar[tuple[str, ...]] = ("allocate", "plan", "calibrate")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("model", "pruned")

    @classmethod
    def from_options(cls, options: Options) -> Remove:
        """Part of every pipeline."""
        return cls()

    def run(self, state: State) -> State:
        """`pruned` and `model` become the rewritten model; an empty plan changes nothing."""
        graph = state.require_graph()
        small = rewrite(graph, state.plan.masks(graph))
        return replace(state, model=small, pruned=small)
