"""Axis expressions: dims, their row-major products and concatenations, and why a dim may not change.

>>> d = Dim(3)
>>> Prod((Dim(2), d)).size, Sum((d, d)).size
(6, 6)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

_serial = itertools.count()
_node: ContextVar[str] = ContextVar("_node", default="")


@contextmanager
def naming(node: str) -> Iterator[None]:
    """Reasons that are made inside name this node, unless they name something else."""
    token = _node.set(node)
    try:
        yield
    finally:
        _node.reset(token)


@dataclass(frozen=True, order=True)
class Reason:
    """Why a dim may not change: the sentence, and the value where it was first said. Earlier reasons win."""

    order: int
    text: str
    where: str = ""

    @classmethod
    def new(cls, text: str, where: str = "") -> Reason:
        return cls(next(_serial), text, where or _node.get())


@dataclass(eq=False)
class Dim:
    """An atomic dimension. `link` is set once unification has replaced it by another expression."""

    size: int
    frozen: Reason | None = None
    stat: str = ""
    unit: bool = False
    serial: int = field(default_factory=lambda: next(_serial))
    link: Expr | None = None

    def __repr__(self) -> str:
        return f"d{self.serial}[{self.size}]{'!' if self.frozen else ''}"


@dataclass(frozen=True)
class Prod:
    """Row-major product: the last part is the minor digit."""

    parts: tuple[Expr, ...]

    @property
    def size(self) -> int:
        return math.prod(p.size for p in self.parts)


@dataclass(frozen=True)
class Sum:
    """Concatenation."""

    parts: tuple[Expr, ...]

    @property
    def size(self) -> int:
        return sum(p.size for p in self.parts)


Expr = Dim | Prod | Sum


def is_trivial(e: Expr) -> bool:
    """True for a plain axis of size 1, which carries no choice and may come and go."""
    return isinstance(e, Dim) and e.size == 1 and not e.unit


def resolve(e: Expr) -> Expr:
    """The normal form of e: links followed, nested products and sums flattened."""
    if not isinstance(e, Dim):
        return _flatten(e)
    path: list[Dim] = []
    at: Expr = e
    while isinstance(at, Dim) and at.link is not None:
        path.append(at)
        at = at.link
    if not isinstance(at, Dim):
        at = _flatten(at)
    for d in path:
        d.link = at
    return at


def _find_end(e: Expr) -> Expr:
    """The end of a chain of links."""
    while isinstance(e, Dim) and e.link is not None:
        e = e.link
    return e


def _flatten(e: Prod | Sum) -> Expr:
    if len(e.parts) > 1 and all(isinstance(p, Dim) and p.link is None and not is_trivial(p) for p in e.parts):
        return e
    kind = type(e)
    parts: list[Expr] = []
    todo = list(e.parts[::-1])
    while todo:  # no recursion: an axis that was cut a thousand times is nested as deeply
        p = _find_end(todo.pop())
        if isinstance(p, kind):
            todo += p.parts[::-1]
        else:
            parts.append(p if isinstance(p, Dim) else _flatten(p))
    if any(isinstance(p, kind) for p in parts):  # a product in a sum in a product, say, came to one part
        return _flatten(kind(tuple(parts)))
    if kind is Prod:
        parts = [p for p in parts if not is_trivial(p)] or parts[:1] or [Dim(1)]  # a scalar is the empty product
    elif len(parts) > 1:
        for p in filter(is_trivial, parts):  # one position among others is a channel
            p.unit = True  # type: ignore[union-attr]
    return parts[0] if len(parts) == 1 else kind(tuple(parts))


def count_pieces(e: Expr) -> int:
    """How many expressions an axis joins: 1 for what is no concatenation.

    >>> count_pieces(Sum((Dim(2), Dim(3), Sum((Dim(1), Dim(4))))))
    4
    """
    e = resolve(e)
    return len(e.parts) if isinstance(e, Sum) else 1


def iterate_dims(e: Expr) -> Iterator[Dim]:
    """The dims of e in order of position; a dim that occurs twice comes twice."""
    e = resolve(e)
    if isinstance(e, Dim):
        yield e
    else:
        for p in e.parts:
            yield from iterate_dims(p)


def count_positions(e: Expr, dims: Collection[Dim]) -> int:
    """How many positions of an axis lie on one of these dims: a unit may take several of them.

    >>> group, channel, other = Dim(10), Dim(8), Dim(3)
    >>> count_positions(Sum((Prod((group, channel)), other)), [group])
    80
    """
    e = resolve(e)
    if isinstance(e, Dim):
        return e.size if e in dims else 0
    carried = [count_positions(p, dims) for p in e.parts]
    if isinstance(e, Sum):
        return sum(carried)
    return e.size - math.prod(p.size - n for p, n in zip(e.parts, carried, strict=True))


def is_frozen(e: Expr) -> bool:
    """True when no channel of e may be removed."""
    return all(d.frozen or is_trivial(d) for d in iterate_dims(e))


def freeze(e: Expr, reason: Reason) -> None:
    """Say that e may not change; the first reason given to a dim stays."""
    for d in iterate_dims(e):
        d.frozen = reason if d.frozen is None else min(d.frozen, reason)


def find_first_reason(e: Expr) -> Reason | None:
    """The earliest reason among the dims of e."""
    return min((d.frozen for d in iterate_dims(e) if d.frozen), default=None)


def mark_statistic(e: Expr, stat: str) -> None:
    """Say that a statistic (a mean, a norm) is taken over e."""
    for d in iterate_dims(e):
        d.stat = d.stat or stat
