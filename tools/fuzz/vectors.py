"""Blocks of feature vectors, [N, C], and what a model begins and ends with."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tools.fuzz.draft import Draft, Value
from tools.fuzz.images import Block, activate
from tools.fuzz.tokens import add_branches, linear


def add_dense(d: Draft, x: Value) -> Value:
    """Gemm or MatMul, with BatchNorm by chance."""
    out, c = d.draw_width(), x.width(1)
    if d.chance(0.5):
        turned = d.pick([0, 1])
        w = d.weight(*((out, c) if turned else (c, out)), fan=c)
        y = x.become(d.op("Gemm", x, w, *([d.weight(out)] if d.chance(0.8) else []), transB=turned), out, 1)
    else:
        y = linear(d, x, out)
    if d.chance(0.2):
        y = y.become(d.op("BatchNormalization", y, d.positive(out), d.weight(out), d.weight(out), d.positive(out)))
    return activate(d, y)


def add_residual(d: Draft, x: Value) -> Value:
    inner = activate(d, linear(d, x, d.draw_width()))
    return x.become(d.op("Add", x, linear(d, inner, x.width(1))))


def add_cross(d: Draft, x: Value) -> Value:
    """Products of all pairs of pieces (factorisation machines): a Gram matrix, its triangle, joined with x."""
    y = linear(d, x, 12)
    pieces = d.reshape(y, [d.entry(x, 0, 0), 3, d.pick([4, -1])], (x.axes[0], 3, 4))
    gram = d.op("MatMul", pieces, d.transpose(pieces, 0, 2, 1))
    flat = d.op("Reshape", gram, d.shape(d.entry(x, 0, 0), d.pick([9, -1])))
    some = Value(d.op("Gather", flat, d.ints(3, 6, 7), axis=1), (x.axes[0], 3))
    return d.concat([x, some], 1, x.width(1) + 3)


def add_pieces(d: Draft, x: Value) -> Value:
    """Every feature is a part of its own, as a Python loop writes it, and all are joined."""
    c = x.width(1)
    parts = [d.slice(x, 1, k, k + 1, 1) for k in range(min(c, 4))]
    wide = [p.become(d.op("MatMul", p, d.weight(1, 3)), 3, 1) for p in parts]
    return d.concat(wide, 1, 3 * len(wide))


def add_choice(d: Draft, x: Value) -> Value:
    """An If on the batch size, or on the sum of the values."""
    if d.chance(0.5):
        condition = d.squeeze(d.op("Greater", d.size(x, 0), d.ints(d.pick([1, 2, 4]))), 0)
    else:
        total = d.reduce("ReduceSum", x, 0, 1, keep=False)
        condition = d.op("Greater", total, d.floats(0.0))
    return x.become(add_branches(d, x, condition, d.chance(0.7)))


def add_outer(d: Draft, x: Value) -> Value:
    """The outer product of two short vectors, flat."""
    p, q = linear(d, x, 3), linear(d, x, 4)
    outer = d.op("Mul", d.unsqueeze(p, 2), d.unsqueeze(q, 1))
    return d.reshape(Value(outer, (x.axes[0], 3, 4)), [d.entry(x, 0, 0), d.pick([12, -1])], (x.axes[0], 12))


def add_scaled(d: Draft, x: Value) -> Value:
    """Divided by its length."""
    d.exact = False
    form = d.pick(["norm", "operator", "softmax"])
    if form == "operator":
        return x.become(d.op("LpNormalization", x, axis=1)) if not d.half else x
    if form == "softmax":
        return x.become(d.op("Softmax", x, axis=1))
    length = d.reduce("ReduceL2", x, 1)
    return x.become(d.op("Div", x, d.op("Clip", length, d.floats(1e-6))))


def add_mixture(d: Draft, x: Value) -> Value:
    """Experts by a soft gate: one Einsum over stacked weights."""
    c, k, out = x.width(1), 3, d.draw_width()
    gate = d.op("Softmax", d.op("MatMul", x, d.weight(c, k, fan=c)), axis=1)
    if d.chance(0.5):
        y = d.op("Einsum", x, d.weight(k, c, out, fan=c), equation="nc,kco->nko")
    else:
        y = d.op("Transpose", d.op("MatMul", x, d.weight(k, c, out, fan=c)), perm=[1, 0, 2])
    y = d.op("Mul", y, d.unsqueeze(gate, 2))
    return x.become(d.reduce("ReduceSum", y, 1, keep=False), out, 1)


VECTORS: list[Block] = [
    add_dense, add_dense, add_residual, add_cross, add_pieces, add_choice, add_outer, add_scaled, add_mixture,
]  # fmt: skip


# what a model ends with ---


def end_plain(d: Draft, x: Value) -> None:
    d.add_output(linear(d, x, 5))


def end_classes(d: Draft, x: Value) -> None:
    """Probabilities, and perhaps what led there."""
    y = linear(d, x, 5)
    if d.chance(0.3):
        d.add_output(y)
    d.add_output(y.become(d.op("Softmax", y, axis=-1)))


def end_best(d: Draft, x: Value) -> None:
    """The best class, as a number or a word, beside the scores."""
    y = linear(d, x, 5)
    d.add_output(y)
    best = d.op("ArgMax", y, axis=-1, keepdims=0)
    if d.half or d.chance(0.5):
        d.add_output(Value(best, y.axes[:-1]), TensorProto.INT64)
        return
    words = d.op("LabelEncoder", best, domain="ai.onnx.ml", keys_int64s=list(range(5)), values_strings=list("abcde"))
    d.add_output(Value(words, y.axes[:-1]), TensorProto.STRING)


def end_zipmap(d: Draft, x: Value) -> None:
    """ZipMap: a list of maps from labels to probabilities, as skl2onnx writes it."""
    if x.rank != 2 or d.half:
        return end_classes(d, x)
    return add_zipmap(d, Value(d.op("Softmax", linear(d, x, 3), axis=1), (x.axes[0], 3)))


def add_zipmap(d: Draft, p: Value) -> None:
    """An output that is a list of maps, from three labels to probabilities."""
    words = d.chance(0.5)
    labels = {"classlabels_strings": list("abc")} if words else {"classlabels_int64s": [0, 1, 2]}
    z = d.op("ZipMap", p, domain="ai.onnx.ml", **labels)
    value = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    each = helper.make_map_type_proto(TensorProto.STRING if words else TensorProto.INT64, value)
    d.outputs.append(helper.make_value_info(z, helper.make_sequence_type_proto(each)))


def end_sequence(d: Draft, x: Value) -> None:
    """A sequence of tensors."""
    y = linear(d, x, 4)
    z = d.op("SequenceConstruct", y, y.become(d.op("Relu", y)))
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(d.float_type, None))
    d.outputs.append(helper.make_value_info(z, kind))


def end_two(d: Draft, x: Value) -> None:
    """Two heads; one may be huge, or dead."""
    d.add_output(linear(d, x, 5))
    y = activate(d, linear(d, x, d.draw_width()))
    d.add_output(Value(d.op("Mul", linear(d, y, 3), d.floats(d.pick([1.0, 1.0, 1000.0, 0.0]))), (*x.axes[:-1], 3)))


def end_optional(d: Draft, x: Value) -> None:
    """An optional output."""
    y = linear(d, x, 4)
    if d.opset < 15 or d.half:
        return d.add_output(y)
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(d.float_type, None))
    d.outputs.append(helper.make_value_info(d.op("Optional", y), kind))
    return d.add_output(y.become(d.op("Relu", y)))


def end_several(d: Draft, x: Value) -> None:
    """The largest scores and where they are."""
    y = linear(d, x, 6)
    values, _ = d.ops("TopK", y, d.ints(3), count=2)
    d.add_output(y)
    d.add_output(y.become(values, 3))


ENDS = [
    end_plain,
    end_plain,
    end_plain,
    end_classes,
    end_best,
    end_zipmap,
    end_sequence,
    end_two,
    end_optional,
    end_several,
]


def flatten_image(d: Draft, x: Value) -> Value:
    """[N, C, H, W] to [N, C]."""
    c, form = x.width(1), d.pick(["pool", "mean", "max", "flat"])
    if form == "flat":  # to 2 by 2, and flat
        mean = d.op("GlobalAveragePool", x)
        most = d.op("GlobalMaxPool", x)
        both = Value(d.op("Concat", mean, most, axis=2), (x.axes[0], c, 2, 1))
        shape = (
            d.op("Flatten", both)
            if d.chance(0.5)
            else d.reshape(both, [d.entry(x, 0, 0), d.pick([-1, 2 * c])], (x.axes[0], 2 * c)).name
        )
        return Value(shape, (x.axes[0], 2 * c))
    if form == "max":
        return Value(d.reduce("ReduceMax", x, 2, 3, keep=False), (x.axes[0], c))
    if form == "mean":
        return Value(d.reduce("ReduceMean", x, 2, 3, keep=False), (x.axes[0], c))
    mean = Value(d.op("GlobalAveragePool", x), (x.axes[0], c, 1, 1))
    if d.chance(0.3):
        return Value(d.squeeze(mean, 2, 3), (x.axes[0], c))
    return d.reshape(mean, d.leave_open(d.entry(x, 0, 0), c), (x.axes[0], c))


def flatten_tokens(d: Draft, x: Value) -> Value:
    """[N, T, C] to [N, C]."""
    form = d.pick(["mean", "first", "last", "max"])
    axes = (x.axes[0], x.axes[2])
    if form in ("mean", "max"):
        return Value(d.reduce({"mean": "ReduceMean", "max": "ReduceMax"}[form], x, 1, keep=False), axes)
    return Value(d.op("Gather", x, d.index(0 if form == "first" else -1), axis=1), axes)


def image_to_tokens(d: Draft, x: Value) -> Value:
    """Patches: [N, C, H, W] to [N, H W, C]."""
    flat = d.reshape(x, [d.entry(x, 0, 0), d.pick([x.width(1), 0]), -1], (x.axes[0], x.axes[1], d.name_size()))
    return d.transpose(flat, 0, 2, 1)


# what a model begins with ---


def begin_ids(d: Draft) -> Value:
    """Token ids in a table; positions of types beside it by chance."""
    c = d.draw_width()
    kind = d.pick(["int64", "int64", "int32"])
    ids = d.add_input("ids", (d.draw_size("N", 2), d.draw_size("T", 7)), kind, 0, 19)
    x = Value(d.op("Gather", d.weight(20, c, fan=1), ids), (*ids.axes, c))
    if d.chance(0.3):
        types = d.add_input("types", ids.axes, "int64", 0, 1)
        x = x.become(d.op("Add", x, d.op("Gather", d.weight(2, c, fan=1), types)))
    return x


def begin_offsets(d: Draft) -> Value:
    """Several features in one table, each with an offset: ids are added, multiplied, or taken modulo."""
    c, form = d.draw_width(), d.pick(["add", "mul", "mod", "sub"])
    high = {"add": 4, "mul": 2, "mod": 30, "sub": 4}[form]
    ids = d.add_input("columns", (d.draw_size("N", 2), 3), "int64", 0, high)
    if form == "add":
        places = d.op("Add", ids, d.ints(0, 5, 10))
    elif form == "mul":
        places = d.op("Add", d.op("Mul", ids, d.ints(5, 5, 5)), d.ints(0, 1, 2))
    elif form == "sub":
        places = d.op("Sub", d.ints(14, 9, 4), ids)
    else:
        places = d.op("Mod", ids, d.ints(15))
    return Value(d.op("Gather", d.weight(15, c, fan=1), places), (*ids.axes, c))


def begin_decoder(d: Draft) -> Value:
    """A decoder's step: one new token beside a past of keys and values."""
    c, h, k = d.draw_width(), 2, d.pick([2, 4])
    n = d.draw_size("N", 1)
    ids = d.add_input("ids", (n, 1), "int64", 0, 19)
    past = [d.add_input(f"past.{s}", (n, h, "P", k)) for s in ("key", "value")]
    x = Value(d.op("Gather", d.weight(20, c, fan=1), ids), (n, 1, c))
    q, *new = (
        d.transpose(d.reshape(linear(d, x, h * k), [d.entry(x, 0, 0), d.pick([1, -1]), h, k], (n, 1, h, k)), 0, 2, 1, 3)
        for _ in range(3)
    )
    key, value = (Value(d.op("Concat", p, v, axis=2), (n, h, d.name_size(), k)) for p, v in zip(past, new, strict=True))
    scores = d.op("MatMul", q, d.transpose(key, 0, 1, 3, 2))
    if d.chance(0.5):
        mask = d.add_input("mask", (n, "P + 1"), "int64", 1, 1)
        seen = d.op("Cast", d.unsqueeze(mask, 1, 2), to=TensorProto.BOOL)
        scores = d.op("Where", seen, scores, d.floats(-1e4))
    o = d.op("MatMul", d.op("Softmax", scores, axis=-1), value)
    y = d.reshape(Value(d.op("Transpose", o, perm=[0, 2, 1, 3]), (n, 1, h, k)), [0, 0, h * k], (n, 1, h * k))
    for v in (key, value):
        d.add_output(v)
    return x.become(d.op("Add", x, linear(d, y, c)))


def begin_nodes(d: Draft) -> Value:
    """Nodes of a graph and their adjacency: two rounds of messages."""
    n = d.draw_size("n", 5)
    x, a = d.add_input("x", (n, 8)), d.add_input("A", (n, n), "", 0, 1)
    for _ in range(2):
        y = linear(d, x, d.draw_width())
        x = activate(d, y.become(d.op("MatMul", a, y)))
    return x


def begin_optional(d: Draft) -> Value:
    """An input with a default, which may be left out."""
    x = d.add_input("x", (d.draw_size("N", 2), 8))
    scale = d.floats(1 + d.numbers.random(8), "scale")
    y = x.become(d.op("Mul", x, scale))
    if not d.constant_nodes:
        d.inputs[scale] = type(d.inputs["x"])((8,), d.inputs["x"].kind)
    return y


def make_masked_pool(d: Draft, x: Value) -> Value:
    """The mean over tokens that a mask shows."""
    if "mask" in d.inputs or not d.can_say(x.axes[1]):
        return flatten_tokens(d, x)
    mask = d.add_input("mask", x.axes[:2], d.pick(["int64", "bool"]), 0, 1)
    shown = d.unsqueeze(d.op("Cast", mask, to=d.float_type), 2)
    total = d.reduce("ReduceSum", d.op("Mul", x, shown), 1, keep=False)
    many = d.op("Max", d.reduce("ReduceSum", shown, 1, keep=False), d.floats(1.0))
    return Value(d.op("Div", total, many), (x.axes[0], x.axes[2]))


__all__ = ["ENDS", "VECTORS", "np"]
