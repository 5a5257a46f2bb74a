"""The state that goes down a pipeline, and what a pass is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UsageError
from spa_compiler.ir.model import Model
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.scores import Scores


@dataclass(frozen=True)
class State:
    """What a pass gets and gives. `results` collects what the report shows, by pass; `done` is what has been run."""

    source: Model
    model: Model
    graph: DependencyGraph | None = None
    calibration: Any = None
    moments: Any = None
    scores: Scores = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    erased: Plan = field(default_factory=Plan)
    pruned: Model | None = None
    done: tuple[Pass, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda text: None

    @classmethod
    def of(cls, model: Model, progress: Callable[[str], None] | None = None) -> State:
        """The state before the first pass."""
        return cls(model, model, progress=progress or (lambda text: None))

    def analyzed(self) -> DependencyGraph:
        """The dependency graph. Raises UsageError when no pass has made one."""
        if self.graph is None:
            raise UsageError("this pass needs an analysed model: put `normalize` before it")
        return self.graph

    def note(self, **results: Any) -> State:
        """The state with more results."""
        return replace(self, results={**self.results, **results})


class Pass(Protocol):
    """A step of the compiler. `name` is what it is called in a pipeline's text."""

    name: ClassVar[str]

    def run(self, state: State) -> State:
        """The state after this step. Raises SpaError; never changes the state it is given."""
        ...
