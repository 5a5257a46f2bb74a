"""compensate: what is left takes over the work of what was removed, in closed form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from spa_compiler.calibration.inputs import Calibration
from spa_compiler.compensation.neuron_merging import merge
from spa_compiler.compensation.solvers import Options, compensated
from spa_compiler.errors import UsageError
from spa_compiler.execution.parallel import linear_algebra
from spa_compiler.pipeline.state import State


@dataclass(frozen=True)
class Compensate:
    """`method`: lockstep (topological least squares), bias (FLAP: only the mean of what went), merge (weights only)."""

    method: str = "lockstep"
    ridge: float = 0.02
    seed: int = 0
    name: ClassVar[str] = "compensate"

    def run(self, state: State) -> State:
        """`model` gets new weights and biases; an empty plan leaves it alone."""
        graph = state.analyzed()
        if self.method not in ("lockstep", "bias", "merge"):
            raise UsageError(f"compensate{{method={self.method}}}: expected lockstep, bias or merge")
        if self.method == "merge" and state.pruned is not None:
            return replace(state, model=merge(graph, state.plan, state.pruned)).note(compensation={"method": "merge"})
        if state.pruned is None or not isinstance(state.calibration, Calibration):
            raise UsageError("compensate needs inputs and a rewritten model: put `calibrate` and `remove` before it")
        if state.plan.empty:
            return state
        given = state.calibration
        options = Options(self.ridge, given.adjust, bias_only=self.method == "bias", late=given.late, seed=self.seed)
        with linear_algebra(graph):
            model, outcome = compensated(graph, state.plan.masks(graph), state.pruned, given.feeds, options)
        if outcome.unfit:
            few = ", ".join(outcome.unfit[:3]) + (", ..." if len(outcome.unfit) > 3 else "")
            why = "their values in calibration are not finite or too large"
            text = f"{len(outcome.unfit)} contractions keep their old weights ({few}): {why}, see `compensation`"
            known = state.results.get("notes", [])  # `protect` may run this pass again
            state = state.note(notes=[*known, *([] if text in known else [text])])
        return replace(state, model=model).note(
            compensation={"method": self.method, "ridge": self.ridge, **asdict(outcome)}
        )
