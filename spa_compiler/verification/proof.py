"""Source equals normalised, and prune equals mask: the proof that runs on every compile.

    prove_rewrite(graph, masks, small, source=model)      # raises VerificationError and names the culprit

Four models are run: the file that was given, the normalised graph, the normalised graph in which removed units do not
count (`masked_model`), and the rewritten one. Outputs that end in a Sigmoid or Softmax are compared before it: after
saturation a relative error says nothing. Inside of the graph, what every contraction gives is compared as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from spa_compiler.algebra.expr import Dim
from spa_compiler.algebra.masks import Bools
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.errors import ModelError, VerificationError
from spa_compiler.execution.finite import is_finite
from spa_compiler.execution.input_ranges import inspect_inputs
from spa_compiler.execution.inputs import Recipe, draw_finite_inputs
from spa_compiler.execution.interrupts import check_stop
from spa_compiler.ir.model import Model
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.verification.branches import (
    Choice,
    find_reached,
    find_repeated,
    find_sized,
    find_taken,
    force_branches,
    list_choices,
)
from spa_compiler.verification.comparison import choose_tolerance, measure_difference
from spa_compiler.verification.culprit import describe_culprits, find_culprits
from spa_compiler.verification.feeds import VARIATIONS, Feed, Ranges, count_draws, draw_inputs, vary_inputs
from spa_compiler.verification.inside import find_inner_values, find_pushed, sample_evenly
from spa_compiler.verification.masked import Comparison, Outcome, Round
from spa_compiler.verification.replay import list_compared
from spa_compiler.verification.runs import Side
from spa_compiler.verification.sizes import CHEAP_MACS, Sizes, count_macs, list_analysis_sizes, list_proof_sizes
from spa_compiler.verification.source import SourcePair
from spa_compiler.verification.unproven_groups import FAR_FACTOR, Power, find_body_outputs, find_cut

HEAVY_MACS = 3e8
"""Multiply-accumulates of a sample from which fewer runs are made, and several at once."""
MOST_DRAWS = 8
"""Feeds of one size that are drawn until every row of every table is named."""
MOST_SIZES = 5
"""Sizes beside those of the analysis that are run, of those that the source can run."""


@dataclass(frozen=True)
class Structural:
    """Figures of a proof: the comparisons, and the largest errors as shares of the scale of their index."""

    error: float
    tolerance: float
    checks: int
    sizes: list[Sizes]
    refused: list[Sizes] = field(default_factory=list)  # sizes that the source does not run at
    source_error: float | None = None  # the normalised graph against the file; None where there is none to compare
    inside: int = 0  # values inside of the graph that were compared
    inside_of: int = 0  # and how many there are
    groups: int = 0  # that lose a unit
    silent: tuple[str, ...] = ()  # of these, the labels of those that nothing the proof sees depends on
    branches: int = 0  # choices of branches under which it was checked as well
    unproven: tuple[str, ...] = ()  # branches that the dense model cannot run on these inputs
    replayed: tuple[str, ...] = ()  # all decisions, where rounding turned one: what follows took the masked model's
    drawn: str = str(Recipe())  # how inputs were drawn
    silent_names: tuple[str, ...] = ()  # the names of `silent`, for messages

    def document(self) -> dict[str, Any]:
        lists = {"silent": list(self.silent), "unproven": list(self.unproven), "replayed": list(self.replayed)}
        figures = {n: v for n, v in asdict(self).items() if n != "silent_names"}
        return {**figures, **lists}


def can_show_all(output: Any) -> bool:
    """Does an output hold finite numbers with a fraction? Else it hides what lies before it."""
    return isinstance(output, np.ndarray) and output.dtype.kind == "f" and bool(np.isfinite(output).all())


class Proof:
    """The references that a rewritten model has to equal: made once, for any number of candidates."""

    def __init__(
        self, graph: DependencyGraph, masks: Mapping[Dim, Bools], seed: int = 0, ranges: Ranges | None = None,
        source: Model | None = None, remember: bool = False,
    ) -> None:  # fmt: skip
        self.graph, self.masks, self.limit = graph, masks, choose_tolerance(graph)
        self.seed, self.ranges, self.recipe = seed, ranges, Recipe()
        self.facts = inspect_inputs(graph.model)
        self.macs = count_macs(graph)
        self.heavy = self.macs >= HEAVY_MACS
        self.rounds = self._first_rounds()
        self.every = find_inner_values(graph)
        self.inside = sample_evenly(graph, self.every, 2.0)
        self.power = Power(graph, masks, self.limit, find_pushed(graph, masks))
        bodies = find_body_outputs(graph)
        self.dense = self._open_dense(bodies, source is not None)
        self.refused: list[Sizes] = []
        self.source_error: float | None = None
        self._add_sizes(source)
        self.choices, self.unproven = self._find_choices(bodies)
        whole = Comparison(graph, masks, {}, self.limit, self.inside, self.power, remember)
        others = (Comparison(graph, masks, c, self.limit, self.inside, None, remember) for c, _ in self.choices)
        self.parts = [whole, *others]
        self.bodies = bodies

    def _draw(self, sizes: Sizes, seed: int) -> Feed:
        """Inputs at these sizes: every run of this proof draws its own here."""
        return draw_inputs(self.graph.model, sizes, self.seed + seed, self.ranges, self.recipe, self.facts)

    def _first_rounds(self) -> list[Round]:
        """Both bindings of the analysis, or one twice; in the second, values inside are pushed.

        The first leaves out the inputs that have a default; others give them another value.
        One size is run more often where that is cheap and rows of a table would be left out.
        """
        sizes = list_analysis_sizes(self.graph.model)
        every, once = 2, len(sizes) == 1 and self.macs < CHEAP_MACS
        if once:
            every = count_draws(self.graph.model, sizes[0], self._draw(sizes[0], 0), self.ranges)
        pairs = enumerate(sizes if len(sizes) > 1 else sizes * max(2, min(every, MOST_DRAWS)))
        feeds = [(k, s, self._draw(s, k)) for k, s in pairs]
        own = self.graph.model.defaults
        feeds = [(k, s, {n: a for n, a in feed.items() if k or n not in own}) for k, s, feed in feeds]
        return [Round(s, feed, k == 1 or not self.heavy, True, k == 1) for k, s, feed in feeds]

    def _open_dense(self, bodies: list[str], compare: bool) -> Side:
        model = self.graph.model
        names = [*list_compared(self.graph), *(t.name for t in model.graph.outputs if compare), *bodies]
        return Side(model.proto(), model.folder, names, "the dense model")

    def _find_finite(self) -> None:
        """Draw in other ways where what the graph says gives numbers that are not finite."""
        names = list_compared(self.graph)
        found = draw_finite_inputs(
            lambda feed: self.dense.run(feed, names), self.graph.model, self.rounds[0].sizes,
            np.random.default_rng(self.seed), self.ranges,
        )  # fmt: skip
        if found.recipe != self.recipe:
            self.recipe = found.recipe
            self.rounds = self._first_rounds()

    def _add_sizes(self, source: Model | None) -> None:
        """Rounds at other sizes that the source runs at, and the comparison with it. Raises VerificationError.

        A heavy model is compared with it at other sizes, and at one of the analysis only where it runs at no other.
        """
        pair = SourcePair(self.graph, source, self.dense, self.limit) if source is not None else None
        others = self._run_others(pair) if self.heavy else []
        asked = self.rounds[: 0 if others else 1] if self.heavy else self.rounds
        errors = [e for r in asked if pair is not None and (e := pair.compare(r.feed, str(r))) is not None]
        given = pair.given if pair is not None else {}
        given = given or self.dense.run(self.rounds[0].feed, list_compared(self.graph))
        hidden = not all(map(can_show_all, given.values()))
        if hidden and any(isinstance(a, np.ndarray) and not is_finite(a) for a in given.values()):
            self._find_finite()
            others = []
        others = others or self._run_others(pair)
        errors += [error for _, _, error in others]
        self.source_error = max(errors, default=0.0) if pair is not None else None
        self.rounds += [Round(sizes, feed, hidden, hidden, False) for sizes, feed, _ in others]

    def _run_others(self, pair: SourcePair | None) -> list[tuple[Sizes, Feed, float]]:
        """Sizes beside those of the analysis that the source runs at, what it was fed, and how far the graph is off."""
        out: list[tuple[Sizes, Feed, float]] = []
        self.refused = []
        for k, sizes in enumerate(list_proof_sizes(self.graph.model, self.macs)):
            if len(out) == MOST_SIZES:
                break
            check_stop()
            try:
                feed = self._draw(sizes, 2 + k)
            except ModelError:  # a name of a dim comes to less than 1
                self.refused.append(sizes)
                continue
            round_ = Round(sizes, feed, False, False, False)
            error = pair.compare(feed, str(round_)) if pair is not None else self._run_dense(round_)
            if error is None:
                self.refused.append(sizes)
            else:
                out.append((sizes, feed, error))
        return out

    def _run_dense(self, round_: Round) -> float | None:
        """0 where the normalised graph runs, None where it does not."""
        try:
            self.dense.run(round_.feed, list_compared(self.graph)[:1])
        except ModelError:
            return None
        return 0.0

    def _find_choices(self, bodies: list[str]) -> tuple[list[tuple[Choice, Side]], tuple[str, ...]]:
        """Choices of branches that the dense model can run at the sizes of the analysis; branches that it cannot."""
        out: list[tuple[Choice, Side]] = []
        left: set[str] = set()
        model = self.graph.model
        for choice in list_choices(model):
            try:
                names = [*list_compared(self.graph), *bodies]
                side = Side(force_branches(model, choice).proto(), model.folder, names, "the dense model")
                for round_ in self.rounds[:2]:
                    side.run(round_.feed, list_compared(self.graph))
                out.append((choice, side))
            except ModelError:  # a branch for other sizes than these
                left |= find_reached(model, choice)
        by_size = find_sized(model)
        by_size = by_size.difference(*(find_taken(model, r.sizes) for r in self.rounds)) if by_size else by_size
        unproven = left.difference(*(find_reached(model, choice) for choice, _ in out)) | find_repeated(model) | by_size
        return out, tuple(sorted(unproven))

    def compare(self, small: Model) -> Outcome:
        """The outcome for a candidate, up to the first part of the proof that it does not pass."""
        error = 0.0
        again: tuple[str, ...] = ()
        for k, part in enumerate(self.parts):
            check_stop()
            try:
                found = part.compare(small, self.rounds if k == 0 else self.rounds[:2], self.heavy)
            except ModelError as e:
                return Outcome(float("inf"), str(e))
            error, again = max(error, found.error), again or found.replayed
            if found.wrong:
                return Outcome(error, found.wrong, again)
        return Outcome(error, "", again)

    def check(self, small: Model) -> Structural:
        """The figures of a candidate. Raises VerificationError when prune does not equal mask."""
        found, checks = self.compare(small), len(self.rounds)
        if found.wrong:
            raise VerificationError(f"prune does not equal mask: {found.wrong}; {self._explain()}")
        silent, tried = self._find_silent(small)
        sizes = [r.sizes for r in self.rounds]
        unique = [s for k, s in enumerate(sizes) if s not in sizes[:k]]
        return Structural(
            found.error, self.limit, checks + tried, unique, self.refused, self.source_error, len(self.inside),
            len(self.every), len(find_cut(self.graph, self.masks)), tuple(silent), len(self.choices), self.unproven,
            found.replayed, str(self.recipe), tuple(self.graph.group(n).name for n in silent),
        )  # fmt: skip

    def _find_silent(self, small: Model) -> tuple[list[str], int]:
        """Groups that nothing depends on, on other kinds of inputs either, and how many of these were tried.

        Raises VerificationError where one of them shows that the candidate is wrong.
        """
        moved = self._has_moving_bodies()
        silent = self.power.find_silent(moved)
        kind = 0
        while silent and kind < VARIATIONS:
            check_stop()
            first = self.rounds[kind % 2]
            feed = vary_inputs(self._draw(first.sizes, 100 + kind), kind, self.seed, self.ranges)
            round_, before = Round(first.sizes, feed, True, True, False), len(silent)
            try:
                found = self.parts[0].compare(small, [round_])
            except ModelError as e:
                found = Outcome(float("inf"), str(e))
            if found.wrong:
                raise VerificationError(f"prune does not equal mask: {found.wrong}; {self._explain()}")
            silent = self.power.find_silent(moved)
            self.rounds += [round_] if len(silent) < before else []  # every other candidate is asked, too
            kind += 1
        return silent, kind

    def _has_moving_bodies(self) -> bool:
        """Does the plan change what the model, or a body, gives by far more than the tolerance?"""
        if all(self.power.readers.values()):
            return True
        names = [*list_compared(self.graph), *self.bodies]
        round_ = self.rounds[0]
        for part, dense in zip(self.parts, [self.dense, *(s for _, s in self.choices)], strict=True):
            masked = Side(part.model.proto(), part.model.folder, names, "the masked model").run(round_.feed, names)
            if any(
                measure_difference(masked[n], a).error > FAR_FACTOR * self.limit
                for n, a in dense.run(round_.feed, names).items()
            ):
                return True
        return False

    def _explain(self) -> str:
        """The groups to blame, and the options that compile the rest."""
        groups = find_cut(self.graph, self.masks)
        own = self._rewrite_groups(groups)
        if own is not None and not self.compare(own).wrong:
            return "the file is not what this plan gives: rewriting the model by the plan passes"
        if not groups:
            return "no group is cut: the rewrite itself is wrong"
        found, proven = find_culprits(groups, self._is_broken, self._is_passed)
        return describe_culprits(found, len(groups), proven)

    def _rewrite_groups(self, groups: list[Group]) -> Model | None:
        try:
            return rewrite(self.graph, self._select_masks(groups))
        except Exception:  # no shape can be written: that is broken, too
            return None

    def _select_masks(self, groups: list[Group]) -> dict[Dim, Bools]:
        return {d: self.masks[d] for g in groups for d in g.dims if d in self.masks}

    def _is_broken(self, groups: list[Group]) -> bool:
        return not self._is_passed(groups)

    def _is_passed(self, groups: list[Group]) -> bool:
        check_stop()
        masks, small = self._select_masks(groups), self._rewrite_groups(groups)
        choices_ = [{}, *(c for c, _ in self.choices)]
        try:
            for k, choice in enumerate(choices_):
                part = Comparison(self.graph, masks, choice, self.limit, self.inside)
                if small is None or part.compare(small, self.rounds if k == 0 else self.rounds[:2]).wrong:
                    return False
        except Exception:  # a model that does not load or run is broken, too
            return False
        return True


def prove_rewrite(
    graph: DependencyGraph, masks: Mapping[Dim, Bools], small: Model, seed: int = 0, ranges: Ranges | None = None,
    source: Model | None = None,
) -> Structural:  # fmt: skip
    """The whole proof of a rewritten model on random inputs.

    `source` is the model as it was given; without it the normalised graph is taken to be right. Raises
    VerificationError that names the first value that differs, or the group found by bisection; ModelError where
    onnxruntime cannot run the dense model.
    """
    return Proof(graph, masks, seed, ranges, source).check(small)
