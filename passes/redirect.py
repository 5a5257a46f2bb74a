"""redirect: read channels that are multiples of others, or numbers, from where they come; leave out zero terms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.rewriting.redirected_channels import redirect_channels


@dataclass(frozen=True)
class Redirect:
    """No options: what it does changes no output, and leaves channels that nothing reads, which `erase` removes."""

    name: ClassVar[str] = "redirect"
    after: ClassVar[tuple[str, ...]] = ("analyze",)
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("model",)
    exact: ClassVar[bool] = True

    @classmethod
    def from_options(cls, options: Options) -> Redirect | None:
        """Part of every pipeline, but where a saved plan says what goes (other weights need not be multiples), or where
        budgets of parts leave the rest as it is.
        """
        return None if options.plan or options.parts else cls()

    def run(self, state: State) -> State:
        """The state with the edited model, or as it was."""
        found = redirect_channels(state.require_graph())
        if found is None:
            return state
        counts = {"channels": found.channels, "terms": found.terms}
        return replace(state, model=found.model).add_results(redirected=counts)
