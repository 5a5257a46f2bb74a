"""verify: prune equals mask, checked on the rewritten model before anything is compensated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spa_compiler.errors import UnprovenError, UsageError
from spa_compiler.execution.inputs import parse_ranges
from spa_compiler.pipeline.state import State
from spa_compiler.verification.proof import structural


@dataclass(frozen=True)
class Verify:
    """`input_range`: entries `name:low,high` that inputs stay in; `allow_unproven`: silent groups are no error."""

    seed: int = 0
    input_range: tuple[str, ...] = ()
    allow_unproven: bool = False
    name: ClassVar[str] = "verify"

    def run(self, state: State) -> State:
        """The state with the check's figures.

        Raises VerificationError that names the culprit, UnprovenError where nothing shows what a group does.
        """
        graph = state.analyzed()
        if state.pruned is None:
            raise UsageError("verify needs a rewritten model: put `remove` before it")
        masks = state.plan.masks(graph)
        ranges = parse_ranges(self.input_range, state.source)
        found = structural(graph, masks, state.pruned, self.seed, ranges, state.source)
        if found.silent and not self.allow_unproven:
            raise UnprovenError(found.silent, found.groups)
        return state.note(prune_equals_mask=found.document())
