"""erase: remove what can go without any loss, before anything is scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.lossless import dead_channels
from spa_compiler.pipeline import State
from spa_compiler.plan import Plan


@dataclass(frozen=True)
class Erase:
    """No options: exact zeros only."""

    name: ClassVar[str] = "erase"

    def run(self, state: State) -> State:
        """The plan without the channels that are dead; blocks lose equally many."""
        graph = state.analyzed()
        dead = dead_channels(graph)
        plan = Plan({label: ~mask for label, mask in dead.items()})
        count = sum(int(mask.sum()) for mask in dead.values())
        return replace(state, plan=plan.merged(state.plan), erased=plan).note(erased=count)
