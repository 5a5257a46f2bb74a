"""A node as its rule sees it: values with their axes, attributes, shape operands; how a rule couples or freezes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, Expr, Prod, Reason, freeze
from spa_compiler.algebra.sizes import Size
from spa_compiler.algebra.unify import select, unify
from spa_compiler.errors import Conflict
from spa_compiler.operators.traits import Traits

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
    """A list of integers that the rewrite must write again: input `slot`, or attribute `attr` in older opsets.

    `axes`: of the output whose sizes the entries are, where they are that. `infers`: -1 is worked out and 0 copied, as
    by Reshape; `broadcasts`: 1 stands for what the first input has, as in Expand; `parts`: the axis that outputs share.
    """

    slot: int
    values: Callable[[Count], list[int]]
    attr: str = ""
    axes: tuple[int, ...] | None = None
    infers: bool = False
    broadcasts: bool = False
    parts: int | None = None


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
    """The statement of one rule: for each tensor the names on each axis, and the expression of each name."""

    tensors: list[tuple[Value, bool, list[frozenset[str]]]]  # value, is it an output, names per axis
    env: dict[str, Expr]
    stats: frozenset[str]
    spec: str = ""  # the rule's string
    equations: tuple[Equation, ...] = ()

    def find_contracted(self) -> set[str]:
        """Names that no output carries: channels are summed over."""
        sides: dict[bool, set[str]] = {True: set(), False: set()}
        for _, output, names in self.tensors:
            sides[output] |= frozenset().union(*names)
        return sides[False] - sides[True]

    def find_named(self) -> list[Expr]:
        """The expressions of the names, once each: those of the outputs first, then those that are summed over."""
        carried = [n for _, output, row in self.tensors if output for names in row for n in sorted(names)]
        return [self.env[n] for n in dict.fromkeys([*carried, *self.env]) if n in self.env]


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
    read: frozenset[int] = frozenset()  # numbers of the outputs that something reads
    path: str = ""  # of the body that the node lies in
    module: str = ""  # that the node lies in, where its metadata say so
    failure: str = ""  # what its rule stumbled over; a fault of the rule, not of the model
    traits: Traits = field(default_factory=Traits)

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
        value = self.first_output
        if value is None:
            raise Conflict("the output has no known shape")
        return value

    @property
    def first_output(self) -> Value | None:
        """The first output; None where it has no known shape (an operator that nothing is known of, a map)."""
        return self.outputs[0] if self.outputs else None

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
        unify_or_freeze(self, a, b, move)

    def select(self, x: Expr, positions: list[int], y: Expr) -> Expr | None:
        """State that y is x at these positions; see `unify.select`."""
        self.equations.append(Equation(x, y, None if positions == list(range(x.size)) else tuple(positions)))
        return select(x, positions, y)


def unify_or_freeze(site: Site, a: Expr, b: Expr, move: bool) -> None:
    """Unify; where the two cannot agree, freeze both, naming the node."""
    try:
        unify(a, b, move)
    except Conflict as e:
        site.freeze(Prod((a, b)), str(e))


Rule = Callable[[Site], None]


@dataclass(frozen=True)
class Row(Traits):
    """All that is known of an operator: its rule, and its traits. Calling it applies the rule."""

    rule: Rule

    def __call__(self, site: Site) -> None:
        self.rule(site)


@dataclass(frozen=True)
class Pattern:
    """A product ('*') or a concatenation ('+') of patterns."""

    kind: str
    parts: tuple[AxisPattern, ...]


AxisPattern = str | Pattern


def describe_place(site: Site) -> str:
    """The node as messages name it."""
    return f"{site.op} '{site.name}'"
