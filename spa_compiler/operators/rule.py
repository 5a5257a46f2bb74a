"""Rules as strings: how the axes of one operator's inputs and outputs relate, and what a rule sees of its node.

    Conv = rule("_ (g i) _..., (g o) i _..., (g o) -> _ (g o) _...", g="group")

A tensor is a list of axes, tensors are separated by commas, inputs and outputs by an arrow:

    name        axes with the same name are indexed by the same set; a name only on the left is contracted
    (a b)       row-major product          a+b     concatenation
    a...        a right-aligned broadcast group of axes; axes of size 1 take no part
    _           frozen and unrelated       4       frozen, of this size       A    a name that is frozen
    _k...       as `_...`, but its sizes count in the multiply-accumulates of a contraction
    ?           a whole tensor of which only the type is read
    g="group"   the size of g lives in that attribute: read here, written back by the rewrite
    stat="c"    a statistic is taken over c: removing channels of it changes what the others see

The notation follows einops (Rogozhnikov 2022); the meaning is unification, see `algebra.unify`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spa_compiler.algebra.expr import Dim, Expr, Prod, Reason, Sum, iterate_dims, mark_statistic
from spa_compiler.errors import Conflict, RuleError
from spa_compiler.operators.site import (
    AxisPattern,
    Equation,
    Pattern,
    Rule,
    Scope,
    Site,
    Value,
    describe_place,
    unify_or_freeze,
)

TOKEN = re.compile(r"\s+|->|\d+(?!\w)|[^\W\d]\w*(?:\.\.\.)?|[(),+?]")


def rule(spec: str, move: bool = False, stat: str = "", known: Mapping[str, int] | None = None, **attrs: str) -> Rule:
    """The rule that a string states. `move`: the operator only moves data, so straddling digits may become units.

    `known` gives names a size that neither the tensors nor one attribute tell. Raises RuleError at once where the
    string cannot be read, or where a name is bound by nothing.
    """
    stats = frozenset(stat.split())
    lhs, rhs = parse_rule(spec)
    _check_names(spec, frozenset({*attrs, *(known or {})}), stats)

    def apply(site: Site) -> None:
        tensors = [*_match_tensors(site, lhs, site.inputs, False), *_match_tensors(site, rhs, site.outputs, True)]
        pairs = [(p, v.axes[i]) for v, _, row in tensors for i, p in row]
        sizes = {**(known or {}), **{n: int(site.attrs[a]) for n, a in attrs.items()}}
        for _ in range(3):
            for p, axis in pairs:
                _solve(p, axis.size, sizes)
        env: dict[str, Expr] = {n: _make_unrelated(site, s) if n[0] == "_" else Dim(s) for n, s in sizes.items()}
        for n, e in env.items():
            if n[0].isupper():
                site.freeze(e, f"{site.op} fixes the size of this axis")
        equations = tuple(Equation(axis, _build_expr(p, axis.size, env, site)) for p, axis in pairs)
        for said in equations:
            unify_or_freeze(site, said.a, said.b, move)
        named = frozenset(n for n in env if n.split(".")[0] in stats)
        for n in named:
            mark_statistic(env[n], f"{site.op} '{site.name}' takes a statistic over it")
        site.scopes.append(
            Scope([(v, out, _names_per_axis(v, row)) for v, out, row in tensors], env, named, spec, equations)
        )
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


def _match_tensors(
    site: Site, patterns: list[list[AxisPattern]], values: Sequence[Value | None], output: bool
) -> Iterator[tuple[Value, bool, list[tuple[int, AxisPattern]]]]:
    for p, v in zip(patterns, values, strict=False):
        if v is not None:
            yield v, output, list(_match(site, p, v))
    site.freeze_all(values[len(patterns) :], "the operator's rule does not cover this input or output")


def _match(site: Site, pattern: list[AxisPattern], v: Value) -> Iterator[tuple[int, AxisPattern]]:
    """Pair axes with patterns, expanding one `name...`; broadcast axes of size 1 are left out."""
    at = next((i for i, p in enumerate(pattern) if isinstance(p, str) and p.endswith("...")), None)
    full = pattern
    if pattern == ["?"]:
        return
    if at is not None:
        stem, n = str(pattern[at])[:-3], len(v.axes) - len(pattern) + 1
        dot = "" if stem[0] == "_" else "."  # what is frozen takes part whatever its size
        group: list[AxisPattern] = ["_"] * n if stem == "_" else [f"{stem}{dot}{n - 1 - k}" for k in range(n)]
        full = [*pattern[:at], *group, *pattern[at + 1 :]]
    elif pattern == ["_"]:
        full = ["_"] * len(v.axes)
    if len(full) != len(v.axes):
        raise Conflict(f"'{v.name}' has rank {len(v.axes)}, the rule needs {len(full)}")
    for i, (p, a) in enumerate(zip(full, v.axes, strict=True)):
        if isinstance(p, str) and "." in p and a.size == 1:
            if any(d.unit for d in iterate_dims(a)):
                site.freeze(
                    a,
                    "one channel is computed with alone, in a loop over single channels or broadcast: it has to stay",
                )
        else:
            yield i, p


@functools.lru_cache(maxsize=4096)
def parse_rule(spec: str) -> tuple[list[list[AxisPattern]], list[list[AxisPattern]]]:
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
        """The error of the next token, or of token number `at`."""
        return RuleError(self.spec, self.tokens[self.at if at is None else at][1], text)

    def read_side(self) -> list[list[AxisPattern]]:
        tensors = [self.read_tensor()]
        while self.next == ",":
            self.at += 1
            tensors.append(self.read_tensor())
        return tensors

    def read_tensor(self) -> list[AxisPattern]:
        axes: list[AxisPattern] = []
        groups = 0
        while self.next not in ("", ",", "->", ")"):
            groups += self.next.endswith("...")
            if groups > 1:
                raise self.error("a tensor has one group of axes ('...') at most")
            if "?" in (self.next, *axes[-1:]) and axes:
                raise self.error("'?' is a whole tensor and stands alone")
            axes.append(self.read_axis())
        return axes

    def read_axis(self, inside: bool = False) -> AxisPattern:
        first, parts = self.at, [self.read_term(inside)]
        while self.next == "+":
            self.at += 1
            parts.append(self.read_term(True))
        if len(parts) > 1 and _is_single_name(parts[0]):
            raise self.error(f"'{parts[0]}' is no part of an axis", first)
        return parts[0] if len(parts) == 1 else Pattern("+", tuple(parts))

    def read_term(self, inside: bool) -> AxisPattern:
        token = self.next
        if token in ("", ",", "->", "+", ")"):
            raise self.error(f"a name is missing before '{token}'" if token else "a name is missing at the end")
        if inside and _is_single_name(token):
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


def _is_single_name(p: AxisPattern) -> bool:
    """Is this a whole tensor or a group of axes, of which no axis is made?"""
    return isinstance(p, str) and (p == "?" or p.endswith("..."))


@functools.lru_cache(maxsize=4096)
def _check_names(spec: str, sizes: frozenset[str], stats: frozenset[str]) -> None:
    """Raise RuleError for a name that nothing binds: only on the right, or only beside the string."""
    lhs, rhs = (frozenset(n for t in side for p in t for n in _find_names(p)) for side in parse_rule(spec))
    stems = {n.removesuffix("...") for n in lhs | rhs}
    for n in sorted((sizes | stats) - stems):
        raise RuleError(spec, len(spec), f"'{n}' is given beside the rule and does not occur in it")
    for n in sorted(rhs - lhs - sizes):
        if not n.isdigit() and n[0] not in "_?":
            place = re.compile(rf"(?<!\w){re.escape(n)}(?!\w)").search(spec, spec.index("->"))
            raise RuleError(spec, place.start() if place else 0, f"'{n}' is an axis of an output and of no input")


def _find_names(p: AxisPattern) -> frozenset[str]:
    if isinstance(p, str):
        return frozenset(["_" if p[0] == "_" else p])
    return frozenset().union(*map(_find_names, p.parts))


def _names_per_axis(v: Value, row: list[tuple[int, AxisPattern]]) -> list[frozenset[str]]:
    found = {i: _find_names(p) for i, p in row}
    return [found.get(i, frozenset()) for i in range(len(v.axes))]


def _combine_sizes(kind: str, known: list[int]) -> int:
    return int(np.prod(known)) if kind == "*" else sum(known)


def _solve(p: AxisPattern, size: int, sizes: dict[str, int]) -> None:
    """Give the one unknown name of a pattern its size, if there is just one."""
    if isinstance(p, str):
        if not p.isdigit() and p != "_":
            sizes.setdefault(p, size)
        return
    measured = [_measure(q, sizes) for q in p.parts]
    if measured.count(None) == 1:
        total = _combine_sizes(p.kind, [m for m in measured if m is not None])
        rest = size - total if p.kind == "+" else size // total if total else 0
        _solve(p.parts[measured.index(None)], rest, sizes)


def _measure(p: AxisPattern, sizes: dict[str, int]) -> int | None:
    if isinstance(p, str):
        return int(p) if p.isdigit() else sizes.get(p)
    known = [_measure(q, sizes) for q in p.parts]
    return None if None in known else _combine_sizes(p.kind, [k for k in known if k is not None])


def _build_expr(p: AxisPattern, size: int, env: dict[str, Expr], site: Site) -> Expr:
    if isinstance(p, str):
        if p == "_" or p.isdigit():
            return _make_unrelated(site, size if p == "_" else int(p))
        return env[p]
    parts = tuple(_build_expr(q, 0, env, site) for q in p.parts)
    return Prod(parts) if p.kind == "*" else Sum(parts)


def _make_unrelated(site: Site, size: int) -> Dim:
    return Dim(size, Reason.new(f"{site.op} works along this axis", describe_place(site)))
