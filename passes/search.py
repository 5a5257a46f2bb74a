"""search: find how much may go, by making the model for one share after another and measuring what it loses."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.calibration.user_inputs import decide_scale
from spa_compiler.datasets.dataset import Dataset, open_dataset
from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.errors import BudgetError, UsageError
from spa_compiler.execution.inputs import parse_ranges
from spa_compiler.pipeline.budgeted_passes import find_budgeted, has_budget, measure_removed, set_ratio, shorten
from spa_compiler.pipeline.fields import (
    make_data_option,
    make_option,
    make_preprocess_option,
    make_range_option,
    make_seed_option,
    make_threads_option,
)
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.passes import Pipeline
from spa_compiler.pipeline.state import Pass, State, find_given
from spa_compiler.planning.search import Search as Found
from spa_compiler.planning.search import Trial, find_knee, find_largest_ratio
from spa_compiler.quality.drop_judge import DropJudge
from spa_compiler.quality.inputs import JudgedInputs, choose_inputs
from spa_compiler.quality.verdict import format_points

DROP_PATTERN = re.compile(r"([0-9.]+)\s*%?\s*\Z")


@dataclass(frozen=True)
class Search:
    """Run the passes in its parentheses for other and other shares, and keep the largest that loses at most `max_drop`.

    Without `max_drop` it is the knee of the curve. Where a pass in the parentheses has a budget of its own, that one is
    tried first, and it has to hold. Drops are measured on `data` where it has labels, else estimated. What a trial does
    not need, a proof or a second try of a poor plan, is done for the model that is kept.
    """

    max_drop: str = make_option(
        "", "Remove as much as the metric may lose, in points: measured with --data and labels, else estimated.",
        "budget", metavar="POINTS%",
    )  # fmt: skip
    data: str = make_data_option()
    preprocess: str = make_preprocess_option()
    input_range: tuple[str, ...] = make_range_option()
    seed: int = make_seed_option()
    threads: int = make_threads_option()
    inner: tuple[Pass, ...] = ()
    name: ClassVar[str] = "search"
    after: ClassVar[tuple[str, ...]] = ("allocate", "remove", "verify", "compensate", "protect")
    wraps: ClassVar[str] = "scores"
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("plan",)

    @classmethod
    def from_options(cls, options: Options) -> Search | None:
        """Where the options leave open how much goes."""
        made = cls(**options.fields_of(cls)) if options.is_searching() else None
        return made if made is None or made.data else replace(made, preprocess="")

    def run(self, state: State) -> State:
        """The state of the best share. Raises BudgetError with the best that was found where none holds."""
        limit = self.read_limit()
        if not find_budgeted(self.inner):
            raise UsageError("search: there is no pass in its parentheses that takes a share to remove")
        if not state.scores:
            return Pipeline(self.inner).run(state)  # who needs them says what is missing
        given = [p for p in find_budgeted(self.inner) if has_budget(p)]
        trials = Trials(state, self.inner, DropJudge(state.source, self.choose_inputs(state), self.threads))
        if given:
            self.check_given(trials, limit)
            return Pipeline(self.inner).run(state)
        found = find_knee(trials.try_ratio) if limit is None else find_largest_ratio(trials.try_ratio, limit)
        if found.best is None:
            raise BudgetError(describe_failure(found, limit))
        state = state.add_results(search=found.document() | {"limit": limit, "basis": trials.judge.basis})
        return Pipeline(set_ratio(self.inner, found.best.ratio, trials.of)).run(state)

    def check_given(self, trials: Trials, limit: float | None) -> None:
        """Raise BudgetError where the budget that is given loses more than it may."""
        if limit is None:
            raise UsageError("search: a budget in its parentheses is held to max_drop=1%: give that, or no budget")
        asked = trials.run(self.inner)
        if asked.drop > limit:
            found = find_largest_ratio(trials.try_ratio, limit, asked.ratio)
            best = f"; {describe_trial(found.best)} holds it" if found.best else ""
            raise BudgetError(
                f"--max-drop: {describe_trial(asked)}, more than the {format_points(limit)} allowed{best}"
            )

    def settle(self, state: State) -> Pipeline:
        """The passes that make the same model without a search."""
        if state.budget is None:
            return Pipeline(self.inner)
        return Pipeline(set_ratio(self.inner, state.budget.ratio, state.budget.of))

    def read_limit(self) -> float | None:
        """Points that may be lost; None where the knee is looked for. Raises UsageError for anything else."""
        found = DROP_PATTERN.match(self.max_drop)
        try:
            limit = float(found[1]) if found else -1.0
        except ValueError:
            limit = -1.0
        if self.max_drop and not 0 < limit <= 100:
            raise UsageError(f"--max-drop {self.max_drop}: expected points of the metric, such as 1%")
        return limit if self.max_drop else None

    def choose_inputs(self, state: State) -> JudgedInputs | Dataset:
        """The caller's, else the most telling ones that can be drawn."""
        graph, ranges = state.require_graph(), parse_ranges(self.input_range, state.source)
        if not self.data:
            return choose_inputs(graph, state.calibration, self.seed, ranges)
        source = find_given("--data", self.data, state.given)
        return decide_scale(
            graph, open_dataset(source, state.source, parse_preprocess(self.preprocess), self.data), ranges
        )


class Trials:
    """Models of one share after another, each measured."""

    def __init__(self, state: State, inner: tuple[Pass, ...], judge: DropJudge) -> None:
        self.state, self.inner, self.judge = state, inner, judge
        self.of = ""

    def try_ratio(self, ratio: float) -> Trial:
        """The trial of a share. Raises BudgetError where it cannot be reached."""
        return self.run(set_ratio(self.inner, ratio))

    def run(self, inner: tuple[Pass, ...]) -> Trial:
        """The trial of what these passes make."""
        state = Pipeline(tuple(shorten(inner))).run(self.state)
        assert state.budget is not None  # of the pass that takes a share
        ratio, self.of = state.budget.ratio, state.budget.of
        quality = self.judge.measure(state.model)
        if quality.drop is None:
            raise UsageError(
                f"how much the model loses is not known ({quality.reason}): give inputs with --calib, or with labels "
                "--data"
            )
        made = Trial(ratio, measure_removed(state), quality.drop)
        self.state.progress(f"search: {describe_trial(made)}")
        return made


def describe_trial(trial: Trial) -> str:
    """A trial in words."""
    return f"{trial.removed:.1%} fewer MACs lose {format_points(trial.drop)} points"


def describe_failure(found: Found, limit: float | None) -> str:
    """Why nothing was found: the best that was tried."""
    if not found.trials:
        return (
            "--max-drop: no share that was tried can be removed (--max-group-ratio, --min-keep, --exclude, --include)"
        )
    least = min(found.trials, key=lambda t: t.drop)
    asked = "" if limit is None else f" at most {format_points(limit)} points are allowed, and"
    tried = describe_trial(least)
    return f"--max-drop:{asked} the least that was tried: {tried}; allow more, or give real inputs (--calib)"
