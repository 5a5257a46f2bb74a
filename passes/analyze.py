"""analyze: make the dependency graph of the axes of all values, and the groups of channels that follow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.analysis.dependency_graph import analyze
from spa_compiler.analysis.group_names import keep_names
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State


@dataclass(frozen=True)
class Analyze:
    """No options: the rules of the operators say everything."""

    name: ClassVar[str] = "analyze"
    after: ClassVar[tuple[str, ...]] = ("normalize",)
    requires: ClassVar[tuple[str, ...]] = ("folded",)
    provides: ClassVar[tuple[str, ...]] = ("graph",)
    automatic: ClassVar[bool] = True

    @classmethod
    def from_options(cls, options: Options) -> Analyze:
        """Part of every pipeline."""
        return cls()

    def run(self, state: State) -> State:
        """The state with the dependency graph of its model."""
        graph = analyze(state.model)
        if state.unedited is not None:
            keep_names(graph.groups, state.unedited.groups)
        return replace(state, graph=graph)
