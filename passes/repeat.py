"""repeat: reach a budget in steps, and score what is left again before each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from spa_compiler.errors import UsageError
from spa_compiler.execution.parallel import limit_threads
from spa_compiler.ir.reader import from_proto
from spa_compiler.pipeline.budgeted_passes import find_budgeted, find_share, has_budget, measure_removed, shorten
from spa_compiler.pipeline.passes import Pipeline, find_inner, iterate_deep, replace_inner
from spa_compiler.pipeline.state import Json, Pass, State
from spa_compiler.planning.budget import parse_ratio
from spa_compiler.planning.plan import lower_removed
from spa_compiler.planning.scores import Scores
from spa_compiler.statistics.moments import collect_moments, exclude_unmeasured

SCHEDULES: Mapping[str, Callable[[float], float]] = {"cubic": lambda left: left**3, "linear": lambda left: left}
"""Parts of the way that are still to go, by the part of the steps that is left."""


@dataclass(frozen=True)
class Repeat:
    """Run the passes in its parentheses for growing shares, and score what is left again before each of them.

    Step t of N asks for s + (start - s) (1 - t / N)^3 of a share s (Zhu and Gupta 2017), or with `schedule=linear`
    without the power. Channels that are gone stay so; the model of the last step is made from the dense one. What only
    the model needs that is kept, a proof or a second try of a poor plan, is done in the last step.
    """

    steps: int = 5
    schedule: str = "cubic"
    start: float = 0.0
    inner: tuple[Pass, ...] = ()
    name: ClassVar[str] = "repeat"
    after: ClassVar[tuple[str, ...]] = ("score", "allocate", "remove", "verify", "compensate", "protect")
    wraps_from: ClassVar[str] = "scores"
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("plan",)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"repeat: steps={self.steps}: expected 1 or more")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"repeat: schedule={self.schedule}: expected one of {', '.join(SCHEDULES)}")
        if not 0 <= self.start < 1:
            raise UsageError(f"repeat: start={self.start:g}: expected a share in 0..1")
        if any(hasattr(p, "settle") for p in iterate_deep(self.inner)):
            raise UsageError("repeat: a search tries shares of its own: give --ratio or --target, not --max-drop")

    def run(self, state: State) -> State:
        """The state of the last step, and the shares of all steps for the report."""
        budgeted = [p for p in find_budgeted(self.inner) if has_budget(p)]
        if not budgeted:
            raise UsageError("repeat: there is no pass in its parentheses that has a budget")
        scoring, planning = Pipeline(self.inner).split("scores")
        steps, now = list[Json](), state
        for t in range(1, self.steps + 1):
            state.progress(f"repeat: step {t} of {self.steps}")
            now = scoring.run(now) if t == 1 else score_again(now, scoring)
            passes = planning.passes if t == self.steps else tuple(shorten(planning.passes))
            fresh = replace(now, pruned=None, proof=None, model=now.require_graph().model)
            now = Pipeline(self.set_shares(passes, t, state)).run(fresh)
            assert now.budget is not None  # of the pass that has one
            steps.append({"ratio": now.budget.ratio, "macs": measure_removed(now)})
        return now.add_results(repetition={"schedule": self.schedule, "steps": steps})

    def compute_share(self, share: float, step: int) -> float:
        """The share to ask for in a step, 1 to `steps`; the last is exactly the whole one.

        >>> [round(Repeat(steps=4).compute_share(0.8, t), 4) for t in range(1, 5)]
        [0.4625, 0.7, 0.7875, 0.8]
        """
        if self.start > share:
            raise UsageError(f"repeat: start={self.start:g} is more than the share {share:g} that shall go in the end")
        return share + (self.start - share) * SCHEDULES[self.schedule](1 - step / self.steps)

    def set_shares(self, passes: Iterable[Pass], step: int, state: State) -> tuple[Pass, ...]:
        """The passes with the budgets of a step; an absolute one as a share."""
        out = list[Pass]()
        for p in passes:
            if inner := find_inner(p):
                p = replace_inner(p, self.set_shares(inner, step, state))
            out.append(self._set_share(p, step, state) if find_budgeted([p]) == [p] else p)
        return tuple(out)

    def _set_share(self, p: Any, step: int, state: State) -> Pass:
        if p.target:
            of, share = find_share(state, p.target, p.threads)
            p = replace(p, of=of, ratio=share, target="")
        ratio = None if p.ratio is None else self.compute_share(float(p.ratio), step)
        parts = (parse_ratio("--ratio", entry) for entry in p.parts)
        made: Pass = replace(p, ratio=ratio, parts=tuple(f"{n}={self.compute_share(r, step)!r}" for n, r in parts))
        return made


def score_again(state: State, scoring: Pipeline) -> State:
    """The state with scores of its compiled model, on the groups of the dense one: what is gone has the lowest."""
    front = {p.name: p for p in state.done if {"folded", "graph"} & set(getattr(p, "provides", ()))}
    small = Pipeline(tuple(front.values())).run(State.of(from_proto(state.model.proto(), state.source.path)))
    graph, inputs = small.require_graph(), state.calibration
    if inputs is not None and state.moments is not None:
        with limit_threads():
            found = collect_moments(graph, inputs.feeds, inputs.adjust)
        small = replace(small, moments=exclude_unmeasured(graph, found)[1])
    small = scoring.run(replace(small, calibration=inputs))
    return replace(state, scores=spread_scores(state, small.scores)).add_notes(*small.notes)


def spread_scores(state: State, scores: Scores) -> Scores:
    """Scores of the groups of a pruned model on those of the dense one; a group that it lacks keeps what it has."""
    out = dict(state.scores)
    for label in out.keys() & scores.keys():
        group = state.require_graph().group(label)
        keep = state.plan.keep.get(label, np.ones(group.shape, bool))
        if scores[label].size == keep.sum():
            out[label] = np.zeros(group.shape)
            out[label][keep] = scores[label].ravel()
    return lower_removed(out, state.plan)
