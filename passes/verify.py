"""verify: prune equals mask, checked on the rewritten model before anything is compensated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.errors import UnprovenError, UsageError
from spa_compiler.execution.inputs import parse_ranges
from spa_compiler.pipeline.fields import make_option, make_range_option, make_seed_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.verification.proof import prove_rewrite
from spa_compiler.verification.unproven_groups import list_unfinite_constants


@dataclass(frozen=True)
class Verify:
    """`input_range`: entries `name:low,high` that inputs stay in; `allow_unproven`: silent groups are no error."""

    seed: int = make_seed_option()
    input_range: tuple[str, ...] = make_range_option()
    allow_unproven: bool = make_option(
        False, "Exit 0 although nothing that the proof sees depends on some groups.", "proof"
    )
    name: ClassVar[str] = "verify"
    after: ClassVar[tuple[str, ...]] = ("remove",)
    requires: ClassVar[tuple[str, ...]] = ("graph", "pruned")
    provides: ClassVar[tuple[str, ...]] = ("proof",)

    @classmethod
    def from_options(cls, options: Options) -> Verify:
        """Part of every pipeline."""
        return cls(**options.fields_of(cls))

    def run(self, state: State) -> State:
        """The state with the check's figures.

        Raises VerificationError that names the culprit, UnprovenError where nothing shows what a group does.
        """
        graph = state.require_graph()
        if state.pruned is None:
            raise UsageError("verify needs a rewritten model: put `remove` before it")
        masks = state.plan.masks(graph)
        ranges = parse_ranges(self.input_range, state.source)
        found = prove_rewrite(graph, masks, state.pruned, self.seed, ranges, state.source)
        if found.silent and not self.allow_unproven:
            raise UnprovenError(found.silent_names, found.groups, list_unfinite_constants(state.source))
        return replace(state, proof=found)
