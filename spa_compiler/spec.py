"""Rules as strings: how the axes of one operator's inputs and outputs relate, and what a rule sees of its node.

    Conv = rule("_ (g i) _..., (g o) i _..., (g o) -> _ (g o) _...", g="group")

A tensor is a list of axes, tensors are separated by commas, inputs and outputs by an arrow:

    name        axes with the same name are indexed by the same set; a name only on the left is contracted
    (a b)       row-major product          a+b     concatenation
    a...        a right-aligned broadcast group of axes; axes of size 1 take no part
    _           frozen and unrelated       4       frozen, of this size       A    a name that is frozen
    ?           a whole tensor of which only the type is read
    g="group"   the size of g lives in that attribute: read here, written back by the rewrite
    stat="c"    a statistic is taken over c: removing channels of it changes what the others see

The notation follows einops (Rogozhnikov 2022); the meaning is unification, see `dims`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.dims import Dim, Expr, Prod, Reason, Sum, atoms, freeze, is_frozen, mark, select, unify
from spa_compiler.errors import Conflict, RuleError
from spa_compiler.sizes import Size

Count = Callable[[Expr], int]
"""Gives the size of an axis after pruning."""


@dataclass(eq=False)
class Value:
    """One tensor of the graph: its shape (symbols bound to primes) and the expression of each axis."""

    name: str
    shape: tuple[int, ...]
    dynamic: tuple[bool, ...] = ()
    constant: bool = False
    axes: list[Expr] = field(default_factory=list)
    sizes: tuple[Size, ...] = ()  # what holds for every binding of the symbols

    def size(self, axis: int) -> Size:
        """The size of an axis for every binding: a number, or what it is of the symbols."""
        return self.sizes[axis] if self.sizes else self.shape[axis]

    def __post_init__(self) -> None:
        self.axes = [Dim(n) for n in self.shape]
        self.dynamic = self.dynamic or (False,) * len(self.shape)


@dataclass(frozen=True)
class Operand:
    """A list of integers that the rewrite must write again: input `slot`, or attribute `attr` in older opsets."""

    slot: int
    values: Callable[[Count], list[int]]
    attr: str = ""


@dataclass(frozen=True)
class Take:
    """The node reads `positions` of `axis` of its first input; the rewrite makes it a Gather when they change.

    Where they are one run, `before` is what lies before it on the axis.
    """

    axis: int
    positions: list[int]
    before: Expr | None = None


@dataclass(frozen=True)
class Equation:
    """Two axes that a node said are indexed by the same set: b is a, or a at these positions."""

    a: Expr
    b: Expr
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Scope:
    """What one rule said: for each tensor the names on each axis, and what the names stand for."""

    tensors: list[tuple[Value, bool, list[frozenset[str]]]]  # value, is it an output, names per axis
    env: dict[str, Expr]
    stats: frozenset[str]
    equations: tuple[Equation, ...] = ()

    def contracted(self) -> set[str]:
        """Names that no output carries: channels are summed over."""
        sides: dict[bool, set[str]] = {True: set(), False: set()}
        for _, output, names in self.tensors:
            sides[output] |= frozenset().union(*names)
        return sides[False] - sides[True]


@dataclass(eq=False)
class Site:
    """One node as its rule sees it, and what the rule leaves for the rewrite and the analysis."""

    op: str
    name: str
    opset: int
    inputs: Sequence[Value | None]
    outputs: Sequence[Value | None]
    attrs: dict[str, Any]
    consts: dict[int, NDArray[Any]]
    sizes: dict[str, Expr] = field(default_factory=dict)  # attributes that hold a size
    lists: dict[str, tuple[Expr, ...]] = field(default_factory=dict)  # attributes that hold several
    defaults: dict[str, tuple[Expr, float]] = field(default_factory=dict)  # what absent attributes meant before a cut
    operands: list[Operand] = field(default_factory=list)
    take: Take | None = None
    scopes: list[Scope] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)  # what was said without a rule string
    shape_reads: frozenset[int] | None = None
    known: dict[int, tuple[int | None, ...]] = field(default_factory=dict)  # entries of operands that follow a symbol
    path: str = ""  # of the body that the node lies in
    failure: str = ""  # what its rule stumbled over; a fault of the rule, not of the model

    def clear(self) -> None:
        """Forget what the rule left for the rewrite; what it said about axes stays said."""
        self.sizes, self.lists, self.defaults = {}, {}, {}
        self.operands, self.take, self.scopes, self.equations = [], None, [], []

    def ints(self, slot: int, attr: str = "") -> list[int] | None:
        """Integers of a constant input, or of the attribute that held them in older opsets; None when unknown."""
        if slot in self.consts:
            return [int(x) for x in np.ravel(self.consts[slot])]
        got = self.attrs.get(attr)
        return None if got is None else [int(x) for x in np.ravel(got)]

    def entries(self, slot: int, attr: str = "") -> list[int | None] | None:
        """As `ints`; of an operand that is computed at run time, the entries that are the same for every binding."""
        found: list[int | None] | None = None
        if slot in self.known and slot not in self.consts:
            found = list(self.known[slot])
        else:
            ints = self.ints(slot, attr)
            found = None if ints is None else list(ints)
        return found

    def x(self, slot: int = 0) -> Value:
        """Input `slot`, which the operator requires. Raises Conflict when it is missing."""
        value = self.inputs[slot] if slot < len(self.inputs) else None
        if value is None:
            raise Conflict(f"input {slot} is missing or has no known shape")
        return value

    @property
    def y(self) -> Value:
        """The first output. Raises Conflict when it is missing."""
        if not self.outputs or self.outputs[0] is None:
            raise Conflict("the output has no known shape")
        return self.outputs[0]

    def freeze(self, e: Expr, text: str) -> None:
        """Freeze an axis, naming this node."""
        freeze(e, Reason.new(text, f"{self.op} '{self.name}'"))

    def freeze_all(self, values: Sequence[Value | None], text: str) -> None:
        """Freeze every axis of these values."""
        for v in values:
            if v is not None:
                for a in v.axes:
                    self.freeze(a, text)

    def unify(self, a: Expr, b: Expr, move: bool = True) -> None:
        """Unify; where the two cannot agree, freeze both and say so."""
        self.equations.append(Equation(a, b))
        _unify_or_freeze(self, a, b, move)

    def select(self, x: Expr, positions: list[int], y: Expr) -> Expr | None:
        """State that y is x at these positions; see `dims.select`."""
        self.equations.append(Equation(x, y, None if positions == list(range(x.size)) else tuple(positions)))
        return select(x, positions, y)


def _unify_or_freeze(site: Site, a: Expr, b: Expr, move: bool) -> None:
    try:
        unify(a, b, move)
    except Conflict as e:
        site.freeze(Prod((a, b)), str(e))


Rule = Callable[[Site], None]


@dataclass(frozen=True)
class Pattern:
    """A product ('*') or a concatenation ('+') of patterns."""

    kind: str
    parts: tuple[Axis, ...]


Axis = str | Pattern
TOKEN = re.compile(r"\s+|->|\d+(?!\w)|[^\W\d]\w*(?:\.\.\.)?|[(),+?]")


def rule(spec: str, move: bool = False, stat: str = "", known: Mapping[str, int] | None = None, **attrs: str) -> Rule:
    """The rule that a string states. `move`: the operator only moves data, so straddling digits may become units.

    `known` gives names a size that neither the tensors nor one attribute tell. Raises RuleError at once where the
    string cannot be read, or where a name is bound by nothing.
    """
    stats = frozenset(stat.split())
    lhs, rhs = parse(spec)
    _check_names(spec, frozenset({*attrs, *(known or {})}), stats)

    def apply(site: Site) -> None:
        tensors = [*_matched(site, lhs, site.inputs, False), *_matched(site, rhs, site.outputs, True)]
        pairs = [(p, v.axes[i]) for v, _, row in tensors for i, p in row]
        sizes = {**(known or {}), **{n: int(site.attrs[a]) for n, a in attrs.items()}}
        for _ in range(3):
            for p, axis in pairs:
                _solve(p, axis.size, sizes)
        env: dict[str, Expr] = {n: Dim(s) for n, s in sizes.items()}
        for n, e in env.items():
            if n[0].isupper():
                site.freeze(e, f"{site.op} fixes the size of this axis")
        equations = tuple(Equation(axis, _build(p, axis.size, env, site)) for p, axis in pairs)
        for said in equations:
            _unify_or_freeze(site, said.a, said.b, move)
        named = frozenset(n for n in env if n.split(".")[0] in stats)
        for n in named:
            mark(env[n], f"{site.op} '{site.name}' takes a statistic over it")
        site.scopes.append(Scope([(v, out, _names_per_axis(v, row)) for v, out, row in tensors], env, named, equations))
        site.sizes.update({a: env[n] for n, a in attrs.items()})

    bound = "".join(f', {n}="{a}"' for n, a in attrs.items()) + (f', stat="{stat}"' if stat else "")
    apply.__doc__ = f"`{spec}`{bound}"
    return apply


def freeze_rule(reason: str) -> Rule:
    """A deliberate freeze: nothing that the operator touches may change, for this reason."""

    def apply(site: Site) -> None:
        site.freeze_all([*site.inputs, *site.outputs], f"{site.op}: {reason}")

    apply.__doc__ = f"frozen: {reason}"
    return apply


def _matched(
    site: Site, patterns: list[list[Axis]], values: Sequence[Value | None], output: bool
) -> Iterator[tuple[Value, bool, list[tuple[int, Axis]]]]:
    for p, v in zip(patterns, values, strict=False):
        if v is not None:
            yield v, output, list(_match(site, p, v))
    site.freeze_all(values[len(patterns) :], "the operator's rule does not cover this input or output")


def _match(site: Site, pattern: list[Axis], v: Value) -> Iterator[tuple[int, Axis]]:
    """Pair axes with patterns, expanding one `name...`; broadcast axes of size 1 are left out."""
    at = next((i for i, p in enumerate(pattern) if isinstance(p, str) and p.endswith("...")), None)
    full = pattern
    if pattern == ["?"]:
        return
    if at is not None:
        stem, n = str(pattern[at])[:-3], len(v.axes) - len(pattern) + 1
        group: list[Axis] = ["_"] * n if stem == "_" else [f"{stem}.{n - 1 - k}" for k in range(n)]
        full = [*pattern[:at], *group, *pattern[at + 1 :]]
    elif pattern == ["_"]:
        full = ["_"] * len(v.axes)
    if len(full) != len(v.axes):
        raise Conflict(f"'{v.name}' has rank {len(v.axes)}, the rule needs {len(full)}")
    for i, (p, a) in enumerate(zip(full, v.axes, strict=True)):
        if isinstance(p, str) and "." in p and a.size == 1:
            if any(d.unit for d in atoms(a)):
                site.freeze(a, "one channel is broadcast over an axis")
        else:
            yield i, p


@functools.lru_cache(maxsize=4096)
def parse(spec: str) -> tuple[list[list[Axis]], list[list[Axis]]]:
    """Inputs and outputs of a rule string, each tensor a list of axis patterns. Raises RuleError with the place."""
    text = _Text(spec, _tokens(spec))
    inputs = text.read_side()
    if text.next != "->":
        raise text.error("nothing opens this bracket" if text.next else "'->' is missing")
    text.at += 1
    outputs = text.read_side()
    if text.next:
        raise text.error("a second '->'" if text.next == "->" else "nothing opens this bracket")
    return inputs, outputs


def _tokens(spec: str) -> list[tuple[str, int]]:
    """The words and signs of a rule string and where they begin; the last one is empty."""
    tokens, at = [], 0
    while at < len(spec):
        token = TOKEN.match(spec, at)
        if token is None:
            raise RuleError(spec, at, f"'{spec[at]}' has no meaning in a rule")
        if token[0].strip():
            tokens.append((token[0], at))
        at = token.end()
    return [*tokens, ("", at)]


@dataclass
class _Text:
    """A rule string that is read from left to right; `at` is the number of the next token."""

    spec: str
    tokens: list[tuple[str, int]]
    at: int = 0

    @property
    def next(self) -> str:
        return self.tokens[self.at][0]

    def error(self, text: str, at: int | None = None) -> RuleError:
        """What is wrong with the next token, or with token number `at`."""
        return RuleError(self.spec, self.tokens[self.at if at is None else at][1], text)

    def read_side(self) -> list[list[Axis]]:
        tensors = [self.read_tensor()]
        while self.next == ",":
            self.at += 1
            tensors.append(self.read_tensor())
        return tensors

    def read_tensor(self) -> list[Axis]:
        axes: list[Axis] = []
        groups = 0
        while self.next not in ("", ",", "->", ")"):
            groups += self.next.endswith("...")
            if groups > 1:
                raise self.error("a tensor has one group of axes ('...') at most")
            if "?" in (self.next, *axes[-1:]) and axes:
                raise self.error("'?' is a whole tensor and stands alone")
            axes.append(self.read_axis())
        return axes

    def read_axis(self, inside: bool = False) -> Axis:
        first, parts = self.at, [self.read_term(inside)]
        while self.next == "+":
            self.at += 1
            parts.append(self.read_term(True))
        if len(parts) > 1 and _stands_alone(parts[0]):
            raise self.error(f"'{parts[0]}' is no part of an axis", first)
        return parts[0] if len(parts) == 1 else Pattern("+", tuple(parts))

    def read_term(self, inside: bool) -> Axis:
        token = self.next
        if token in ("", ",", "->", "+", ")"):
            raise self.error(f"a name is missing before '{token}'" if token else "a name is missing at the end")
        if inside and _stands_alone(token):
            raise self.error(f"'{token}' is no part of an axis")
        opened = self.at
        self.at += 1
        if token != "(":
            return token
        parts = []
        while self.next != ")":
            if self.next in ("", ",", "->"):
                raise self.error("the bracket is not closed", opened)
            parts.append(self.read_axis(True))
        self.at += 1
        if not parts:
            raise self.error("there is nothing in the bracket", opened)
        return Pattern("*", tuple(parts))


def _stands_alone(p: Axis) -> bool:
    """Is this a whole tensor or a group of axes, of which no axis is made?"""
    return isinstance(p, str) and (p == "?" or p.endswith("..."))


@functools.lru_cache(maxsize=4096)
def _check_names(spec: str, sizes: frozenset[str], stats: frozenset[str]) -> None:
    """Raise RuleError for a name that nothing binds: only on the right, or only beside the string."""
    lhs, rhs = (frozenset(n for t in side for p in t for n in _names(p)) for side in parse(spec))
    stems = {n.removesuffix("...") for n in lhs | rhs}
    for n in sorted((sizes | stats) - stems):
        raise RuleError(spec, len(spec), f"'{n}' is given beside the rule and does not occur in it")
    for n in sorted(rhs - lhs - sizes):
        if not n.isdigit() and n[0] not in "_?":
            place = re.compile(rf"(?<!\w){re.escape(n)}(?!\w)").search(spec, spec.index("->"))
            raise RuleError(spec, place.start() if place else 0, f"'{n}' is an axis of an output and of no input")


def _names(p: Axis) -> frozenset[str]:
    return frozenset([p]) if isinstance(p, str) else frozenset().union(*map(_names, p.parts))


def _names_per_axis(v: Value, row: list[tuple[int, Axis]]) -> list[frozenset[str]]:
    found = {i: _names(p) for i, p in row}
    return [found.get(i, frozenset()) for i in range(len(v.axes))]


def _total(kind: str, known: list[int]) -> int:
    return int(np.prod(known)) if kind == "*" else sum(known)


def _solve(p: Axis, size: int, sizes: dict[str, int]) -> None:
    """Give the one unknown name of a pattern its size, if there is just one."""
    if isinstance(p, str):
        if not p.isdigit() and p != "_":
            sizes.setdefault(p, size)
        return
    measured = [_measure(q, sizes) for q in p.parts]
    if measured.count(None) == 1:
        total = _total(p.kind, [m for m in measured if m is not None])
        rest = size - total if p.kind == "+" else size // total if total else 0
        _solve(p.parts[measured.index(None)], rest, sizes)


def _measure(p: Axis, sizes: dict[str, int]) -> int | None:
    if isinstance(p, str):
        return int(p) if p.isdigit() else sizes.get(p)
    known = [_measure(q, sizes) for q in p.parts]
    return None if None in known else _total(p.kind, [k for k in known if k is not None])


def _build(p: Axis, size: int, env: dict[str, Expr], site: Site) -> Expr:
    if isinstance(p, str):
        if p == "_" or p.isdigit():
            return Dim(size if p == "_" else int(p), Reason.new(f"{site.op} works along this axis", _place(site)))
        return env[p]
    parts = tuple(_build(q, 0, env, site) for q in p.parts)
    return Prod(parts) if p.kind == "*" else Sum(parts)


def _place(site: Site) -> str:
    return f"{site.op} '{site.name}'"


__all__ = ["Count", "Operand", "Rule", "Scope", "Site", "Take", "Value", "is_frozen", "parse", "rule"]
