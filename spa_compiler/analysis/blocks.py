"""Blocks: an outer dim (heads, convolution groups) inside each of whose indices channels may be chosen on their own.

In `(h d)` every head may keep different channels, as long as all keep equally many, if the head rides along wherever d
occurs: as a digit of the same product or on another axis of the same value, and under a shared name in every rule that
joins tensors (so that both sides of a contraction agree). A Gram matrix `(h d)(h d)^T` passes the first and fails the
second.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

from spa_compiler.algebra.expr import Dim, atoms
from spa_compiler.algebra.masks import cover, riders
from spa_compiler.operators.site import Site, Value


def find_blocks(values: dict[str, Value], sites: Iterable[Site]) -> dict[Dim, Dim]:
    """For every dim the outer dim inside which its channels may be chosen freely."""
    common = _accompanied(values)
    live = {d for d, beside in common.items() if beside}
    for site in sites:
        for scope in site.scopes:
            held = {n: set(atoms(e)) for n, e in scope.env.items()}
            _agree(scope.tensors, held, scope.stats, common, live)
    out: dict[Dim, Dim] = {}
    for d in sorted(live, key=lambda d: (-d.size, d.serial)):
        outer = [b for b in common[d] if out.get(b) is not d and b not in out]
        if outer and d not in out.values():
            out[d] = max(outer, key=lambda b: (b.size, -b.serial))
    return out


def _accompanied(values: dict[str, Value]) -> dict[Dim, set[Dim]]:
    """For every dim the dims that are there, once, in every value that holds it."""
    common: dict[Dim, set[Dim]] = {}
    for v in values.values():
        times = collections.Counter(d for a in v.axes for d in set(atoms(a)))
        if not any(d.size > 1 and not d.frozen for d in times):
            continue
        covers = [cover(a) for a in v.axes]
        for i, a in enumerate(v.axes):
            others = set().union(*(c for j, c in enumerate(covers) if j != i))
            for d, beside in riders(a).items():
                if d.size > 1 and not d.frozen:
                    fit = {b for b in (beside | others) - {d} if b.size > 1 and not b.unit and times[b] == 1}
                    common[d] = common[d] & fit if d in common else fit
    return common


def _agree(
    tensors: list[tuple[Value, bool, list[frozenset[str]]]],
    held: dict[str, set[Dim]],
    stats: frozenset[str],
    common: dict[Dim, set[Dim]],
    live: set[Dim],
) -> None:
    """Keep only blocks that stand under a name that every tensor of the rule with d's name has, too."""
    names = [frozenset().union(*row) for _, _, row in tensors]
    for name, dims in held.items():
        for d in dims & live:
            beside = [t for t in names if name in t]
            shared = frozenset.intersection(*beside) if beside else frozenset()
            if name not in stats:  # a statistic sums over its dims: at each channel of d over all of them
                shared -= stats
            common[d] &= set().union(*(held.get(n, set()) for n in shared))
