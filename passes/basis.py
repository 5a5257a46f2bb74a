"""basis: turn the channels of heads, so that what they carry stands in few of them."""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.analysis.mixable_dims import find_mixable
from spa_compiler.errors import UsageError
from spa_compiler.pipeline.fields import make_exclude_option, make_include_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.plan_template import list_turned
from spa_compiler.planning.width_ladder import find_open_groups
from spa_compiler.rewriting.turned_channels import turn_channels
from spa_compiler.scoring.registry import find_criterion

DIM_KINDS = ("heads", "all")


@dataclass(frozen=True)
class Basis:
    """Changes no output: channels of values, and those of queries and keys, are mixed in the weights of both sides.

    `dims`: `heads` for channels that are chosen in every head on their own, `all` for every dim that only linear maps
    touch. `exclude` and `include` as for `allocate`. [MoDeGPT, arXiv 2408.09632, for values]
    """

    dims: str = "heads"
    exclude: tuple[str, ...] = make_exclude_option()
    include: tuple[str, ...] = make_include_option()
    name: ClassVar[str] = "basis"
    after: ClassVar[tuple[str, ...]] = ("analyze", "redirect")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("model",)
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.dims not in DIM_KINDS:
            raise UsageError(f"basis: dims={self.dims}: expected one of {', '.join(DIM_KINDS)}")

    @classmethod
    def from_options(cls, options: Options) -> Basis | None:
        """Where channels are chosen by what they do to outputs, and where a saved plan is of turned channels.

        Scores, masks and other plans are of the channels that there are; other parts than those with budgets stay.
        """
        if options.plan:
            turned = list_turned(options.plan)
            return cls("all", include=tuple(map(glob.escape, turned))) if turned else None
        own = options.scores or options.parts or options.ratio == 0
        is_by_errors = find_criterion(options.criterion).needs == "moments"
        return cls(**options.fields_of(cls)) if is_by_errors and not own else None

    def run(self, state: State) -> State:
        """The state with the edited model, or as it was."""
        graph = state.require_graph()
        groups = [g for g in find_open_groups(graph, self.exclude, self.include) if self.dims == "all" or g.blocks > 1]
        found = find_mixable(graph, groups)
        if not found:
            return state
        labels = frozenset(m.group.label for m in found)
        plan = state.plan.merge(Plan(turned=labels))
        return replace(state, model=turn_channels(graph, found), plan=plan).add_results(turned=sorted(labels))
