"""Prune against mask: the rewritten model beside the one in which removed units do not count, on the same inputs.

comparison = Comparison(graph, masks, {}, 1e-5, find_inside(graph))
comparison.compare(small, rounds).wrong        # "" where it holds
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from spa_compiler.algebra.expr import Dim
from spa_compiler.algebra.masks import Bools
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.execution.interrupts import check_stop
from spa_compiler.execution.parallel import map_parallel
from spa_compiler.ir.model import Model, describe_node
from spa_compiler.rewriting.masked_model import make_masked_model
from spa_compiler.verification.branches import Choice, force_branches
from spa_compiler.verification.comparison import measure_difference
from spa_compiler.verification.feeds import Feed
from spa_compiler.verification.inside import Cuts, Push, add_pushes, draw_pushes, find_pushed, name_pushes, zero_pushes
from spa_compiler.verification.replay import list_compared, list_decisions, replay_decisions
from spa_compiler.verification.rounding import discount_noise, is_noise_possible, shake
from spa_compiler.verification.runs import Side, list_outer_values
from spa_compiler.verification.sizes import Sizes
from spa_compiler.verification.unproven_groups import Power, list_unfinite_constants


@dataclass(frozen=True)
class Round:
    """One run of every model: what is fed, and what is looked at.

    `inside`: every value inside of the graph; `power`: what tells whether groups are seen; `pushed`: with pushes.
    """

    sizes: Sizes
    feed: Feed
    inside: bool
    power: bool
    pushed: bool

    def __str__(self) -> str:
        return " at " + ", ".join(f"{n}={size}" for n, size in self.sizes.items()) if self.sizes else ""


@dataclass(frozen=True)
class Outcome:
    """The largest error of a candidate, where it is over the tolerance first, and which decisions were taken once."""

    error: float
    wrong: str = ""
    replayed: tuple[str, ...] = ()


def measure_all(found: Mapping[str, Any], expected: Mapping[str, Any], limit: float) -> dict[str, float]:
    """The error of every value that has something to be compared with; up to `limit` only the largest is exact."""
    out: dict[str, float] = {}
    worst = 0.0
    for name, value in found.items():
        if expected[name] is not None:
            out[name] = measure_difference(value, expected[name], min(worst, limit)).error
            worst = max(worst, out[name])
    return out


def excuse_unfinite(value: Any, reference: Any) -> Any:
    """The reference with the value's own numbers where it is NaN or infinite."""
    if not isinstance(value, np.ndarray) or not isinstance(reference, np.ndarray):
        return reference
    if value.shape != reference.shape or value.dtype != reference.dtype or reference.dtype.kind != "f":
        return reference
    return np.where(np.isfinite(reference), reference, value)


class Comparison:
    """Prune against mask for one plan and one choice of branches; the masked side is made once."""

    def __init__(
        self, graph: DependencyGraph, masks: Mapping[Dim, Bools], choice: Choice, limit: float, inside: list[str],
        power: Power | None = None, remember: bool = False,
    ) -> None:  # fmt: skip
        self.graph, self.masks, self.choice, self.limit, self.power = graph, masks, choice, limit, power
        self.names, self.inside, self.remember = list_compared(graph), inside, remember
        pushed = power.pushed if power is not None else find_pushed(graph, masks)
        self.cuts = Cuts(graph, masks)
        self.pushes = draw_pushes(graph, pushed, self.cuts, np.random.default_rng(0))
        self.none = zero_pushes(graph, pushed)
        self.titles = name_pushes(pushed, set(graph.model.graph.tensors()))
        self.pushed_by = {push: n for n, (push, _) in self.titles.items()}
        self.model = make_masked_model(graph, masks)
        if choice:
            self.model = force_branches(self.model, choice)
        self.raw = {n: self.titles[n][1] if n in self.titles else n for n in (power.reads if power else ())}
        self.side: Side | None = None
        self.known: list[tuple[Round, dict[str, Any]]] = []

    def _open(self, model: Model, names: Iterable[str], what: str, given: Feed | None = None) -> Side:
        proto = model.proto()
        if given:
            proto = replay_decisions(proto, given)
        assert self.graph.model.shapes is not None
        proto = add_pushes(proto, self.titles, self.graph.model.shapes)
        return Side(proto, model.folder, names, what)

    def _make_feed(self, round_: Round, small: bool) -> Feed:
        push: Push = self.pushes[small] if round_.pushed else self.none
        return round_.feed | {self.titles[n][0]: a for n, a in push.items()}

    def _list_asked(self, round_: Round) -> list[str]:
        given = self.power.gives if self.power is not None and self.power.open and round_.power else []
        return list(dict.fromkeys([*self.names, *(self.inside if round_.inside else ()), *given]))

    def _open_masked(self) -> Side:
        """The masked model; it stays open."""
        if self.side is None:
            more = self.power.gives if self.power is not None else []
            names = [*self.names, *self.inside, *more, *self.raw.values()]
            self.side = self._open(self.model, names, "the masked model")
        return self.side

    def run_masked(self, round_: Round) -> dict[str, Any]:
        """Values of the masked model, as the pruned one should have them."""
        if (found := next((values for r, values in self.known if r is round_), None)) is not None:
            return found
        side, asked = self._open_masked(), self._list_asked(round_)
        raw = self.raw if round_.power and self.power is not None and self.power.open else {}
        got = side.run(self._make_feed(round_, False), [*asked, *raw.values()])
        if self.power is not None and round_.power:
            self.power.record_run({n: got.get(title) for n, title in raw.items()}, got)
        out = {n: self.cuts.cut(n, got[n]) for n in asked if n in got}
        if self.remember:
            self.known.append((round_, out))
        return out

    def compare(self, small: Model, rounds: list[Round], heavy: bool = False) -> Outcome:
        """Where decisions differ that rounding may turn, the pruned model is given those of the masked one.

        Raises ModelError when a model does not load or run.
        """
        candidate = force_branches(small, self.choice) if self.choice else small
        pruned = self._open(candidate, [*self.names, *self.inside], "the pruned model")

        def one(round_: Round) -> dict[str, float]:
            expected = self.run_masked(round_)
            found = pruned.run(self._make_feed(round_, True), expected)
            return self._measure(found, expected)

        self._open_masked()
        errors = list(map_parallel(one, rounds) if heavy else map(one, rounds))
        outcome = self._judge(self._discount(errors, rounds), rounds)
        made = list_decisions(self.graph) if outcome.wrong else []
        return self._replay(candidate, rounds, made) if made else outcome

    def _measure(self, found: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, float]:
        """Errors by value; NaN and infinities of the masked model are not compared where a constant is infinite.

        0 times infinity is NaN there: such entries show nothing of a group.
        """
        errors = measure_all(found, expected, self.limit)
        if any(map(np.isinf, errors.values())) and self._has_unfinite_constants:
            errors = measure_all(found, {n: excuse_unfinite(a, expected[n]) for n, a in found.items()}, self.limit)
        return errors

    @cached_property
    def _has_unfinite_constants(self) -> bool:
        return bool(list_unfinite_constants(self.graph.model))

    def _discount(self, errors: list[dict[str, float]], rounds: list[Round]) -> list[dict[str, float]]:
        """Errors in units of what rounding does to a value: where a change of the inputs by an ulp or so moves the
        masked model's value by nearly the tolerance, so may the pruned model's.
        """  # fmt: skip
        out = []
        for round_, found in zip(rounds, errors, strict=True):
            worst = max(found.values(), default=0.0)
            if is_noise_possible(worst, self.limit):
                exact, noisy = (self._open_masked().run(f, found) for f in self._noisy_feeds(round_))
                noise = {n: measure_difference(noisy[n], exact[n]).error for n in noisy}
                found = discount_noise(found, noise, self.limit)
            out.append(found)
        return out

    def _noisy_feeds(self, round_: Round) -> tuple[Feed, Feed]:
        """The inputs of the masked model, and the same with every number off by an ulp or two."""
        rng = np.random.default_rng(1)
        feed, noisy = self._make_feed(round_, False), {}
        for name, a in feed.items():
            wide = self.pushes[0].get(self.pushed_by.get(name, ""), a)
            if a.dtype.kind == "f":
                noisy[name] = shake(a, rng, wide.shape, float(name in self.pushed_by))
        return feed, feed | noisy

    def _judge(self, errors: list[dict[str, float]], rounds: list[Round], made: Iterable[str] = ()) -> Outcome:
        worst = max((e for found in errors for e in found.values()), default=0.0)
        if worst <= self.limit:
            return Outcome(worst, "", tuple(made))
        order = {n: k for k, n in enumerate(list_outer_values(self.graph.model))}
        for round_, found in zip(rounds, errors, strict=True):
            wrong = sorted((n for n, e in found.items() if not e <= self.limit), key=lambda n: order.get(n, len(order)))
            if wrong:
                node = next((n for n in self.graph.model.graph.nodes for t in n.outputs if t.name == wrong[0]), None)
                of = f" of {node.op} '{describe_node(node)}'" if node is not None else ""
                what = f"error {found[wrong[0]]:.1e} in value '{wrong[0]}'{of}{round_}, tolerance {self.limit:.0e}"
                return Outcome(worst, what, tuple(made))
        return Outcome(worst, f"error {worst:.1e}, tolerance {self.limit:.0e}", tuple(made))

    def _replay(self, candidate: Model, rounds: list[Round], made: list[str]) -> Outcome:
        """The proof link by link: what decides is compared, and what follows after the same decisions."""
        names = [*list_compared(self.graph, later=True), *self.inside]
        every = list(dict.fromkeys([*names, *made]))
        masked = self._open(self.model, every, "the masked model")
        errors: list[dict[str, float]] = []
        sides: dict[frozenset[str], Side] = {}
        for round_ in rounds:
            check_stop()
            asked = every if round_.inside else [n for n in every if n not in set(self.inside)]
            got = masked.run(self._make_feed(round_, False), asked)
            expected = {n: self.cuts.cut(n, a) for n, a in got.items()}
            taken = {n: expected.pop(n) for n in made}
            given = {n: a for n, a in taken.items() if a is not None}  # of others it is not known what stays of them
            if frozenset(given) not in sides:
                sides[frozenset(given)] = self._open(candidate, names, "the pruned model", given)
            found = sides[frozenset(given)].run(self._make_feed(round_, True) | given, expected)
            errors.append(self._measure(found, expected))
        return self._judge(self._discount(errors, rounds), rounds, made)
