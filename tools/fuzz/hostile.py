"""Files that are small and ask for much: sizes, rounds, calls, weights that are no numbers, data that lie elsewhere.

Each function draws one model, as bytes with the files beside it. onnxruntime may refuse or run it; the command has to
end within its limits, with a code that is documented.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz.draft import Draft, Value
from tools.fuzz.tokens import activate_plain, linear

Files = dict[str, bytes]
MANY = (1 << 20, 1 << 28, 1 << 31, (1 << 31) + 1, 1 << 40, (1 << 62), -1)


def begin(d: Draft) -> Value:
    """[1, 4, 8] behind one map, so that there is something to prune."""
    x = d.add_input("x", (d.pick([1, "N"]), 4, 8))
    return activate_plain(d, linear(d, x, 16))


def finish(d: Draft, x: Value) -> onnx.ModelProto:
    """A map behind everything, and the model."""
    d.add_output(Value(d.op("MatMul", x, d.weight(x.width(-1), 4)), (*x.axes[:-1], 4)))
    return d.model()


def write(model: onnx.ModelProto) -> Files:
    """The model as its only file."""
    return {"model.onnx": model.SerializeToString()}


def make_zeros(d: Draft, n: int, sides: tuple[int, ...] = (1, 8, 1 << 16)) -> str:
    """ConstantOfShape with one huge side."""
    return d.op("ConstantOfShape", d.ints(n, d.pick(sides)))


def double(d: Draft, x: Value) -> str:
    """A value joined with itself, again and again."""
    big = x.name
    for _ in range(d.pick([20, 28, 40, 60])):
        big = d.op("Concat", big, big, axis=1)
    return big


def add_outer(d: Draft, x: Value, n: int) -> str:
    """A column and a row, each of them small, added."""
    del x, n
    column = d.op("ConstantOfShape", d.ints(d.pick([1 << 12, 1 << 16, 1 << 18]), 1))
    return d.op("Add", column, d.op("Transpose", column, perm=[1, 0]))


def scale_up(d: Draft, x: Value, n: int, kind: str) -> str:
    """Resize, or Upsample of an old opset."""
    scales = d.constant(np.array([1, float(abs(n)), 1], np.float32))
    if kind == "Resize":
        return d.op("Resize", x, "", scales, mode="nearest")
    d.opset = 9
    return d.op("Upsample", x, scales, mode="nearest")


def count_up(d: Draft, n: int) -> str:
    """A Range that is long, empty, or has no step."""
    return d.op("Range", d.floats(0.0), d.floats(float(n)), d.floats(d.pick([1.0, 1e-3, 0.0, -1.0])))


SIZES: dict[str, tuple[tuple[int, ...], Callable[[Draft, Value, int], str]]] = {
    "ConstantOfShape": ((0, 1), lambda d, x, n: make_zeros(d, n)),
    "Expand": ((0, 1), lambda d, x, n: d.op("Expand", d.floats([1.0]), d.ints(n, 8))),
    "Tile": ((0, 1), lambda d, x, n: d.op("Tile", d.floats([[1.0]]), d.ints(n, 8))),
    "Pad": ((0, 1, 2), lambda d, x, n: d.op("Pad", x, d.ints(0, 0, 0, 0, n, 0))),
    "Resize": ((0, 1, 2), lambda d, x, n: scale_up(d, x, n, "Resize")),
    "Upsample": ((0, 1, 2), lambda d, x, n: scale_up(d, x, n, "Upsample")),
    "Range": ((0,), lambda d, x, n: count_up(d, n)),
    "EyeLike": ((0, 1), lambda d, x, n: d.op("EyeLike", make_zeros(d, n, (n, 8)), dtype=1)),
    "RandomNormal": ((0, 1), lambda d, x, n: d.op("RandomNormal", shape=[abs(n) >> d.pick([0, 8]), 8], seed=1.0)),
    "OneHot": ((0, 1), lambda d, x, n: d.op("OneHot", d.ints(0, 1), d.index(n), d.floats([0.0, 1.0]))),
    "window": ((0,), lambda d, x, n: d.op(d.pick(["HannWindow", "BlackmanWindow"]), d.index(n))),
    "Concat": ((0, 1, 2), lambda d, x, n: double(d, x)),
    "outer": ((0, 1), add_outer),
}
"""Operators that make a huge value: the axes over which it is summed up, and how it is made."""


def ask_for_size(d: Draft) -> Files:
    """A value of a huge size, summed up and added to what the model computes."""
    x = begin(d)
    form = d.pick(list(SIZES))
    d.tags.append(form)
    axes, make = SIZES[form]
    total = d.op("ReduceSum", make(d, x, d.pick(MANY)), d.ints(*axes), keepdims=0)
    return write(finish(d, x.become(d.op("Add", x, d.op("Mul", total, d.floats(1e-9))))))


def ask_for_rounds(d: Draft) -> Files:
    """A Loop of very many rounds, or one that never ends by itself."""
    x = begin(d)
    rounds = d.pick([10**4, 10**6, 10**9, 1 << 62])
    state, go = d.name_value("state"), d.name_value("go")
    c = x.width(-1)
    with d.body() as body:
        y = d.op("Mul", state, d.floats(0.999))
        if d.chance(0.3):
            y = d.op("Tanh", d.op("MatMul", y, d.weight(c, c, fan=c)))
        again = d.op("Identity", go)
    body.input.extend(
        [
            d.describe(d.name_value("round"), TensorProto.INT64, []),
            d.describe(go, TensorProto.BOOL, []),
            d.describe(state),
        ]
    )
    body.output.extend([d.describe(again, TensorProto.BOOL, []), d.describe(y)])
    trips = d.index(rounds) if d.chance(0.8) else ""
    return write(finish(d, x.become(d.op("Loop", trips, d.constant(np.array(True)), x, body=body))))


def ask_for_calls(d: Draft) -> Files:
    """Local functions that call the next one twice, or themselves, or each other."""
    x = begin(d)
    deep, form = d.pick([5, 12, 25, 60]), d.pick(["twice", "twice", "itself", "circle"])
    for k in range(deep):
        inner = f"F{k + 1}" if k + 1 < deep else {"itself": f"F{k}", "circle": "F0"}.get(form, "")
        if inner:
            nodes = [
                helper.make_node(inner, ["x"], ["a"], domain="local"),
                helper.make_node(inner, ["a"], ["y"], domain="local"),
            ]
        else:
            nodes = [helper.make_node("Relu", ["x"], ["y"])]
        imports = [helper.make_opsetid("", d.opset), helper.make_opsetid("local", 1)]
        d.functions.append(helper.make_function("local", f"F{k}", ["x"], ["y"], nodes, imports))
    return write(finish(d, x.become(d.op("F0", x, domain="local"))))


def ask_for_nodes(d: Draft) -> Files:
    """Very many nodes, or members: a chain, a Split into many, a Concat of many, an If in an If."""
    x = begin(d)
    form = d.pick(["chain", "split", "concat", "nested"])
    d.tags.append(form)
    if form == "chain":
        for _ in range(d.pick([200, 1000, 3000])):
            x = x.become(d.op("Relu", x))
    elif form == "split":
        n = d.pick([64, 512])
        wide = Value(d.op("MatMul", x, d.weight(16, n)), (*x.axes[:-1], n))
        parts = d.ops("Split", wide, d.ints(*[1] * n), count=n, axis=2)
        x = wide.become(d.op("Concat", *d.rng.sample(parts, n), axis=2))
    elif form == "concat":
        n = d.pick([50, 200])
        x = x.become(d.op("Concat", *(d.op("MatMul", x, d.weight(16, 4)) for _ in range(n)), axis=2), 4 * n)
    else:
        x = x.become(_nest(d, x, d.pick([3, 8, 30])))
    return write(finish(d, x))


def _nest(d: Draft, x: Value, deep: int) -> str:
    """An If whose branches hold an If, and so on."""
    condition = d.op("Greater", d.reduce("ReduceSum", x, 0, 1, 2, keep=False), d.floats(0.0))
    bodies = []
    for k in (0, 1):
        with d.body() as body:
            out = _nest(d, x, deep - 1) if deep and k == 0 else d.op("Mul", x, d.floats(0.5 + k))
        body.output.append(d.describe(out))
        bodies.append(body)
    return d.op("If", condition, then_branch=bodies[0], else_branch=bodies[1])


def ask_for_weights(d: Draft) -> Files:
    """Weights that are infinite, NaN, denormal or huge."""
    x = begin(d)
    y = activate_plain(d, linear(d, x, 16))
    y = y.become(d.op(d.pick(["Exp", "Relu", "Sqrt", "Log", "Reciprocal", "Softplus"]), linear(d, y, 12)), 12)
    model = finish(d, y)
    value = d.pick([np.inf, -np.inf, np.nan, 1e-45, 1e38, 1e19, -0.0])
    tensors = [t for t in model.graph.initializer if t.data_type in (1, 10)]
    for t in d.rng.sample(tensors, min(len(tensors), d.pick([1, 2]))):
        a = numpy_helper.to_array(t).copy()
        with np.errstate(over="ignore"):
            if d.chance(0.5) or not a.ndim:
                a[...] = a * a.dtype.type(value) if np.isfinite(value) else a.dtype.type(value)
            else:
                a.flat[d.rng.randrange(a.size)] = value
        t.CopyFrom(numpy_helper.from_array(a, t.name))
    return write(model)


def break_external_data(d: Draft) -> Files:
    """Weights in a file beside the model, at places that are wrong in some way."""
    d.constant_nodes = False
    model = finish(d, begin(d))
    data, out = bytearray(), Files()
    for t in model.graph.initializer:
        if len(t.raw_data) < 64:
            continue
        place = {"location": "weights.bin", "offset": str(len(data)), "length": str(len(t.raw_data))}
        data += t.raw_data
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            t.external_data.add(key=key, value=value)
    broken = [e for t in model.graph.initializer for e in t.external_data]
    if broken and d.chance(0.85):
        e = d.pick(broken)
        wrong = {
            "offset": ["-1", "x", "1e3", str(1 << 40), "", "7", "0x10", "١"],
            "length": ["-5", "y", "0", str(1 << 62), "", "3"],
            "location": [
                "../secret.bin",
                "/etc/hostname",
                "nowhere.bin",
                "a\0b",
                "",
                ".",
                "weights.bin/",
                "model.onnx",
                "link.bin",
            ],
        }
        e.value = d.pick(wrong[e.key])
        if d.chance(0.2):
            e.key = "segment" if d.chance(0.5) else "checksum"
    if d.chance(0.3):
        data = data[: d.rng.randrange(len(data) + 1)]
    out["weights.bin"] = bytes(data)
    if d.chance(0.2):
        t = d.pick(list(model.graph.initializer))
        t.segment.begin, t.segment.end = 0, d.pick([0, 5, 1 << 40])
    return {**write(model), **out}


def break_sparse(d: Draft) -> Files:
    """Sparse weights: right ones, and ones with sizes or places that lie."""
    d.constant_nodes = False
    model = finish(d, begin(d))
    t = d.pick(
        [t for t in model.graph.initializer if len(t.dims) == 2 and t.data_type == 1]
        or list(model.graph.initializer)[:1]
    )
    a = numpy_helper.to_array(t)
    name, flat = t.name, a.ravel()
    places = np.flatnonzero(d.numbers.random(flat.size) < 0.5).astype(np.int64)
    values = numpy_helper.from_array(flat[places] if flat.size else flat, name)
    dims = list(a.shape)
    how = d.pick(["right", "right", "rows", "place", "order", "empty"])
    if how == "rows" and dims:
        dims[0] = d.pick([1 << 30, 1 << 40, -1, 0])
    elif how == "place" and places.size:
        places[0] = d.pick([-1, 1 << 40, flat.size])
    elif how == "order":
        places = places[::-1].copy()
    elif how == "empty":
        places = places[:0]
    sparse = onnx.SparseTensorProto(values=values, indices=numpy_helper.from_array(places, "places"), dims=dims)
    model.graph.initializer.remove(t)
    model.graph.sparse_initializer.append(sparse)
    return write(model)


def lie_about_nodes(d: Draft) -> Files:
    """Nodes that cannot run, or read what they cannot read."""
    x = begin(d)
    form = d.pick(["condition", "negative", "gather", "dead", "attribute"])
    d.tags.append(form)
    if form == "condition":
        with d.body() as body:
            out = d.op("Identity", x)
        body.output.append(d.describe(out))
        x = x.become(d.op("If", d.floats(1.0), then_branch=body, else_branch=body))
    elif form == "negative":
        x = x.become(d.op("Reshape", x, d.ints(d.pick([-2, 0, 1 << 40]), 4, 16)))
    elif form == "gather":
        x = x.become(d.op("GatherND", x, d.constant(np.zeros((1, 1), np.int64)), batch_dims=d.pick([-9, 3, 99, 1])))
    elif form == "dead":
        d.op(d.pick(["MatMul", "Reshape", "NonZero", "Unknown", "Gather"]), x, d.ints(3, 7))
    model = finish(d, x)
    if form == "attribute":
        value: Any = d.pick([1 << 62, -99, "text", 0.5, [1, 2]])
        name = d.pick(["axis", "axes", "to", "perm", "made_up", "alpha"])
        d.pick(list(model.graph.node)).attribute.append(helper.make_attribute(name, value))
    return write(model)


def lie_about_types(d: Draft) -> Files:
    """Element types, dims, names and versions that say something else than the data."""
    model = finish(d, begin(d))
    form = d.pick(["type", "dims", "name", "input", "version"])
    d.tags.append(form)
    t = d.pick(list(model.graph.initializer) or [TensorProto()])
    if form == "type":
        t.data_type = d.pick([0, 8, 16, 17, 22, 99, -1])
    elif form == "dims":
        t.dims[:] = d.pick([[1 << 40], [-1], [0], [1 << 31, 1 << 31, 4], [3]])
    elif form == "name":
        name = d.pick([o for n in model.graph.node for o in (n.name, *n.output) if len(o) > 2]).encode()
        return {"model.onnx": model.SerializeToString().replace(name, b"\xff\xfe" + name[2:])}
    elif form == "input":
        kind = model.graph.input[0].type.tensor_type
        kind.elem_type = d.pick([0, 1, 7, 8, 16, 99])
        d.pick(list(kind.shape.dim)).dim_value = d.pick([0, -1, 1 << 31, 1 << 40])
    else:
        model.opset_import[0].version = d.pick([0, -1, 1, 5, 99, 1 << 40])
        model.ir_version = d.pick([0, 3, 99, model.ir_version])
    return write(model)


def collide_names(d: Draft) -> Files:
    """Names that a compiler makes up are taken already."""
    x = begin(d)
    c = d.weight(16)
    y = x.become(d.op("Add", d.op("Mul", x, c), c))
    y = y.become(d.op("Sub", y, d.weight(16)))
    model = finish(d, y)
    names = [t.name for t in model.graph.initializer] + [o for n in model.graph.node for o in n.output]
    old, base = d.pick([n for n in names if n != c]), d.pick(names)
    new = base + d.pick([".use1", ".patch", ".shape", ".operand0", ".keep", ".mask", "_0", ".1", ".use2"])
    for k, n in enumerate(model.graph.node):
        n.input[:] = [new if i == old else i for i in n.input]
        n.output[:] = [new if i == old else i for i in n.output]
        if d.chance(0.3):
            n.name = d.pick(["", new]) if k == 0 else ""
    for o in model.graph.output:
        o.name = new if o.name == old else o.name
    for t in model.graph.initializer:
        t.name = new if t.name == old else t.name
    return write(model)


HOSTILE: list[Callable[[Draft], Files]] = [
    ask_for_size, ask_for_size, ask_for_size, ask_for_rounds, ask_for_calls, ask_for_nodes, ask_for_weights,
    ask_for_weights, break_external_data, break_external_data, break_sparse, lie_about_types, lie_about_nodes,
]  # fmt: skip
