"""Rule strings: what they parse to, what they couple, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from spa_compiler.algebra.expr import Prod, is_frozen, iterate_dims, resolve
from spa_compiler.errors import Conflict, RuleError
from spa_compiler.operators.rule import freeze_rule, parse_rule, rule
from spa_compiler.operators.site import Pattern, Site, Value


def site(inputs: list[tuple[int, ...] | None], outputs: list[tuple[int, ...]], **attrs: int) -> Site:
    """A node with tensors of these shapes."""
    ins = [None if s is None else Value(f"x{i}", s) for i, s in enumerate(inputs)]
    return Site("Test", "node", 18, ins, [Value(f"y{i}", s) for i, s in enumerate(outputs)], dict(attrs), {})


def same(a: tuple[Value | None, int], b: tuple[Value | None, int]) -> bool:
    """Are two axes indexed by the same set?"""
    (v, i), (w, j) = a, b
    assert v is not None and w is not None
    return list(iterate_dims(v.axes[i])) == list(iterate_dims(w.axes[j]))


def test_parse() -> None:
    left, right = parse_rule("_ (g i) a..., b+c -> 3 x")
    assert left == [["_", Pattern("*", ("g", "i")), "a..."], [Pattern("+", ("b", "c"))]]
    assert right == [["3", "x"]]


def test_a_grouped_convolution() -> None:
    s = site([(1, 6, 4, 4), (9, 2, 1, 1), (9,)], [(1, 9, 4, 4)], group=3)
    rule("n (g i) _..., (g o) i _..., (g o) -> n (g o) _...", g="group")(s)
    x, w, b = s.inputs
    y = s.outputs[0]
    assert same((w, 0), (b, 0)) and same((w, 0), (y, 1)) and same((x, 0), (y, 0))
    assert x is not None and w is not None
    assert [d.size for d in iterate_dims(x.axes[1])] == [3, 2]
    assert list(iterate_dims(x.axes[1]))[1:] == list(iterate_dims(w.axes[1]))
    assert is_frozen(x.axes[2]) and is_frozen(w.axes[2])
    assert s.scopes[0].find_contracted() == {"i"}
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
    assert [d.size for d in iterate_dims(s.x().axes[0])] == [2, 3, 2]


def test_concatenation_cuts() -> None:
    s = site([(2,), (3,)], [(5,)])
    rule("a, b -> a+b", move=True)(s)
    assert [d.size for d in iterate_dims(s.y.axes[0])] == [2, 3]


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
    assert all(d.stat for d in iterate_dims(s.y.axes[1])) and not any(d.stat for d in iterate_dims(s.y.axes[0]))


def test_a_rule_stated_twice_changes_nothing() -> None:
    s = site([(1, 6), (6, 4)], [(1, 4)])
    for _ in range(2):
        rule("m (g k), (g k) n -> m n", known={"g": 2})(s)
    assert resolve(s.x().axes[1]) == resolve(s.x(1).axes[0])
    assert isinstance(resolve(s.x().axes[1]), Prod)


def test_a_deliberate_freeze_says_why() -> None:
    s = site([(3,)], [(3,)])
    freeze_rule("it depends on data")(s)
    reason = next(iterate_dims(s.x().axes[0])).frozen
    assert reason is not None and "it depends on data" in reason.text and "node" in reason.where


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("n (g i -> n", 3, "the bracket is not closed"),
        ("n ((g i) -> n", 3, "the bracket is not closed"),
        ("n, (a -> n", 4, "the bracket is not closed"),
        ("n g) i -> n", 4, "nothing opens this bracket"),
        ("n -> n)", 7, "nothing opens this bracket"),
        ("n () -> n", 3, "there is nothing in the bracket"),
        ("n c", 4, "'->' is missing"),
        ("n -> n -> n", 8, "a second '->'"),
        ("n $c -> n", 3, "'$' has no meaning in a rule"),
        ("n c.. -> n", 4, "'.' has no meaning in a rule"),
        ("n 3a -> n", 3, "'3' has no meaning in a rule"),
        ("n a+ -> n", 6, "a name is missing before '->'"),
        ("+a -> a", 1, "a name is missing before '+'"),
        ("a -> a+", 8, "a name is missing at the end"),
        ("a... b... -> a...", 6, "a tensor has one group of axes ('...') at most"),
        ("(n a...) -> n", 4, "'a...' is no part of an axis"),
        ("a...+b -> b", 1, "'a...' is no part of an axis"),
        ("n ? -> n", 3, "'?' is a whole tensor and stands alone"),
        ("? n -> n", 3, "'?' is a whole tensor and stands alone"),
        ("n c -> n d", 10, "'d' is an axis of an output and of no input"),
        ("n c -> (n c) x...", 14, "'x...' is an axis of an output and of no input"),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused_when_it_is_made(text: str, place: int, message: str) -> None:
    with pytest.raises(RuleError) as e:
        rule(text)
    assert str(e.value) == f"{message} (character {place} of `{text}`)"


@pytest.mark.parametrize("beside", [{"g": "group"}, {"stat": "g"}, {"known": {"g": 2}}])
def test_a_name_beside_the_rule_occurs_in_it(beside: dict[str, Any]) -> None:
    with pytest.raises(RuleError, match="'g' is given beside the rule and does not occur in it"):
        rule("n c -> n c", **beside)


def test_names_of_outputs_may_be_bound_by_an_attribute_or_a_size() -> None:
    s = site([(6,)], [(2, 3)], group=3)
    rule("_ -> a g", known={"a": 2}, g="group")(s)
    assert [a.size for a in s.y.axes] == [2, 3]
