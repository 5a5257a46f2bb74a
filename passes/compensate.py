"""compensate: update the remaining weights, by the policy that was chosen, to absorb what was removed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from spa_compiler.compensation.policy import (
    NO_POLICY,
    USUAL_POLICY,
    Task,
    find_policy,
    list_policy_names,
)
from spa_compiler.compensation.settings import COMPENSATION
from spa_compiler.errors import UsageError
from spa_compiler.pipeline.fields import make_option, make_seed_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.planning.parts import find_parts


@dataclass(frozen=True)
class Compensate:
    """`method`: a policy by name (`spa passes` lists them); `ridge`: of those that solve least squares."""

    method: str = make_option(
        USUAL_POLICY,
        "How the remaining weights absorb what was removed: none (--no-compensate), or a policy that `spa passes` "
        "lists; without a name lockstep (least squares). Default: lockstep where the criterion calibrates (obspa, "
        "flap) and no --plan is given, else none.",
        "calibration", name="compensate", start="", choices=list_policy_names, switch=(USUAL_POLICY, NO_POLICY),
    )  # fmt: skip
    ridge: float = COMPENSATION.ridge
    seed: int = make_seed_option()
    name: ClassVar[str] = "compensate"
    after: ClassVar[tuple[str, ...]] = ("verify",)
    requires: ClassVar[tuple[str, ...]] = ("graph", "pruned")
    provides: ClassVar[tuple[str, ...]] = ("model",)

    @classmethod
    def from_options(cls, options: Options) -> Compensate | None:
        """Where the criterion calibrates, or where it is asked for."""
        found = options.find_policy()
        return cls(found, **options.fields_of(cls, "seed")) if found != NO_POLICY else None

    @property
    def is_writing_norms(self) -> bool:
        """Does it update operands of normalisations, too?"""
        return find_policy(self.method).is_writing_norms

    def run(self, state: State) -> State:
        """`model` gets new weights and biases; an empty plan leaves it alone. Raises UsageError without inputs."""
        found = find_policy(self.method)
        if state.pruned is None or (found.needs == "inputs" and state.calibration is None):
            raise UsageError("compensate needs inputs and a rewritten model: put `calibrate` and `remove` before it")
        if state.plan.is_empty:
            return state
        task = Task(
            state.require_graph(), state.plan, state.pruned, state.calibration, self.ridge, self.seed,
            find_open_sites(state),
        )  # fmt: skip
        model, outcome = found.update(task)
        if outcome.unfit:
            few = ", ".join(outcome.unfit[:3]) + (", ..." if len(outcome.unfit) > 3 else "")
            why = "their values in calibration are not finite or too large"
            text = f"{len(outcome.unfit)} contractions keep their old weights ({few}): {why}, see `compensation`"
            state = state.add_notes(text)
        if not outcome.solved and not outcome.left:
            state = state.add_notes(f"--compensate {self.method} found nothing to update in this model")
        return replace(state, model=model).add_results(
            compensation={"method": self.method, "ridge": self.ridge, **asdict(outcome)}
        )


def find_open_sites(state: State) -> frozenset[int] | None:
    """Numbers of the nodes whose weights may change: those of the parts where only parts have budgets; None: all."""
    if state.budget is None or not state.budget.parts or state.budget.ratio:
        return None
    parts = find_parts(state.require_graph(), dict(state.budget.parts))
    return frozenset().union(*(p.sites for p in parts))
