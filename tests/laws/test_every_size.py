"""A compiled model is right at every size that the dense one takes, also where shape arithmetic was equal at the sizes
that the analysis tried: padding to a multiple, windows, tables cut to a length, branches on a size.

The reference is the dense file with zeros in it (`oracle`), which knows nothing of how the compiled file was made.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from oracle import (
    ENOUGH,
    Found,
    Input,
    check_plan,
    compile_plainly,
    compile_without_statistics,
    differences,
    find_accepted,
    read_inputs,
    zero_removed,
)

FOLDER = Path(__file__).parents[1] / "sizes"
FILES = sorted(p.stem for p in FOLDER.glob("*.onnx"))
LARGEST, ALL = 60_000, 900_000  # bytes
TOLERANCE, VISIBLE = 1e-4, 1e-3


def check_every_size(
    path: Path, inputs: dict[str, Input], output: Path, statistics: bool = True, **options: Any
) -> None:
    """Compile a file and compare it at sizes that the compiler did not choose; `statistics`: groups may have some."""
    dense = onnx.load(path)
    feeds = find_accepted(dense, inputs)
    assert len(feeds) >= ENOUGH, f"the dense model takes {len(feeds)} of the sizes that were tried"
    compiled, result = (compile_without_statistics if statistics else compile_plainly)(path, output, **options)
    plan = result.state.plan.document()
    assert plan["groups"], "nothing was removed"
    check_plan(plan, dense, zero_removed(dense, compiled))
    found = differences(dense, compiled, feeds)
    assert max(f.effect for f in found) > VISIBLE, "the plan has no effect: the comparison has no power"
    wrong = [f for f in found if f.error > TOLERANCE]
    assert not wrong, f"wrong at {len(wrong)} of {len(found)} sizes: {'; '.join(map(told, wrong[:4]))}"


def told(found: Found) -> str:
    """One size in a message."""
    sizes = ",".join(f"{k}={v}" for k, v in found.sizes.items())
    return f"{sizes}: {found.message or f'error {found.error:.1e}'}"


# exports -------------------------------------------------------------------------------------------------------------


def test_the_files_are_small_and_their_inputs_are_described() -> None:
    sizes = [p.stat().st_size for p in FOLDER.iterdir()]
    assert max(sizes) <= LARGEST and sum(sizes) <= ALL
    assert {n.partition(".")[0] for n in FILES} == set(read_inputs(FOLDER))


@pytest.mark.parametrize("name", FILES)
def test_an_export_is_right_at_sizes_that_the_analysis_did_not_try(name: str, tmp_path: Path) -> None:
    inputs = read_inputs(FOLDER)[name.partition(".")[0]]
    check_every_size(FOLDER / f"{name}.onnx", inputs, tmp_path / "out.onnx")


# one graph for each kind of shape arithmetic -------------------------------------------------------------------------

MLP = "a = MatMul(h, w1)  b = Relu(a)  c = MatMul(b, w2)"
CONVS = "a = Conv<pads=[1,1,1,1]>(h, k1)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, k2)"
LENGTH = "s = Shape(x)  n = Gather(s, one) "
SIDES = "s = Shape(x)  hw = Slice(s, two1, four1) "
SCALED = LENGTH + "big = {} h = Mul(x, f) " + MLP + " y = Identity(c)"
TOKENS, PICTURE = {"x": Input((1, "T", 8))}, {"x": Input(("N", 3, "H", "W"))}
X, IMAGE = "(float[1,S,8] x) => (float[1,S,4] y)", "(float[N,3,H,W] x) => (float[N,4,P,Q] y)"


def branch(kind: str) -> str:
    """An If on `big` that scales x in one branch."""
    one, two = ("u = Mul(x, far)", "v = Identity(x)") if kind == "keep" else ("u = Mul(x, far)", "v = Mul(x, near)")
    return (
        f"h = If (big) < then_branch = t () => (float[A,B,8] u) {{ {one} }}, "
        f"else_branch = e () => (float[C,D,8] v) {{ {two} }} > "
    )


def squeeze(source: str, axis: str, result: str) -> str:
    """The nodes that TorchScript writes for `source.squeeze(axis)`: an If whose branches give different ranks."""
    return (
        f"s{result} = Shape({source}) n{result} = Gather(s{result}, {axis}) o{result} = Equal(n{result}, one) "
        f"{result} = If (o{result}) < then_branch = t{result} () => (float any1{result}) "
        f"{{ any1{result} = Squeeze({source}, {axis}1) }}, else_branch = e{result} () => (float any2{result}) "
        f"{{ any2{result} = Identity({source}) }} > "
    )


CONSTANTS = {
    "one": np.array(1), "two": np.array(2), "three": np.array(3), "nought": np.array(0), "sixteen": np.array(16),
    "limit": np.array(100), "rest": np.array([-1, 4]),
    "limit1": np.array([100]), "nought1": np.array([0]), "one1": np.array([1]), "two1": np.array([2]),
    "three1": np.array([3]), "four1": np.array([4]), "five1": np.array([5]), "eight": np.array(8),
    "rows": np.array([48]), "pair": np.array([0, 0]), "zeros6": np.zeros(6, np.int64), "zeros4": np.zeros(4, np.int64),
    "sides": np.array([2, 3]), "far": np.array(3, np.float32), "near": np.array(0.5, np.float32),
    "near1": np.array([0.5], np.float32), "unit": np.array(1, np.float32), "tiny": np.array(0.01, np.float32),
}  # fmt: skip
"""Constants that graphs read; a graph gets those that it names."""
SHAPES = {"w1": (8, 16), "w2": (16, 4), "k1": (16, 3, 3, 3), "k2": (4, 16, 3, 3), "p1": (160, 8), "q1": (16, 8, 8)}
SHAPES |= {"r1": (1, 24, 8), "r2": (1, 24, 6), "w3": (6, 4), "w4": (8, 8), "d1": (8, 3, 3), "d2": (4, 8, 3)}
"""Weights."""

GRAPHS: dict[str, tuple[str, dict[str, Input]]] = {
    "a scale for a long input": (
        f"{X} {{ {LENGTH} big = Greater(n, limit) f = Where(big, far, near) h = Mul(x, f) {MLP} y = Identity(c) }}",
        TOKENS,
    ),
    "a branch for a long input": (
        f"{X} {{ {LENGTH} big = Greater(n, limit) {branch('scale')} {MLP} y = Identity(c) }}",
        TOKENS,
    ),
    "a branch for one token": (
        f"{X} {{ {LENGTH} big = Equal(n, one) {branch('keep')} {MLP} y = Identity(c) }}",
        TOKENS,
    ),
    "whole chunks of 16": (
        f"{X} {{ {LENGTH} k = Div(n, sixteen) kf = Cast<to=1>(k) g = Add(kf, unit) h = Mul(x, g) {MLP} "
        "y = Identity(c) }",
        TOKENS,
    ),
    "an odd length": (
        f"{X} {{ {LENGTH} k = Mod(n, two) kf = Cast<to=1>(k) g = Add(kf, unit) h = Mul(x, g) {MLP} y = Identity(c) }}",
        TOKENS,
    ),
    "at most 5 tokens": (
        f"(float[1,S,8] x) => (float[1,P,4] y) {{ s = Shape(x) n = Gather(s, one1) k = Min(n, five1) "
        f"h = Slice(x, nought1, k, one1) {MLP} y = Identity(c) }}",
        TOKENS,
    ),
    "a table of positions": (
        f"{X} {{ s = Shape(x) n = Gather(s, one1) p = Slice(p1, nought1, n, nought1) h = Add(x, p) {MLP} "
        "y = Identity(c) }",
        TOKENS,
    ),
    "a causal mask": (
        f"{X} {{ s = Shape(x) n = Gather(s, one1) nn = Concat<axis=0>(n, n) e = Expand(near, nn) "
        f"m = Trilu<upper=0>(e) h = MatMul(m, x) {MLP} y = Identity(c) }}",
        TOKENS,
    ),
    "a batch of one": (
        "(float[N,T,8] x) => (float[N,T,4] y) { s = Shape(x) n = Gather(s, nought) big = Equal(n, one) "
        f"{branch('scale')} {MLP} y = Identity(c) }}",
        {"x": Input(("N", "T", 8))},
    ),
    "padded to a multiple of 8": (
        f"{IMAGE} {{ {SIDES} rem = Mod(hw, eight) d = Sub(eight, rem) e = Mod(d, eight) "
        f'pads = Concat<axis=0>(zeros6, e) h = Pad(x, pads) {CONVS} q = MaxPool<kernel_shape=[8,8],strides=[8,8]>(c) '
        "r = ReduceMean<keepdims=1>(q, sides) g = Add(c, r) y = Slice(g, pair, hw, sides) }",
        PICTURE,
    ),
    "padding that is called SAME": (
        f"{IMAGE} {{ {SIDES} up = Add(hw, one1) o = Div(up, two1) om = Sub(o, one1) t = Mul(om, two1) "
        "t2 = Add(t, three1) t3 = Sub(t2, hw) tot = Max(t3, nought1) lo = Div(tot, two1) hi = Sub(tot, lo) "
        "pads = Concat<axis=0>(pair, lo, pair, hi) h = Pad(x, pads) a = Conv<strides=[2,2]>(h, k1) b = Relu(a) "
        "y = Conv<pads=[1,1,1,1]>(b, k2) }",
        PICTURE,
    ),
    "at most 48 rows": (
        f"{IMAGE} {{ s = Shape(x) n = Gather(s, two1) k = Min(n, rows) w = Gather(s, three1) "
        'nc = Slice(s, nought1, two1) z = Concat<axis=0>(nc, k, w) '
        f'h = Resize<mode="nearest", coordinate_transformation_mode="asymmetric">(x, , , z) {CONVS} y = Identity(c) }}',
        PICTURE,
    ),
    "a square picture": (
        f"{IMAGE} {{ s = Shape(x) n = Gather(s, two1) m = Gather(s, three1) same = Equal(n, m) "
        f"f = Where(same, far, near) h = Mul(x, f) {CONVS} y = Identity(c) }}",
        {"x": Input(("N", 3, "H", "H + P % 2 * 2"))},
    ),
    "a multiple of 8 of a wave": (
        "(float[N,8,L] x) => (float[N,4,M] y) { s = Shape(x) l = Gather(s, two1) m = Neg(l) e = Mod(m, eight) "
        "pads = Concat<axis=0>(zeros4, nought1, e) xp = Pad(x, pads) f = Conv<strides=[8], kernel_shape=[8]>(xp, q1) "
        "g = Transpose<perm=[0,2,1]>(f) r = Relu(g) o = MatMul(r, w2) y = Transpose<perm=[0,2,1]>(o) }",
        {"x": Input(("N", 8, "T"))},
    ),
    "a mask one longer than the past": (
        '(float[1,1,8] x, float[1,"past + 1"] mask, float[1,"past",8] old) => (float[1,1,4] y) { '
        "all = Concat<axis=1>(old, x) m = Unsqueeze(mask, one1) h = MatMul(m, all) " + MLP + " y = Identity(c) }",
        {"x": Input((1, 1, 8)), "mask": Input((1, "P + 1")), "old": Input((1, "P", 8))},
    ),
    "a scale for an empty past": (
        "(float[1,1,8] x, float[1,E,8] old) => (float[1,F,4] y) { all = Concat<axis=1>(old, x) s = Shape(old) "
        f"n = Gather(s, one) some = Greater(n, nought) f = Where(some, far, near) h = Mul(all, f) {MLP} "
        "y = Identity(c) }",
        {"x": Input((1, 1, 8)), "old": Input((1, "E", 8))},
    ),
    "a branch for an empty past": (
        "(float[1,1,8] x, float[1,E,8] old) => (float[1,F,4] y) { all = Concat<axis=1>(old, x) s = Shape(old) "
        f"n = Gather(s, one) big = Equal(n, nought) {branch('keep').replace('(x', '(all')} {MLP} y = Identity(c) }}",
        {"x": Input((1, 1, 8)), "old": Input((1, "E", 8))},
    ),
    "at least one of a past": (
        "(float[1,1,8] x, float[1,E,8] old) => (float[1,F,4] y) { all = Concat<axis=1>(old, x) s = Shape(old) "
        f"n = Gather(s, one) k = Min(n, one) kf = Cast<to=1>(k) f = Add(kf, near) h = Mul(all, f) {MLP} "
        "y = Identity(c) }",
        {"x": Input((1, 1, 8)), "old": Input((1, "E", 8))},
    ),
    "a length in 8 bits": (
        f"{X} {{ {LENGTH} few = Cast<to=2>(n) back = Cast<to=7>(few) big = Equal(back, n) "
        f"f = Where(big, far, near) h = Mul(x, f) {MLP} y = Identity(c) }}",
        {"x": Input((1, "3 * T", 8))},
    ),
    "an adjacency": (
        "(float[n,8] x, float[n,n] d) => (float[n,4] y) { h = MatMul(d, x) a = MatMul(h, w1) b = Relu(a) "
        "e = MatMul(d, b) y = MatMul(e, w2) }",
        {"x": Input(("n", 8)), "d": Input(("n", "n"))},
    ),
    "a length that an input says": (
        "(float[1,2,8] x, int64[1] k) => (float[1,S,4] y) { p = Slice(x, nought1, k, one1) s = Shape(p) "
        f"n = Gather(s, one) kf = Cast<to=1>(n) h = Mul(p, kf) {MLP} y = Identity(c) }}",
        {"x": Input((1, 2, 8)), "k": Input((1,), value="P")},
    ),
    "the tokens that are largest": (
        "(float[1,9,8] x, int64[1] k) => (float[1,S,4] y) { p, i = TopK<axis=1>(x, k) s = Shape(p) "
        f"n = Gather(s, one) kf = Cast<to=1>(n) h = Mul(p, kf) {MLP} y = Identity(c) }}",
        {"x": Input((1, 9, 8)), "k": Input((1,), value="1 + P % 9")},
    ),
    "sequences of lengths that an input says": (
        "(float[T,N,8] x, int64[N] k) => (float[N,4] y) { k32 = Cast<to=6>(k) "
        "a, b, c = LSTM<hidden_size=6>(x, r1, r2, , k32) h = Squeeze(b, nought1) y = MatMul(h, w3) }",
        {"x": Input(("T", "N", 8)), "k": Input(("N",), value="1 + T // 2")},
    ),
    "a sequence in reverse, as far as an input says": (
        f"(float[T,N,8] x, int64[N] k) => (float[T,N,4] y) {{ h = ReverseSequence<time_axis=0, batch_axis=1>(x, k) "
        f"{MLP} y = Identity(c) }}",
        {"x": Input(("T", "N", 8)), "k": Input(("N",), value="1 + T // 2")},
    ),
    "a channel that an input picks": (
        f"(float[1,T,8] x, int64 k) => (float[1,T,4] y) {{ p = Gather<axis=2>(x, k) q = Unsqueeze(p, two1) "
        f"h = Mul(x, q) {MLP} y = Identity(c) }}",
        {"x": Input((1, "T", 8)), "k": Input((), value="P % 8")},
    ),
    "rounds that an input counts": (
        "(float[1,T,8] x, int64 k) => (float[1,T,4] y) { on = Cast<to=9>(one) h = Loop(k, on, x) <body = r (int64 i, "
        f"bool ci, float[1,A,8] v) => (bool co, float[1,B,8] u) {{ co = Identity(ci) u = Mul(v, near) }} > {MLP} "
        "y = Identity(c) }",
        {"x": Input((1, "T", 8)), "k": Input((), value="P % 8")},
    ),
    "a squeeze in front of an LSTM": (
        f"(float[T,N,8] x) => (float[N,4] y) {{ m = MatMul(x, w4) {squeeze('m', 'one', 'h')} "
        "a, b, c = LSTM<hidden_size=6>(h, r1, r2) g = Squeeze(b, nought1) y = MatMul(g, w3) }",
        {"x": Input(("T", "N", 8))},
    ),
    "a squeeze in front of a convolution": (
        f"(float[N,3,H,W] x) => (float[N,4,P] y) {{ p = MaxPool<kernel_shape=[1,9], strides=[1,999]>(x) "
        f"{squeeze('p', 'three', 'h')} a = Conv(h, d1) b = Relu(a) y = Conv(b, d2) }}",
        {"x": Input(("N", 3, "H", "W"))},
    ),
    "two squeezes in front of a Gemm": (
        f"{IMAGE.replace(',P,Q', '')} {{ a = Conv<pads=[1,1,1,1]>(x, k1) b = Relu(a) "
        f"p = AveragePool<kernel_shape=[9,9], strides=[999,999]>(b) {squeeze('p', 'three', 'h')} "
        f"{squeeze('h', 'two', 'g')} y = Gemm(g, w2) }}",
        PICTURE,
    ),
    "a squeeze after which both ranks go on": (
        f"(float[N,T,8] x) => (float[M,4] y) {{ a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) "
        f"{squeeze('c', 'one', 'h')} r = Relu(h) y = Reshape(r, rest) }}",
        {"x": Input(("N", "T", 8))},
    ),
    "a rank that follows a size": (
        f"(float[N,T,8] x) => (float[M,4] y) {{ a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) "
        f"{squeeze('c', 'one', 'h')} u = Unsqueeze(h, nought1) s = Shape(u) k = Size(s) more = Greater(k, three) "
        "f = Where(more, far, near) r = Mul(u, f) y = Reshape(r, rest) }",
        {"x": Input(("N", "T", 8))},
    ),
    "a default that a run replaces": (
        f"(float[1,T,8] x, float[1] near1) => (float[1,T,4] y) {{ h = Mul(x, near1) {MLP} g = Add(near1, unit) "
        "y = Mul(c, g) }",
        {"x": Input((1, "T", 8)), "near1": Input((1,))},
    ),
}  # fmt: skip
"""Kind -> graph as text, and its inputs."""


def make_model(text: str, constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """A model from text, with the constants and weights that it names; quoted names of dims may be expressions."""
    quoted = {part: f"_dim{i}" for i, part in enumerate(dict.fromkeys(text.split(" => ")[0].split('"')[1::2]))}
    for part, name in quoted.items():
        text = text.replace(f'"{part}"', name)
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> g {text}')
    for body in (a.g for node in model.graph.node for a in node.attribute if a.HasField("g")):
        for value in (v for v in body.output if v.name.startswith("any")):  # of more than one rank
            value.type.tensor_type.ClearField("shape")
    back = {name: part for part, name in quoted.items()}
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in back:
                dim.dim_param = back[dim.dim_param]
    rng, named = np.random.default_rng(0), {n for node in model.graph.node for n in reads(node)}
    known = CONSTANTS | {n: draw_weight(s, rng) for n, s in SHAPES.items()} | (constants or {})
    for name in sorted(named & {*known}):
        model.graph.initializer.append(numpy_helper.from_array(known[name], name))
    onnx.checker.check_model(model)
    return model


def draw_weight(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A random weight that keeps the scale of what it reads."""
    fan = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
    return (rng.normal(size=shape) / np.sqrt(fan)).astype(np.float32)


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node and the bodies in it read."""
    inner = (n for a in node.attribute if a.type == onnx.AttributeProto.GRAPH for n in a.g.node)
    return {*node.input, *(name for n in inner for name in reads(n))}


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_kind_of_shape_arithmetic_is_right_at_every_size(kind: str, tmp_path: Path) -> None:
    text, inputs = GRAPHS[kind]
    onnx.save(make_model(text), tmp_path / "in.onnx")
    check_every_size(tmp_path / "in.onnx", inputs, tmp_path / "out.onnx")


@pytest.mark.parametrize("names", [("?", "?"), ("-1", "-1"), ("None", "None"), ("T#1", "T#2")])
def test_axes_of_which_names_tell_nothing_need_not_be_equal(names: tuple[str, str], tmp_path: Path) -> None:
    model = make_model(
        "(float[1,A,8] x, float[1,B,1] u) => (float[1,S,4] y) { s = Shape(x) n = Gather(s, one) o = Shape(u) "
        f"m = Gather(o, one) big = Equal(n, m) f = Where(big, far, near) h = Mul(x, f) {MLP} y = Identity(c) }}"
    )
    for value, name in zip(model.graph.input, names, strict=True):
        value.type.tensor_type.shape.dim[1].dim_param = name
    onnx.save(model, tmp_path / "in.onnx")
    check_every_size(tmp_path / "in.onnx", {"x": Input((1, "T", 8)), "u": Input((1, "P", 1))}, tmp_path / "out.onnx")


@pytest.mark.parametrize("fault", ["exchange", "shift", "plan"])
def test_the_reference_sees_a_wrong_file(fault: str, tmp_path: Path) -> None:
    text, inputs = GRAPHS["an adjacency"]
    dense = make_model(text)
    onnx.save(dense, tmp_path / "in.onnx")
    compiled, result = compile_plainly(tmp_path / "in.onnx", tmp_path / "out.onnx")
    feeds, plan = find_accepted(dense, inputs), result.state.plan.document()
    assert max(f.error for f in differences(dense, compiled, feeds)) < TOLERANCE
    assert check_plan(plan, dense, zero_removed(dense, compiled)) == 1
    if fault == "plan":
        group = next(iter(plan["groups"].values()))
        group["keep"][0] = next(k for k in range(16) if k not in group["keep"])
        with pytest.raises(AssertionError, match="keeps other channels"):
            check_plan(plan, dense, zero_removed(dense, compiled))
        return
    weight = next(t for t in compiled.graph.initializer if t.name == "w2")
    rows = numpy_helper.to_array(weight)
    order = [1, 0, *range(2, len(rows))] if fault == "exchange" else np.roll(np.arange(len(rows)), 1)
    weight.CopyFrom(numpy_helper.from_array(rows[order], "w2"))
    assert min(f.error for f in differences(dense, compiled, feeds)) > VISIBLE


@pytest.mark.parametrize("shape", ["x:2,8,400", "x:1,8,24"])
def test_sizes_that_a_user_gives_prove_nothing_about_others(shape: str, tmp_path: Path) -> None:
    text, inputs = GRAPHS["a multiple of 8 of a wave"]
    onnx.save(make_model(text), tmp_path / "in.onnx")
    check_every_size(tmp_path / "in.onnx", inputs, tmp_path / "out.onnx", statistics=False, input_shape=(shape,))


# graphs that are drawn ----------------------------------------------------------------------------------------------

NUMBERS = (1, 2, 3, 5, 8, 16, 48, 100)
COMPARED = ("Equal", "Greater", "Less", "LessOrEqual")


class Drawn:
    """A graph that is drawn step by step around one trunk whose inner width can be cut.

    Integers are vectors of length 1. `value` is the activation as it stands, of rank `rank`, sized along `free`.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.lines, self.made = draw, [], 0
        self.picture = draw(st.booleans())
        self.names = {0: "N", 2: "H", 3: "W"} if self.picture else {0: "N", 1: "T"}
        self.rank, self.width, self.value = (4, 3, "x") if self.picture else (3, 8, "x")
        self.constants: dict[str, np.ndarray] = {}
        self.shape = self.add("Shape({})", "x")
        for _ in range(draw(st.integers(1, 3))):
            steps = [self.scale, self.choose, self.branch, self.pad, self.fill, self.cut, self.places, self.fold]
            draw(st.sampled_from(steps))()
        self.lines.append(f"h = Identity({self.value}) {CONVS if self.picture else MLP}")
        self.value = "c"
        if draw(st.booleans()):
            self.cut()

    def add(self, text: str, *inputs: str) -> str:
        """A node; its output's name."""
        self.made += 1
        self.lines.append(f"v{self.made} = {text.format(*inputs)}")
        return f"v{self.made}"

    def number(self, *values: int) -> str:
        """A constant of integers."""
        name = "n" + "_".join(map(str, values)).replace("-", "m")
        self.constants[name] = np.array(values, np.int64)
        return name

    def axis(self) -> int:
        """A free axis, seldom the batch."""
        return self.draw(st.sampled_from([*list(self.names)[1:], *self.names]))

    def size(self, axis: int, now: bool) -> str:
        """The size of an axis, of the activation as it stands or of the input."""
        shape = self.add("Shape({})", self.value) if now else self.shape
        return self.add("Gather({}, {})", shape, self.number(axis))

    def integer(self, depth: int = 2) -> str:
        """An expression of sizes, which may be negative."""
        kind = self.draw(st.sampled_from(["size", "size", "sum", "product", "quotient", "rest", "least"]))
        if kind == "size" or depth == 0:
            return self.size(self.axis(), self.draw(st.booleans()))
        a, n = self.integer(depth - 1), self.number(self.draw(st.sampled_from(NUMBERS)))
        b = self.integer(depth - 1) if self.draw(st.booleans()) else n
        if kind == "sum":
            return self.add(self.draw(st.sampled_from(["Add({}, {})", "Sub({}, {})", "Sub({1}, {0})"])), a, b)
        if kind == "least":
            return self.add(self.draw(st.sampled_from(["Min({}, {})", "Max({}, {})"])), a, b)
        return self.add({"product": "Mul({}, {})", "quotient": "Div({}, {})", "rest": "Mod({}, {})"}[kind], a, n)

    def truth(self) -> str:
        """A comparison of sizes: of two of them, or with a number."""
        other = self.draw(st.sampled_from(["size", "number", "expression"]))
        b = self.size(self.axis(), True) if other == "size" else self.integer(1)
        b = self.number(self.draw(st.sampled_from(NUMBERS))) if other == "number" else b
        return self.add(f"{self.draw(st.sampled_from(COMPARED))}({{}}, {{}})", self.integer(1), b)

    def scale(self) -> None:
        """A factor of 1 to 4 that follows a size."""
        rest = self.add("Mod({}, {})", self.integer(), self.number(4))
        factor = self.add("Add({}, unit)", self.add("Cast<to=1>({})", rest))
        self.value = self.add("Mul({}, {})", self.value, factor)

    def choose(self) -> None:
        """One of two factors."""
        self.value = self.add("Mul({}, {})", self.value, self.add("Where({}, far, near)", self.truth()))

    def branch(self) -> None:
        """One of two branches."""
        which, inner, size = self.add("Squeeze({})", self.truth()), self.value, ",".join("ABCD"[: self.rank])
        bodies = (
            f"then_branch = t () => (float[{size}] i{self.made}) {{{{ i{self.made} = Mul({inner}, far) }}}}",
            f"else_branch = e () => (float[{size.lower()}] j{self.made}) {{{{ j{self.made} = Identity({inner}) }}}}",
        )
        self.value = self.add(f"If ({which}) < {', '.join(bodies)} >")

    def pad_by(self, axis: int, amount: str) -> None:
        """Zeros at the end of an axis."""
        zero = self.number(*[0] * self.rank)
        parts = [zero, *(amount if k == axis else self.number(0) for k in range(self.rank))]
        pads = self.add(f"Concat<axis=0>({', '.join(parts)})")
        self.value = self.add("Pad({}, {})", self.value, pads)

    def pad(self) -> None:
        """Up to 7 zeros."""
        amount = self.add("Mod({}, {})", self.integer(), self.number(self.draw(st.sampled_from([2, 3, 4, 8]))))
        self.pad_by(self.axis(), amount)

    def fill(self) -> None:
        """Zeros up to a multiple."""
        self.fill_to(self.axis(), self.draw(st.sampled_from([2, 4, 8, 16, 32])))

    def fill_to(self, axis: int, length: int) -> None:
        """Zeros up to a multiple of a length."""
        multiple = self.number(length)
        rest = self.add("Mod({}, {})", self.size(axis, True), multiple)
        self.pad_by(axis, self.add("Mod({}, {})", self.add("Sub({}, {})", multiple, rest), multiple))

    def cut(self) -> None:
        """The first entries along an axis, at least one."""
        axis = self.axis()
        end = self.add("Max({}, {})", self.integer(), self.number(1))
        self.value = self.add("Slice({}, {}, {}, {})", self.value, self.number(0), end, self.number(axis))

    def places(self) -> None:
        """A number for every place along an axis: 0.01, 0.02, ..."""
        axis = self.axis()
        end = self.add("Squeeze({})", self.size(axis, True))
        steps = self.add("Cast<to=1>({})", self.add("Range(nought, {}, one)", end))
        shape = self.number(*(-1 if k == axis else 1 for k in range(self.rank)))
        steps = self.add("Reshape({}, {})", self.add("Mul({}, tiny)", steps), shape)
        self.value = self.add("Add({}, {})", self.value, steps)

    def fold(self) -> None:
        """Padded to a multiple, cut into pieces of that length, and the largest of every piece."""
        axis, length = self.axis(), self.draw(st.sampled_from([2, 4, 8]))
        self.fill_to(axis, length)
        shape = self.add("Shape({})", self.value)
        sizes = [self.add("Gather({}, {})", shape, self.number(k)) for k in range(self.rank)]
        sizes[axis : axis + 1] = [self.add("Div({}, {})", sizes[axis], self.number(length)), self.number(length)]
        pieces = self.add("Reshape({}, {})", self.value, self.add(f"Concat<axis=0>({', '.join(sizes)})"))
        self.value = self.add("ReduceMax<keepdims=0>({}, {})", pieces, self.number(axis + 1))

    def model(self) -> tuple[onnx.ModelProto, dict[str, Input]]:
        """The graph, and its input."""
        axes = [self.names.get(k, self.width) for k in range(self.rank)]
        head = f"(float[{','.join(map(str, axes))}] x) => (float[{','.join(f'o{k}' for k in range(self.rank))}] y)"
        body = "  ".join([*self.lines, f"y = Identity({self.value})"])
        return make_model(f"{head} {{ {body} }}", constants=self.constants), {"x": Input(tuple(axes))}


@st.composite
def drawn_models(draw: st.DrawFn) -> tuple[onnx.ModelProto, dict[str, Input]]:
    """A small model with free sizes, and its input."""
    return Drawn(draw).model()


@settings(max_examples=80)
@given(drawn_models())
def test_what_is_drawn_is_right_at_every_size(drawn: tuple[onnx.ModelProto, dict[str, Input]]) -> None:
    model, inputs = drawn
    assume(len(find_accepted(model, inputs)) >= ENOUGH)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "in.onnx")
        check_every_size(Path(folder) / "in.onnx", inputs, Path(folder) / "out.onnx", statistics=False)
