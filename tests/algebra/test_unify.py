"""The algebra of axes: products, sums, units, and what happens where digits do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spa_compiler.algebra.expr import Dim, Expr, Prod, Reason, Sum, freeze, is_frozen, iterate_dims, resolve
from spa_compiler.algebra.masks import count_kept, find_coordinates, find_strides, list_kept_positions, make_keep_mask
from spa_compiler.algebra.unify import UndecidedError, allow_choices, atomise, select, unify
from spa_compiler.errors import Conflict

WHY = Reason.new("a test says so")


def frozen(size: int) -> Dim:
    return Dim(size, WHY)


def test_a_dim_becomes_the_product_that_it_is_reshaped_to() -> None:
    c, h, d = Dim(12), Dim(3), Dim(4)
    unify(c, Prod((h, d)))
    assert resolve(c) == Prod((h, d))


def test_products_align_from_both_ends() -> None:
    n, h, w, c = (Dim(s) for s in (2, 6, 6, 5))
    x = Prod((n, h, w, c))
    y = Prod((Dim(2), Dim(36), Dim(5)))
    unify(x, y)
    assert [a.size for a in iterate_dims(resolve(y))] == [2, 6, 6, 5]
    assert list(iterate_dims(x)) == list(iterate_dims(y))
    assert not any(d.frozen for d in iterate_dims(x))


def test_a_frozen_middle_does_not_conflict() -> None:
    c = Dim(7)
    unify(Prod((frozen(56), frozen(56), c)), Prod((frozen(8), frozen(7), frozen(56), Dim(7))))
    assert not is_frozen(c)


def test_straddling_digits_become_units_of_one_digit() -> None:
    left, right = Prod((Dim(2), Dim(3))), Prod((Dim(3), Dim(2)))
    unify(left, right)
    free = {d for d in iterate_dims(left) if not d.frozen}
    assert all(d.unit for d in free)


def test_straddling_digits_of_a_computing_operator_are_frozen() -> None:
    left, right = Prod((Dim(2), Dim(3))), Prod((Dim(3), Dim(2)))
    unify(left, right, move=False)
    assert is_frozen(left) and is_frozen(right)


def test_sums_are_cut_where_their_boundaries_differ() -> None:
    x = Sum((Dim(6), Dim(4)))
    y = Sum((Dim(5), Dim(5)))
    unify(x, y)
    assert [d.size for d in iterate_dims(x)] == [5, 1, 4] == [d.size for d in iterate_dims(y)]


def test_sizes_that_differ_are_a_conflict() -> None:
    with pytest.raises(Conflict):
        unify(Dim(3), Dim(4))


def test_no_axis_is_part_of_itself() -> None:
    d = Dim(6)
    h, low = Dim(2), Dim(3)
    unify(d, Prod((h, low)))
    unify(h, Dim(2))
    unify(Prod((h, low)), d)
    assert not is_frozen(d)


def test_the_first_reason_stays() -> None:
    d = Dim(3)
    first, second = Reason.new("first"), Reason.new("second")
    freeze(d, second)
    freeze(d, first)
    assert d.frozen == first


def test_a_choice_between_digits_waits() -> None:
    with allow_choices(False), pytest.raises(UndecidedError):
        atomise(Prod((Dim(2), Dim(3))), WHY)
    assert len(set(atomise(Prod((Dim(2), Dim(3))), WHY))) == 3


def test_selecting_a_run_cuts_and_anything_else_makes_units() -> None:
    x, y = Dim(6), Dim(3)
    before = select(x, [2, 3, 4], y)
    assert before is not None and before.size == 2
    assert [d.size for d in iterate_dims(x)] == [2, 3, 1]
    x, y = Dim(6), Dim(3)
    assert select(x, [4, 0, 2], y) is None
    assert [d.serial for d in iterate_dims(y)] == [list(iterate_dims(x))[i].serial for i in (4, 0, 2)]


def exprs(depth: int = 2) -> st.SearchStrategy[Expr]:
    """Random axes of a few positions."""
    leaf: st.SearchStrategy[Expr] = st.integers(1, 4).map(Dim)
    if depth == 0:
        return leaf
    parts = st.lists(exprs(depth - 1), min_size=1, max_size=3).map(tuple)
    return st.one_of(leaf, parts.map(Prod), parts.map(Sum))


@given(exprs(), st.randoms(use_true_random=False))
def test_keep_has_as_many_entries_as_count_says(e: Expr, random: object) -> None:
    rng = np.random.default_rng(random.randrange(100))  # type: ignore[attr-defined]
    masks = {d: rng.random(d.size) < 0.6 for d in set(iterate_dims(e))}
    assert int(make_keep_mask(e, masks).sum()) == count_kept(e, masks)
    assert make_keep_mask(e, {}).all() and make_keep_mask(e, {}).size == e.size


@given(exprs())
def test_coordinates_and_strides_find_the_positions_again(e: Expr) -> None:
    where, step = find_coordinates(e), find_strides(e)
    assert set(where) == set(iterate_dims(e))
    for d, channel in where.items():
        held = np.flatnonzero(channel >= 0)
        first = held - channel[held] * step[d][held]
        assert (where[d][first] == 0).all()
        (found,) = find_coordinates(e, {d}).values()
        assert (found == channel).all()
    assert find_coordinates(e, ()) == {}


@given(exprs(), st.randoms(use_true_random=False))
def test_order_without_blocks_is_the_old_order(e: Expr, random: object) -> None:
    rng = np.random.default_rng(random.randrange(100))  # type: ignore[attr-defined]
    masks = {d: rng.random(d.size) < 0.6 for d in set(iterate_dims(e))}
    assert list_kept_positions(e, masks, {}, {}).tolist() == np.flatnonzero(make_keep_mask(e, masks)).tolist()


def test_order_of_a_block_that_is_the_minor_digit() -> None:
    d, h = Dim(3), Dim(2)
    mask = np.array([[True, False, True], [False, True, True]])  # head 0 keeps 0 and 2, head 1 keeps 1 and 2
    assert list_kept_positions(Prod((d, h)), {d: mask}, {d: h}, {}).tolist() == [0, 3, 4, 5]
    assert list_kept_positions(Prod((h, d)), {d: mask}, {d: h}, {}).tolist() == [0, 2, 4, 5]
    assert list_kept_positions(d, {d: mask}, {d: h}, {h: 1}).tolist() == [1, 2]


def test_an_axis_that_is_cut_position_by_position_is_flat_in_the_end() -> None:
    n = 3000
    long, one = Dim(n - 1), Dim(1, unit=True)
    units = tuple(Dim(1, unit=True) for _ in range(n))
    unify(Sum((one, long)), Sum(units))
    found = resolve(Sum((one, long)))
    assert isinstance(found, Sum) and len(found.parts) == n
    assert len(list(iterate_dims(long))) == n - 1
