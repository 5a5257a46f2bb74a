"""erase: remove dead channels, which changes no output, before anything is scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.analysis.dead_channels import find_dead_channels
from spa_compiler.pipeline.fields import make_exclude_option, make_include_option, make_min_keep_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.width_ladder import find_open_groups


@dataclass(frozen=True)
class Erase:
    """Exact zeros only; `exclude`, `include` and `min_keep` as for `allocate`."""

    exclude: tuple[str, ...] = make_exclude_option()
    include: tuple[str, ...] = make_include_option()
    min_keep: int = make_min_keep_option()
    name: ClassVar[str] = "erase"
    after: ClassVar[tuple[str, ...]] = ("analyze", "fold", "redirect")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("plan", "erased")

    @classmethod
    def from_options(cls, options: Options) -> Erase | None:
        """Part of every pipeline but where a plan says itself what goes, and all checkpoints keep the same."""
        return None if options.plan else cls(**options.fields_of(cls))

    def run(self, state: State) -> State:
        """The plan without the channels that are dead; blocks lose equally many."""
        graph = state.require_graph()
        found = find_dead_channels(graph, self.min_keep)
        dead = {
            g.label: found[g.label] for g in find_open_groups(graph, self.exclude, self.include) if g.label in found
        }
        plan = Plan({label: ~mask for label, mask in dead.items()})
        return replace(state, plan=plan.merge(state.plan), erased=plan)
