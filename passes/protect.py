"""protect: a plan whose fidelity collapses is made again, with the groups that lost most held harder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.passes import Pipeline, requirements
from spa_compiler.pipeline.state import Pass, State
from spa_compiler.planning.scores import Scores
from spa_compiler.verification.fidelity import explain_variance
from spa_compiler.verification.replay import taps
from spa_compiler.verification.runs import outputs

SAMPLES = 64


@dataclass(frozen=True)
class Protect:
    """Revise while less than `floor` of the outputs' variance is explained, `rounds` times at most; the best stays.

    `inner`: the passes in its parentheses, which make the plan and the model; without any, those since the scores were
    first read, as older texts have it.
    """

    floor: float = 0.5
    rounds: int = 2
    inner: tuple[Pass, ...] = ()
    name: ClassVar[str] = "protect"
    after: ClassVar[tuple[str, ...]] = ("compensate",)
    wraps: ClassVar[str] = "scores"
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("plan",)

    @classmethod
    def chosen(cls, options: Options) -> Protect | None:
        """Where channels are chosen and the remaining weights are updated."""
        return cls(**options.fields_of(cls)) if options.is_compensated() and options.is_pruning() else None

    def run(self, state: State) -> State:
        """The state of the plan that explains most of the dense outputs, and the history for the report."""
        state = Pipeline(self.inner).run(state)
        again = Pipeline(self.inner) if self.inner else _since_scores(state)
        if again is None or state.plan.empty or state.calibration is None:
            return state
        feeds = _some(state.calibration.feeds)
        dense = outputs(state.analyzed().model, taps(state.analyzed().model), feeds, "the dense model", level=3)
        best, trial = state, state
        found = [self.kept(state, dense, feeds)]
        for _ in range(self.rounds):
            if max(found) >= self.floor:
                break
            state.progress("protect: the outputs collapse, the plan is made again")
            fresh = replace(
                state, scores=raised(trial), plan=state.erased, pruned=None, proof=None, model=state.analyzed().model
            )
            trial = again.run(fresh)
            found.append(self.kept(trial, dense, feeds))
            best = trial if found[-1] == max(found) else best
        return best.note(protection={"explained_variance": found, "floor": self.floor})

    def kept(self, state: State, dense: list[list[Any]], feeds: list[dict[str, Any]]) -> float:
        """Share of the variance of the dense outputs that the compiled model explains on the calibration inputs."""
        return explain_variance(dense, outputs(state.model, taps(state.model), feeds, "the compiled model", level=3))


def _some(feeds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first chunks, of SAMPLES inputs or so."""
    out, n = [], 0
    for feed in feeds:
        if n >= SAMPLES:
            break
        out.append(feed)
        n += max((len(a) for a in feed.values() if a.ndim), default=1)
    return out


def _since_scores(state: State) -> Pipeline | None:
    """What was run since the scores were first read, to be run again."""
    again = Pipeline(state.done).split("scores")[1]
    return again if any("scores" in requirements(p) for p in again.passes) else None


def raised(state: State) -> Scores:
    """Scores of the groups that lost more than the average group, raised by up to four times."""
    groups = [g for g in state.analyzed().groups if g.label in state.scores]
    lost = {g.label: 1 - state.plan.kept(g) / g.size for g in groups}
    mean = float(np.mean(list(lost.values()))) if lost else 0.0
    return {n: s * (1 + 3 * max(0.0, (lost[n] - mean) / max(1 - mean, 1e-9))) for n, s in state.scores.items()}
