"""erase: remove dead channels, which changes no output, before anything is scored.

erase                     channels that are zero, or that every reader multiplies by zero
erase{tol=1e-6}           weights within 1e-6 of zero are zeros, too: what training left at 1e-7 goes
erase{ranges=true}        and channels that a rectifier always stops, for inputs within --input-range
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.analysis.channel_multiples import find_multiples
from spa_compiler.analysis.dead_channels import find_dead_channels
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.value_ranges import Ranges, find_ranges
from spa_compiler.errors import UsageError, VerificationError
from spa_compiler.pipeline.fields import make_exclude_option, make_include_option, make_min_keep_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.passes import read_again
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.width_ladder import LEAST_OF_STATISTIC, find_open_groups
from spa_compiler.rewriting.counted_statistics import keep_statistics
from spa_compiler.rewriting.open_rectifiers import open_rectifiers
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.rewriting.redirected_channels import redirect_channels
from spa_compiler.verification.exact import prove_same


@dataclass(frozen=True)
class Erase:
    """`exclude`, `include` and `min_keep` as for `allocate`.

    `tol`: entries of weights up to it are zeros (MaskSparsity and other penalties leave 1e-7), so that outputs change
    by what they gave; constant channels behind a gain that small go into what reads them. `ranges`: bounds of all
    values follow from those of the inputs, and with them the units that a rectifier always stops, or never touches
    ; it holds for these inputs only.
    """

    exclude: tuple[str, ...] = make_exclude_option()
    include: tuple[str, ...] = make_include_option()
    min_keep: int = make_min_keep_option()
    tol: float = 0.0
    ranges: bool = False
    name: ClassVar[str] = "erase"
    after: ClassVar[tuple[str, ...]] = ("analyze", "fold", "redirect")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("plan", "erased")

    @classmethod
    def from_options(cls, options: Options) -> Erase | None:
        """Part of every pipeline but where a plan says itself what goes, and all checkpoints keep the same."""
        return None if options.plan else cls(**options.fields_of(cls))

    def run(self, state: State) -> State:
        """The plan without the channels that are dead; blocks lose equally many.

        Raises UsageError for a tolerance that is none.
        """
        if not 0 <= self.tol < math.inf:
            raise UsageError(f"erase{{tol={self.tol:g}}}: expected 0 or more")
        state, bounds = self._take_counted(state), None
        if self.tol or self.ranges:
            state = self._edit(state)
            bounds = self._find_ranges(state.require_graph(), state)
        graph = state.require_graph()
        found = find_dead_channels(graph, self.min_keep, self.tol, bounds)
        dead = {
            g.label: found[g.label] for g in find_open_groups(graph, self.exclude, self.include) if g.label in found
        }
        plan = Plan({label: ~mask for label, mask in dead.items()})
        return replace(state, plan=plan.merge(state.plan), erased=plan)

    def _take_counted(self, state: State) -> State:
        """The state with a model without the channels that are zero under norms of mean squares, if there are any.

        Both go together, so that no plan says it.
        """
        graph = state.require_graph()
        found = find_dead_channels(graph, max(self.min_keep, LEAST_OF_STATISTIC), counted=True)
        open_groups = {g.label for g in find_open_groups(graph, self.exclude, self.include)}
        plan = Plan({label: ~mask for label, mask in found.items() if label in open_groups})
        corrected = None if plan.is_empty else keep_statistics(graph, plan.masks(graph))
        if corrected is None:
            return state
        counted = read_again(state, corrected, self.name).require_graph()
        edited = read_again(state, rewrite(counted, plan.masks(counted)), self.name)
        try:
            prove_same(self.name, state.model, edited.require_graph(), state.seed, state.ranges)
        except VerificationError as e:
            return state.add_notes(f"zero channels under norms stay: {e}")
        gone = sum(int(mask.sum()) for mask in found.values())
        note = f"{gone} zero channels under norms went, and gains follow: a plan that is saved is of what was left"
        return edited.add_results(counted_channels=gone).add_notes(note)

    def _find_ranges(self, graph: DependencyGraph, state: State) -> Ranges | None:
        return find_ranges(graph, state.ranges) if self.ranges else None

    def _edit(self, state: State) -> State:
        """The state with a model in which nothing reads what is constant by these options, and with notes of them.

        Where the outputs would change by more than rounding, the model stays as it is.
        """
        bounds, opened, edited = self._find_ranges(state.require_graph(), state), 0, state
        terms = not (self.exclude or self.include)  # nothing that several groups belong to where some are named
        if bounds is not None and terms and (found := open_rectifiers(state.require_graph(), bounds)):
            edited, opened = read_again(state, found[0], self.name), found[1]
            bounds = self._find_ranges(edited.require_graph(), state)
        graph = edited.require_graph()
        facts = find_multiples(graph, self.tol, bounds)
        groups = list(find_open_groups(graph, self.exclude, self.include))
        if redirected := redirect_channels(graph, groups, terms, facts):
            edited = read_again(edited, redirected.model, self.name)
        if edited is not state:
            try:
                prove_same(self.name, state.model, edited.require_graph(), state.seed, state.ranges)
            except VerificationError as e:
                edited, opened = state.add_notes(f"what pass 'erase' would have edited stays as it is: {e}"), 0
        return edited.add_notes(*self._list_notes(edited, opened))

    def _list_notes(self, state: State, opened: int) -> list[str]:
        """The conditions under which the result holds."""
        notes = []
        if self.tol:
            notes.append(
                f"weights within {self.tol:g} of zero count as zeros: a channel that went for that gave at most "
                f"{self.tol:g} times the sum of the magnitudes that it read, and {self.tol:g}"
            )
        if self.ranges:
            said = ", ".join(f"{n} within {low:g}..{high:g}" for n, (low, high) in state.ranges.items())
            left_out = f"; {opened} rectifiers that change nothing are left out" if opened else ""
            notes.append(
                f"units that rectifiers always stop were found for {said or 'any input (--input-range narrows it)'}; "
                f"for other inputs the compiled model is another one{left_out}"
            )
        return notes
