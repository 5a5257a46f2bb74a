"""Sizes of the symbolic axes to analyse a model at: those that its nodes accept, and that need little memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from spa_compiler.errors import ModelError, OversizeError
from spa_compiler.ir.memory import HELD_VALUES
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import (
    BindingPair,
    Symbol,
    Ties,
    list_bindings,
    list_rare_bindings,
    list_symbols,
    solve_ties,
)
from spa_compiler.operators import build
from spa_compiler.operators.facts import KEEPS_ENTRIES
from spa_compiler.shape_inference.environment import Facts
from spa_compiler.shape_inference.evaluator import evaluate, generalize

FLOAT_BYTES = 4
MOST_SOLUTIONS = 8
"""How often sizes that have to be equal are looked for: each time, one node more accepts its inputs."""


LARGEST_MULTIPLE, MOST_MULTIPLES = 1 << 14, 6
"""Numbers that sizes are tried to be multiples of: up to this one, and as many."""
MOST_ENTRIES = 16
"""No shape has more axes."""


@dataclass
class Binding:
    """Facts under two bindings of the symbols: their sizes, and which of them follow others."""

    first: Facts
    second: Facts
    sizes: dict[str, tuple[int, int]]
    ties: Ties

    @property
    def is_doubtful(self) -> bool:
        """Is some value empty, or does a body that may never run not fit?"""
        return bool(self.first.warnings or self.second.warnings)

    def side(self, k: int) -> dict[str, int]:
        """The sizes of the first binding (0) or the second (1)."""
        return {name: pair[k] for name, pair in self.sizes.items()}


class BindingSearch:
    """Finds pairs of bindings; `refused` says which were tried in vain, and why."""

    def __init__(self, model: Model, given: dict[str, int]) -> None:
        self.model, self.given = model, given
        self.found: list[Symbol] = list_symbols(model)
        self.multiples = find_multiples(model)
        self.refused: list[str] = []
        self.tried: list[dict[str, int]] = []
        self.doubtful: list[Binding] = []
        self.ties: Ties = {}
        self.seen: dict[tuple[tuple[str, int], ...], Facts] = {}
        unknown = set(given) - {s.name for s in self.found}
        if unknown:
            names = [s.name for s in self.found]
            raise ModelError(f"no symbolic axis is called {sorted(unknown)}; the model has {names}")

    def find_bindings(self) -> Iterator[Binding]:
        """Pairs of bindings that inference accepts; then those in which sizes are equal that seem to have to be.

        Last come those that few models ask for.
        """
        yield from self.find_pairs()
        before = dict(self.ties)
        self.solve(always=True)
        if self.ties != before:
            yield from self.find_pairs()
        yield from self.find_rare()

    def find_rare(self) -> Iterator[Binding]:
        """Multiples of what the graph cuts axes into, and long first axes."""
        if self.found:
            for pair in list_rare_bindings(self.found, self.given, self.ties, self.multiples):
                binding = self.evaluate_pair(pair)
                if binding is not None:
                    yield binding

    def find_pairs(self) -> Iterator[Binding]:
        """Facts under every pair of bindings that shape inference accepts, most general first.

        Pairs that do not fit a body that may never run, or leave a value empty (some exporters cut off nothing), come
        last. Where a proof would hold more than `--memory`, small images come before large ones.
        """
        self.doubtful = []
        sure = self.find_sure()
        first = next(sure, None)
        huge = first is not None and HELD_VALUES * FLOAT_BYTES * _count_largest(self.model, first) > self.model.memory
        second = next(sure, None) if huge else None
        if first is not None and second is not None and _is_smaller(self.model, second, first):
            first, second = second, first
        yield from (pair for pair in (first, second) if pair is not None)
        yield from sure
        yield from self.doubtful

    def make_error(self) -> ModelError:
        """No sizes fit: what was tried, and why the first ones were refused."""
        if not self.found:
            return ModelError(f"{self.model.path}: {self.refused[0]}")
        texts = dict.fromkeys(", ".join(f"{n}={size}" for n, size in binding.items()) for binding in self.tried)
        names = ", ".join(s.name for s in self.found)
        return ModelError(
            f"{self.model.path}: no sizes of {names} fit, of these that were tried: {'; '.join(texts)}. The first were "
            f"refused because: {self.refused[0]}. Give sizes that the model takes: --input-shape"
        )

    def find_sure(self) -> Iterator[Binding]:
        """Pairs without errors and doubts; what is wrong with the others is kept."""
        self.solve()
        for a, b in list_bindings(self.found, self.given, self.ties):
            pair = self.evaluate_pair((a, b))
            if pair is None:
                continue
            if pair.is_doubtful:
                self.doubtful.append(pair)
            else:
                yield pair

    def evaluate_pair(self, pair: BindingPair) -> Binding | None:
        a, b = pair
        self.tried.append(a)
        try:
            first = self.find_facts(a)
            second = first if a == b else evaluate(self.model, b, first)
        except ModelError as e:  # a name that comes to less than 1, a value that takes too much memory
            self.refused.append(str(e))
            return None
        if first.errors or second.errors:
            self.refused.append((first.errors or second.errors)[0])
            return None
        sizes = {s.name: (a[s.name], b[s.name]) for s in self.found}
        return Binding(first, second, sizes, {n: s for n, s in self.ties.items() if n not in self.given})

    def find_facts(self, binding: dict[str, int]) -> Facts:
        """Facts under a binding; those of the last one are kept."""
        key = tuple(sorted(binding.items()))
        if key not in self.seen:
            self.seen = {key: evaluate(self.model, binding)}
        return self.seen[key]

    def solve(self, always: bool = False) -> None:
        """Find symbols that have to follow others, where inference refuses the most general sizes, or `always`."""
        for _ in range(MOST_SOLUTIONS):
            binding = list_bindings(self.found, self.given, self.ties)[0][0]
            try:
                facts = self.find_facts(binding)
            except ModelError:
                return
            if not facts.errors and not always:
                return
            demands = generalize(self.model, facts, binding, self.ties).demands
            ties = solve_ties(demands, self.ties, self.given)
            if ties == self.ties:
                return
            self.ties = ties


def check_memory(model: Model) -> None:
    """Raise OversizeError where a value takes more memory than it may at the first sizes that are tried."""
    found = list_symbols(model)
    try:
        evaluate(model, list_bindings(found, {})[0][0])
    except OversizeError as e:
        raise OversizeError(f"{model.path}: {e}") from e


def _count_largest(model: Model, pair: Binding) -> int:
    """Elements of the largest value that a node makes under the second binding, which has the larger sizes."""
    names = (t.name for node in model.graph.nodes for t in node.outputs)
    return max((math.prod(pair.second.shape(n) or ()) for n in names), default=0)


def _is_smaller(model: Model, pair: Binding, other: Binding) -> bool:
    """Does this pair tell as many symbols from constants as the other, and need less room?"""
    free = [sum(a != b for a, b in p.sizes.values()) for p in (pair, other)]
    return free[0] == free[1] and _count_largest(model, pair) < _count_largest(model, other)


def find_multiples(model: Model) -> tuple[int, ...]:
    """Numbers that the graph cuts axes into pieces of, small ones first: constant entries of the shapes of Reshape.

    Also all of them together, where that is no large number: some axis may have to be a multiple of each.
    """
    numbers: set[int] = set()
    for node in model.graph.nodes:
        if node.op in KEEPS_ENTRIES and len(node.inputs) > 1:
            numbers |= {n for n in _list_entries(model, node.inputs[1]) if 1 < n <= LARGEST_MULTIPLE}
    every = math.lcm(*numbers)
    more = {every} if 1 < every <= LARGEST_MULTIPLE else set()
    return tuple(sorted(numbers)[:MOST_MULTIPLES]) + tuple(more - numbers)


def _list_entries(model: Model, shape: gs.Tensor) -> Iterator[int]:
    """The entries of a shape that are constants, among others that are computed at run time."""
    todo = [shape]
    while todo:
        t = todo.pop()
        if isinstance(t, gs.Constant):
            if math.prod(t.shape) <= MOST_ENTRIES:
                yield from map(int, model.array(t).ravel())
        elif t.inputs and build.is_concat(t.inputs[0]):
            todo += t.inputs[0].inputs
        elif t.inputs and build.is_size_movement(t.inputs[0]):
            todo.append(t.inputs[0].inputs[0])
