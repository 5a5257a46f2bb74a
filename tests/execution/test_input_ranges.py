"""Ranges of inputs are read off the graph: masks are 0 and 1, what reaches a Log is positive, outputs are finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa_compiler.analysis.dependency_graph import analyze
from spa_compiler.calibration.inputs import draw_calibration
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.errors import ModelError, UsageError
from spa_compiler.execution.input_ranges import find_sources, inspect_inputs
from spa_compiler.execution.inputs import WHOLE_LIMIT, DrawnInputs, draw_finite_inputs, draw_random_inputs, parse_ranges
from spa_compiler.execution.session import open_session
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import from_proto
from zoo_base import Case, build

LEAST = np.array(np.finfo(np.float32).min)
NUMBERS: dict[str, Any] = {
    "zero": 0.0, "one": 1.0, "least": LEAST, "far": np.array(-1e4, np.float32), "big": np.array(1e9, np.float32),
    "half": 0.5, "whole0": [0], "whole1": [1], "last": [1], "w": (6, 4), "eps": 1e-6,
}  # fmt: skip


def model_of(text: str, **inits: Any) -> Model:
    used = {n: i for n, i in {**NUMBERS, **inits}.items() if f"{n}," in text or f"{n})" in text}
    return normalize(from_proto(build(Case(text, used, None)), Path("m.onnx")))[0]


def executor(model: Model) -> Callable[[dict[str, Any]], dict[str, Any]]:
    session = open_session(model.proto(), model.folder)
    names = [o.name for o in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, feed), strict=True))


def sizes_of(model: Model) -> dict[str, int]:
    assert model.shapes is not None
    return {n: pair[0] for n, pair in model.shapes.sizes.items()}


def drawn(model: Model, seed: int = 0, **ranges: tuple[float, float]) -> DrawnInputs:
    return draw_finite_inputs(executor(model), model, sizes_of(model), np.random.default_rng(seed), ranges)


SCORES = "(float[N,5] s, {kind}[N,5] m) => (float[N,5] y) {{ {body}  y = Softmax(t) }}"
ADDED = {
    "subtracted from one": ("int64", "f = Cast <to = 1> (m)  i = Sub(one, f)  a = Mul(i, least)  t = Add(s, a)", 1),
    "one taken off": ("int64", "f = Cast <to = 1> (m)  i = Sub(f, one)  a = Mul(i, big)  t = Add(s, a)", 1),
    "hiding where it is 1": ("int64", "f = Cast <to = 1> (m)  a = Mul(f, far)  t = Add(s, a)", 0),
    "of floats": ("float", "i = Sub(one, m)  a = Mul(i, far)  t = Add(s, a)", 1),
    "a truth value": ("int32", "c = Cast <to = 9> (m)  t = Where(c, s, far)", 1),
    "a truth value upside down": ("int32", "c = Cast <to = 9> (m)  n = Not(c)  t = Where(n, far, s)", 1),
    "filled where it is true": ("bool", "t = Where(m, far, s)", 0),
    "compared with 0": ("int64", "c = Equal(m, whole0)  t = Where(c, far, s)", 1),
    "compared with more than 0": ("int64", "c = Greater(m, whole0)  t = Where(c, s, far)", 1),
    "of floats, compared": ("float", "c = Equal(m, zero)  t = Where(c, far, s)", 1),
    "weighing": ("int64", "f = Cast <to = 1> (m)  t = Mul(s, f)", 1),
}


@pytest.mark.parametrize("form", ADDED)
def test_masks_are_known_by_what_the_graph_does_with_them(form: str) -> None:
    kind, body, shown = ADDED[form]
    model = model_of(SCORES.format(kind=kind, body=body))
    told = inspect_inputs(model)
    assert told["m"].mask and told["m"].open == shown
    assert not told["s"].mask and not told["s"].positive
    for seed in range(3):
        m = draw_random_inputs(model, {"N": 7}, np.random.default_rng(seed))["m"]
        assert set(np.unique(m).tolist()) == {0, 1}
        assert (m == shown).any(axis=1).all(), "a row hides everything"
        assert (m != shown).any(axis=1).all(), "a row hides nothing"


def test_a_mask_is_followed_through_products_with_itself_and_shapes() -> None:
    model = model_of(
        """(float[N,5,5] s, int64[N,5] m) => (float[N,5,5] y) { f = Cast <to = 1> (m)  r = Unsqueeze(f, last)
        p = Unsqueeze(f, two)  b = Mul(r, p)  i = Sub(one, b)  a = Mul(i, least)  t = Add(s, a)  y = Softmax(t) }""",
        two=[2],
    )
    assert inspect_inputs(model)["m"].mask


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("(float[N,6] s, int64[N,6] m) => (float[N,6] y) { f = Cast <to = 1> (m)  y = Add(s, f) }", "m"),
        ("(float[N,6] s, float[N,6] m) => (float[N,6] y) { i = Sub(one, m)  y = Mul(s, i) }", "m"),
        ("(float[N,6] s, float[N,6] m) => (float[N,6] y) { l = Log(m)  d = Mul(l, big)  y = Mul(s, d) }", "m"),
        ("(int64[N] m) => (float[N,4] y) { y = Gather(w, m) }", "m"),
    ],
)
def test_other_inputs_are_no_masks(text: str, name: str) -> None:
    assert not inspect_inputs(model_of(text))[name].mask


def test_a_name_is_the_last_resort() -> None:
    text = "(float[N,6] s, int64[N,6] {0}) => (float[N,6] y) {{ f = Cast <to = 1> ({0})  y = Add(s, f) }}"
    assert inspect_inputs(model_of(text.format("pad_mask")))["pad_mask"].mask
    assert not inspect_inputs(model_of(text.format("count")))["count"].mask
    ids = "(int64[N] mask_ids) => (float[N,4] y) { y = Gather(w, mask_ids) }"
    many = draw_random_inputs(model_of(ids), {"N": 90}, np.random.default_rng(0))["mask_ids"]
    assert set(many.tolist()) == set(range(6)), "what looks something up is no mask, whatever it is called"


PARTIAL = {
    "log": "y = Log(x)",
    "through what keeps signs": "t = Transpose <perm = [1, 0]> (x)  a = Add(t, eps)  b = Mul(a, half)  y = Log(b)",
    "root": "a = Relu(x)  s = Sub(x, a)  r = Sqrt(x)  y = Add(r, s)",
    "reciprocal": "y = Reciprocal(x)",
    "divisor": "a = Add(x, x)  y = Div(one, a)",
    "power": "y = Pow(x, half)",
    "of one minus it": "i = Sub(one, x)  y = Log(i)",
    "behind filters": "a = MatMul(x, v)  b = Add(a, eps)  y = Log(b)",
    "behind a mean": "a = ReduceMean <keepdims = 1> (x)  y = Log(a)",
    "joined": "a = Concat <axis = 1> (x, x)  b = Max(a, a)  y = Sqrt(b)",
}


@pytest.mark.parametrize("form", PARTIAL)
def test_what_is_undefined_for_negative_numbers_gets_positive_ones(form: str) -> None:
    model = model_of(f"(float[N,6] x) => (float[A,B] y) {{ {PARTIAL[form]} }}", v=np.ones((6, 3), np.float32))
    assert inspect_inputs(model)["x"].positive
    feed = draw_random_inputs(model, sizes_of(model), np.random.default_rng(0))
    assert (feed["x"] > 0).all()
    assert all(np.isfinite(y).all() for y in executor(model)(feed).values())


@pytest.mark.parametrize(
    "body",
    [
        "e = Exp(x)  y = Log(e)", "a = Abs(x)  y = Sqrt(a)", "a = Mul(x, x)  b = Add(a, eps)  y = Log(b)",
        "m = ReduceMean <keepdims = 1> (x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean <keepdims = 1> (q)"
        "  e = Add(v, eps)  s = Sqrt(e)  y = Div(d, s)",
        "a = MatMul(x, w)  b = Sigmoid(a)  y = Log(b)", "a = Div(x, half)  y = Softmax(a)",
    ],
)  # fmt: skip
def test_what_is_positive_by_itself_asks_nothing_of_inputs(body: str) -> None:
    assert not inspect_inputs(model_of(f"(float[N,6] x) => (float[A,B] y) {{ {body} }}"))["x"].positive


def test_whole_numbers_that_divide_are_not_zero() -> None:
    model = model_of("(float[N,6] x, int64[N,1] n) => (float[N,6] y) { f = Cast <to = 1> (n)  y = Div(x, f) }")
    n = draw_random_inputs(model, {"N": 200}, np.random.default_rng(0))["n"]
    assert set(n.ravel().tolist()) == set(range(1, WHOLE_LIMIT))


@given(low=st.integers(-3, 4), span=st.integers(1, 4))
def test_a_range_of_whole_numbers_is_closed(low: int, span: int) -> None:
    model = model_of("(int64[N] n) => (int64[N] y) { y = Neg(n) }")
    ranges = parse_ranges((f"n:{low},{low + span}",), model)
    n = draw_random_inputs(model, {"N": 300}, np.random.default_rng(0), ranges)["n"]
    assert set(n.tolist()) == set(range(low, low + span + 1))


def test_a_range_without_a_whole_number_is_refused() -> None:
    model = model_of("(int64[N] n) => (int64[N] y) { y = Neg(n) }")
    with pytest.raises(UsageError, match="'n' is int64, and there are none"):
        parse_ranges(("n:0.2,0.8",), model)


def test_ids_stay_below_their_limit_within_a_range() -> None:
    model = model_of("(int64[N] n) => (float[N,4] y) { y = Gather(w, n) }")
    n = draw_random_inputs(model, {"N": 300}, np.random.default_rng(0), {"n": (2, 1000)})["n"]
    assert set(n.tolist()) == set(range(2, 6))


def test_flags_that_stand_alone_are_either() -> None:
    """A value that decides a branch is no mask that could be opened."""
    text = """(float[N,6] x, bool p, bool[1] q) => (float[N,6] y) { c = Where(p, x, one)  y = Where(q, c, zero) }"""
    model = model_of(text)
    feeds = [draw_random_inputs(model, {"N": 1}, np.random.default_rng(k)) for k in range(20)]
    assert {bool(f["p"]) for f in feeds} == {bool(f["q"][0]) for f in feeds} == {False, True}


def test_sources_tell_numbers_from_sizes() -> None:
    model = model_of("(float[N,6] x, float[N,6] z) => (float[N,6] y, int64[2] s) { y = Relu(x)  s = Shape(z) }")
    found = find_sources(model)
    assert found["y"] == {"x"} and not found["s"]


# --- inputs on which outputs are finite and follow from them


def test_inputs_as_the_graph_says_are_taken_where_they_do() -> None:
    calls = []
    model = model_of("(float[N,6] x) => (float[N,4] y) { l = Log(x)  y = MatMul(l, w) }")
    run = executor(model)
    found = draw_finite_inputs(
        lambda f: calls.append(1) or run(f),
        model,
        {"N": 3},
        np.random.default_rng(0),  # type: ignore[func-returns-value]
    )
    assert found.is_powerful and str(found.recipe) == "as the graph says" and len(calls) == 2
    np.testing.assert_array_equal(found.outputs["y"], run(found.feed)["y"])


def test_a_range_is_found_that_no_rule_tells() -> None:
    """Acosh takes numbers from 1, a saturated ReLU large ones: found by trying, and told."""
    high = model_of("(float[N,6] x) => (float[N,6] y) { y = Acosh(x) }")
    found = drawn(high)
    assert found.is_powerful or len(found.unfit) == 1
    assert np.isfinite(found.outputs["y"]).mean() > 0.3
    low = np.full(4, -100, np.float32)
    deaf = model_of("(float[N,6] x) => (float[N,4] y) { a = MatMul(x, w)  b = Add(a, low)  y = Relu(b) }", low=low)
    assert not executor(deaf)(draw_random_inputs(deaf, {"N": 3}, np.random.default_rng(0)))["y"].any()
    loud = drawn(deaf)
    assert loud.is_powerful and str(loud.recipe) in ("floats between 0 and 255", "floats around 0 by 100")


def test_an_own_range_is_never_left() -> None:
    model = model_of("(float[N,6] x, float[N,6] z) => (float[N,6] y) { l = Acosh(x)  y = Add(l, z) }")
    found = drawn(model, x=(0.1, 0.2))
    assert found.unfit == ("y",)
    assert (found.feed["x"] >= 0.1).all() and (found.feed["x"] <= 0.2).all()


def test_masks_that_hide_too_much_are_opened() -> None:
    """A mask that no rule sees through: rows with anything hidden are NaN."""
    model = model_of(
        """(float[N,5] s, int64[N,5] attention_mask) => (float[N,5] y) { f = Cast <to = 1> (attention_mask)
        p = ReduceMin <keepdims = 1> (f, last)  q = Sub(p, half)  r = Sqrt(q)  y = Mul(s, r) }"""
    )
    found = drawn(model)
    assert found.is_powerful and str(found.recipe) == "masks all open"
    assert (found.feed["attention_mask"] == 1).all()


def test_what_stays_blind_is_named() -> None:
    model = model_of(
        """(float[N,6] x) => (float[N,6] y, float[N,6] dead, float[N,6] nothing, int64[2] s) { y = Relu(x)
        dead = Mul(x, zero)  l = Sub(dead, one)  nothing = Log(l)  s = Shape(x) }"""
    )
    found = drawn(model)
    assert found.unfit == ("nothing",) and set(found.still) == {"dead", "nothing"} and not found.is_powerful
    assert str(found.recipe) == "as the graph says"


def test_a_model_that_runs_on_no_input_says_why() -> None:
    model = model_of("(float[N,6] x) => (float[N,6] y) { y = Relu(x) }")

    def fails(feed: dict[str, Any]) -> dict[str, Any]:
        raise ModelError("no kernel")

    with pytest.raises(ModelError, match="no kernel"):
        draw_finite_inputs(fails, model, {"N": 2}, np.random.default_rng(0))


ELEMENTWISE = ["Relu", "Abs", "Exp", "Log", "Sqrt", "Neg", "Sigmoid", "Tanh", "Reciprocal", "Floor", "Softplus"]


@settings(max_examples=60)
@given(
    steps=st.lists(st.sampled_from([*ELEMENTWISE, "Add(@, one)", "Mul(@, half)", "Sub(one, @)", "Mul(@, @)"]),
                   min_size=1, max_size=4)
)  # fmt: skip
def test_inputs_that_are_found_leave_no_more_undefined_than_any_do(steps: list[str]) -> None:
    body, at = "", "x"
    for k, step in enumerate(steps):
        call = step.replace("@", at) if "(" in step else f"{step}({at})"
        body, at = body + f" t{k} = {call} ", f"t{k}"
    model = model_of(f"(float[N,6] x) => (float[N,6] y) {{ {body} y = Identity({at}) }}")
    run, rng = executor(model), np.random.default_rng(0)
    anything = run({"x": rng.standard_normal((40, 6)).astype(np.float32)})["y"]
    found = draw_finite_inputs(run, model, {"N": 40}, rng)
    assert found.still or np.isfinite(found.outputs["y"]).mean() >= 0.9 * np.isfinite(anything).mean()
    assert found.is_powerful == (not found.still and bool(np.isfinite(found.outputs["y"]).all()))
    if inspect_inputs(model)["x"].positive and str(found.recipe) == "as the graph says":
        assert (found.feed["x"] > 0).all()


# --- calibration draws alike


def test_calibration_opens_masks_beside_floats_and_keeps_positive_inputs_positive() -> None:
    text = """(float[N,5,6] e, {kind}[N,5] seen) => (float[N,5,3] y) {{ f = Cast <to = 1> (seen)  i = Sub(one, f)
        a = Mul(i, least)  u = Unsqueeze(a, last)  q = MatMul(e, w)  k = Transpose <perm = [0, 2, 1]> (q)
        s = MatMul(q, k)  t = Add(s, u)  p = Softmax(t)  c = MatMul(p, q)  r = Relu(c)  y = MatMul(r, v) }}"""
    model = model_of(text.format(kind="int64"), v=(4, 3))
    (feed, *_) = draw_calibration(analyze(model), samples=16).feeds
    assert (feed["seen"] == 1).all()
    log = model_of(
        "(float[N,6] x) => (float[N,3] y) { l = Log(x)  h = MatMul(l, w)  r = Relu(h)  y = MatMul(r, v) }", v=(4, 3)
    )
    found = draw_calibration(analyze(log), samples=64)
    assert all((f["x"] > 0).all() for f in found.feeds)


def test_no_more_is_asked_of_an_axis_than_it_has() -> None:
    graph = "(float[1,2,8] x, int64[1] k) => (float[1,n,8] y) { y, i = TopK<axis=1>(x, k) }"
    model = from_proto(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> m {graph}'), Path("m.onnx"))
    drawn = [draw_random_inputs(model, {}, np.random.default_rng(seed))["k"].item() for seed in range(20)]
    assert set(drawn) == {1, 2}
