"""Whatever way a shape is spelled, a plan that the analysis allows can be written.

Of an axis that multiplies a symbol with channels, `(n h)`, one size is worked out by Reshape, and others follow
by themselves or are computed.
"""

from __future__ import annotations

import collections
import itertools
import re

import numpy as np
import onnx
import pytest

from laws import TOLERANCE, VISIBLE, Masks, compare, outputs, random_masks
from networks import graph_of
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.written_sizes import NO_ROOM
from spa_compiler.rewriting.masked_model import make_masked_model
from spa_compiler.rewriting.prune import rewrite
from zoo_base import Case, Init

ROWS = {  # the size of (n h)
    "worked out": ("", "minus"),
    "a product": ("nh = Mul(n, heads)", "nh"),
    "a product that is scaled again": ("n1 = Mul(n, six)  nh = Div(n1, three)", "nh"),
    "its own": ("so = Shape<start=0,end=1>(o)", "so"),
    "computed of its own": ("so = Shape<start=0,end=1>(o)  s2 = Add(so, so)  nh = Div(s2, two)", "nh"),
}
TOKENS = {"worked out": ("", "minus"), "a number": ("", "five"), "a size": ("", "t")}
WIDTHS = {"worked out": ("", "minus"), "a number": ("", "seven")}
USES = {
    "plain": "q = Identity(p)",
    "Reshape": "q = Reshape(p, shape)",
    "Expand": "q = Expand(p, shape)",
    "Expand of one": "q0 = Expand(one, shape)  q = Mul(p, q0)",
    "ConstantOfShape": "q0 = ConstantOfShape(shape)  q = Add(p, q0)",
    "two readers": "q1 = Reshape(p, shape)  q2 = Expand(p, shape)  q = Add(q1, q2)",
}


def spell(use: str, rows: str, tokens: str, width: str) -> Case:
    """A layer for every head, with the heads in the batch, behind a shape that is spelled like this."""
    before = "  ".join(filter(None, (ROWS[rows][0], TOKENS[tokens][0], WIDTHS[width][0])))
    entries = ", ".join((ROWS[rows][1], TOKENS[tokens][1], WIDTHS[width][1]))
    source = "p0 = Reshape(o, flat)  p = Reshape(p0, again)" if use == "Reshape" else "p = Identity(o)"
    text = f"""(float[N,5,4] x) => (float[N,5,3] y) {{
        a = MatMul(x, w1)  u = Reshape(a, split)  v = Transpose<perm=[0,2,1,3]>(u)  o = Reshape(v, join)
        n = Shape<start=0,end=1>(x)  t = Shape<start=1,end=2>(x)  {before}  shape = Concat<axis=0>({entries})
        {source}  {USES[use]}  r = Relu(q)
        e = Reshape(r, back)  f = Transpose<perm=[0,2,1,3]>(e)  g = Reshape(f, last)  y = MatMul(g, w2) }}"""
    inits: dict[str, Init] = {
        "w1": (4, 14), "split": [0, 5, 2, 7], "join": [-1, 5, 7], "flat": [-1, 7], "again": [-1, 5, 7], "two": [2],
        "heads": [2], "six": [6], "three": [3], "five": [5], "seven": [7], "minus": [-1], "one": (1,),
        "back": [-1, 2, 5, 7], "last": [0, 0, 14], "w2": (14, 3),
    }  # fmt: skip
    words = set(re.findall(r"\w+", text))
    used = {k: v for k, v in inits.items() if k in words}
    return Case(text, used, None)


def list_spellings() -> list[tuple[str, str, str, str]]:
    every = itertools.product([u for u in USES if u != "plain"], ROWS, TOKENS, WIDTHS)
    return [
        (use, *words)
        for use, *words in every
        if words.count("worked out") <= (use == "Reshape") or (use == "two readers" and "worked out" not in words)
    ]


def check_plan(graph: DependencyGraph, masks: Masks) -> onnx.ModelProto:
    """Prune equals mask for any number of inputs."""
    small, reference = rewrite(graph, masks), make_masked_model(graph, masks)
    for n in (1, 2, 7):
        feed = {"x": np.random.default_rng(n).standard_normal((n, 5, 4)).astype(np.float32)}
        np.testing.assert_allclose(outputs(small, feed)[0], outputs(reference, feed)[0], rtol=1e-5, atol=1e-6)
    return small.proto()


def check_against_mask(graph: DependencyGraph, masks: Masks) -> None:
    """Prune equals mask, and the mask is seen."""
    error, effect = compare(graph, masks)
    assert error < TOLERANCE and effect > VISIBLE


def find_group_sizes(graph: DependencyGraph) -> list[int]:
    return sorted(g.size for g in graph.groups)


@pytest.mark.parametrize("words", list_spellings(), ids=", ".join)
def test_what_may_go_can_be_written(words: tuple[str, str, str, str]) -> None:
    graph = graph_of(spell(*words))
    reasons = {r.text for i in (0, 1) for r in graph.find_reasons(("w1", i))}
    assert find_group_sizes(graph) == ([7] if NO_ROOM in reasons else [2, 7])
    for seed in range(2):
        check_plan(graph, random_masks(graph, np.random.default_rng(seed), share=1))


def test_heads_are_frozen_only_where_their_size_cannot_be_followed() -> None:
    frozen = {w[:2] for w in list_spellings() if find_group_sizes(graph_of(spell(*w))) == [7]}
    own = "computed of its own"
    assert frozen == {("Reshape", own), ("ConstantOfShape", own), ("Expand of one", own)}


OTHERS = {
    "Slice to the end": "q = Slice(p, zero, end, zero)",
    "Slice so far from the end": "b = Concat<axis=0>(p, more)  q = Slice(b, zero, less, zero)",
    "Slice of all axes": "q = Slice(p, zeros, ends, axes)",
    "Split into equal parts": "b = Concat<axis=0>(p, p)  q, q2 = Split<axis=0,num_outputs=2>(b)",
    "Split of another axis": "q1, q2 = Split<axis=1>(p, parts)  q = Concat<axis=1>(q2, q1)",
    "Tile": "q1 = Tile(p, repeats)  q = Slice(q1, zero, five, axis1)",
    "Pad": "q1 = Pad(p, pads)  q = Slice(q1, axis1, six, axis1)",
}


@pytest.mark.parametrize("use", OTHERS)
def test_operands_that_hold_no_size_of_the_symbol_stay_right(use: str) -> None:
    case = spell("plain", "a product", "a size", "a number")
    last = np.iinfo(np.int64).max
    inits: dict[str, Init] = {
        "zero": [0], "end": [last], "zeros": [0, 0, 0], "ends": [last, 5, 7], "axes": [0, 1, 2], "parts": [2, 3],
        "repeats": [1, 2, 1], "axis1": [1], "six": [6], "pads": [0, 1, 0, 0, 0, 0], "five": [5],
        "more": (2, 5, 7), "less": [-2],
    }  # fmt: skip
    text = case.text.replace("q = Identity(p)", OTHERS[use])
    graph = graph_of(
        Case(text, {**case.inits, **{k: v for k, v in inits.items() if k in re.findall(r"\w+", text)}}, None)
    )
    assert find_group_sizes(graph)
    for seed in range(3):
        check_plan(graph, random_masks(graph, np.random.default_rng(seed), share=1))


READ = {  # how q gets the sizes of one layer, a, while its entries come from another, b
    "Reshape": "s = Shape(a)  f = Reshape(b, flat)  q = Reshape(f, s)",
    "Expand": "s = Shape(a)  q = Expand(b, s)",
    "Expand of one": "s = Shape(a)  e = Expand(one, s)  q = Add(b, e)",
    "ConstantOfShape": "s = Shape(a)  e = ConstantOfShape<value=float[1] {0.5}>(s)  q = Add(b, e)",
    "Resize": """k = Shape(a)  b4 = Unsqueeze(b, first)  s = Concat<axis=0>(k1, k)
                 e = Resize<mode="nearest">(b4, , , s)  q = Squeeze(e, first)""",
    "the larger of both": "s1 = Shape(a)  s2 = Shape(b)  s = Max(s1, s2)  q = Expand(b, s)",
    "in pieces": """n = Shape<start=0,end=1>(a)  c = Shape<start=2>(a)  t = Shape<start=1,end=2>(b)
                    s = Concat<axis=0>(n, t, c)  q = Expand(b, s)""",
    "turned over": """s1 = Shape(a)  s2 = Unsqueeze(s1, first)  s3 = Gather(s2, first)  s = Reshape(s3, flat)
                      q = Expand(b, s)""",
    "in a branch": """z = If(yes) <then_branch = g1 () => (z1) { s = Shape(a)  z1 = Reshape(b, s) },
                                 else_branch = g2 () => (z2) { t = Shape(a)  z2 = Expand(b, t) }>  q = Identity(z)""",
}
GIVEN = {"an input": ("float[N,5,14] b", ""), "another layer": ("", "b = MatMul(x, w2)")}
READ_SIZES: dict[str, Init] = {
    "w1": (4, 14), "w2": (4, 14), "w3": (14, 3), "w4": (14, 3), "flat": [-1], "first": [0], "k1": [1], "one": (1, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("read", READ)
def test_sizes_read_off_a_value_that_is_cut_are_written_where_nothing_else_is(read: str, given: str) -> None:
    more, b = GIVEN[given]
    inputs = ", ".join(filter(None, ("float[N,5,4] x", more, "bool yes" if "If(" in READ[read] else "")))
    text = f"""({inputs}) => (float[N,5,3] y) {{ a0 = MatMul(x, w1)  a = Relu(a0)  {b}  {READ[read]}
        r = Tanh(q)  y1 = MatMul(r, w3)  y2 = MatMul(a, w4)  y = Add(y1, y2) }}"""
    words = set(re.findall(r"\w+", text))
    graph = graph_of(Case(text, {k: v for k, v in READ_SIZES.items() if k in words}, None))
    free = given == "another layer" and read != "Resize"  # which works on the features of b as on a side of a picture
    assert find_group_sizes(graph) == [14] * (1 + free)
    for group in graph.groups:
        check_against_mask(graph, {group.dims[0]: np.arange(14) % 3 > 0})


@pytest.mark.parametrize("read", ["Reshape", "Expand", "Expand of one", "ConstantOfShape", "the larger of both"])
def test_sizes_that_multiply_a_symbol_are_read_off_a_value_that_is_cut(read: str) -> None:
    """Two layers with heads in the batch: (n h) of one is read for the other."""
    made = """V1 = MatMul(x, wK)  V2 = Reshape(V1, split)  V3 = Transpose<perm=[0,2,1,3]>(V2)  V = Reshape(V3, join)"""
    used = """V4 = Reshape(V, back)  V5 = Transpose<perm=[0,2,1,3]>(V4)  V6 = Reshape(V5, last)  yK = MatMul(V6, wK)"""
    a, b = (made.replace("V", v).replace("K", k) for v, k in ("a1", "b2"))
    c, d = (used.replace("V", v).replace("K", k) for v, k in ("a3", "q4"))
    text = f"(float[N,5,4] x) => (float[N,5,3] y) {{ {a}  {b}  {READ[read]}  {c}  {d}  y = Add(y3, y4) }}"
    sizes: dict[str, Init] = {"split": [0, 5, 2, 7], "join": [-1, 5, 7], "back": [-1, 2, 5, 7], "last": [0, 0, 14]}
    words = set(re.findall(r"\w+", text))
    graph = graph_of(Case(text, {k: v for k, v in {**READ_SIZES, **sizes}.items() if k in words}, None))
    followed = read not in ("Expand of one", "ConstantOfShape")  # worked out, or what is expanded has it
    assert find_group_sizes(graph) == ([2, 2, 7, 7] if followed else [7, 7])
    for group in graph.groups:
        check_against_mask(graph, {group.dims[0]: np.broadcast_to(np.arange(group.size) > 0, group.shape)})


HEADS = """(float[N,L,6] x) => (float[N,L,3] y) {
    a = MatMul(x, w1)  n = Shape<start=0,end=1>(x)  t = Shape<start=1,end=2>(x)  s1 = Concat<axis=0>(n, t, h, k)
    u = Reshape(a, s1)  r = Tanh(u)  s2 = Concat<axis=0>(n, t, m)  f = Reshape(r, s2)  y = MatMul(f, w2)  MORE }"""
SIZES: dict[str, Init] = {"w1": (6, 12), "h": [3], "k": [4], "m": [-1], "w2": (12, 3)}


def count_nodes(model: onnx.ModelProto) -> collections.Counter[str]:
    return collections.Counter(n.op_type for n in model.graph.node)


def cut_heads(case: Case) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The normalised model and the one in which a head and some of the channels of the others are gone."""
    graph = graph_of(case)
    masks = {g.dims[0]: np.broadcast_to(np.arange(g.size) > 0, g.shape) for g in graph.groups}
    return graph.model.proto(), rewrite(graph, masks).proto()


def test_sizes_that_a_concat_puts_together_are_changed_there() -> None:
    dense, small = cut_heads(Case(HEADS.replace("MORE", ""), SIZES, None))
    assert count_nodes(dense) == count_nodes(small)


def test_a_size_that_other_nodes_read_stays_for_them() -> None:
    text = HEADS.replace("MORE", "z = Cast<to=1>(s1)").replace("(float[N,L,3] y)", "(float[N,L,3] y, float[4] z)")
    dense, small = cut_heads(Case(text, SIZES, None))
    assert count_nodes(small) - count_nodes(dense) == {"Where": 1}


def test_readers_that_want_the_same_share_one_node() -> None:
    more = "u2 = Reshape(a, s1)  r2 = Relu(u2)  f2 = Reshape(r2, s2)  y2 = MatMul(f2, w3)  z = Cast<to=1>(s1)"
    text = HEADS.replace("MORE", more).replace("(float[N,L,3] y)", "(float[N,L,3] y, float[N,L,2] y2, float[4] z)")
    dense, small = cut_heads(Case(text, {**SIZES, "w3": (12, 2)}, None))
    assert count_nodes(small) - count_nodes(dense) == {"Where": 1}


def test_a_factor_in_a_size_is_changed_where_it_stands() -> None:
    dense, small = cut_heads(spell("ConstantOfShape", "a product", "a size", "a number"))
    assert count_nodes(dense) == count_nodes(small)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_bounds_keep_their_type(dtype: type[np.generic]) -> None:
    bounds = {"starts": [0, 1, 0], "ends": [np.iinfo(np.int32).max, 5, 8], "axes": [0, 1, 2], "steps": [1, 1, 1]}
    operands: dict[str, Init] = {n: np.array(v, dtype) for n, v in bounds.items()}
    text = """(float[2,8,6] x) => (float[2,4,3] y) {
        a = MatMul(x, w1)  b = Slice(a, starts, ends, axes, steps)  y = MatMul(b, w2) }"""
    graph = graph_of(Case(text, {"w1": (6, 8), "w2": (8, 3), **operands}, None))
    assert find_group_sizes(graph) == [8]
    small = rewrite(graph, {graph.groups[0].dims[0]: np.arange(8) < 5})
    assert {small.array(t).dtype for n, t in small.constants().items() if not n.startswith("w")} == {np.dtype(dtype)}
    assert outputs(small, {"x": np.zeros((2, 8, 6), np.float32)})[0].shape == (2, 4, 3)


FOLDED = """(float[N,5,4] x) => (float[N,3,5,5] y) {
    q1 = MatMul(x, wq)  q2 = Reshape(q1, split)  q3 = Transpose<perm=[0,2,1,3]>(q2)  q = Reshape(q3, join)
    k1 = MatMul(x, wk)  k2 = Reshape(k1, split)  k3 = Transpose<perm=[0,2,3,1]>(k2)  k = Reshape(k3, turned)
    a = MatMul(q, k)  y = Reshape(a, back) }"""
FOLDED_CONSTANTS: dict[str, Init] = {
    "wq": (4, 12), "wk": (4, 12), "split": [0, 5, 3, 4], "join": [-1, 5, 4], "turned": [-1, 4, 5], "back": [-1, 3, 5, 5]
}  # fmt: skip


@pytest.mark.parametrize("alike", [True, False], ids=["the same in every head", "others in every head"])
def test_masks_of_heads_in_the_batch_fit_any_batch(alike: bool) -> None:
    graph = graph_of(Case(FOLDED, FOLDED_CONSTANTS, None))
    group = next(g for g in graph.groups if g.block is not None)
    assert group.shape == (3, 4)
    kept = np.tile(np.array([True, False, True, True]), (3, 1))
    if not alike:
        kept[1] = kept[1][[1, 0, 2, 3]]
    check_plan(graph, dict.fromkeys(group.dims, kept))


def test_a_shape_of_which_nothing_is_known_may_hold_a_minus_one() -> None:
    text = """(float[N,T,4] x) => (float[N,T,3] y) {
        parts = SplitToSequence<axis=1>(x, one)  s = ConcatFromSequence<axis=1>(parts)  a = MatMul(s, w1)  r = Relu(a)
        whole = Shape(s)  n = Gather(whole, zero)  row = Unsqueeze(n, axes)
        shape = Concat<axis=0>(row, one1, minus, width)  p = Reshape(r, shape)  q = Transpose<perm=[0,2,1,3]>(p)
        u = Reshape(q, joined)  y = MatMul(u, w2) }"""
    constants: dict[str, Init] = {
        "w1": (4, 6), "one": 1, "zero": 0, "axes": [0], "one1": [1], "minus": [-1], "width": [6], "joined": [0, -1, 6],
        "w2": (6, 3),
    }  # fmt: skip
    graph = graph_of(Case(text, constants, None))
    site = next(s for s in graph.sites if s.first_output is not None and s.first_output.name == "p")
    assert [graph.size_writer.has_room(site, o) for o in site.operands] == [False]
