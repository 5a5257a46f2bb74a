"""compensate: what is left takes over the work of what was removed, in closed form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from spa_compiler.compensation import solvers
from spa_compiler.compensation.neuron_merging import merge
from spa_compiler.errors import UsageError
from spa_compiler.execution.parallel import linear_algebra
from spa_compiler.pipeline.fields import Shown
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State


@dataclass(frozen=True)
class Compensate:
    """`method`: lockstep (topological least squares), bias (FLAP: only the mean of what went), merge (weights only)."""

    method: str = "lockstep"
    ridge: float = 0.02
    seed: int = 0
    name: ClassVar[str] = "compensate"
    after: ClassVar[tuple[str, ...]] = ("verify",)
    requires: ClassVar[tuple[str, ...]] = ("graph", "pruned")
    provides: ClassVar[tuple[str, ...]] = ("model",)

    switch: ClassVar[Shown] = Shown(
        "Let what is left take over the work of what went; default: where the criterion calibrates (obspa, flap).",
        "calibration",
    )

    @classmethod
    def chosen(cls, options: Options) -> Compensate | None:
        """Where the criterion calibrates, or where it is asked for."""
        return cls(**options.fields_of(cls)) if options.is_compensated() else None

    def run(self, state: State) -> State:
        """`model` gets new weights and biases; an empty plan leaves it alone."""
        graph = state.analyzed()
        if self.method not in ("lockstep", "bias", "merge"):
            raise UsageError(f"compensate{{method={self.method}}}: expected lockstep, bias or merge")
        if self.method == "merge" and state.pruned is not None:
            return replace(state, model=merge(graph, state.plan, state.pruned)).note(compensation={"method": "merge"})
        if state.pruned is None or state.calibration is None:
            raise UsageError("compensate needs inputs and a rewritten model: put `calibrate` and `remove` before it")
        if state.plan.empty:
            return state
        given = state.calibration
        settings = solvers.Options(
            self.ridge, given.adjust, bias_only=self.method == "bias", late=given.late, seed=self.seed
        )
        with linear_algebra(graph):
            model, outcome = solvers.compensated(graph, state.plan.masks(graph), state.pruned, given.feeds, settings)
        if outcome.unfit:
            few = ", ".join(outcome.unfit[:3]) + (", ..." if len(outcome.unfit) > 3 else "")
            why = "their values in calibration are not finite or too large"
            text = f"{len(outcome.unfit)} contractions keep their old weights ({few}): {why}, see `compensation`"
            state = state.remark(text)
        return replace(state, model=model).note(
            compensation={"method": self.method, "ridge": self.ridge, **asdict(outcome)}
        )
