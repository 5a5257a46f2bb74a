"""erase: remove what can go without any loss, before anything is scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.analysis.dead_channels import dead_channels
from spa_compiler.pipeline.fields import exclude_option, include_option, min_keep_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.width_ladder import open_groups


@dataclass(frozen=True)
class Erase:
    """Exact zeros only; `exclude`, `include` and `min_keep` as for `allocate`."""

    exclude: tuple[str, ...] = exclude_option()
    include: tuple[str, ...] = include_option()
    min_keep: int = min_keep_option()
    name: ClassVar[str] = "erase"
    after: ClassVar[tuple[str, ...]] = ("analyze",)
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("plan", "erased")

    @classmethod
    def chosen(cls, options: Options) -> Erase:
        """Part of every pipeline; a saved plan says itself what is left alone."""
        return cls() if options.plan else cls(**options.fields_of(cls))

    def run(self, state: State) -> State:
        """The plan without the channels that are dead; blocks lose equally many."""
        graph = state.analyzed()
        found = dead_channels(graph, self.min_keep)
        dead = {g.label: found[g.label] for g in open_groups(graph, self.exclude, self.include) if g.label in found}
        plan = Plan({label: ~mask for label, mask in dead.items()})
        return replace(state, plan=plan.merged(state.plan), erased=plan)
