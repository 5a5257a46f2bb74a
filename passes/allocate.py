"""allocate: how many channels each group keeps, and which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from spa_compiler.analysis.cost import CostModel, make_group_widths
from spa_compiler.analysis.cost_kinds import CountedCost, GroupShare, MeasuredCost
from spa_compiler.analysis.cost_registry import find_cost, find_costs, list_cost_names
from spa_compiler.calibration.sample_budget import take_first
from spa_compiler.errors import NothingToPrune, UsageError
from spa_compiler.pipeline.budgeted_passes import find_share
from spa_compiler.pipeline.fields import (
    AUTO,
    make_exclude_option,
    make_include_option,
    make_min_keep_option,
    make_option,
    make_ratio_option,
    make_threads_option,
    make_times_option,
)
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import Json, State
from spa_compiler.planning.allocation import Budget, allocate
from spa_compiler.planning.budget import parse_ratio, parse_target
from spa_compiler.planning.device import HOST, Device, check_measurable, find_device, list_device_names
from spa_compiler.planning.kernel_times import UNIT, KernelTimes, add_times, measure_here, read_times
from spa_compiler.planning.measured_budget import find_measured_plan
from spa_compiler.planning.measured_shares import measure_additivity
from spa_compiler.planning.parts import find_parts, measure_part
from spa_compiler.planning.plan import Plan, find_widths, lower_removed, make_best_plan
from spa_compiler.planning.scopes import AUTO_SCOPE, Strategy, find_scope, list_scope_names
from spa_compiler.planning.settings import PLANNING
from spa_compiler.planning.width_ladder import Limits, fill_steps, make_curve
from spa_compiler.verification.fidelity import draw_feeds

MISSED_SHARE = 0.05
"""By how much a measured share may be missed, and a measured target, as a share of it."""


@dataclass(frozen=True)
class Allocate:
    """A budget (`of` and `ratio`, or `target`) and what limits it.

    `align` 0 is what the kernels of the `device` need (`block`, where it is given: convolutions in blocks of so many
    channels); a compiled file's text says which device that was. For a latency
    groups compete by the times of their kernels, measured here or elsewhere (`times`), and rewritten models are
    measured until it is met; with `times` it is what these say. A budget may be of any cost that is registered.
    """

    ratio: float | str | None = make_ratio_option()
    parts: tuple[str, ...] = make_option(
        (), "Shares of the cost of parts of the model, by node or weight: --ratio 'unet/*=0.35'.",
        "budget", metavar="PATTERN=R", flag="--ratio", hidden=True,
    )  # fmt: skip
    of: str = make_option("macs", "The cost that the ratio is a share of.", "budget", choices=list_cost_names)
    target: str = make_option("", "The same as an absolute number: 1.2GMACs, 8Mparams, 20MB or 15ms.", "budget")
    scope: str = make_option(
        AUTO_SCOPE, "How groups share the budget: they compete by error per cost (global), the plan of least error is "
        "looked for (exact), all lose the same share (uniform), or shares that weights (erk, pq, magnitude) or inputs "
        "tell (similarity, angle, sensitivity); `spa passes` lists them. auto follows the criterion.",
        "budget", choices=list_scope_names,
    )  # fmt: skip
    align: int = make_option(
        0, "Widths in multiples of N; auto: what the kernels of --device need.", "budget", word="auto", unit="channels"
    )
    device: str = make_option(
        HOST, "Where the model is going to run: widths fill its kernels. host: a machine like this one.",
        "budget", choices=list_device_names,
    )  # fmt: skip
    times: str = make_times_option()
    min_keep: int = make_min_keep_option()
    max_group_ratio: float = make_option(
        PLANNING.most_group_share, "Most that one group may lose.", "budget", least=0, most=1
    )
    exclude: tuple[str, ...] = make_exclude_option()
    include: tuple[str, ...] = make_include_option()
    group_ratio: tuple[str, ...] = make_option(
        (), "A ratio of their own for some groups, also a larger one.", "budget", metavar="PATTERN=R"
    )
    layer_ratio: tuple[str, ...] = make_option(
        (), "Share of the weights that contractions lose, by node or weight: widths follow by least squares.",
        "budget", metavar="PATTERN=R",
    )  # fmt: skip
    threads: int = make_threads_option()
    block: int = 0
    name: ClassVar[str] = "allocate"
    after: ClassVar[tuple[str, ...]] = ("score", "calibrate")
    requires: ClassVar[tuple[str, ...]] = ("graph", "scores")
    provides: ClassVar[tuple[str, ...]] = ("plan",)

    @classmethod
    def from_options(cls, options: Options) -> Allocate | None:
        """Where there is a budget; a target says itself of what it is."""
        given = options.fields_of(cls)
        if options.target:
            given.pop("of", None)
        if options.ratio == AUTO:
            given.pop("ratio")
        return cls(**given) if options.is_pruning() else None

    def resolve(self) -> Allocate:
        """The same pass with what it would read from this machine written down, and without what it does not read.

        Raises UsageError for a device that there is not, or a budget of it that cannot be measured here.
        """
        self.check_device()
        of = parse_target(self.target)[0] if self.target else self.of
        measured = of in find_costs() and isinstance(find_cost(of), MeasuredCost)
        has_effect = measured or (not self.align and not self.block)
        device = self.device if self.times else find_device(self.device).name  # the file of times says which
        return replace(
            self,
            device=device if has_effect else HOST,
            times=self.times if has_effect else "",
            block=0 if self.align else self.block,
            threads=self.threads if measured else 0,
        )

    def run(self, state: State) -> State:
        """A plan that meets the budget. Raises NothingToPrune when no group may change, BudgetError when few may."""
        self.check()
        if not state.scores:
            raise NothingToPrune(describe_frozen(state))
        known = self.read_times(state)
        of, ratio = find_share(state, self.target, self.threads, known) if self.target else (self.of, self.share)
        cost, tolerance = find_cost(of), MISSED_SHARE * (1 - ratio if self.target else 1)
        if isinstance(cost, MeasuredCost) and cost.unit == UNIT:
            known = known or measure_here(state.require_graph().model, self.threads)
        limits = self.limits(known)
        if ratio > 0 and state.plan.digest() == state.erased.digest():  # nothing but dead channels went so far
            whole = fill_steps(state.require_graph(), state.plan, limits)
            state = replace(state, scores=lower_removed(state.scores, state.plan), plan=whole, erased=whole)
        if isinstance(cost, MeasuredCost):
            plan = self.meet_measured(state, cost, ratio, limits, known, tolerance)
        else:
            plan = self.make_plan(state, self.make_budget(of, find_remaining_share(state, of, ratio)), limits)
        if ratio > 0 and plan.is_empty and not state.edits:
            raise NothingToPrune(describe_small_share(state, of, ratio) or describe_frozen(state))
        budget = replace(self.make_budget(of, ratio), tolerance=tolerance)
        asked: dict[str, Json] = {"of": of, "ratio": ratio, "scope": self.choose_scope(state)}
        asked |= {"parts": list(describe_parts(state, budget, plan))} if budget.parts else {}
        said = {} if self.align and known is None else {"device": describe_device(limits.device, known)}
        state = replace(state, plan=plan, budget=budget).add_results(asked=asked, **said)
        return state if not is_exact(self.choose_scope(state)) else state.add_results(additivity=compare_errors(state))

    def make_budget(self, of: str, ratio: float) -> Budget:
        """The budget of the whole, and of parts."""
        return Budget(of, ratio, parts=self.read_parts())

    def check(self) -> None:
        """Raise UsageError for a budget that makes no sense."""
        if self.ratio is None and not self.target and not self.has_own_ratios:
            raise UsageError("allocate: no budget: give ratio=0.5 or target=1.2GMACs")
        if isinstance(self.ratio, str):
            raise UsageError(f"allocate: ratio={self.ratio}: expected a number; `search` finds one")
        if not 0 <= self.share < 1:
            raise UsageError(f"the ratio {self.ratio} is not in 0..1 (1 excluded): it is the share to remove")
        if not 0 <= self.max_group_ratio <= 1:
            raise UsageError(f"--max-group-ratio {self.max_group_ratio}: expected a share in 0..1")
        if self.of not in list_cost_names():
            raise UsageError(f"--of {self.of}: expected one of {', '.join(list_cost_names())}")
        if self.target and (self.ratio is not None or self.of != "macs"):
            raise UsageError("allocate: target already sets the cost and the budget: leave out ratio and of")
        self.check_device()
        if self.parts and not isinstance(find_cost(self.of), CountedCost):
            raise UsageError(f"--ratio {self.parts[0]}: --of {self.of} is not counted by nodes")
        if self.scope not in list_scope_names():
            find_scope(self.scope)
        is_strategy = self.scope != AUTO_SCOPE and isinstance(find_scope(self.scope), Strategy)
        if isinstance(find_cost(self.of), GroupShare) and is_strategy:
            raise UsageError(f"--of {self.of} takes shares of groups: give it without --scope {self.scope}")

    def check_device(self) -> None:
        """Raise UsageError for a device that there is not, or a budget of it that cannot be measured here."""
        device = find_device(self.device)
        of = parse_target(self.target)[0] if self.target else self.of
        cost = find_cost(of) if of in list_cost_names() else None
        if isinstance(cost, MeasuredCost) and cost.is_of_machine and not self.times:
            check_measurable(device, f"--target {self.target}" if self.target else f"--of {of}")

    @property
    def has_own_ratios(self) -> bool:
        """Do parts or groups of the model have ratios of their own?"""
        return bool(self.parts or self.group_ratio or self.layer_ratio)

    def read_parts(self) -> tuple[tuple[str, float], ...]:
        """Patterns and shares of parts. Raises UsageError for a pattern that is given twice, and for other forms."""
        found = [parse_ratio("--ratio", entry) for entry in self.parts]
        for pattern, ratio in found:
            others = {r for p, r in found if p == pattern} - {ratio}
            if others:
                both = f"{pattern}={ratio:g} and {others.pop():g}"
                raise UsageError(f"--ratio: the budgets contradict each other: {both}")
        return tuple(dict(found).items())

    @property
    def share(self) -> float:
        """The share to remove, as far as it is a number."""
        return self.ratio if isinstance(self.ratio, int | float) else 0.0

    def choose_scope(self, state: State) -> str:
        """`auto`: scores that are errors of the output compare between groups, magnitudes do not."""
        if self.scope != AUTO_SCOPE:
            return self.scope
        is_even = isinstance(find_cost(self.of), GroupShare) or not state.scores_are_errors
        return "uniform" if is_even else "global"

    def read_times(self, state: State) -> KernelTimes | None:
        """The times that were given. Raises UsageError where they are of another model, or another device."""
        if not self.times:
            return None
        known = read_times(Path(self.times), state.source.files.digest(state.source.path))
        if self.device not in (HOST, known.device):
            raise UsageError(
                f"--times {self.times} was measured on {known.device or known.document['cpu']}, and --device says "
                f"{self.device}: leave out --device"
            )
        return known

    def make_plan(self, state: State, budget: Budget, limits: Limits, known: KernelTimes | None = None) -> Plan:
        """The plan for one share; `known`: of milliseconds, as these times have them."""
        graph = state.require_graph()
        scores, left = (
            lower_removed(state.scores, state.plan),
            {n: state.plan.count_kept(graph.group(n)) for n in state.plan.keep},
        )
        cost = CostModel(graph)
        if known is not None:
            cost = add_times(cost, known)
        feeds = [] if state.calibration is None else take_first(state.calibration.feeds, PLANNING.scope_inputs)
        widths = allocate(graph, cost, scores, budget, limits, self.choose_scope(state), left, feeds)
        return make_best_plan(graph, scores, widths).merge(state.plan)

    def meet_measured(
        self, state: State, cost: MeasuredCost, ratio: float, limits: Limits, known: KernelTimes | None,
        tolerance: float,
    ) -> Plan:  # fmt: skip
        """The plan for one share of a cost that is met by measuring; where it cannot be measured here, as times say."""
        by_time = known if cost.unit == UNIT else None

        def make_plan(share: float) -> Plan:
            return self.make_plan(state, Budget(cost.name, share, tracked=UNIT if by_time else ""), limits, by_time)

        if by_time is not None and not by_time.is_here:
            return make_plan(ratio)
        return find_measured_plan(cost, state.require_graph(), ratio, make_plan, self.threads, tolerance)

    def find_device(self, known: KernelTimes | None = None) -> Device:
        """The device whose kernels the widths fill; where times are given, the one that they were measured on."""
        if self.block:  # of texts that were written before devices had names
            return Device(name=f"block={self.block}", convolution=self.block, source="the option block of allocate")
        there = known.device if known is not None and not known.is_here else ""
        return find_device(there or self.device)

    def limits(self, known: KernelTimes | None = None) -> Limits:
        """The options as limits."""
        ratios = dict(parse_ratio("--group-ratio", entry) for entry in self.group_ratio)
        densities = dict(parse_ratio("--layer-ratio", entry) for entry in self.layer_ratio)
        return Limits(
            self.align, self.find_device(known), self.min_keep, self.max_group_ratio, self.exclude, self.include,
            ratios, densities,
        )  # fmt: skip


def is_exact(scope: str) -> bool:
    """Does a scope minimise a sum of errors?"""
    found = find_scope(scope)
    return isinstance(found, Strategy) and found.is_exact


def compare_errors(state: State) -> dict[str, Json]:
    """The sum of scores that a plan loses, the outputs' loss by each of its groups alone, and by all of them together.

    On calibration inputs where there are some, else on noise.
    """
    graph, plan = state.require_graph(), state.plan
    groups = [g for g in graph.groups if g.label in state.scores]
    curves = ((make_curve(state.scores[g.label], g.size), g.size - plan.count_kept(g)) for g in groups)
    if state.calibration is None:
        feeds, source = draw_feeds(graph.model, state.seed, state.ranges), "noise"
    else:
        feeds, source = take_first(state.calibration.feeds, PLANNING.scope_inputs), state.calibration.source
    alone, joint = measure_additivity(graph, plan, feeds)
    return {"scores": float(sum(c[k] for c, k in curves)), "alone": alone, "joint": joint, "inputs": source}


def describe_parts(state: State, budget: Budget, plan: Plan) -> Iterator[dict[str, Json]]:
    """Per part of a budget its pattern, the share that was asked for, and that which goes."""
    graph, widths = state.require_graph(), find_widths(state.require_graph(), plan)
    for part in find_parts(graph, dict(budget.parts)):
        yield {"pattern": part.name, "ratio": part.ratio, "reached": measure_part(part, budget.unit, widths)}


def describe_device(device: Device, known: KernelTimes | None) -> dict[str, Any]:
    """The device for the report, with whose milliseconds decided."""
    found = device.document()
    if known is not None and not known.is_here:
        found["is_here"] = False
    return found | {"times": known.describe() if known is not None else None}


def find_remaining_share(state: State, of: str, ratio: float) -> float:
    """The share of what exact passes have left that has to go, so that `ratio` of the model that was given goes."""
    cost = find_cost(of)
    if state.unedited is None or isinstance(cost, GroupShare | MeasuredCost):
        return ratio
    dense, now = (CostModel(g).total(cost.unit, {}) for g in (state.unedited, state.require_graph()))
    return max(0.0, 1 - (1 - ratio) * dense / now) if now else 0.0


def describe_small_share(state: State, of: str, ratio: float) -> str:
    """Why a share removes nothing where it is less than one unit of any group; '' where it is not."""
    cost, graph = find_cost(of), state.require_graph()
    groups = [graph.group(n) for n in state.scores]
    if isinstance(cost, MeasuredCost):
        return ""
    if isinstance(cost, GroupShare):
        least = min(1 / g.size for g in groups)
    else:
        model, unit = CostModel(graph), cost.unit
        dense = model.total(unit, {})
        one_less = [model.total(unit, make_group_widths(g, g.size - 1)) for g in groups]
        least = 1 - max(one_less) / dense if dense else 0.0
    if ratio >= least:
        return ""
    smallest = f"the smallest unit of a group is {least:.2%}"
    return f"nothing is removed: {ratio:.4g} of the {of} is less than one unit ({smallest}); ask for more"


def describe_frozen(state: State) -> str:
    """Why nothing can be pruned: what holds most of the parameters."""
    frozen = state.require_graph().frozen_parameters()
    why = "; ".join(f"{n:,} parameters: {reason}" for reason, n in list(frozen.items())[:3])
    return f"nothing can be pruned ({why or 'every group is excluded or at its floor'})"
