"""Rule strings: what they parse to, what they couple, and what they refuse."""

from __future__ import annotations

import pytest

from spa_compiler.algebra.expr import Prod, atoms, is_frozen, resolve
from spa_compiler.errors import Conflict
from spa_compiler.operators.rule import freeze_rule, parse, rule
from spa_compiler.operators.site import Pattern, Site, Value


def site(inputs: list[tuple[int, ...] | None], outputs: list[tuple[int, ...]], **attrs: int) -> Site:
    """A node with tensors of these shapes."""
    ins = [None if s is None else Value(f"x{i}", s) for i, s in enumerate(inputs)]
    return Site("Test", "node", 18, ins, [Value(f"y{i}", s) for i, s in enumerate(outputs)], dict(attrs), {})


def same(a: tuple[Value | None, int], b: tuple[Value | None, int]) -> bool:
    """Are two axes indexed by the same set?"""
    (v, i), (w, j) = a, b
    assert v is not None and w is not None
    return list(atoms(v.axes[i])) == list(atoms(w.axes[j]))


def test_parse() -> None:
    left, right = parse("_ (g i) a..., b+c -> 3 x")
    assert left == [["_", Pattern("*", ("g", "i")), "a..."], [Pattern("+", ("b", "c"))]]
    assert right == [["3", "x"]]


def test_a_grouped_convolution() -> None:
    s = site([(1, 6, 4, 4), (9, 2, 1, 1), (9,)], [(1, 9, 4, 4)], group=3)
    rule("n (g i) _..., (g o) i _..., (g o) -> n (g o) _...", g="group")(s)
    x, w, b = s.inputs
    y = s.outputs[0]
    assert same((w, 0), (b, 0)) and same((w, 0), (y, 1)) and same((x, 0), (y, 0))
    assert x is not None and w is not None
    assert [d.size for d in atoms(x.axes[1])] == [3, 2]
    assert list(atoms(x.axes[1]))[1:] == list(atoms(w.axes[1]))
    assert is_frozen(x.axes[2]) and is_frozen(w.axes[2])
    assert s.scopes[0].contracted() == {"i"}
    assert resolve(s.sizes["group"]).size == 3


def test_axes_of_size_one_take_no_part_in_broadcasting() -> None:
    s = site([(2, 5), (1, 5), (5,)], [(2, 5)])
    rule("x..., x..., x... -> x...")(s)
    x, y, z = s.inputs
    assert same((x, 1), (y, 1)) and same((x, 1), (z, 0)) and not same((x, 0), (y, 0))


def test_upper_case_and_literals_are_frozen() -> None:
    s = site([(3, 4)], [(3, 4)])
    rule("A 4 -> A 4")(s)
    assert all(is_frozen(a) for v in (s.x(), s.y) for a in v.axes)


def test_known_sizes_solve_what_shapes_do_not() -> None:
    s = site([(12,)], [(12,)])
    rule("(a b c) -> (a b c)", known={"a": 2, "b": 3})(s)
    assert [d.size for d in atoms(s.x().axes[0])] == [2, 3, 2]


def test_concatenation_cuts() -> None:
    s = site([(2,), (3,)], [(5,)])
    rule("a, b -> a+b", move=True)(s)
    assert [d.size for d in atoms(s.y.axes[0])] == [2, 3]


def test_a_rank_that_does_not_fit_is_a_conflict_that_names_the_value() -> None:
    with pytest.raises(Conflict, match=r"x0.*rank 2.*needs 3"):
        rule("a b c -> a b c")(site([(2, 3)], [(2, 3)]))


def test_missing_inputs_are_skipped_and_uncovered_ones_are_frozen() -> None:
    s = site([(2, 3), None, (7,)], [(2, 3)])
    rule("a b -> a b")(s)
    extra = s.inputs[2]
    assert extra is not None and is_frozen(extra.axes[0])
    assert not is_frozen(s.x().axes[1])


def test_statistics_are_marked() -> None:
    s = site([(2, 3)], [(2, 3)])
    rule("a b -> a b", stat="b")(s)
    assert all(d.stat for d in atoms(s.y.axes[1])) and not any(d.stat for d in atoms(s.y.axes[0]))


def test_a_rule_stated_twice_changes_nothing() -> None:
    s = site([(1, 6), (6, 4)], [(1, 4)])
    for _ in range(2):
        rule("m (g k), (g k) n -> m n", known={"g": 2})(s)
    assert resolve(s.x().axes[1]) == resolve(s.x(1).axes[0])
    assert isinstance(resolve(s.x().axes[1]), Prod)


def test_a_deliberate_freeze_says_why() -> None:
    s = site([(3,)], [(3,)])
    freeze_rule("it depends on data")(s)
    reason = next(atoms(s.x().axes[0])).frozen
    assert reason is not None and "it depends on data" in reason.text and "node" in reason.where
