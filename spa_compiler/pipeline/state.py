"""The state that passes hand on, and the interface of a pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Protocol

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.inputs import Calibration
from spa_compiler.errors import UsageError
from spa_compiler.ir.model import Model
from spa_compiler.planning.allocation import Budget
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.scores import Scores
from spa_compiler.statistics.moments import Moments
from spa_compiler.verification.feeds import Ranges
from spa_compiler.verification.proof import Structural

PYTHON_PREFIX = "python:"
"""How the text of a pipeline calls inputs that were given as an object."""
Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


@dataclass(frozen=True)
class State:
    """The input and the result of a pass.

    `folded` counts what normalising did; `scores_are_errors` says whether the scores of different groups compare;
    `budget` is what an allocation was asked for, checked once more against what was reached;
    `erased` is the part of the plan that costs nothing; `pruned` is the rewritten model, `proof` what was shown of it.
    `proven` is the last model that was shown to give what the one before an exact pass gave, None before the first of
    these passes, which `edits` names; `unedited` is the graph before them, of which budgets and reports are; `seed` and
    `ranges` say how inputs are drawn for that.
    `before_edit` is the state before the last edit, until that is proven;
    `results` and `notes` are for the report, and nothing is decided by them; `done` is what has been run.
    """

    source: Model
    model: Model
    folded: Mapping[str, int] | None = None
    graph: DependencyGraph | None = None
    calibration: Calibration | None = None
    moments: Moments | None = None
    scores: Scores = field(default_factory=dict)
    scores_are_errors: bool = False
    budget: Budget | None = None
    plan: Plan = field(default_factory=Plan)
    erased: Plan = field(default_factory=Plan)
    pruned: Model | None = None
    proof: Structural | None = None
    proven: Model | None = None
    edits: tuple[str, ...] = ()
    unedited: DependencyGraph | None = None
    before_edit: State | None = None
    given: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    ranges: Ranges = field(default_factory=dict)
    done: tuple[Pass, ...] = ()
    results: Mapping[str, Json] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda text: None

    @classmethod
    def of(cls, model: Model, progress: Callable[[str], None] | None = None) -> State:
        """The state before the first pass."""
        return cls(model, model, progress=progress or (lambda text: None))

    def require_graph(self) -> DependencyGraph:
        """The dependency graph. Raises UsageError when no pass has made one."""
        if self.graph is None:
            raise UsageError("this pass needs a dependency graph: say so in its `requires`")
        return self.graph

    def require_dense_graph(self) -> DependencyGraph:
        """The dependency graph of the model that was given, before any edit. Raises UsageError when there is none."""
        return self.unedited or self.require_graph()

    def find_provided(self) -> frozenset[str]:
        """Fields that hold something, or that a pass has given though it found nothing: what a pass may require."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        given = {n for step in self.done for n in getattr(step, "provides", ())} - {"graph"}
        return frozenset(n for n, v in values.items() if n in given or (v is not None and v != {}))

    def is_changed(self) -> bool:
        """Is the model another one than the file that was given?"""
        return not self.plan.is_empty or bool(self.edits) or self.model is not self.pruned

    def add_results(self, **results: Json) -> State:
        """The state with more results."""
        return replace(self, results={**self.results, **results})

    def add_notes(self, *notes: str) -> State:
        """The state with more notes, each of them once: a pass that is run again says the same."""
        return replace(self, notes=tuple(dict.fromkeys([*self.notes, *notes])))


def find_given(option: str, text: str, given: Mapping[str, object]) -> object:
    """The object that was given in Python under this name, else the text. Raises UsageError for a name without one."""
    if text.startswith(PYTHON_PREFIX) and text not in given:
        raise UsageError(f"{option} {text}: these inputs were an object in Python: give it, or a file, again")
    return given.get(text, text)


class Pass(Protocol):
    """A step of the compiler: a frozen dataclass whose fields are its options.

    `name` is what it is called in a pipeline's text; it may be run where passes before it provide what it `requires`:
    both that and `provides` are names of fields of State. More may be said, as class variables: `after`, names of
    passes that it is put behind; `from_options(options)`, a class method that gives it where it is part of the pipeline
    that options stand for; `automatic`, that it is put in where something requires what it provides; `exact`, that it
    edits the model without changing its function, which is then proven; `optional`, that such an edit is undone with a
    note where it is not; `resolve()`, a method that gives the pass
    with what it would read from the machine among its options.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]
    provides: ClassVar[tuple[str, ...]]

    def run(self, state: State) -> State:
        """The state after this step. Raises SpaError; never changes the state it is given."""
        ...
