"""basis: turn the channels of heads and of residual streams, so that what they carry stands in few of them."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.mixable_dims import Mixable, find_mixable
from spa_compiler.analysis.normed_streams import find_streams
from spa_compiler.calibration.stream_products import draw_stream_inputs, measure_products
from spa_compiler.errors import SpaError, UsageError
from spa_compiler.pipeline.fields import make_exclude_option, make_include_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.plan_template import list_turned
from spa_compiler.planning.width_ladder import find_open_groups
from spa_compiler.rewriting.turned_channels import turn_channels
from spa_compiler.rewriting.turned_streams import can_turn, turn_streams
from spa_compiler.scoring.registry import find_criterion

DIM_KINDS = ("auto", "heads", "streams", "all")


@dataclass(frozen=True)
class Basis:
    """Changes no output: channels are mixed in the weights that make them and in those that read them.

    `dims`: `heads` for channels that are chosen in every head on their own (values, queries and keys), by the singular
    vectors of the weights on both sides; `streams` for residual streams that only norms read, by the directions that
    drawn inputs use, the same in every run; `auto` both; `all` also every other dim that only linear maps touch.
    `exclude` and `include` as for `allocate`. [MoDeGPT, arXiv 2408.09632, for values; SliceGPT, arXiv 2401.15024, for
    streams, which here keep their norms]
    """

    dims: str = "auto"
    exclude: tuple[str, ...] = make_exclude_option()
    include: tuple[str, ...] = make_include_option()
    name: ClassVar[str] = "basis"
    after: ClassVar[tuple[str, ...]] = ("analyze", "redirect")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("model",)
    exact: ClassVar[bool] = True
    optional: ClassVar[bool] = True

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
        groups = list(find_open_groups(graph, self.exclude, self.include))
        found = self.find_mixed(graph, groups)
        model = turn_channels(graph, found) if found else graph.model
        streams = find_streams(graph, groups) if self.dims != "heads" else []
        streams = [s for s in streams if can_turn(graph, s)]
        if streams:
            try:
                feeds = draw_stream_inputs(graph, state.ranges)
                model = turn_streams(graph, model, streams, measure_products(graph, streams, feeds))
            except SpaError as e:
                state, streams = state.add_notes(f"residual streams keep their channels: {e}"), []
        if not found and not streams:
            return state
        labels = frozenset([*(m.group.label for m in found), *(s.group.label for s in streams)])
        plan = state.plan.merge(Plan(turned=labels))
        return replace(state, model=model, plan=plan).add_results(turned=sorted(labels))

    def find_mixed(self, graph: DependencyGraph, groups: Sequence[Group]) -> list[Mixable]:
        """Dims between two linear maps."""
        if self.dims == "streams":
            return []
        return find_mixable(graph, [g for g in groups if self.dims == "all" or g.blocks > 1])
