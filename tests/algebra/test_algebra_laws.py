"""The laws of the algebra of axes, over random axes in which dims repeat.

An axis is compared with its definition, written out position by position: a position stands for
channels `(dim, index)`, a product for those of all its digits, and it is kept when every one of them is.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa_compiler.algebra.expr import Dim, Expr, Prod, Reason, Sum, is_frozen, is_trivial, iterate_dims, resolve
from spa_compiler.algebra.masks import (
    Bools,
    count_kept,
    list_kept_positions,
    make_keep_mask,
    make_tensor_masks,
    multiplicity,
)
from spa_compiler.algebra.unify import UndecidedError, allow_choices, atomise, select, split, unify

WHY = Reason.new("a test says so")
LONGEST = 40  # positions of a random axis

Channel = tuple[Dim, int]
Tree = int | tuple[str, tuple["Tree", ...]]
"""An axis before it is made: the number of a dim, or a product '*' or concatenation '+' of trees."""


@dataclass(frozen=True)
class Statements:
    """Dims (size, frozen) and what is said about them: left side, right side, does the operator only move data."""

    dims: tuple[tuple[int, bool], ...]
    equations: tuple[tuple[Tree, Tree, bool], ...]

    def build(self) -> tuple[list[Dim], list[tuple[Expr, Expr, bool]]]:
        """New dims, and the equations between them, not stated yet."""
        dims = [Dim(n, WHY if frozen else None, unit=n == 1) for n, frozen in self.dims]
        return dims, [(axis_of(a, dims), axis_of(b, dims), move) for a, b, move in self.equations]


def axis_of(tree: Tree, dims: list[Dim]) -> Expr:
    if isinstance(tree, int):
        return dims[tree]
    kind, parts = tree
    axes = tuple(axis_of(p, dims) for p in parts)
    return Prod(axes) if kind == "*" else Sum(axes)


def size_of(tree: Tree, sizes: list[int]) -> int:
    if isinstance(tree, int):
        return sizes[tree]
    return (math.prod if tree[0] == "*" else sum)(size_of(p, sizes) for p in tree[1])


def random_tree(rng: random.Random, sizes: list[int], depth: int = 2) -> Tree:
    """Any axis of these dims, each of which may occur any number of times."""
    leaf = rng.randrange(len(sizes))
    if depth == 0 or rng.random() < 0.25:
        return leaf
    tree = rng.choice("**+"), tuple(random_tree(rng, sizes, depth - 1) for _ in range(rng.randint(1, 3)))
    return tree if size_of(tree, sizes) <= LONGEST else leaf


def random_regrouping(rng: random.Random, n: int, sizes: list[int], depth: int = 2) -> Tree:
    """Any axis of n positions; dims that it needs are added to `sizes`."""
    fit = [i for i, s in enumerate(sizes) if s == n]
    if fit and rng.random() < 0.5:
        return rng.choice(fit)
    divisors = [k for k in range(2, n) if n % k == 0]
    kind = rng.choice([".", "+", "+", *"*" * bool(divisors)]) if depth and n > 1 else "."
    if kind == ".":
        sizes.append(n)
        return len(sizes) - 1
    if kind == "*":
        k = rng.choice(divisors)
        lengths = [k, n // k]
    else:
        cuts = sorted(rng.sample(range(1, n), rng.randint(1, min(3, n - 1))))
        lengths = [b - a for a, b in itertools.pairwise([0, *cuts, n])]
    return kind, tuple(random_regrouping(rng, k, sizes, depth - 1) for k in lengths)


def random_statements(seed: int, most: int = 3) -> Statements:
    """Up to `most` equations over dims that they share."""
    rng = random.Random(seed)
    sizes = [rng.choice([2, 3, 4, 6, 2, 1]) for _ in range(rng.randint(1, 4))]
    frozen = [n > 1 and rng.random() < 0.15 for n in sizes]
    equations = []
    for _ in range(rng.randint(1, most)):
        left = random_tree(rng, sizes)
        right = random_regrouping(rng, size_of(left, sizes), sizes)
        equations.append((left, right, rng.random() < 0.8))
    return Statements(tuple(itertools.zip_longest(sizes, frozen, fillvalue=False)), tuple(equations))


SEEDS = st.integers(0, 1 << 30)
STATEMENTS = SEEDS.map(random_statements)
TWO_STATEMENTS = SEEDS.map(functools.partial(random_statements, most=2))
"""Drawn from a seed: drawing every leaf through hypothesis takes thirty times as long."""


def positions(e: Expr) -> list[tuple[Channel, ...]]:
    """The channels that every position of an axis stands for, from the definition."""
    e = resolve(e)
    if isinstance(e, Dim):
        return [((e, i),) for i in range(e.size)]
    parts = [positions(p) for p in e.parts]
    if isinstance(e, Sum):
        return [p for part in parts for p in part]
    return [sum(digits, ()) for digits in itertools.product(*parts)]


def choices(e: Expr) -> list[frozenset[Channel]]:
    """The channels of every position that a plan may remove."""
    return [frozenset(c for c in p if not c[0].frozen and not is_trivial(c[0])) for p in positions(e)]


def profile(dims: list[Dim]) -> Counter[frozenset[tuple[int, int]]]:
    """The choices of a plan, without names: for each choice all positions of the dims that go with it."""
    places: dict[Channel, set[tuple[int, int]]] = defaultdict(set)
    for i, d in enumerate(dims):
        for at, channels in enumerate(choices(d)):
            for c in channels:
                places[c].add((i, at))
    return Counter(map(frozenset, places.values()))


def random_masks(axes: list[Expr], seed: int) -> dict[Dim, Bools]:
    """A plan over the free dims of these axes."""
    rng = np.random.default_rng(seed)
    free = {d.serial: d for e in axes for d in iterate_dims(e) if not d.frozen and not is_trivial(d)}
    return {d: rng.random(d.size) < 0.7 for _, d in sorted(free.items())}


def state(equations: list[tuple[Expr, Expr, bool]]) -> None:
    for a, b, move in equations:
        unify(a, b, move)


@settings(max_examples=400)
@given(STATEMENTS, st.integers(0, 99))
def test_soundness_every_plan_keeps_the_same_on_both_sides(said: Statements, seed: int) -> None:
    _, equations = said.build()
    state(equations)
    masks = random_masks([e for a, b, _ in equations for e in (a, b)], seed)
    for a, b, _ in equations:
        assert choices(a) == choices(b)
        assert make_keep_mask(a, masks).tolist() == make_keep_mask(b, masks).tolist()


@settings(max_examples=300)
@given(STATEMENTS)
def test_soundness_where_choices_are_postponed(said: Statements) -> None:
    _, equations = said.build()
    waiting = []
    for equation in equations:
        try:
            with allow_choices(False):
                state([equation])
        except UndecidedError:
            waiting.append(equation)
    state(waiting)
    assert all(choices(a) == choices(b) for a, b, _ in equations)


@settings(max_examples=300)
@given(STATEMENTS)
def test_commutativity(said: Statements) -> None:
    dims, equations = said.build()
    state(equations)
    turned, equations = said.build()
    state([(b, a, move) for a, b, move in equations])
    assert profile(dims) == profile(turned)


@settings(max_examples=300)
@given(STATEMENTS)
def test_idempotence(said: Statements) -> None:
    dims, equations = said.build()
    state(equations)
    once = profile(dims)
    state(equations)
    assert profile(dims) == once


@settings(max_examples=200)
@given(STATEMENTS)
def test_what_is_equal_already_loses_nothing(said: Statements) -> None:
    dims, _ = said.build()
    free = profile(dims)
    for tree, _, move in said.equations:
        unify(axis_of(tree, dims), axis_of(tree, dims), move)
    assert profile(dims) == free


@settings(max_examples=300)
@given(STATEMENTS, st.integers(0, 99))
def test_refinement_only(said: Statements, seed: int) -> None:
    dims, equations = said.build()
    fixed = [d for d in dims if d.frozen]
    state(equations)
    assert [d.size for d in dims] == [n for n, _ in said.dims] == [resolve(d).size for d in dims]
    assert all(is_frozen(d) for d in fixed)
    masks = random_masks(list(dims), seed)
    before, _ = said.build()
    coarse = {
        d: make_keep_mask(now, masks) for d, now in zip(before, dims, strict=True)
    }  # a plan after is a plan before
    for tree in (side for a, b, _ in said.equations for side in (a, b)):
        assert (
            make_keep_mask(axis_of(tree, before), coarse).tolist()
            == make_keep_mask(axis_of(tree, dims), masks).tolist()
        )


@settings(max_examples=300)
@given(TWO_STATEMENTS, st.data())
def test_what_is_selected_is_kept_with_its_source(said: Statements, data: st.DataObject) -> None:
    _, equations = said.build()
    x = equations[0][0]
    state(equations[1:])
    at = st.integers(0, x.size - 1)
    run = st.tuples(at, at).map(lambda ends: list(range(min(ends), max(ends) + 1)))
    picked = data.draw(st.one_of(run, st.lists(at, min_size=1, max_size=6)))
    y = Dim(len(picked)) if len(picked) > 1 or is_frozen(x) else Dim(1, unit=True)
    before = select(x, picked, y)
    assert choices(y) == [choices(x)[i] for i in picked]
    assert before is None or choices(before) == choices(x)[: picked[0]]
    assert all(choices(a) == choices(b) for a, b, _ in equations[1:])


@settings(max_examples=300)
@given(TWO_STATEMENTS, st.data())
def test_the_parts_of_a_split_are_the_whole(said: Statements, data: st.DataObject) -> None:
    _, equations = said.build()
    state(equations[1:])
    e = equations[0][0]
    left, right = split(e, data.draw(st.integers(0, e.size)))
    assert choices(left) + choices(right) == choices(e)
    assert all(choices(a) == choices(b) for a, b, _ in equations[1:])


@settings(max_examples=300)
@given(TWO_STATEMENTS)
def test_units_stand_for_the_positions_that_they_were(said: Statements) -> None:
    _, equations = said.build()
    state(equations[1:])
    e = equations[0][0]
    units = atomise(e, WHY)
    assert all(u.size == 1 for u in units)
    assert choices(Sum(tuple(units))) == choices(e)


def test_a_square_keeps_its_freedom_where_no_digit_is_cut() -> None:
    d, flat = Dim(3), Dim(9)
    unify(Prod((d, d)), flat)
    unify(flat, Sum((Dim(3), Dim(6))))  # the first row, and the others: d is cut
    assert [x.size for x in dict.fromkeys(iterate_dims(d))] == [1, 2]
    assert not any(x.frozen for x in iterate_dims(d))


def test_a_square_that_is_taken_apart_is_frozen_and_what_is_beside_it_is_not() -> None:
    d, e, flat = Dim(2), Dim(5), Dim(20)
    unify(Prod((d, e, d)), flat)
    unify(flat, Sum((Dim(7), Dim(13))))
    assert is_frozen(d) and not is_frozen(e)
    assert "an axis times itself" in str(next(iterate_dims(d)).frozen)


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_products_that_share_a_digit_the_larger_digit_decides(turned: bool) -> None:
    d, e = Dim(4), Dim(2)
    a, b = Prod((d, Sum((e, e, e)))), Prod((Dim(3), Dim(2), d))
    unify(*((b, a) if turned else (a, b)))
    assert is_frozen(d) and not is_frozen(e)


# --- masks per block ---

Masks = Mapping[Dim, Bools]
Blocks = Mapping[Dim, Dim]


@dataclass(frozen=True)
class Tensor:
    """Axes with a plan over their dims; a dim in `blocks` has a mask of its own in every index of its block."""

    axes: list[Expr]
    masks: dict[Dim, Bools]
    blocks: dict[Dim, Dim]


def is_kept(channels: tuple[Channel, ...], masks: Masks, blocks: Blocks) -> bool:
    where = dict(channels)
    return all(masks[d][i] if masks[d].ndim == 1 else masks[d][where[blocks[d]], i] for d, i in channels if d in masks)


def size_after(e: Expr, masks: Masks) -> int:
    """Positions of the pruned axis, from the definition: its dims are as long as their masks say."""
    if isinstance(e, Dim):
        return int(np.atleast_2d(masks[e])[0].sum()) if e in masks else e.size
    return (math.prod if isinstance(e, Prod) else sum)(size_after(p, masks) for p in e.parts)


def places_after(e: Expr, masks: Masks) -> list[Callable[[Callable[[Dim, int], int]], int]]:
    """For every position its place on the pruned axis, once the rank of each kept channel is told."""
    if isinstance(e, Dim):
        return [lambda rank, i=i: rank(e, i) for i in range(e.size)]  # type: ignore[misc]
    parts = [places_after(p, masks) for p in e.parts]
    sizes = [size_after(p, masks) for p in e.parts]
    if isinstance(e, Sum):
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        return [lambda rank, s=s, f=f: s + f(rank) for s, part in zip(starts, parts, strict=True) for f in part]  # type: ignore[misc]
    steps = [math.prod(sizes[k + 1 :]) for k in range(len(sizes))]
    return [
        lambda rank, fs=fs: sum(f(rank) * s for f, s in zip(fs, steps, strict=True))  # type: ignore[misc]
        for fs in itertools.product(*parts)
    ]


def order_after(e: Expr, t: Tensor, beside: tuple[Channel, ...] = ()) -> list[int]:
    """The kept positions of an axis by their place on the pruned axis, from the definition."""
    found = {}
    for at, (channels, place) in enumerate(zip(positions(e), places_after(e, t.masks), strict=True)):
        where = dict((*beside, *channels))
        if is_kept((*beside, *channels), {d: m for d, m in t.masks.items() if d in dict(channels)}, t.blocks):

            def rank(d: Dim, i: int, where: dict[Dim, int] = where) -> int:
                if d not in t.masks:
                    return i
                row = t.masks[d] if t.masks[d].ndim == 1 else t.masks[d][where[t.blocks[d]]]
                return int(row[:i].sum())

            found[place(rank)] = at
    assert sorted(found) == list(range(len(found)))
    return [found[k] for k in sorted(found)]


def random_axis(rng: random.Random, leaves: list[Expr], depth: int = 2, longest: int = LONGEST) -> Expr:
    """Any axis of these parts."""
    leaf = rng.choice(leaves)
    if depth == 0 or rng.random() < 0.3:
        return leaf
    parts = tuple(random_axis(rng, leaves, depth - 1) for _ in range(rng.randint(1, 3)))
    e: Expr = resolve(rng.choice([Prod, Sum])(parts))
    return e if e.size <= longest else leaf


def tensor(seed: int) -> Tensor:
    """Axes with dims d, each chosen per index of b: as digits of one product anywhere, or d on the axes beside b's."""
    rng = random.Random(seed)
    plain: list[Expr] = [Dim(rng.randint(2, 4)) for _ in range(3)]
    b, ds = Dim(rng.randint(2, 3)), [Dim(rng.randint(2, 4)) for _ in range(2)]

    def beside(d: Expr) -> Expr:
        parts = [b, d, *rng.sample(plain, rng.randint(0, 1))]
        rng.shuffle(parts)
        return Prod(tuple(parts))

    def is_right(axes: list[Expr]) -> bool:
        times = [multiplicity(a) for a in axes]
        return sum(t.get(b, 0) for t in times) <= 1 and all(t.get(d, 0) <= 1 for t in times for d in ds)

    if rng.random() < 0.5:  # every d next to b, in a product
        home = [random_axis(rng, [*plain, *map(beside, ds)])]
        away = [random_axis(rng, plain, longest=8) for _ in range(rng.randint(0, 1))]
    else:  # b all along one axis, d anywhere on the others
        home = [rng.choice([b, Prod((b, rng.choice(plain))), Sum((b, Prod((rng.choice(plain), b))))])]
        away = [random_axis(rng, [*plain, *ds], longest=12) for _ in range(rng.randint(1, 2))]
    axes = [*home, *away]
    rng.shuffle(axes)
    if not is_right(axes):
        return tensor(seed + 1_000_003)
    masks = {d: np.array([rng.random() < 0.7 for _ in range(d.size)]) for d in [b, *plain] if isinstance(d, Dim)}
    for d in ds:
        left = rng.randint(1, d.size)
        masks[d] = np.array([np.isin(np.arange(d.size), rng.sample(range(d.size), left)) for _ in range(b.size)])
    for d in [b, *plain]:
        if rng.random() < 0.5:
            masks.pop(d)  # type: ignore[arg-type]
    return Tensor(axes, masks, dict.fromkeys(ds, b))


@settings(max_examples=300)
@given(TWO_STATEMENTS, st.integers(0, 99))
def test_keep_and_count_are_what_the_definition_says(said: Statements, seed: int) -> None:
    _, equations = said.build()
    state(equations[1:])
    e = equations[0][0]
    masks = random_masks([e], seed)
    assert make_keep_mask(e, masks).tolist() == [is_kept(p, masks, {}) for p in positions(e)]
    assert count_kept(e, masks) == sum(make_keep_mask(e, masks))
    assert list_kept_positions(e, masks, {}, {}).tolist() == np.flatnonzero(make_keep_mask(e, masks)).tolist()


@settings(max_examples=400)
@given(SEEDS)
def test_masks_per_block_keep_what_the_definition_says(seed: int) -> None:
    t = tensor(seed)
    per_axis, both = make_tensor_masks(t.axes, t.masks, t.blocks)
    found = functools.reduce(np.logical_and.outer, per_axis)
    found = found if both is None else found & both
    wanted = [is_kept(sum(p, ()), t.masks, t.blocks) for p in itertools.product(*map(positions, t.axes))]
    assert found.ravel().tolist() == wanted
    assert math.prod(count_kept(a, t.masks) for a in t.axes) == sum(wanted)


@settings(max_examples=400)
@given(SEEDS)
def test_masks_per_block_order_what_is_kept_as_the_pruned_axis_does(seed: int) -> None:
    t = tensor(seed)
    b = next(iter(t.blocks.values()))
    for e in t.axes:
        rows = [()] if b in set(iterate_dims(e)) else [((b, i),) for i in range(b.size)]
        for beside in rows:
            assert list_kept_positions(e, t.masks, t.blocks, dict(beside)).tolist() == order_after(e, t, beside)
            assert count_kept(e, t.masks) == len(order_after(e, t, beside))
