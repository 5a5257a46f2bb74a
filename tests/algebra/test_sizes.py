"""Arithmetic of sizes: what holds for every binding of the symbols, against Python's own integers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa_compiler.algebra import sizes
from spa_compiler.algebra.sizes import Size, compute_value, format_size, parse_size
from spa_compiler.ir.symbols import is_telling

Evaluated = tuple[Size, Callable[[dict[str, int]], int]]
BINDINGS = [{"H": h, "N": n} for h, n in ((1, 1), (2, 31), (7, 3), (31, 7), (97, 64), (1000, 2))]
ANYTHING: dict[str, tuple[Callable[[Size, Size], Size], Callable[[int, int], int]]] = {
    "+": (sizes.add, lambda a, b: a + b),
    "-": (sizes.subtract, lambda a, b: a - b),
    "*": (sizes.multiply, lambda a, b: a * b),
    "min": (sizes.minimum, min),
    "max": (sizes.maximum, max),
}
DIVISIONS: dict[str, tuple[Callable[[Size, Size], Size], Callable[[int, int], int]]] = {
    "//": (sizes.floor_divide, lambda a, b: a // b),
    "%": (sizes.modulo, lambda a, b: a % b),
    "/": (sizes.truncate_divide, lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)),
}


@st.composite
def evaluated(draw: st.DrawFn) -> Evaluated:
    """A size that a few operations make, and the same in Python's integers."""

    def leaf(value: int | str) -> Evaluated:
        return (value, lambda s: s[value]) if isinstance(value, str) else (value, lambda s: value)

    pool = [leaf(v) for v in ("H", "N", 1, 2, 3, -1, 8, 32)]
    for _ in range(draw(st.integers(1, 6))):
        (a, fa), (b, fb) = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
        name = draw(st.sampled_from([*ANYTHING, *DIVISIONS]))
        if name in DIVISIONS and not (sizes.find_bounds(b)[0] > 0 or (isinstance(b, int) and b != 0)):
            continue
        ours, theirs = (ANYTHING | DIVISIONS)[name]
        pool.append((ours(a, b), lambda s, f=theirs, fa=fa, fb=fb: f(fa(s), fb(s))))
    return pool[-1]


@given(evaluated())
@settings(max_examples=300, deadline=None)
def test_a_size_is_what_integers_give_at_every_binding(case: Evaluated) -> None:
    size, number = case
    low, high = sizes.find_bounds(size)
    for binding in BINDINGS:
        assert compute_value(size, binding) == number(binding)
        assert low <= number(binding) <= high


@given(evaluated(), evaluated())
@settings(max_examples=200, deadline=None)
def test_what_is_said_of_two_sizes_holds_at_every_binding(one: Evaluated, other: Evaluated) -> None:
    (a, fa), (b, fb) = one, other
    for said, holds in ((sizes.is_less(a, b), int.__lt__), (sizes.is_equal(a, b), int.__eq__)):
        if said is not None:
            assert all(holds(fa(s), fb(s)) is said for s in BINDINGS)


@given(st.integers(-3, 3), st.integers(-3, 3), st.integers(-2, 2), st.sampled_from([sizes.minimum, sizes.maximum]))
def test_what_is_said_of_axes_that_may_be_empty_holds_for_0(
    times: int, more: int, other: int, choose: Callable[[Size, Size, int], Size]
) -> None:
    size = choose(sizes.add(sizes.multiply("H", times), more), "N", 0)
    bindings = [{"H": h, "N": n} for h in (0, 1, 5) for n in (0, 1, 7)]
    numbers = [compute_value(size, s) for s in bindings]
    known = [n for n in numbers if n is not None]
    assert len(known) == len(numbers)
    assert known == [(min if choose is sizes.minimum else max)(s["H"] * times + more, s["N"]) for s in bindings]
    low, high = sizes.find_bounds(size, 0)
    assert low <= min(known) and max(known) <= high
    for said, holds in ((sizes.is_less(size, other, 0), int.__lt__), (sizes.is_equal(size, other, 0), int.__eq__)):
        assert said is None or all(holds(n, other) is said for n in known)


@given(evaluated())
@settings(max_examples=200, deadline=None)
def test_sums_and_differences_undo_each_other(case: Evaluated) -> None:
    size, _ = case
    assert sizes.subtract(sizes.add(size, "K"), "K") == size
    assert sizes.floor_divide(sizes.multiply(size, 6), 6) == size
    assert sizes.modulo(sizes.multiply(size, 4), 2) == 0


def rounded_up(size: Size, multiple: int) -> Size:
    """As models pad: (m - H % m) % m more."""
    more = sizes.modulo(sizes.subtract(multiple, sizes.modulo(size, multiple)), multiple)
    return sizes.add(size, more)


def test_what_exporters_write_is_simplified_exactly() -> None:
    assert sizes.modulo(rounded_up("H", 32), 32) == 0
    assert sizes.floor_divide(sizes.multiply("H", sizes.multiply("N", 64)), sizes.multiply("H", "N")) == 64
    assert sizes.maximum(sizes.subtract("H", 1), 0) == sizes.subtract("H", 1)
    assert sizes.minimum("H", sizes.add("H", 3)) == "H"
    one = sizes.add(sizes.floor_divide(sizes.subtract("H", 1), 2), 1)  # a convolution of stride 2 with padding
    assert one == sizes.floor_divide(sizes.add("H", 1), 2)
    twice = sizes.floor_divide(sizes.add(one, 1), 2)
    assert twice == sizes.floor_divide(sizes.add("H", 3), 4)
    assert sizes.is_equal("H", -1) is False and sizes.is_less("H", 1) is False


@pytest.mark.parametrize("multiple", [2, 8, 16, 32])
def test_what_is_equal_at_round_sizes_is_not_taken_for_a_number(multiple: int) -> None:
    rest = sizes.modulo("H", multiple)
    assert not isinstance(rest, int)
    assert sizes.is_equal(rest, 0) is None and sizes.is_less("H", 100) is None and sizes.is_equal("H", "W") is None
    assert not isinstance(sizes.minimum("H", 48), int)


@pytest.mark.parametrize(
    ("name", "at", "number"),
    [("past + 1", {"past": 4}, 5), ("2*s0", {"s0": 3}, 6), ("s0//2 + 1", {"s0": 7}, 4), ("9", {}, 9),
     ("Max(1, s0)", {"s0": 5}, 5), ("(s0 - 1) % 4", {"s0": 7}, 2)],
)  # fmt: skip
def test_names_of_dims_are_read_as_expressions(name: str, at: dict[str, int], number: int) -> None:
    assert compute_value(parse_size(name), at) == number


NAMES = ["x.0", "a b", "", "1.5", "__import__('os')", "f(a)", "N[0]", "a if b else c", "9" * 400]
NAMES += ["T#1", "T\\\n", "ﬁ", "T\t"]


@pytest.mark.parametrize("name", NAMES)
def test_other_names_are_symbols_as_a_whole(name: str) -> None:
    assert parse_size(name) == name


@pytest.mark.parametrize("name", ["?", "-1", "None", "0", "*"])
def test_names_that_exporters_write_on_any_axis_tell_nothing(name: str) -> None:
    assert not is_telling(name)
    assert all(map(is_telling, ("N", "past + 1", "9", "None_0", "unk__12", "T#1", "1.5")))


def test_a_size_is_told_as_a_user_would_write_it() -> None:
    assert format_size(rounded_up("H", 32)).count("// 32") >= 1
    assert format_size(sizes.minimum("H", 48)) == "min(48, H)"
    assert format_size(sizes.add(sizes.floor_divide("H", 2), 1)) == "H // 2 + 1"


@given(st.integers(-4, 4), st.integers(-3, 3), st.sampled_from(["N", "W"]))
def test_a_size_is_taken_apart_by_a_symbol(times: int, more: int, other: str) -> None:
    size = sizes.add(sizes.multiply("H", times), sizes.add(other, more))
    assert sizes.split_linear(size, "H") == (times, sizes.add(other, more))
    assert sizes.split_linear(sizes.floor_divide("H", 2), "H") is None


def test_no_name_of_a_dim_is_taken_for_what_a_function_gives() -> None:
    half = str(sizes.floor_divide("H", 2))
    assert sizes.find_size_symbols(half) == {"H"} and sizes.find_size_symbols(parse_size(half)) == {parse_size(half)}
    assert sizes.find_bounds(parse_size(half)) == (1, math.inf)
