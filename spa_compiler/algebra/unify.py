"""Axes as types: an axis is a dim, a row-major product of axes (Reshape) or a concatenation of axes (Concat).

`unify(a, b)` says "indexed by the same set" and refines both sides until they agree; what cannot agree is frozen.

>>> c, h, d = Dim(12), Dim(3), Dim(4)
>>> unify(c, Prod((h, d)))          # what Reshape [12] -> [3, 4] states
>>> resolve(c) == Prod((h, d))
True

A *unit* is a dim of size 1 that was cut out of a larger one: unlike an axis of size 1 it may be removed. A permutation
is a Sum of units in another order, and a Sum may hold the same dim twice (rotary halves, repeated channels).
The idea is Hindley-Milner unification (Damas and Milner 1982) with two constructors that have arithmetic.
"""

from __future__ import annotations

import collections
import itertools
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from spa_compiler.algebra.expr import (
    Dim,
    Expr,
    Prod,
    Reason,
    Sum,
    find_first_reason,
    freeze,
    is_frozen,
    is_trivial,
    iterate_dims,
    mark_statistic,
    naming,
    resolve,
)
from spa_compiler.errors import Conflict

ATOMS_LIMIT = 1 << 16
"""Longest axis that is written as single units; beyond it straddling digits are frozen instead."""

PICKED = "one channel is picked out on its own, by its number or in a loop over single channels: it has to stay"
REPEATED = (
    "an axis times itself is taken apart: every position stands for several channels at once, so none can be removed"
)

_choices_allowed: ContextVar[bool] = ContextVar("_deciding", default=True)


class UndecidedError(Exception):
    """One of several free digits has to give way, and it is too early to say which."""


@contextmanager
def allow_choices(yes: bool) -> Iterator[None]:
    """Whether a choice between free digits is made, or postponed by UndecidedError until all else is known.

    What was unified before the exception stays: an equation that is stated again changes nothing.
    """
    token = _choices_allowed.set(yes)
    try:
        yield
    finally:
        _choices_allowed.reset(token)


def unify(a: Expr, b: Expr, move: bool = True) -> None:
    """State that a and b are indexed by the same set.

    `move` says that the operator only moves data, so digits that straddle may be written out as single units;
    otherwise they are frozen. Raises Conflict when the sizes differ.
    """
    a, b = resolve(a), resolve(b)
    if a is b or a == b:
        return
    if a.size != b.size:
        raise Conflict(f"axes of {a.size} and {b.size} cannot be the same")
    match a, b:
        case (Dim(), Dim()):
            _bind(*((b, a) if a.unit else (a, b)))
        case (Dim(), _):
            _bind(a, b)
        case (_, Dim()):
            _bind(b, a)
        case _ if is_frozen(a) and is_frozen(b):
            pass
        case (Prod(), Prod()):
            _unify_products(list(a.parts), list(b.parts), move)
        case _:
            _unify_sums(a, b, move)


def _bind(d: Dim, e: Expr) -> None:
    if any(x is d for x in iterate_dims(e)):  # d = (d 1!) and the like: nothing larger may be made of itself
        freeze(e, Reason.new("couples an axis with a part of itself: no single channel can be removed"))
        return
    if d.frozen:
        freeze(e, d.frozen)
    if d.stat:
        mark_statistic(e, d.stat)
    if isinstance(e, Dim):
        e.unit |= d.unit
    d.link = e


def _list_parts(e: Expr) -> list[Expr]:
    return list(e.parts) if isinstance(e, Sum) else [e]


def _unify_sums(a: Expr, b: Expr, move: bool) -> None:
    """Unify two concatenations, left to right, cutting where their boundaries differ."""
    xs, ys = _list_parts(a)[::-1], _list_parts(b)[::-1]
    while xs:
        x, y = resolve(xs.pop()), resolve(ys.pop())
        if isinstance(x, Sum) or isinstance(y, Sum):
            xs += _list_parts(x)[::-1]
            ys += _list_parts(y)[::-1]
            continue
        if x.size == y.size:
            unify(x, y, move)
            continue
        if x.size < y.size:
            x, y, xs, ys = y, x, ys, xs
        if _can_cut(x, y.size):
            left, right = _cut(x, y.size)
            xs += [right, left]
        elif has_same_channels(Sum((x, *xs[::-1])), Sum((y, *ys[::-1]))):
            return
        else:
            xs += atomise(
                x,
                Reason.new(f"cuts {x.size} channels at {y.size}, inside of a block: no single channel can be removed"),
            )[::-1]
        ys.append(y)


def _unify_products(xs: list[Expr], ys: list[Expr], move: bool) -> None:
    """Unify two products digit by digit, from the minor end as far as it goes, then from the major end.

    What is left in the middle straddles; where both sides are frozen there, nothing has to agree.
    """
    _unify_ends(xs, ys, -1, move)
    _unify_ends(xs, ys, 0, move)
    a, b = Prod(tuple(xs)), Prod(tuple(ys))
    if has_same_channels(a, b):
        return
    if not xs or not ys or a.size == 1:
        for rest in xs + ys:  # a removed unit would leave an empty tensor behind the squeeze
            freeze(rest, Reason.new(PICKED))
        return
    if is_frozen(a) and is_frozen(b):
        return
    before, after = ("x".join(str(p.size) for p in parts) for parts in (xs, ys))
    why = Reason.new(f"regroups {before} as {after}: no single channel can be removed")
    if move and a.size <= ATOMS_LIMIT and not is_frozen(a) and not is_frozen(b):
        _choose_digits([a, b], why)
        for x, y in zip(_spell(a), _spell(b), strict=True):
            unify(x, y)
    else:
        freeze(Prod((a, b)), why)


def _unify_ends(xs: list[Expr], ys: list[Expr], end: int, move: bool) -> None:
    """Unify digits at one end (-1 minor, 0 major) of two products for as long as one size divides the other."""
    while xs and ys:
        x, y = resolve(xs[end]), resolve(ys[end])
        loses = 1 in (x.size, y.size) or (x.size != y.size and (_has_sum(x) or _has_sum(y)))
        if loses and has_same_channels(Prod(tuple(xs)), Prod(tuple(ys))):
            return
        if 1 in (x.size, y.size) and x.size != y.size:
            freeze(x if x.size == 1 else y, Reason.new(PICKED))
            (xs if x.size == 1 else ys).pop(end)
            continue
        if x.size != y.size:
            big, b, s = (xs, x, y) if x.size > y.size else (ys, y, x)
            minor = s.size if end else b.size // s.size
            if b.size % s.size or not _can_factor(b, minor):
                return
            big[end : (len(big) if end else 1)] = list(_factor(b, minor))
            continue
        xs.pop(end)
        ys.pop(end)
        unify(x, y, move)


def _has_sum(e: Expr) -> bool:
    return isinstance(e, Sum) or (isinstance(e, Prod) and any(isinstance(p, Sum) for p in e.parts))


def _can_factor(e: Expr, minor: int) -> bool:
    e = resolve(e)
    if e.size % minor:
        return False
    if isinstance(e, Dim) or minor == e.size:
        return True
    if isinstance(e, Sum):
        return all(_can_factor(p, minor) for p in e.parts)
    last = e.parts[-1]
    if last.size % minor == 0:
        return _can_factor(last, minor)
    return minor % last.size == 0 and _can_factor(Prod(e.parts[:-1]), minor // last.size)


def _factor(e: Expr, minor: int) -> tuple[Expr, Expr]:
    """Write e as a product (high, low) with |low| = minor; only called when _factorable."""
    e = resolve(e)
    if minor == e.size:
        units = isinstance(e, Prod) and e.parts[0].size == 1
        return (e.parts[0], Prod(e.parts[1:])) if isinstance(e, Prod) and units else (Dim(1), e)
    if isinstance(e, Dim):
        high, low = Dim(e.size // minor, e.frozen, e.stat), Dim(minor, e.frozen, e.stat)
        e.link = Prod((high, low))
        return high, low
    if isinstance(e, Sum):
        return _factor_sum(e, minor)
    *major, last = e.parts
    if last.size % minor == 0:
        hi, lo = _factor(last, minor)
        return Prod((*major, hi)), lo
    hi, lo = _factor(Prod(tuple(major)), minor // last.size)
    return hi, Prod((lo, last))


def _factor_sum(e: Sum, minor: int) -> tuple[Expr, Expr]:
    highs: list[Expr] = []
    low: Expr | None = None
    for p in map(resolve, e.parts):
        hi, lo = _factor(p, minor)
        if is_trivial(hi):
            if not _choices_allowed.get():  # a cut that is still to come may go through the block
                raise UndecidedError
            if isinstance(p, Dim):  # a block that may go as a whole
                hi, lo = Dim(1, p.frozen, p.stat, unit=True), Dim(p.size, p.frozen, p.stat)
                p.link = Prod((hi, lo))
            else:
                hi = Dim(1, Reason.new("one block of a concatenation"), unit=True)
        highs.append(hi)
        if low is None:
            low = lo
        else:
            unify(lo, low)
    assert low is not None
    return Sum(tuple(highs)), low


def _can_cut(e: Expr, at: int) -> bool:
    e = resolve(e)
    if isinstance(e, Dim) or is_frozen(e):
        return True
    if isinstance(e, Prod):
        rest = Prod(e.parts[1:]).size
        return at % rest == 0 and _can_cut(e.parts[0], at // rest)
    for p in e.parts:
        if at < p.size:
            return at == 0 or _can_cut(p, at)
        at -= p.size
    return True


def _cut(e: Expr, at: int) -> tuple[Expr, Expr]:
    """Write e as a sum (left, right) with |left| = at; only called when _cuttable."""
    e = resolve(e)
    if isinstance(e, Dim) or is_frozen(e):
        stat = next(iterate_dims(e)).stat
        left, right = (Dim(n, find_first_reason(e), stat, unit=n == 1) for n in (at, e.size - at))
        if isinstance(e, Dim):
            e.link = Sum((left, right))
        return left, right
    if isinstance(e, Sum):
        for i, p in enumerate(e.parts):
            if at == 0:
                return Sum(e.parts[:i]), Sum(e.parts[i:])
            if at < p.size:
                a, b = _cut(p, at)
                return Sum((*e.parts[:i], a)), Sum((b, *e.parts[i + 1 :]))
            at -= p.size
    rest = Prod(e.parts[1:])
    a, b = _cut(e.parts[0], at // rest.size)
    return Prod((a, rest)), Prod((b, rest))


def split(e: Expr, at: int) -> tuple[Expr, Expr]:
    """Write e as (left, right) with |left| = at, as units where the cut runs through digits."""
    e = resolve(e)
    if at == 0:
        return Sum(()), e
    if at == e.size:
        return e, Sum(())
    if not _can_cut(e, at):
        e = Sum(
            tuple(
                atomise(
                    e,
                    Reason.new(f"cuts {e.size} channels at {at}, inside of a block: no single channel can be removed"),
                )
            )
        )
    return _cut(e, at)


def atomise(e: Expr, why: Reason) -> list[Dim]:
    """Write e as a list of units. Of a product only one digit stays free: its units repeat.

    A product with several free digits loses the freedom of all but one of them; `why` is their reason. Raises
    UndecidedError where that is a choice and choices are postponed (see `allow_choices`).
    """
    _choose_digits([e], why)
    return _spell(e)


def _spell(e: Expr) -> list[Dim]:
    """The units of e, of whose products no more than one digit is free."""
    e = resolve(e)
    if isinstance(e, Dim):
        return _make_units(e)
    columns = [_spell(p) for p in e.parts]
    if isinstance(e, Sum):
        return [u for column in columns for u in column]
    at = next((i for i, p in enumerate(e.parts) if not is_frozen(p)), 0)
    return [position[at] for position in itertools.product(*columns)]


def _choose_digits(axes: list[Expr], why: Reason) -> None:
    """Leave no more than one digit of every product free, and freeze the others.

    A dim in two digits of one product, as in `(d d)`, puts two of its channels on one position: no unit can stand for
    both, so it is frozen first. Then the product with the largest digit comes first, on whichever axis it is.
    """
    products = [p for e in axes for p in _products(e) if len(_free_digits(p)) > 1]
    if products and not _choices_allowed.get():
        raise UndecidedError
    for p in products:
        times = collections.Counter(d for q in p.parts for d in set(iterate_dims(q)) if not d.frozen)
        for d in (d for d, many in times.items() if many > 1):
            freeze(d, Reason.new(REPEATED))
    for p in sorted(products, key=lambda p: (-_largest(_free_digits(p)), [d.serial for d in iterate_dims(p)])):
        free = _free_digits(p)
        best = next((q for q in free if q.size == _largest(free)), None)
        for q in free:
            if q is not best:
                freeze(q, why)


def _products(e: Expr) -> Iterator[Prod]:
    e = resolve(e)
    if isinstance(e, Prod):
        yield e
    if not isinstance(e, Dim):
        for p in e.parts:
            yield from _products(p)


def _free_digits(p: Prod) -> list[Expr]:
    return [q for q in p.parts if not is_frozen(q)]


def _largest(digits: list[Expr]) -> int:
    return max((q.size for q in digits), default=0)


def has_same_channels(a: Expr, b: Expr) -> bool:
    """Do two axes of one size carry the same free channels at every position, and carry any?"""
    free_a, free_b = ({d for d in iterate_dims(e) if not d.frozen and not is_trivial(d)} for e in (a, b))
    return free_a == free_b != set() and a.size <= ATOMS_LIMIT and all(map(operator.eq, _channels(a), _channels(b)))


def _channels(e: Expr) -> Iterator[frozenset[tuple[Dim, int]]]:
    """For every position of e the free channels that it stands for: (dim, index)."""
    e = resolve(e)
    if isinstance(e, Sum):
        yield from itertools.chain.from_iterable(map(_channels, e.parts))
    elif isinstance(e, Prod):
        for position in itertools.product(*map(_channels, e.parts)):
            yield frozenset().union(*position)
    else:
        none = e.frozen is not None or is_trivial(e)
        yield from (frozenset() if none else frozenset([(e, i)]) for i in range(e.size))


def _make_units(d: Dim) -> list[Dim]:
    if d.size == 1:
        return [d]
    if d.size > ATOMS_LIMIT and d.frozen is None:
        freeze(d, Reason.new(f"an axis of {d.size} is too long to be chosen position by position"))
    if d.frozen:
        return [Dim(1, d.frozen, unit=True)] * d.size
    units = [Dim(1, None, d.stat, unit=True) for _ in range(d.size)]
    d.link = Sum(tuple(units))
    return units


def select(x: Expr, positions: list[int], y: Expr) -> Expr | None:
    """State that y is x at these positions (Slice, Split, Gather with constant indices).

    Returns what lies before y in x when the positions are one run, else None.
    """
    x = resolve(x)
    start, n = (positions[0] if positions else 0), len(positions)
    run = positions == list(range(start, start + n))
    if is_frozen(x):
        reason = find_first_reason(x)
        if reason:
            freeze(y, reason)
        return (Dim(start, reason) if start else Sum(())) if run else None
    if run and n:
        before, rest = split(x, start)
        picked, _ = split(rest, n)
        unify(picked, y)
        return before
    units = atomise(x, Reason.new("channels are picked one by one"))
    unify(Sum(tuple(units[i] for i in positions)), y)
    return None


__all__ = [
    "Dim",
    "Expr",
    "Prod",
    "Reason",
    "Sum",
    "UndecidedError",
    "allow_choices",
    "atomise",
    "find_first_reason",
    "freeze",
    "is_frozen",
    "is_trivial",
    "iterate_dims",
    "mark_statistic",
    "naming",
    "resolve",
    "select",
    "split",
    "unify",
]  # fmt: skip
