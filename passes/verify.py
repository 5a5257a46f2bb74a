"""verify: prune equals mask, checked on the rewritten model before anything is compensated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spa_compiler.errors import UsageError
from spa_compiler.pipeline import State
from spa_compiler.runtime import parse_ranges
from spa_compiler.verify import structural


@dataclass(frozen=True)
class Verify:
    """`input_range`: entries `name:low,high` that random inputs stay in."""

    seed: int = 0
    input_range: tuple[str, ...] = ()
    name: ClassVar[str] = "verify"

    def run(self, state: State) -> State:
        """The state with the check's figures. Raises VerificationError that names the culprit."""
        graph = state.analyzed()
        if state.pruned is None:
            raise UsageError("verify needs a rewritten model: put `remove` before it")
        masks = state.plan.masks(graph)
        found = structural(graph, masks, state.pruned, self.seed, parse_ranges(self.input_range, state.source))
        return state.note(prune_equals_mask=found.document())
