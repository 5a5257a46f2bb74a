"""At which sizes of the symbolic axes a proof is run: those of the analysis, and others that it has not seen.

    analysis_sizes(model)       # [{"N": 2, "H": 64}, {"N": 3, "H": 96}]
    proof_sizes(model, 3.3e6)   # [{"N": 1, "H": 1}, {"N": 1, "H": 37}, ...]

What the source itself refuses to run at a size is not asked of the compiled model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import Symbol, apply_ties, symbols

Sizes = dict[str, int]
ODD = (37, 53, 43, 61)
"""Odd primes; no two sides of a picture are the same."""
LONG = (131, 149, 137, 163)
"""Above 128."""
EQUAL = 47
CHEAP = 2e7
"""Multiply-accumulates that a run at one more size may take in any case."""


def analysis_sizes(model: Model) -> list[Sizes]:
    """Both bindings of the analysis; one where the model has no symbols or fits one size alone."""
    assert model.shapes is not None
    sides = [{n: pair[k] for n, pair in model.shapes.sizes.items()} for k in (0, 1)]
    return sides if sides[0] != sides[1] else sides[:1]


def proof_sizes(model: Model, macs: float) -> list[Sizes]:
    """Other sizes to try: 1, odd primes that differ, equal sides, and above 128 where a run is cheap.

    `macs`: multiply-accumulates of a run at the first binding of the analysis, by which sizes are chosen that take
    little time. One of them always stays.
    """
    found = symbols(model)
    if not found:
        return []
    known, ties = analysis_sizes(model), model.shapes.ties if model.shapes is not None else {}
    tries = [t for t in _unique(apply_ties(t, ties) for t in _tries(found, known[0])) if t not in known]
    limit = max(CHEAP, 0.6 * macs)
    cheap = [t for t in tries if _work(found, t, known[0], macs) <= limit]
    return cheap or sorted(tries, key=lambda t: _work(found, t, known[0], macs))[:1]


def _tries(found: list[Symbol], first: Sizes) -> Iterator[Sizes]:
    """Combinations that move all symbols together, then the batch alone: a model may insist on its other sizes."""
    batches = [s.name for s in found if s.batch]
    others = [s.name for s in found if not s.batch]
    yield dict.fromkeys([*batches, *others], 1)
    yield dict.fromkeys(batches, 1) | dict(zip(others, itertools.cycle(ODD), strict=False))
    if others:
        yield dict.fromkeys(batches, 5) | dict.fromkeys(others, EQUAL)
    yield dict.fromkeys(batches, 1) | dict(zip(others, itertools.cycle(LONG), strict=False))
    yield dict.fromkeys(batches, LONG[0]) | {n: min(first[n], 7) for n in others}
    if others:
        yield {n: first[n] for n in others} | dict.fromkeys(batches, 1)
        for k, n in enumerate(others):
            yield first | {n: ODD[k % len(ODD)]}


def _unique(tries: Iterator[Sizes]) -> Iterator[Sizes]:
    seen: list[Sizes] = []
    for t in tries:
        if t not in seen:
            seen.append(t)
            yield t


def _work(found: list[Symbol], sizes: Sizes, first: Sizes, macs: float) -> float:
    """About how much a run takes."""
    return macs * math.prod(sizes[s.name] / first[s.name] for s in found)


def count_macs(graph: DependencyGraph) -> float:
    """Multiply-accumulates of a run at the first binding of the analysis; what bodies repeat counts once."""
    return float(sum(math.prod(a.size for a in axes) for s in graph.sites for axes in s.products or ()))
