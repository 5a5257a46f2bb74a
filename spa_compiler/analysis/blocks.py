"""Blocks: an outer dim (heads, convolution groups) inside each of whose indices channels may be chosen on their own.

In `(h d)` every head may keep different channels, as long as all keep equally many, if the head rides along wherever d
occurs: as a digit of the same product or on another axis of the same value, and at the same places under a shared name
in every rule that joins tensors (so that both sides of a contraction agree). A Gram matrix `(h d)(h d)^T` passes the
first and fails the second. A head that is frozen may change its place between two axes that count as equal, `(h 3)` and
`(3 h)`: that fails the second, too.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator

import numpy as np

from spa_compiler.algebra.expr import Dim, Expr, Prod, Sum, iterate_dims, resolve
from spa_compiler.algebra.masks import find_companion_dims, find_coordinates, find_covering_dims, multiplicity
from spa_compiler.operators.site import Equation, Scope, Site, Value


def find_blocks(values: dict[str, Value], sites: Iterable[Site]) -> dict[Dim, Dim]:
    """For every dim the outer dim inside which its channels may be chosen freely."""
    common = _find_companions(values)
    live = {d for d, beside in common.items() if beside}
    for site in sites if live else ():
        for scope in (*site.scopes, *_scope_of_equations(site)):
            _drop_disagreeing(scope, common, live)
    out: dict[Dim, Dim] = {}
    for d in sorted(live, key=lambda d: (-d.size, d.serial)):
        outer = [b for b in common[d] if out.get(b) is not d and b not in out]
        if outer and d not in out.values():
            out[d] = max(outer, key=lambda b: (b.size, -b.serial))
    return out


def _find_companions(values: dict[str, Value]) -> dict[Dim, set[Dim]]:
    """For every dim the dims that are there, once, in every value that holds it."""
    common: dict[Dim, set[Dim]] = {}
    for v in values.values():
        if not any(d.size > 1 and not d.frozen for a in v.axes for d in iterate_dims(a)):
            continue
        each = [multiplicity(a) for a in v.axes]
        times = collections.Counter[Dim]()
        for counts in each:
            times.update(counts)
        covers = [find_covering_dims(a) for a in v.axes]
        for i, a in enumerate(v.axes):
            others = set().union(*(c for j, c in enumerate(covers) if j != i))
            for d, beside in find_companion_dims(a).items():
                if d.size > 1 and not d.frozen:
                    once = each[i][d] == 1  # at a position of `(h d d)` two channels of a head meet
                    fit = {b for b in (beside | others) - {d} if once and b.size > 1 and not b.unit and times[b] == 1}
                    common[d] = common[d] & fit if d in common else fit
    return common


def _scope_of_equations(site: Site) -> Iterator[Scope]:
    """The equations of a rule without a string, as the scope of a rule that has one name for each."""
    names: dict[int, set[str]] = {}
    env: dict[str, Expr] = {}
    own = {id(a) for v in (*site.inputs, *site.outputs) if v is not None for a in v.axes}
    for k, e in enumerate(site.equations):
        for axis in (*_axes(e.a), *_axes(e.b)):
            if id(axis) in own:
                names.setdefault(id(axis), set()).add(f"{k}")
                env[f"{k}"] = Prod((e.a, e.b))
    if names:
        sides = [(v, out) for out, vs in ((False, site.inputs), (True, site.outputs)) for v in vs if v is not None]
        tensors = [(v, out, [frozenset(names.get(id(a), ())) for a in v.axes]) for v, out in sides]
        yield Scope(tensors, env, frozenset(), equations=tuple(site.equations))


def _axes(e: Expr) -> Iterator[Expr]:
    """The axes of values that an equation was written down with."""
    if isinstance(e, Dim):
        yield e
    else:
        for p in e.parts:
            yield from _axes(p)


def _drop_disagreeing(scope: Scope, common: dict[Dim, set[Dim]], live: set[Dim]) -> None:
    """Keep only blocks that stand under a name that every tensor of the rule with d's name has, too."""
    held = {n: set(iterate_dims(e)) for n, e in scope.env.items()}
    if not any(dims & live for dims in held.values()):
        return
    picked = {d for e in scope.equations if e.positions is not None for d in (*iterate_dims(e.a), *iterate_dims(e.b))}
    moved = list(_moved_on_tensors(scope))
    names = [frozenset().union(*row) for _, _, row in scope.tensors]
    for name, dims in held.items():
        beside = [i for i, t in enumerate(names) if name in t]
        shared = frozenset.intersection(*(names[i] for i in beside)) if beside else frozenset()
        if name not in scope.stats:  # a statistic sums over its dims: at each channel of d over all of them
            shared -= scope.stats
        fit = set().union(*(held.get(n, set()) for n in shared)) - picked
        fit |= dims if name in shared else set()  # picked together with d
        for d in dims & live:
            common[d] &= fit.difference(*(moved[i] for i in beside))


def _moved_on_tensors(scope: Scope) -> Iterator[set[Dim]]:
    """For every tensor of a rule the dims that may be at other places on it than where its names have them."""
    moved = [(said, dims) for said in scope.equations if (dims := _find_moved_dims(said))]
    for value, _, _ in scope.tensors:
        own = {id(a) for a in value.axes}
        yield set().union(*(d for said, d in moved if own & {*map(id, _axes(Prod((said.a, said.b))))}))


def _find_moved_dims(said: Equation) -> set[Dim]:
    """The dims of two axes that count as equal which may be at other places on one than on the other."""
    a, b = resolve(said.a), resolve(said.b)
    if said.positions is None:
        return _different(a, b)
    x, y, positions = find_coordinates(a), find_coordinates(b), list(said.positions)
    return {d for d, place in y.items() if d not in x or not np.array_equal(x[d][positions], place)}


def _different(a: Expr, b: Expr) -> set[Dim]:
    a, b = resolve(a), resolve(b)
    if a is b or a == b:
        return set()
    if isinstance(a, Prod) and isinstance(b, Prod):
        xs, ys = list(a.parts), list(b.parts)
        for end in (-1, 0):
            while xs and ys and xs[end] == ys[end]:
                xs.pop(end)
                ys.pop(end)
        a, b = Prod(tuple(xs)), Prod(tuple(ys))
    elif isinstance(a, Sum) and isinstance(b, Sum) and [p.size for p in a.parts] == [p.size for p in b.parts]:
        return set().union(*map(_different, a.parts, b.parts))
    return {*iterate_dims(a), *iterate_dims(b)}
