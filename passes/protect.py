"""protect: make a plan again whose fidelity collapses, and cut less from the groups that lost most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from spa_compiler.calibration.sample_budget import take_first
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.passes import Pipeline, find_requirements
from spa_compiler.pipeline.state import Pass, State
from spa_compiler.planning.scores import Scores
from spa_compiler.planning.settings import PLANNING
from spa_compiler.verification.fidelity import explain_variance
from spa_compiler.verification.replay import list_taps
from spa_compiler.verification.runs import run_outputs


@dataclass(frozen=True)
class Protect:
    """Revise while less than `floor` of the outputs' variance is explained, `rounds` times at most; the best stays.

    It ends where the floor is out of reach by what the last revision gained.

    `inner`: the passes in its parentheses, which make the plan and the model; without any, those since the scores were
    first read, as older texts have it.
    """

    floor: float = PLANNING.least_explained
    rounds: int = PLANNING.protect_rounds
    inner: tuple[Pass, ...] = ()
    name: ClassVar[str] = "protect"
    after: ClassVar[tuple[str, ...]] = ("compensate",)
    wraps: ClassVar[str] = "scores"
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("plan",)

    @classmethod
    def from_options(cls, options: Options) -> Protect | None:
        """Where channels are chosen and the remaining weights are updated."""
        return cls(**options.fields_of(cls)) if options.is_compensated() and options.is_pruning() else None

    def run(self, state: State) -> State:
        """The state of the plan that explains most of the dense outputs, and the history for the report."""
        state = Pipeline(self.inner).run(state)
        again = Pipeline(self.inner) if self.inner else _find_repeated(state)
        if again is None or state.plan.is_empty or state.calibration is None:
            return state
        proofs = Pipeline(tuple(p for p in again.passes if getattr(p, "provides", ()) == ("proof",)))
        trials = Pipeline(tuple(p for p in again.passes if p not in proofs.passes))
        feeds = take_first(state.calibration.feeds, PLANNING.protect_inputs)
        dense = run_outputs(
            state.require_graph().model, list_taps(state.require_graph().model), feeds, "the dense model", level=3
        )
        best, trial = state, state
        found = [self.measure_variance(state, dense, feeds)]
        for left in range(self.rounds, 0, -1):
            if max(found) >= self.floor or not self.is_promising(found, left):
                break
            state.progress("protect: the outputs are too far from the dense model's, making the plan again")
            fresh = replace(
                state,
                scores=raise_scores(trial),
                plan=state.erased,
                pruned=None,
                proof=None,
                model=state.require_graph().model,
            )
            trial = trials.run(fresh)
            found.append(self.measure_variance(trial, dense, feeds))
            best = trial if found[-1] > max(found[:-1]) else best
        if best is not state:  # only what is kept has to be proven
            best = proofs.run(best)
        return best.add_results(protection={"explained_variance": found, "floor": self.floor})

    def is_promising(self, found: Sequence[float], left: int) -> bool:
        """Would the floor be reached if every plan that is left gained as much as the last one did?

        What a plan gained is known once it was made again: where it explains less, the next ones would, too.
        """
        gain = found[-1] - found[-2] if len(found) > 1 else math.inf
        return gain > 0 and found[-1] + left * gain >= self.floor

    def measure_variance(self, state: State, dense: list[list[Any]], feeds: list[dict[str, Any]]) -> float:
        """Share of the variance of the dense outputs that the compiled model explains on the calibration inputs."""
        return explain_variance(
            dense, run_outputs(state.model, list_taps(state.model), feeds, "the compiled model", level=3)
        )


def _find_repeated(state: State) -> Pipeline | None:
    """The passes that ran since the scores were first read, to run them again."""
    again = Pipeline(state.done).split("scores")[1]
    return again if any("scores" in find_requirements(p) for p in again.passes) else None


def raise_scores(state: State) -> Scores:
    """Scores of the groups that lost more than the average group, raised by the more the more they lost."""
    groups = [g for g in state.require_graph().groups if g.label in state.scores]
    lost = {g.label: 1 - state.plan.count_kept(g) / g.size for g in groups}
    mean = float(np.mean(list(lost.values()))) if lost else 0.0
    more = {n: max(0.0, (share - mean) / max(1 - mean, 1e-9)) for n, share in lost.items()}
    return {n: s * (1 + PLANNING.protect_strength * more[n]) for n, s in state.scores.items()}
