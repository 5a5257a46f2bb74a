"""compensate: update the remaining weights by least squares to absorb what was removed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from spa_compiler.compensation.lockstep import compensate_weights
from spa_compiler.compensation.neuron_merging import merge_channels
from spa_compiler.compensation.options import Options as SolverOptions
from spa_compiler.compensation.settings import COMPENSATION
from spa_compiler.errors import UsageError
from spa_compiler.execution.parallel import limit_threads
from spa_compiler.pipeline.fields import OptionText
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.planning.parts import find_parts


@dataclass(frozen=True)
class Compensate:
    """`method`: lockstep (topological least squares), bias (FLAP: only the mean of what went), merge (weights only)."""

    method: str = "lockstep"
    ridge: float = COMPENSATION.ridge
    seed: int = 0
    name: ClassVar[str] = "compensate"
    after: ClassVar[tuple[str, ...]] = ("verify",)
    requires: ClassVar[tuple[str, ...]] = ("graph", "pruned")
    provides: ClassVar[tuple[str, ...]] = ("model",)

    switch: ClassVar[OptionText] = OptionText(
        "Update the remaining weights by least squares to absorb what was removed; default: where the criterion "
        "calibrates (obspa, flap).",
        "calibration",
    )

    @classmethod
    def from_options(cls, options: Options) -> Compensate | None:
        """Where the criterion calibrates, or where it is asked for."""
        return cls(**options.fields_of(cls)) if options.is_compensated() else None

    def run(self, state: State) -> State:
        """`model` gets new weights and biases; an empty plan leaves it alone."""
        graph = state.require_graph()
        if self.method not in ("lockstep", "bias", "merge"):
            raise UsageError(f"compensate{{method={self.method}}}: expected lockstep, bias or merge")
        if self.method == "merge" and state.pruned is not None:
            return replace(state, model=merge_channels(graph, state.plan, state.pruned)).add_results(
                compensation={"method": "merge"}
            )
        if state.pruned is None or state.calibration is None:
            raise UsageError("compensate needs inputs and a rewritten model: put `calibrate` and `remove` before it")
        if state.plan.is_empty:
            return state
        given = state.calibration
        settings = SolverOptions(
            self.ridge,
            given.adjust,
            bias_only=self.method == "bias",
            late=given.late,
            seed=self.seed,
            only=find_open_sites(state),
        )
        with limit_threads():
            model, outcome = compensate_weights(graph, state.plan.masks(graph), state.pruned, given.feeds, settings)
        if outcome.unfit:
            few = ", ".join(outcome.unfit[:3]) + (", ..." if len(outcome.unfit) > 3 else "")
            why = "their values in calibration are not finite or too large"
            text = f"{len(outcome.unfit)} contractions keep their old weights ({few}): {why}, see `compensation`"
            state = state.add_notes(text)
        return replace(state, model=model).add_results(
            compensation={"method": self.method, "ridge": self.ridge, **asdict(outcome)}
        )


def find_open_sites(state: State) -> frozenset[int] | None:
    """Numbers of the nodes whose weights may change: those of the parts where only parts have budgets; None: all."""
    if state.budget is None or not state.budget.parts or state.budget.ratio:
        return None
    parts = find_parts(state.require_graph(), dict(state.budget.parts))
    return frozenset().union(*(p.sites for p in parts))
