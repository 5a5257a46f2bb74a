"""Facts for every binding of the symbols: sizes of outputs of nodes, and tables of shape arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from laws import analyze_proto
from spa_compiler.algebra import sizes
from spa_compiler.canonicalize.index_arithmetic import find_index
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.errors import UsageError
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import from_proto
from spa_compiler.ir.symbols import find_input_axes, find_input_sizes, list_symbols
from spa_compiler.shape_inference.evaluator import evaluate, generalize
from spa_compiler.shape_inference.every_binding import General
from zoo import CASES, build

OTHERS = ({"N": 1, "H": 3, "W": 2}, {"N": 4, "H": 17, "W": 131}, {"N": 7, "H": 64, "W": 33})
"""Sizes at which nothing was evaluated."""


def parsed(text: str, opset: int = 18, **values: Any) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> m {text}')
    rng = np.random.default_rng(0)
    for name, value in values.items():
        array = rng.normal(size=value).astype(np.float32) if isinstance(value, tuple) else np.asarray(value)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return from_proto(proto, Path("m.onnx"))


def general_of(model: Model) -> General:
    binding = {s.name: 5 + 6 * k for k, s in enumerate(list_symbols(model))}
    return generalize(model, evaluate(model, binding), binding)


def run(proto: onnx.ModelProto, feed: dict[str, Any], names: list[str]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    return list(ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feed))


def assert_sizes_hold(model: Model, names: list[str]) -> None:
    """Every size that is told of these values is what onnxruntime gives, at sizes that were not evaluated."""
    general, checked = general_of(model), 0
    for binding in OTHERS:
        feed = {}
        for name, axes in find_input_axes(model).items():
            shape = [sizes.compute_value(a, binding) or 0 for a in axes]
            feed[name] = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        try:
            got = run(model.proto(), feed, names)
        except Exception:  # the model does not take this size
            continue
        for name, array in zip(names, got, strict=True):
            axes = general.axes(name)
            assert axes is not None and len(axes) == array.ndim
            for size, number in zip(axes, array.shape, strict=True):
                told = sizes.compute_value(size, binding)
                assert told in (None, number), f"{name}: {sizes.format_size(size)} is {number} at {binding}"
                checked += told is not None
            table = general.table(name)
            for entry, number in zip(table.ravel() if table is not None else (), array.ravel(), strict=False):
                if sizes.is_size(entry) and not isinstance(entry, bool):
                    assert sizes.compute_value(entry, binding) in (None, number)
    assert checked, "nothing was told: the check has no power"


@st.composite
def windows(draw: st.DrawFn) -> str:
    """A convolution or a pooling with any window."""
    k, s, d = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    low, high = (draw(st.integers(0, min(1, k - 1))) for _ in range(2))
    pads = draw(st.sampled_from([f"pads=[{low},{high},{high},{low}]", 'auto_pad="SAME_UPPER"', 'auto_pad="VALID"']))
    op = draw(st.sampled_from(["Conv", "MaxPool", "AveragePool", "ConvTranspose"]))
    dilated = f", dilations=[{d},{d}]" if op == "MaxPool" or (op == "Conv" and "SAME" not in pads) else ""
    pads = f"pads=[{low},{high},{high},{low}]" if op == "ConvTranspose" else pads
    ceil = ", ceil_mode=1" if op.endswith("Pool") and draw(st.booleans()) else ""
    operands = {"Conv": "(x, w)", "ConvTranspose": "(x, v)"}.get(op, "(x)")
    return f"{op}<kernel_shape=[{k},{k}], strides=[{s},{s}], {pads}{dilated}{ceil}>{operands}#{k}"


@given(windows())
@settings(max_examples=60, deadline=None)
def test_windows(text: str) -> None:
    node, k = text.split("#")
    model = parsed(
        f"(float[N,3,H,W] x) => (float[a,b,c,d] y) {{ y = {node} }}", w=(4, 3, int(k), int(k)), v=(3, 4, int(k), int(k))
    )
    assert_sizes_hold(model, ["y"])


MOVES = {
    "slices": "y = Slice(x, s0, e0, a0, t0)",
    "a slice up to a size": "s = Shape(x) n = Gather(s, two1) y = Slice(x, s0, n, a0)",
    "the other half": "s = Shape(x) n = Gather(s, two1) h = Div(n, two1) y = Slice(x, h, n, a0)",
    "as many as fit": "s = Shape(x) n = Gather(s, two1) h = Min(n, five1) y = Slice(x, zero1, h, a0)",
    "padding to a multiple": "s = Shape(x) n = Gather(s, two1) r = Mod(n, five1) d = Sub(five1, r) m = Mod(d, five1)"
    " p = Concat<axis=0>(zeros6, m, zero1) y = Pad(x, p)",
    "joined with itself": "y = Concat<axis=2>(x, x, x)",
    "joined with a part": "z = Slice(x, s0, e0, a0, t0) y = Concat<axis=2>(x, z)",
    "split in two": "y, z = Split<axis=2, num_outputs=2>(x)",
    "flat": "y = Flatten<axis=2>(x)",
    "a row of what is left": "s = Shape(x) n = Slice(s, zero1, two1) r = Concat<axis=0>(n, minus1) y = Reshape(x, r)",
    "heads": "s = Shape<start=0,end=1>(x) r = Concat<axis=0>(s, minus1, three1) y = Reshape(x, r)",
    "rows of all": "y = Reshape(x, rows)",
    "spread": "s = Shape(x) r = Concat<axis=0>(two1, s) y = Expand(x, r)",
    "tiled": "y = Tile(x, t4)",
    "twice as large": "y = Resize(x, , sc)",
    "half as large": "y = Resize(x, , half)",
    "counted": "s = Shape(x) n = Gather(s, two) m = Mul(n, two) y = Range(zero, m, two)",
    "zeros": "s = Shape(x) m = Mul(s, s) n = Gather(m, two1) y = ConstantOfShape(n)",
    "the largest": "s = Shape(x) n = Gather(s, two1) h = Div(n, two1) k = Max(h, one1) y, z = TopK<axis=2>(x, k)",
    "one of many": "s = Shape(x) i = Cast<to=7>(s) n = Gather(s, two) y = OneHot(i, n, ends)",
    "blocks of pixels": "z = Concat<axis=1>(x, x, x, x) y = DepthToSpace<blocksize=2>(z)",
    "products": "t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, t)",
    "broadcast": "m = ReduceMax<keepdims=1>(x, two1) y = Sub(x, m)",
    "without ones": "m = ReduceMax<keepdims=1>(x, two1) y = Squeeze(m, two1)",
    "arithmetic": "s = Shape(x) a = Mul(s, s) b = Div(a, five1) c = Mod(s, two1) d = Sub(b, c) e = Max(d, one1)"
    " f = Equal(s, one1) g = Where(f, a, e) h = ReduceProd<keepdims=0>(g) i = Cast<to=1>(e) j = Div(i, fours)"
    " k = Floor(j) l = Ceil(j) m = Add(k, l) y = Cast<to=7>(m)",
    "a share of a size on its own": "s = Shape(x) n = Gather(s, two) f = Cast<to=1>(n) g = Div(f, fours)"
    " h = Identity(g) k = Floor(h) i = Cast<to=7>(k) j = Unsqueeze(i, zero1) y = ConstantOfShape(j)",
}
NUMBERS = {
    "s0": [1], "e0": [-1], "a0": [2], "t0": [2], "zero1": [0], "one1": [1], "two1": [2], "three1": [3], "five1": [5],
    "minus1": [-1], "zeros6": [0] * 6, "rows": [-1, 3], "t4": [1, 2, 1, 3], "zero": 0, "two": 2,
}  # fmt: skip


@pytest.mark.parametrize("kind", MOVES)
def test_what_moves_data(kind: str) -> None:
    scales = {"sc": np.array([1, 1, 2, 2], np.float32), "half": np.array([1, 1, 0.5, 0.5], np.float32)}
    floats = {"ends": np.array([0, 1], np.float32), "fours": np.array(4, np.float32)}
    used = {k: v for k, v in {**NUMBERS, **scales, **floats}.items() if k in MOVES[kind].replace("(", " ").replace(
        ")", " ").replace(",", " ").split()}  # fmt: skip
    used = {k: np.array(v, np.int64) if not isinstance(v, np.ndarray) else v for k, v in used.items()}
    model = parsed(f"(float[N,3,H,W] x) => (float[a] y) {{ {MOVES[kind]} }}", **used)
    assert_sizes_hold(model, [t.name for n in model.graph.nodes for t in n.outputs])


def operators(model: Model) -> list[str]:
    return [n.op for n in normalize(model)[0].graph.nodes]


@pytest.mark.parametrize("arithmetic", ["Mod(n, k)", "Div(n, k)", "Min(n, k)", "Equal(n, k)", "Less(n, k)"])
@pytest.mark.parametrize("number", [2, 5, 16, 32, 100])
def test_nothing_is_a_number_because_it_looked_equal_twice(arithmetic: str, number: int) -> None:
    text = f"s = Shape(x)  n = Gather(s, i)  m = {arithmetic}  f = Cast<to=1>(m)  y = Mul(x, f)"
    model = parsed(f"(float[N,3,H,W] x) => (float[N,3,H,W] y) {{ {text} }}", i=np.array(2), k=np.array(number))
    assert operators(model) == ["Shape", "Gather", arithmetic.partition("(")[0], "Cast", "Mul"]


@pytest.mark.parametrize(
    "text",
    ["a = Shape(x)  b = Sub(a, a)  c = Gather(b, i)", "a = Shape(x)  b = Equal(a, minus)  c = Gather(b, i)",
     "a = Shape<start=1,end=2>(x)  b = Add(a, a)  c = Gather(b, zero)",
     "a = Shape(x)  b = Mul(a, two)  d = Mod(b, two)  c = Gather(d, i)",
     "a = Shape(x)  b = Mul(a, a)  d = Div(b, a)  e = Sub(d, a)  c = Gather(e, i)"],
)  # fmt: skip
def test_what_is_the_same_for_every_binding_is_folded(text: str) -> None:
    values = {"i": np.array(2), "minus": np.array([-1]), "two": np.array([2]), "zero": np.array(0)}
    used = {n: v for n, v in values.items() if f"{n})" in text}
    model = parsed(f"(float[N,3,H,W] x) => (float[N,3,H,W] y) {{ {text}  f = Cast<to=1>(c)  y = Mul(x, f) }}", **used)
    assert operators(model) == ["Mul"]


def test_an_axis_that_is_cut_to_a_size_is_dynamic_though_it_looked_fixed() -> None:
    text = "s = Shape(x)  n = Slice(s, two, three)  m = Min(n, k)  y = Slice(x, zero, m, two)"
    model, _ = normalize(parsed(
        f"(float[N,3,H,W] x) => (float[N,3,P,W] y) {{ {text} }}", two=np.array([2]), three=np.array([3]),
        k=np.array([48]), zero=np.array([0])))  # fmt: skip
    assert model.shapes is not None and model.shapes.dynamic["y"] == (True, False, True, True)


def test_a_size_that_follows_what_is_fed_is_dynamic() -> None:
    text = "(float[1,2,8] x, int64[1] n) => (float[1,k,8] y) { y = Slice(x, z, n, o) }"
    model, _ = normalize(parsed(text, z=np.array([0]), o=np.array([1])))
    assert model.shapes is not None and model.shapes.dynamic["y"] == (False, True, False)


def test_channels_are_free_where_only_sides_are_padded_at_run_time() -> None:
    text = "s = Shape(a)  n = Slice(s, two, four)  m = Mod(n, k)  p = Concat<axis=0>(zeros, m)  b = Pad(a, p)"
    values = {"two": np.array([2]), "four": np.array([4]), "k": np.array([8]), "zeros": np.array([0] * 6)}
    text = f"(float[N,3,H,W] x) => (float[N,4,P,Q] y) {{ a = Conv(x, w1)  {text}  y = Conv(b, w2) }}"
    graph = analyze_proto(parsed(text, w1=(6, 3, 1, 1), w2=(4, 6, 3, 3), **values).proto())
    assert [g.label for g in graph.groups] == ["w1:0"]
    sides = {r.text for axis in (2, 3) for r in graph.find_reasons(("b", axis))}
    assert "padded by as much as is computed at run time" in sides


@pytest.mark.parametrize(
    ("text", "opset", "values"),
    [("q = Cast<to=1>(p)  s = Softmax<axis=1>(q)", 11, [[1, 2], [3, 5]]),
     ("q = Cast<to=1>(p)  s = LogSoftmax<axis=1>(q)", 11, [[1, 2], [3, 5]]),
     ("q = Cast<to=1>(p)  s = Hardmax<axis=1>(q)", 11, [[1, 2], [3, 5]]),
     ("q = Cast<to=1>(p)  r = Div(q, three)  s = Exp(r)", 18, [[1, 2], [3, 5]]),
     ("q = Div(p, minus)  s = Cast<to=1>(q)", 18, [[1, 2], [3, 5]]),
     ("q = Mod(p, minus)  s = Cast<to=1>(q)", 18, [[1, 2], [3, 5]]),
     ("q = Slice(p, before, end, , back)  s = Cast<to=1>(q)", 18, [[1, 2], [3, 5]])],
)  # fmt: skip
def test_what_is_folded_is_what_onnxruntime_computes(text: str, opset: int, values: list[list[int]]) -> None:
    used = {"three": np.array(3, np.float32), "minus": np.array(-2), "before": np.array([-9]), "end": np.array([-99]),
            "back": np.array([-1])}  # fmt: skip
    model = parsed(
        f"(float[2,2,2] x) => (float[2,2,2] y) {{ {text}  y = Mul(x, s) }}", opset,
        p=np.array([values, values[::-1]]), **{n: v for n, v in used.items() if n in text})  # fmt: skip
    feed = {"x": np.ones((2, 2, 2), np.float32)}
    wanted = run(model.proto(), feed, ["y"])[0]
    done, changes = normalize(model)
    assert changes["folded"] > 0
    assert np.array_equal(run(done.proto(), feed, ["y"])[0], wanted)


def test_functions_of_functions_are_computed_once_each() -> None:
    """Every step reads the one before it several times: 2 to the 40 paths lead back to the first."""
    steps = "  ".join(f"a{k} = Mod(m{k}, seven)  b{k} = Max(a{k}, w)  m{k + 1} = Add(b{k}, a{k})" for k in range(40))
    text = f"s = Shape(x)  m0 = Gather(s, two)  w = Gather(s, three)  {steps}  y = Identity(m40)"
    model = parsed(f"(float[N,3,H,W] x) => (int64 y) {{ {text} }}", two=np.array(2), three=np.array(3),
                   seven=np.array(7))  # fmt: skip
    table, wanted = general_of(model).table("y"), 100
    for _ in range(40):
        wanted = max(wanted % 7, 5) + wanted % 7
    assert table is not None and sizes.compute_value(table.item(), {"H": 100, "W": 5}) == wanted
    assert sizes.find_size_symbols(table.item()) == {"H", "W"}


@pytest.mark.parametrize("kind", [onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16])
def test_a_size_is_not_followed_through_a_type_that_does_not_hold_it(kind: int) -> None:
    text = f"s = Shape(x)  n = Gather(s, two)  u = Cast<to={kind}>(n)  v = Cast<to=7>(u)  y = Equal(v, n)"
    model = parsed(f"(float[N,3,H,W] x) => (bool y) {{ {text} }}", two=np.array(2))
    table = general_of(model).table("y")
    assert table is not None and sizes.compute_value(table.item(), {"H": 300, "W": 7}) is None


def test_zeros_beside_shares_of_sizes_are_floats() -> None:
    text = "s = Shape(x)  f = Cast<to=1>(s)  d = Div(f, two)  p = Pad(d, front)  a = Add(p, p)  y = Cast<to=7>(a)"
    model = parsed(f"(float[N,3,H,W] x) => (int64[5] y) {{ {text} }}", two=np.array(2, np.float32),
                   front=np.array([1, 0]))  # fmt: skip
    table = general_of(model).table("y")
    assert table is not None and table.tolist() == [0, "N", 3, "H", "W"]


def test_shares_that_floats_round_are_not_followed() -> None:
    text = "s = Shape(x)  f = Cast<to=1>(s)  a = Mul(f, c)  b = Mul(a, c)  d = Floor(b)  y = Cast<to=7>(d)"
    model = parsed(f"(float[N,3,H,W] x) => (int64[4] y) {{ {text} }}", c=np.array(255 / 256, np.float32))
    table = general_of(model).table("y")
    assert table is not None and sizes.compute_value(table[2], {"H": 64}) is None


@pytest.mark.parametrize(
    ("text", "counts"),
    [("y = Range(zero, n, one)", True), ("r = Range(zero, n, one)  y = Add(r, zero)", True),
     ("r = Range(zero, n, one)  y = Expand(r, five1)", False), ("r = Range(zero, n, one)  y = Add(r, five)", False),
     ("r = Range(zero, n, one)  b = Cast<to=9>(r)  y = Cast<to=7>(b)", False),
     ("r = Range(zero, n, one)  b = Cast<to=2>(r)  y = Cast<to=7>(b)", False),
     ("r = Range(zero, n, one)  b = Cast<to=6>(r)  y = Cast<to=7>(b)", True),
     ("z = Sub(n, n)  " + "  ".join(f"z{k} = Add(z{k - 1}, z{k - 1})" for k in range(1, 41)).replace("z0", "z")
      + "  r = Range(zero, n, one)  y = Add(r, z40)", True)],
)  # fmt: skip
def test_positions_count_only_where_they_do_for_every_size(text: str, counts: bool) -> None:
    """A row that is as long as H is one entry at H = 1, and is repeated where it meets more."""
    values = {"zero": np.array(0), "one": np.array(1), "two": np.array(2), "five1": np.array([5]), "five": np.arange(5)}
    text = f"s = Shape(x)  n = Gather(s, two)  {text}"
    used = {n: v for n, v in values.items() if f" {n})" in text or f"({n}," in text}
    model = parsed(f"(float[N,3,H,W] x) => (int64[a] y) {{ {text} }}", **used)
    index = find_index(model, model.graph.tensors()["y"], general_of(model))
    assert (index is not None and index.start == 0 and index.steps == (1,)) == counts


def test_what_is_not_followed_holds_no_symbol() -> None:
    model = parsed("(float[N,3,H,W] x) => (float[a] y) { s = Shape(x)  y = CumSum(s, zero) }", zero=np.array(0))
    table = general_of(model).table("y")
    assert table is not None and len(set(table.ravel())) == 4
    assert not any(sizes.find_size_symbols(e) for e in [*table.ravel(), sizes.make_unknown_size("x", 0)])
    assert all(sizes.format_size(e) for e in table.ravel())


def test_a_box_that_follows_the_batch_is_written_as_pieces() -> None:
    model, changes = normalize(from_proto(build(CASES["box_overwritten"]), Path("m.onnx")))
    assert changes["strides"] == 1 and not {"ScatterND", "Range"} & {n.op for n in model.graph.nodes}


# names and sizes of inputs -------------------------------------------------------------------------------------------


def inputs(**shapes: list[int | str]) -> Model:
    rows = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in shapes.items()]
    graph = helper.make_graph([helper.make_node("Identity", [next(iter(shapes))], ["y"])], "g", rows,
                              [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)])  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return from_proto(proto, Path("m.onnx"))


def test_names_that_state_a_size_are_no_symbols_of_their_own() -> None:
    model = inputs(past=["B", 4, "past", 8], mask=["B", "past + 1"], x=["B", "9", "2*past"])
    assert [s.name for s in list_symbols(model)] == ["B", "past"]
    at = {"B": 2, "past": 5}
    assert [[sizes.compute_value(a, at) for a in axes] for axes in find_input_axes(model).values()] == [
        [2, 4, 5, 8], [2, 6], [2, 9, 10]]  # fmt: skip


def test_a_name_with_a_sign_in_it_is_a_symbol_where_its_parts_are_none() -> None:
    assert [s.name for s in list_symbols(inputs(x=["batch-size", "past + now"]))] == ["batch-size", "past + now"]
    assert [s.name for s in list_symbols(inputs(x=["past", "now", "past + now"]))] == ["past", "now"]


def test_one_name_for_the_batch_and_another_axis_is_no_batch() -> None:
    assert [s.batch for s in list_symbols(inputs(x=["n", 16], adjacency=["n", "n"]))] == [False]
    assert [s.batch for s in list_symbols(inputs(x=["n", 16], z=["n", "m"]))] == [True, False]


def test_given_shapes_are_solved_for_what_names_state() -> None:
    model = inputs(mask=["B", "past + 1"], past=["B", 4, "past", 8])
    assert find_input_sizes(model, {"mask": [2, 6]}) == {"B": 2, "past": 5}
    with pytest.raises(UsageError, match="past"):
        find_input_sizes(model, {"mask": [2, 6], "past": [2, 4, 4, 8]})


@pytest.mark.parametrize("name", ["past + 1", "total"])
def test_sizes_that_have_to_agree_are_found_together(name: str) -> None:
    model = parsed(
        "(float[B,past,8] p, float[B,1,8] x, float[B,1,1] z) => (float[a,b,c] y) { k = Concat<axis=1>(p, x)"
        "  t = Transpose<perm=[0,2,1]>(k)  s = MatMul(x, t)  m = Add(s, z)  y = MatMul(m, k) }")  # fmt: skip
    model.header.graph.input[2].type.tensor_type.shape.dim[2].dim_param = name
    found, _ = normalize(model)
    assert found.shapes is not None
    a, b = ({s: pair[k] for s, pair in found.shapes.sizes.items()} for k in (0, 1))
    assert a["past"] != b["past"]
    assert name != "total" or (a["total"], b["total"]) == (a["past"] + 1, b["past"] + 1)
    told = {n: sizes.format_size(s) for n, s in found.shapes.ties.items()}
    assert told == ({"total": "past + 1"} if name == "total" else {})


def test_lengths_grow_until_the_model_runs_and_a_note_tells_them() -> None:
    proto = parsed(
        "(float[N,1,T] x) => (float[a,b,c] y) { p = Pad<mode=\"reflect\">(x, pads)  y = Conv<strides=[160]>(p, w) }",
        pads=np.array([0, 0, 200, 0, 0, 200]), w=(4, 1, 400))  # fmt: skip
    found, _ = normalize(proto)
    assert found.shapes is not None
    a, b = found.shapes.sizes["T"]
    assert 200 < a != b > 200
    assert any("T=" in note and "refused" in note for note in found.notes)
