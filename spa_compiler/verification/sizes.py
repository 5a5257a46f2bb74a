"""Sizes of the symbolic axes for a proof: those of the analysis, and others that the analysis has not used.

    list_analysis_sizes(model)       # [{"N": 2, "H": 64}, {"N": 3, "H": 96}]
    list_proof_sizes(model, 3.3e6)   # [{"N": 1, "H": 1}, {"N": 1, "H": 37}, ...]

What the source itself refuses to run at a size is not asked of the compiled model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from spa_compiler.algebra.sizes import Size, compute_value
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.ir.memory import HELD_VALUES, count_bytes
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import Symbol, apply_ties, list_symbols
from spa_compiler.operators.macs import list_products

Sizes = dict[str, int]
ODD_SIZES = (37, 53, 43, 61)
"""Odd primes; no two sides of a picture are the same."""
LONG_SIZES = (131, 149, 137, 163)
"""Above 128."""
EQUAL_SIZE = 47
CHEAP_MACS = 2e7
"""Multiply-accumulates that a run at one more size may take in any case."""


def list_analysis_sizes(model: Model) -> list[Sizes]:
    """Both bindings of the analysis; one where the model has no symbols or fits one size alone."""
    assert model.shapes is not None
    sides = [{n: pair[k] for n, pair in model.shapes.sizes.items()} for k in (0, 1)]
    return sides if sides[0] != sides[1] else sides[:1]


def list_proof_sizes(model: Model, macs: float) -> list[Sizes]:
    """Other sizes to try: 1, odd primes that differ, equal sides, and above 128 where a run is cheap.

    `macs`: multiply-accumulates of a run at the first binding of the analysis, by which sizes are chosen that take
    little time. One of them always stays.
    """
    found = list_symbols(model)
    if not found:
        return []
    known, ties = list_analysis_sizes(model), model.shapes.ties if model.shapes is not None else {}
    tries = [t for t in _drop_repeats(apply_ties(t, ties) for t in _list_tries(found, known[0])) if t not in known]
    tries = [t for t in tries if has_room(model, t)]
    limit = max(CHEAP_MACS, 0.6 * macs)
    cheap = [t for t in tries if _estimate_work(found, t, known[0], macs) <= limit]
    return cheap or sorted(tries, key=lambda t: _estimate_work(found, t, known[0], macs))[:1]


def has_room(model: Model, sizes: Sizes) -> bool:
    """Can a proof hold every value at these sizes? An axis that does not follow from them counts by how they grow."""
    assert model.shapes is not None
    numbers: dict[Size, int | None] = {}
    first, symbols = list_analysis_sizes(model)[0], list_symbols(model)
    growth = [
        math.prod(sizes[s.name] / first[s.name] for s in symbols if s.name in sizes and s.batch == batch)
        for batch in (False, True)
    ]
    for name, axes in model.shapes.axes.items():
        shape = [s if isinstance(s, int) else compute_value(s, sizes, numbers) for s in axes]
        guessed = [
            s if s is not None else math.ceil(model.shapes.shape[name][i] * max(growth[0] * (1 if i else growth[1]), 1))
            for i, s in enumerate(shape)
        ]
        if HELD_VALUES * count_bytes(model.shapes.kind.get(name, 0), guessed) > model.memory:
            return False
    return True


def _list_tries(found: list[Symbol], first: Sizes) -> Iterator[Sizes]:
    """Combinations that move all symbols together, then the batch alone: a model may insist on its other sizes."""
    batches = [s.name for s in found if s.batch]
    others = [s.name for s in found if not s.batch]
    yield dict.fromkeys([*batches, *others], 1)
    yield dict.fromkeys(batches, 1) | dict(zip(others, itertools.cycle(ODD_SIZES), strict=False))
    if others:
        yield dict.fromkeys(batches, 5) | dict.fromkeys(others, EQUAL_SIZE)
    yield dict.fromkeys(batches, 1) | dict(zip(others, itertools.cycle(LONG_SIZES), strict=False))
    yield dict.fromkeys(batches, LONG_SIZES[0]) | {n: min(first[n], 7) for n in others}
    if others:
        yield {n: first[n] for n in others} | dict.fromkeys(batches, 1)
        for k, n in enumerate(others):
            yield first | {n: ODD_SIZES[k % len(ODD_SIZES)]}


def _drop_repeats(tries: Iterator[Sizes]) -> Iterator[Sizes]:
    seen: list[Sizes] = []
    for t in tries:
        if t not in seen:
            seen.append(t)
            yield t


def _estimate_work(found: list[Symbol], sizes: Sizes, first: Sizes, macs: float) -> float:
    """About how much a run takes."""
    return macs * math.prod(sizes[s.name] / first[s.name] for s in found)


def count_macs(graph: DependencyGraph) -> float:
    """Multiply-accumulates of a run at the first binding of the analysis; what bodies repeat counts once."""
    return float(sum(math.prod(a.size for a in axes) for s in graph.sites for axes in list_products(s) or ()))
