"""redirect: read channels that are multiples of others, or numbers, from where they come; leave out zero terms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.pipeline.fields import make_exclude_option, make_include_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.planning.width_ladder import find_open_groups
from spa_compiler.rewriting.redirected_channels import redirect_channels


@dataclass(frozen=True)
class Redirect:
    """Changes no output, and leaves channels that nothing reads, which `erase` removes.

    `exclude` and `include` as for `allocate`: of a group that is left alone nothing is redirected, and with either no
    term of a sum is left out, for that changes what several groups belong to.
    """

    exclude: tuple[str, ...] = make_exclude_option()
    include: tuple[str, ...] = make_include_option()
    name: ClassVar[str] = "redirect"
    after: ClassVar[tuple[str, ...]] = ("analyze", "fold")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("model",)
    exact: ClassVar[bool] = True
    optional: ClassVar[bool] = True

    @classmethod
    def from_options(cls, options: Options) -> Redirect | None:
        """Part of every pipeline, but where a saved plan says what goes (other weights need not be multiples), or where
        budgets of parts leave the rest as it is.
        """
        return None if options.plan or options.parts else cls(**options.fields_of(cls))

    def run(self, state: State) -> State:
        """The state with the edited model, or as it was."""
        graph = state.require_graph()
        groups = list(find_open_groups(graph, self.exclude, self.include))
        found = redirect_channels(graph, groups, terms=not (self.exclude or self.include))
        if found is None:
            return state
        counts = {"channels": found.channels, "terms": found.terms}
        note = f"{found.channels} channels are read from others: a plan that is saved cuts them, and does not do that"
        notes = [f"{note}; --plan loses what they hold"] if found.channels else []
        return replace(state, model=found.model).add_results(redirected=counts).add_notes(*notes)
