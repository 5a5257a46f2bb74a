"""erase: remove what can go without any loss, before anything is scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.analysis.dead_channels import dead_channels
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.width_ladder import open_groups


@dataclass(frozen=True)
class Erase:
    """Exact zeros only; `exclude`, `include` and `min_keep` as for `allocate`."""

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    min_keep: int = 1
    name: ClassVar[str] = "erase"

    def run(self, state: State) -> State:
        """The plan without the channels that are dead; blocks lose equally many."""
        graph = state.analyzed()
        found = dead_channels(graph, self.min_keep)
        dead = {g.label: found[g.label] for g in open_groups(graph, self.exclude, self.include) if g.label in found}
        plan = Plan({label: ~mask for label, mask in dead.items()})
        count = sum(int(mask.sum()) for mask in dead.values())
        return replace(state, plan=plan.merged(state.plan), erased=plan).note(erased=count)
