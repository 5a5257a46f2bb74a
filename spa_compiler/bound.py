"""Which sizes of the symbolic axes a model is analysed at: those that its nodes accept, and that need little room."""

from __future__ import annotations

import math
from collections.abc import Iterator

from spa_compiler.errors import ModelError
from spa_compiler.facts import Facts
from spa_compiler.model import Model
from spa_compiler.shapes import evaluate
from spa_compiler.symbols import bindings, symbols

HUGE = 1 << 27
"""Elements above which a value is a reason to try smaller images."""
Settled = tuple[Facts, Facts, dict[str, tuple[int, int]]]


def settle(model: Model, given: dict[str, int]) -> Iterator[Settled]:
    """Facts under every pair of bindings that shape inference accepts, most general first.

    Pairs that do not fit a body that may never run, or leave a value empty (some exporters cut off nothing), come last.
    Where values are huge, small images come before large ones.
    Raises ModelError when there is none: the message says which node refuses, and names --input-shape.
    """
    errors: list[str] = []
    doubtful: list[Settled] = []
    sure = _sure(model, given, errors, doubtful)
    first = next(sure, None)
    if first is None and not doubtful:
        names = [s.name for s in symbols(model)]
        raise ModelError(f"{model.path}: no sizes of {names} fit: {errors[0]}; give --input-shape")
    second = next(sure, None) if first is not None and _largest(model, first) > HUGE else None
    if first is not None and second is not None and _smaller(model, second, first):
        first, second = second, first
    yield from (pair for pair in (first, second) if pair is not None)
    yield from sure
    yield from doubtful


def _sure(model: Model, given: dict[str, int], errors: list[str], doubtful: list[Settled]) -> Iterator[Settled]:
    """Pairs without errors and doubts; what is wrong with the others is added to `errors`, or they to `doubtful`."""
    found = symbols(model)
    unknown = set(given) - {s.name for s in found}
    if unknown:
        raise ModelError(f"no symbolic axis is called {sorted(unknown)}; the model has {[s.name for s in found]}")
    for a, b in bindings(found, given):
        first = evaluate(model, a)
        second = first if a == b else evaluate(model, b, first)
        pair = first, second, {s.name: (a[s.name], b[s.name]) for s in found}
        if first.errors or second.errors:
            errors += (first.errors or second.errors)[:1]
        elif first.doubts or second.doubts:
            doubtful.append(pair)
        else:
            yield pair


def _largest(model: Model, pair: Settled) -> int:
    """Elements of the largest value that a node makes under the second binding, which has the larger sizes."""
    names = (t.name for node in model.graph.nodes for t in node.outputs)
    return max((math.prod(pair[1].shape(n) or ()) for n in names), default=0)


def _smaller(model: Model, pair: Settled, other: Settled) -> bool:
    """Does this pair tell as many symbols from constants as the other, and need less room?"""
    free = [sum(a != b for a, b in p[2].values()) for p in (pair, other)]
    return free[0] == free[1] and _largest(model, pair) < _largest(model, other)
