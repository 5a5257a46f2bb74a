"""allocate: how many channels each group keeps, and which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from spa_compiler.analysis.cost import CostModel
from spa_compiler.errors import NothingToPrune, UsageError
from spa_compiler.execution.cpu import convolution_block
from spa_compiler.pipeline.fields import exclude_option, include_option, min_keep_option, option, threads_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.planning.allocation import Budget, allocate
from spa_compiler.planning.budget import parse_target
from spa_compiler.planning.latency_model import fastest, share_of_latency
from spa_compiler.planning.plan import Plan, best
from spa_compiler.planning.scores import Scores
from spa_compiler.planning.width_ladder import Limits

UNITS = ("macs", "params", "size", "latency", "channels")


@dataclass(frozen=True)
class Allocate:
    """A budget (`of` and `ratio`, or `target`) and what limits it.

    `align` 0 is what onnxruntime's kernels on this machine need. A latency is met by measuring: the share of MACs is
    found by bisection on the rewritten model.
    """

    ratio: float | None = option(None, "Share to remove, 0 to 1: --ratio 0.5 halves the MACs.", "budget")
    of: str = option("macs", "What the ratio is of.", "budget", choices=UNITS)
    target: str = option("", "The same as an absolute number: 1.2GMACs, 8Mparams, 20MB or 15ms.", "budget")
    scope: str = option(
        "auto", "Groups compete by error per cost, or all lose the same share; auto follows the criterion.",
        "budget", choices=("auto", "global", "uniform"),
    )  # fmt: skip
    align: int = option(
        0, "Widths in multiples of N; auto: what the kernels here need.", "budget", word="auto", unit="channels"
    )
    min_keep: int = min_keep_option()
    max_group_ratio: float = option(0.9, "Most that one group may lose.", "budget", least=0, most=1)
    exclude: tuple[str, ...] = exclude_option()
    include: tuple[str, ...] = include_option()
    group_ratio: tuple[str, ...] = option(
        (), "A ratio of their own for some groups, also a larger one.", "budget", metavar="PATTERN=R"
    )
    threads: int = threads_option()
    name: ClassVar[str] = "allocate"
    after: ClassVar[tuple[str, ...]] = ("score", "calibrate")
    requires: ClassVar[tuple[str, ...]] = ("graph", "scores")
    provides: ClassVar[tuple[str, ...]] = ("plan",)

    @classmethod
    def chosen(cls, options: Options) -> Allocate | None:
        """Where there is a budget; a target says itself of what it is."""
        given = options.fields_of(cls)
        if options.target:
            given.pop("of", None)
        return cls(**given) if options.is_pruning() else None

    def run(self, state: State) -> State:
        """A plan that meets the budget. Raises NothingToPrune when no group may change, BudgetError when few may."""
        self.check()
        if not state.scores:
            raise NothingToPrune(nothing(state))
        of, ratio = share_of(state, self.target, self.threads) if self.target else (self.of, self.ratio or 0.0)
        if of == "latency":
            plan = fastest(state.analyzed(), ratio, lambda share: self.plan(state, "macs", share), self.threads)
        else:
            plan = self.plan(state, of, ratio)
        if ratio > 0 and plan.empty:
            raise NothingToPrune(nothing(state))
        return replace(state, plan=plan).note(asked={"of": of, "ratio": ratio, "scope": self.chosen_scope(state)})

    def check(self) -> None:
        """Raise UsageError for a budget that makes no sense."""
        if self.ratio is None and not self.target:
            raise UsageError("allocate: say how much should go: ratio=0.5 or target=1.2GMACs")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise UsageError(f"the ratio {self.ratio} is not in 0..1 (1 excluded): it is the share to remove")
        if self.of not in UNITS:
            raise UsageError(f"--of {self.of}: expected one of {', '.join(UNITS)}")
        if self.target and (self.ratio is not None or self.of != "macs"):
            raise UsageError("allocate: a target says of what and how much: give it without ratio and of")
        if self.of == "channels" and self.scope == "global":
            raise UsageError("--of channels takes the same share of every group: give it without --scope global")

    def chosen_scope(self, state: State) -> str:
        """`auto`: scores that are errors of the output compare between groups, magnitudes do not."""
        if self.of == "channels":
            return "uniform"
        return self.scope if self.scope != "auto" else "global" if state.scores_are_errors else "uniform"

    def plan(self, state: State, of: str, ratio: float) -> Plan:
        """The plan for one share."""
        graph = state.analyzed()
        scores, left = marked(state.scores, state.plan), {n: state.plan.kept(graph.group(n)) for n in state.plan.keep}
        budget = Budget(of, ratio)
        widths = allocate(graph, CostModel(graph), scores, budget, self.limits(), self.chosen_scope(state), left)
        return best(graph, scores, widths).merged(state.plan)

    def limits(self) -> Limits:
        """The options as limits."""
        ratios = dict(_ratio(entry) for entry in self.group_ratio)
        return Limits(
            self.align, convolution_block(), self.min_keep, self.max_group_ratio, self.exclude, self.include, ratios
        )


def marked(scores: Scores, plan: Plan) -> Scores:
    """Scores in which the channels that a plan has removed already are the lowest."""
    out = dict(scores)
    for label in set(scores) & set(plan.keep):
        low = min(float(scores[label].min()), 0.0)
        out[label] = np.where(plan.keep[label], scores[label] - low + np.finfo(np.float64).tiny, 0.0)
    return out


def _ratio(entry: str) -> tuple[str, float]:
    pattern, _, ratio = entry.rpartition("=")
    try:
        value = float(ratio)
    except ValueError as e:
        raise UsageError(f"--group-ratio {entry}: expected PATTERN=0.5") from e
    if not pattern or not 0 <= value < 1:
        raise UsageError(f"--group-ratio {entry}: expected PATTERN=0.5, with a share in 0..1")
    return pattern, value


def share_of(state: State, target: str, threads: int = 0) -> tuple[str, float]:
    """An absolute target as the share to remove. Raises NothingToPrune when the dense model already meets it."""
    of, wanted = parse_target(target)
    if of == "latency":
        return of, share_of_latency(state.analyzed(), wanted, threads)
    unit = {"size": "bytes"}.get(of, of)
    dense = CostModel(state.analyzed()).total(unit, {})
    if wanted >= dense:
        raise NothingToPrune(f"--target {target}: the model already has only {dense:,.0f} {unit}")
    return of, 1 - wanted / dense


def nothing(state: State) -> str:
    """Why nothing can be pruned: what holds most of the parameters."""
    frozen = state.analyzed().frozen_parameters()
    why = "; ".join(f"{n:,} parameters: {reason}" for reason, n in list(frozen.items())[:3])
    return f"nothing can be pruned ({why or 'every group is excluded or at its floor'})"
