"""fold: make one of linear maps, factors and expressions of constants that have nothing between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.rewriting.folded_maps import fold_maps


@dataclass(frozen=True)
class Fold:
    """Changes no output; a gate of zeros becomes rows of zeros, which `erase` removes. It has no options."""

    name: ClassVar[str] = "fold"
    after: ClassVar[tuple[str, ...]] = ("analyze",)
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("model",)
    exact: ClassVar[bool] = True
    optional: ClassVar[bool] = True

    @classmethod
    def from_options(cls, options: Options) -> Fold | None:
        """Part of every pipeline, but where a saved plan cuts the weights as they are, where budgets of parts leave the
        rest as it is, and where patterns name groups, which may not be there any more.
        """
        return None if options.plan or options.parts or options.exclude or options.include else cls()

    def run(self, state: State) -> State:
        """The state with the edited model, or as it was."""
        found = fold_maps(state.require_graph())
        if found is None:
            return state
        counts = {"factors": found.factors, "expressions": found.expressions, "branches": found.branches}
        return replace(state, model=found.model).add_results(folded_maps=counts)
