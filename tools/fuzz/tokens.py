"""Blocks of tokens, [N, T, C]: linear maps, norms, attention in the ways it is written, positions, masks."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto, helper

from tools.fuzz.draft import Draft, Size, Value
from tools.fuzz.images import Block, activate, divisors


def linear(d: Draft, x: Value, out: int, bias: bool | None = None) -> Value:
    """A MatMul, or a Gemm over flat rows."""
    c = x.width(-1)
    if x.rank == 3 and d.chance(0.1):
        flat = d.reshape(x, [-1, c], (d.name_size(), c))
        y = d.op("Gemm", flat, d.weight(out, c), d.weight(out), transB=1)
        return d.reshape(
            Value(y, (flat.axes[0], out)), [d.entry(x, 0, 9), d.entry(x, 1, 9), d.pick([out, -1])], (*x.axes[:2], out)
        )
    w = d.op("Transpose", d.weight(out, c), perm=[1, 0]) if d.chance(0.15) else d.weight(c, out, fan=c)
    y = x.become(d.op("MatMul", x, w), out)
    if bias is False or (bias is None and d.chance(0.3)):
        return y
    return y.become(d.op("Add", *d.pick([(y, d.weight(out)), (d.weight(out), y)])))


def normalize_layer(d: Draft, x: Value) -> Value:
    """LayerNorm as an operator, or written out; the mean square only, by chance.

    A written-out mean carries the gain's name, so that the oracle can take it over the channels that stay.
    """
    c = x.width(-1)
    gain, shift = d.floats(1 + 0.3 * d.numbers.standard_normal(c), "gain"), d.weight(c, name="shift")
    form = d.pick(["operator", "operator", "written", "square"])
    if form == "operator" and d.opset >= 17:
        return x.become(d.op("LayerNormalization", x, gain, shift, axis=-1, epsilon=1e-3))
    if form == "square":
        square = d.op("Mul", x, x) if d.chance(0.5) else d.op("Pow", x, d.floats(2.0))
        root = d.op("Sqrt", d.op("Add", d.reduce("ReduceMean", square, -1, node=f"mean over {gain}"), d.floats(1e-3)))
        if d.chance(0.5):
            return x.become(d.op("Mul", d.op("Div", x, root), gain))
        return x.become(d.op("Mul", gain, d.op("Mul", x, d.op("Reciprocal", root))))
    centred = d.op("Sub", x, d.reduce("ReduceMean", x, -1, node=f"mean over {gain}"))
    variance = d.reduce("ReduceMean", d.op("Pow", centred, d.floats(2.0)), -1, node=f"mean over {gain} again")
    y = d.op("Div", centred, d.op("Sqrt", d.op("Add", variance, d.floats(1e-3))))
    return x.become(d.op("Add", d.op("Mul", y, gain), shift))


def add_linear(d: Draft, x: Value) -> Value:
    return activate(d, linear(d, x, d.draw_width()))


def add_norm(d: Draft, x: Value) -> Value:
    return normalize_layer(d, x)


def add_feed_forward(d: Draft, x: Value) -> Value:
    """Norm, up, activation, down, and x again; or gated."""
    wide = d.draw_width()
    h = normalize_layer(d, x) if d.chance(0.7) else x
    if d.chance(0.3):
        gate = linear(d, h, wide)
        y = gate.become(d.op("Mul", d.op("Mul", gate, d.op("Sigmoid", gate)), linear(d, h, wide)))
    elif d.chance(0.3):
        p, q = d.split(linear(d, h, 2 * wide), [wide, wide], -1 if d.chance(0.5) else 2)
        y = p.become(d.op("Mul", p, d.op("Sigmoid", q)))
    else:
        y = activate(d, linear(d, h, wide))
    return x.become(d.op("Add", x, linear(d, y, x.width(-1))))


def add_fused_operators(d: Draft, x: Value) -> Value:
    """Operators of com.microsoft, as onnxruntime's optimiser writes them."""
    c = x.width(-1)
    if d.half:
        return add_feed_forward(d, x)
    kind = d.pick(["SkipLayerNormalization", "BiasGelu", "QuickGelu", "FusedMatMul", "FastGelu"])
    if kind == "SkipLayerNormalization":
        other = linear(d, x, c)
        gain = d.floats(1 + 0.3 * d.numbers.standard_normal(c), "stat")
        given = (x, other, gain, d.weight(c, name="stat"), d.weight(c))
        return x.become(d.op(kind, *given, domain="com.microsoft", epsilon=1e-3))
    wide = d.draw_width()
    if kind == "FusedMatMul":
        y = x.become(d.op(kind, x, d.weight(wide, c), domain="com.microsoft", transB=1, alpha=0.5), wide)
    else:
        y = x.become(d.op("MatMul", x, d.weight(c, wide, fan=c)), wide)
        y = y.become(d.op(kind, y, *([d.weight(wide)] if kind != "QuickGelu" else []), domain="com.microsoft"))
    return x.become(d.op("Add", x, linear(d, y, c)))


def add_attention(d: Draft, x: Value) -> Value:
    """Self-attention, its heads split and merged in one of many ways."""
    t = x.axes[1]
    h, k = d.pick([(1, 4), (2, 3), (2, 4), (4, 2), (3, 4)])
    source = normalize_layer(d, x) if d.chance(0.5) else x
    form = d.pick(["four", "four", "batch", "batch", "first", "fused"])
    d.tags.append(form)
    q, key, v = split_heads(d, source, form, h, k)
    last = q.rank - 1
    turn = [*range(last - 1), last, last - 1]
    q = q.become(d.op("Mul", q, d.floats(k**-0.5)))
    scores = Value(d.op("MatMul", q, d.transpose(key, *turn)), (*q.axes[:-1], t))
    scores = mask_scores(d, x, scores)
    p = scores.become(d.op("Softmax", scores, axis=-1))
    o = Value(d.op("MatMul", p, v), q.axes)
    y = merge_heads(d, x, o, form, h, k)
    return x.become(d.op("Add", x, linear(d, y, x.width(-1))))


def split_heads(d: Draft, x: Value, form: str, h: int, k: int) -> list[Value]:
    """Queries, keys and values: [N, h, T, k], or [N h, T, k]."""
    n, t, inner = x.axes[0], x.axes[1], h * k
    e0, e1 = d.entry(x, 0, 0), d.entry(x, 1, 1)
    if form == "fused":
        y = linear(d, x, 3 * inner)
        y = d.reshape(y, [d.entry(x, 0, 0), d.entry(x, 1, 1), 3, h, d.pick([k, -1])], (n, t, 3, h, k))
        y = d.transpose(y, 2, 0, 3, 1, 4)
        return [Value(d.op("Gather", y, d.index(i), axis=0), (n, h, t, k)) for i in range(3)]
    if d.chance(0.3):
        parts = d.split(linear(d, x, 3 * inner), [inner] * 3, 2)
    else:
        parts = [linear(d, x, inner) for _ in range(3)]
    if form == "first":  # torch.nn.MultiheadAttention: length first, heads in the batch
        both = d.times(d.entry(x, 0, 9), h)
        turned = [d.transpose(p, 1, 0, 2) for p in parts]
        open_ = [
            d.reshape(
                p,
                d.pick([[d.entry(x, 1, 9), both, k], [-1, both, k], [d.entry(x, 1, 9), both, -1]]),
                (t, d.name_size(), k),
            )
            for p in turned
        ]
        return [d.transpose(p, 1, 0, 2) for p in open_]
    spread = [
        d.reshape(p, [e0, d.pick([e1, -1]), h, k] if d.chance(0.7) else [e0, e1, h, -1], (n, t, h, k)) for p in parts
    ]
    heads = [d.transpose(p, 0, 2, 1, 3) for p in spread]
    if form == "four":
        return heads
    both = d.times(d.entry(x, 0, 9), h)
    rest = d.pick([[both, -1, k], [both, d.entry(x, 1, 9), k], [both, d.entry(x, 1, 9), -1], [-1, d.entry(x, 1, 9), k]])
    return [d.reshape(p, rest, (d.name_size(), t, k)) for p in heads]


def merge_heads(d: Draft, x: Value, o: Value, form: str, h: int, k: int) -> Value:
    """The way back to [N, T, h k]."""
    n, t = x.axes[0], x.axes[1]
    if form == "first":
        o = d.transpose(o, 1, 0, 2)
        y = d.reshape(o, [d.entry(x, 1, 9), d.entry(x, 0, 9), d.pick([h * k, -1])], (t, n, h * k))
        return d.transpose(y, 1, 0, 2)
    if form == "batch":
        o = d.reshape(
            o,
            d.pick(
                [[d.entry(x, 0, 9), h, d.entry(x, 1, 9), k], [-1, h, d.entry(x, 1, 9), k], [d.entry(x, 0, 9), h, -1, k]]
            ),
            (n, h, t, k),
        )
    o = d.transpose(o, 0, 2, 1, 3)
    return d.reshape(
        o,
        d.pick(
            [
                [d.entry(x, 0, 0), d.entry(x, 1, 1), h * k],
                [0, 0, h * k],
                [0, 0, -1],
                [d.entry(x, 0, 9), d.entry(x, 1, 9), -1],
            ]
        ),
        (n, t, h * k),
    )


def mask_scores(d: Draft, x: Value, scores: Value) -> Value:
    """Scores under a mask: none, causal by Trilu or by positions, an input, or a bias by distance."""
    form = d.pick(["none", "none", "causal", "positions", "input", "bias"])
    length = d.size(x, 1)
    if form == "causal" and not d.half:
        ones = d.op(
            "ConstantOfShape",
            d.op("Concat", length, length, axis=0),
            value=helper.make_tensor("v", TensorProto.FLOAT, [1], [-1e4]),
        )
        return scores.become(d.op("Add", scores, d.op("Trilu", ones, d.index(1), upper=1)))
    if form == "positions":
        steps = d.op("Range", d.index(0), d.squeeze(length, 0), d.index(1))
        later = d.op("Less", d.unsqueeze(steps, 1), d.unsqueeze(steps, 0))
        return scores.become(d.op("Where", later, d.floats(-1e4), scores))
    if form == "input" and "mask" not in d.inputs and d.can_say(x.axes[1]):
        mask = d.add_input("mask", x.axes[:2], "int64", 0, 1)
        lowest = float(np.finfo(np.float16 if d.half else np.float32).min) / d.pick([1, 1e4])
        hidden = d.op("Sub", d.floats(1.0), d.op("Cast", mask, to=d.float_type))
        heads = 1 if scores.rank == 4 else scores.width(-3) if isinstance(scores.axes[-3], int) else 0
        if not heads:
            return scores
        shown = d.op("Mul", d.unsqueeze(hidden, *([1, 2] if scores.rank == 4 else [1])), d.floats(lowest))
        return scores.become(d.op("Add", scores, shown)) if scores.rank == 4 else scores
    if form == "bias" and scores.rank == 4 and isinstance(scores.axes[1], int):
        steps = d.op("Range", d.index(0), d.squeeze(length, 0), d.index(1))
        far = d.op("Sub", d.unsqueeze(steps, 1), d.unsqueeze(steps, 0))
        near = d.op("Add", d.op("Clip", far, d.index(-4), d.index(4)), d.index(4))
        table = d.op("Gather", d.weight(9, scores.axes[1]), near)
        return scores.become(d.op("Add", scores, d.unsqueeze(d.op("Transpose", table, perm=[2, 0, 1]), 0)))
    return scores


def add_grouped_query(d: Draft, x: Value) -> Value:
    """More query heads than key heads; keys are repeated by Expand or Tile."""
    n, t = x.axes[:2]
    groups, each, k = 2, d.pick([1, 2, 3]), d.pick([2, 4])
    q = d.reshape(linear(d, x, groups * each * k), [0, 0, groups * each, k], (n, t, groups * each, k))
    q = d.transpose(q, 0, 2, 1, 3)
    pair = []
    for _ in range(2):
        y = d.reshape(linear(d, x, groups * k), [0, 0, groups, k], (n, t, groups, k))
        y = d.transpose(y, 0, 2, 1, 3)
        wide = d.unsqueeze(y, 2)
        e0, e1 = d.entry(x, 0, 9), d.entry(x, 1, 9)
        if d.chance(0.6):
            wide = d.op("Expand", wide, d.shape(e0, groups, each, e1, k))
        else:
            wide = d.op("Tile", wide, d.ints(1, 1, each, 1, 1))
        pair.append(Value(d.op("Reshape", wide, d.shape(e0, groups * each, d.pick([e1, -1]), k)), q.axes))
    scores = q.become(d.op("MatMul", q, d.transpose(pair[0], 0, 1, 3, 2)), t)
    p = scores.become(d.op("Softmax", d.op("Mul", scores, d.floats(k**-0.5)), axis=-1))
    o = d.transpose(Value(d.op("MatMul", p, pair[1]), q.axes), 0, 2, 1, 3)
    y = d.reshape(o, [0, 0, groups * each * k], (n, t, groups * each * k))
    return x.become(d.op("Add", x, linear(d, y, x.width(-1))))


def add_positions(d: Draft, x: Value) -> Value:
    """A table of positions, cut to the length or looked up by a range; rotary halves otherwise."""
    c, form = x.width(-1), d.pick(["cut", "range", "scaled"])
    table = d.weight(1, 300, c)
    if form == "cut":
        return x.become(d.op("Add", x, d.op("Slice", table, d.ints(0), d.size(x, 1), d.ints(1))))
    steps = d.op("Range", d.index(0), d.squeeze(d.size(x, 1), 0), d.index(1))
    if form == "range":
        return x.become(d.op("Add", x, d.op("Gather", d.weight(300, c), steps)))
    long = d.op("Cast", d.op("Greater", d.size(x, 1), d.ints(100)), to=d.float_type)
    return x.become(d.op("Mul", x, d.op("Add", d.floats(1.0), long)))


def add_class_token(d: Draft, x: Value) -> Value:
    """A token in front, expanded to the batch."""
    c = x.width(-1)
    form = d.pick(["expand", "expand", "tile"])
    token = d.weight(1, 1, c)
    first = d.entry(x, 0, 9)
    if form == "expand":
        wide = d.op("Expand", token, d.shape(first, d.pick([1, 1, -1]) if False else 1, c))
    else:
        wide = d.op("Tile", token, d.shape(first, 1, 1))
    return Value(d.op("Concat", wide, x, axis=1), (x.axes[0], d.name_size(), c))


def mix_tokens(d: Draft, x: Value) -> Value:
    """A map over the places of a fixed length: MatMul on either side, or a convolution of kernel 1 over features."""
    t = x.axes[1]
    if not isinstance(t, int):
        return add_shift(d, x)
    form, wide = d.pick(["left", "turned", "conv"]), d.draw_width()
    if form == "conv":
        y = d.op("Conv", x, d.weight(wide, t, 1), d.weight(wide))
        z = d.op("Conv", d.op("Relu", y), d.weight(t, wide, 1))
        return x.become(d.op("Add", x, z))
    if form == "left":
        y = d.op("MatMul", d.weight(wide, t, fan=t), x)
        return x.become(d.op("Add", x, d.op("MatMul", d.weight(t, wide, fan=wide), d.op("Relu", y))))
    turned = d.transpose(x, 0, 2, 1)
    y = linear(d, activate_plain(d, linear(d, turned, wide)), t)
    return x.become(d.op("Add", x, d.op("Transpose", y, perm=[0, 2, 1])))


def activate_plain(d: Draft, x: Value) -> Value:
    return x.become(d.op("Relu", x))


def add_shift(d: Draft, x: Value) -> Value:
    """Half of the channels are shifted by one token (RWKV)."""
    c = x.width(-1)
    p, q = d.split(x, [c // 2, c - c // 2], 2)
    back = d.op("Pad", p, d.ints(0, 1, 0, 0, -1, 0))
    return d.concat([p.become(back), q], 2, c)


def add_convolution(d: Draft, x: Value) -> Value:
    """Conformer's convolution over tokens: pointwise, gated, depthwise, norm."""
    c = x.width(-1)
    y = d.transpose(x, 0, 2, 1)
    y = y.become(d.op("Conv", y, d.weight(2 * c, c, 1), d.weight(2 * c)), 2 * c, 1)
    p, q = d.split(y, [c, c], 1)
    y = p.become(d.op("Mul", p, d.op("Sigmoid", q)))
    y = y.become(d.op("Conv", y, d.weight(c, 1, 3, fan=3), pads=[1, 1], group=c))
    y = y.become(d.op("BatchNormalization", y, d.positive(c), d.weight(c), d.weight(c), d.positive(c)))
    y = y.become(d.op("Conv", activate_plain(d, y), d.weight(c, c, 1)))
    return x.become(d.op("Add", x, d.transpose(y, 0, 2, 1)))


def add_view_as(d: Draft, x: Value) -> Value:
    """Reshape to the shape of another value, one side computed inside."""
    inner = linear(d, x, x.width(-1))
    flat = d.op("Reshape", inner, d.shape(d.entry(x, 0, 0), -1))
    back = x.become(d.op("Reshape", flat, d.op("Shape", d.pick([x, inner]))))
    return linear(d, activate_plain(d, back), d.draw_width())


def add_chunks(d: Draft, x: Value) -> Value:
    """Chunks of 4 tokens, padded, mixed inside, and cut back."""
    c, s = x.width(-1), d.pick([2, 4])
    length, m = d.size(x, 1), d.ints(s)
    rest = d.op("Mod", d.op("Sub", m, d.op("Mod", length, m)), m)
    y = Value(
        d.op("Pad", x, d.op("Concat", d.ints(0, 0, 0, 0), rest, d.ints(0), axis=0)), (x.axes[0], d.name_size(), c)
    )
    wide = d.draw_width()
    z = linear(d, y, wide)
    z = d.reshape(
        z,
        d.pick([[d.entry(x, 0, 0), -1, s, wide], [d.entry(x, 0, 0), d.op("Div", d.size(y, 1), m), s, -1]]),
        (x.axes[0], "q", s, wide),
    )
    if d.chance(0.5):
        z = z.become(d.op("MatMul", d.weight(s, s), z))
    most = Value(d.reduce("ReduceMax", z, 2), (x.axes[0], "q", 1, wide))
    z = z.become(d.op("Sub", z, most))
    z = d.reshape(z, [d.entry(x, 0, 0), -1, wide], (*y.axes[:2], wide))
    z = z.become(d.op("Slice", z, d.ints(0), length, d.ints(1)))
    return x.become(d.op("Add", x, linear(d, Value(z.name, (*x.axes[:2], wide)), c)))


def add_length_choice(d: Draft, x: Value) -> Value:
    """A factor that follows the length: by If, Where, Div or Mod."""
    form, length = d.pick(["if", "where", "div", "mod"]), d.size(x, 1)
    if form == "where":
        single = d.op("Equal", length, d.ints(1))
        return x.become(d.op("Mul", x, d.op("Where", single, d.floats(2.0), d.floats(1.0))))
    if form == "if":
        condition = d.squeeze(d.op("Greater", length, d.ints(d.pick([1, 8, 100]))), 0)
        return x.become(add_branches(d, x, condition, d.chance(0.5)))
    step = d.op("Div", length, d.ints(16)) if form == "div" else d.op("Mod", length, d.ints(4))
    return x.become(d.op("Mul", x, d.op("Add", d.floats(1.0), d.op("Cast", step, to=d.float_type))))


def add_branches(d: Draft, x: Value, condition: str, heavy: bool) -> str:
    """An If of two branches of the same shape; `heavy` ones have weights."""
    bodies = []
    for factor in (0.5, 2.0):
        with d.body() as body:
            if heavy:
                out = linear(d, activate_plain(d, linear(d, x, d.draw_width())), x.width(-1)).name
            else:
                out = d.op("Mul", x, d.floats(factor))
        body.output.append(d.describe(out, axes=[None] * x.rank))
        bodies.append(body)
    return d.op("If", condition, then_branch=bodies[0], else_branch=bodies[1])


def add_loop(d: Draft, x: Value) -> Value:
    """A Loop of a few rounds with a state of the same shape, and perhaps a scan output; weights inside."""
    rounds = d.index(d.pick([1, 2, 3]))
    state, out_cond = d.name_value("state"), d.name_value("go")
    scans = d.chance(0.4)
    with d.body() as body:
        held = Value(state, x.axes)
        y = linear(d, activate_plain(d, linear(d, held, d.draw_width())), x.width(-1))
        y = y.become(d.op("Add", held, d.op("Mul", y, d.floats(0.3))))
        go = d.op("Identity", out_cond)
        scanned = d.reduce("ReduceMean", y, 1, keep=False) if scans else ""
    body.input.extend(
        [
            d.describe(d.name_value("round"), TensorProto.INT64, []),
            d.describe(out_cond, TensorProto.BOOL, []),
            d.describe(state),
        ]
    )
    body.output.extend(
        [d.describe(go, TensorProto.BOOL, []), d.describe(y.name), *([d.describe(scanned)] if scans else [])]
    )
    outs = d.ops("Loop", rounds, d.constant(np.array(True)), x, count=1 + scans, body=body)
    if scans:
        d.add_output(Value(outs[1], (d.name_size(), x.axes[0], x.axes[2])))
    return x.become(outs[0])


def add_scan(d: Draft, x: Value) -> Value:
    """A Scan over tokens: a plain recurrent cell written out."""
    c = x.width(-1)
    turned = d.transpose(x, 1, 0, 2)
    wide = d.draw_width()
    w_in, w_state = d.weight(c, wide, fan=c), d.weight(wide, wide, fan=4 * wide)
    zero = d.op("Expand", d.floats(np.zeros((1, wide))), d.shape(d.entry(x, 0, 9), wide))
    state, part = d.name_value("state"), d.name_value("part")
    with d.body() as body:
        new = d.op("Tanh", d.op("Add", d.op("MatMul", part, w_in), d.op("MatMul", state, w_state)))
        again = d.op("Identity", new)
    body.input.extend([d.describe(state, axes=[None, wide]), d.describe(part, axes=[None, c])])
    body.output.extend([d.describe(new, axes=[None, wide]), d.describe(again, axes=[None, wide])])
    _, steps = d.ops("Scan", zero, turned, count=2, body=body, num_scan_inputs=1)
    return d.transpose(Value(steps, (x.axes[1], x.axes[0], wide)), 1, 0, 2)


def add_function(d: Draft, x: Value) -> Value:
    """A local function that is called once or twice."""
    c, wide = x.width(-1), d.draw_width()
    name = d.name_value("Layer").replace("/", "_").replace(".", "_").replace(":", "_")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="a"), helper.make_node("Add", ["a", "b"], ["s"], name="s"),
        helper.make_node("Relu", ["s"], ["r"], name="r"), helper.make_node("MatMul", ["r", "v"], ["y"], name="y"),
    ]  # fmt: skip
    domain = d.pick(["pkg.torch", "local"])
    d.functions.append(
        helper.make_function(domain, name, ["x", "w", "b", "v"], ["y"], nodes, [helper.make_opsetid("", d.opset)])
    )
    for _ in range(d.pick([1, 2])):
        x = x.become(
            d.op(name, x, d.weight(c, wide, fan=c), d.weight(wide), d.weight(wide, c, fan=wide), domain=domain)
        )
    return x


def add_recurrent(d: Draft, x: Value) -> Value:
    """LSTM, GRU or RNN over tokens, in one or both directions, with states given or not."""
    kind = d.pick(["LSTM", "GRU", "RNN"])
    if d.half:
        return add_linear(d, x)
    c, h, both = x.width(-1), d.pick([4, 6, 8]), d.chance(0.4)
    gates, many = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 1 + both
    turned = d.transpose(x, 1, 0, 2)
    given = [turned.name, d.weight(many, gates * h, c, fan=c), d.weight(many, gates * h, h, fan=h)]
    if d.chance(0.7):
        given.append(d.weight(many, 2 * gates * h))
        if d.chance(0.4):
            zeros = d.op("Expand", d.floats(np.zeros((1, 1, 1))), d.shape(many, d.entry(x, 0, 9), h))
            given += ["", zeros, *([zeros] if kind == "LSTM" else [])]
    more = {"linear_before_reset": 1} if kind == "GRU" and d.chance(0.6) else {}
    y, last = d.ops(
        kind,
        *given,
        count=2,
        hidden_size=h,
        direction="bidirectional" if both else d.pick(["forward", "reverse"]),
        **more,
    )
    if d.chance(0.2):
        d.add_output(Value(last, (many, x.axes[0], h)))
    out = Value(y, (x.axes[1], many, x.axes[0], h))
    if not both and d.chance(0.7):
        return d.transpose(Value(d.squeeze(out, 1), (x.axes[1], x.axes[0], h)), 1, 0, 2)
    out = d.transpose(out, 2, 0, 1, 3)
    return d.reshape(out, [0, 0, d.pick([-1, many * h])], (x.axes[0], x.axes[1], many * h))


def add_heads_norm(d: Draft, x: Value) -> Value:
    """Channels as heads, a factor each, and back."""
    c = x.width(-1)
    g = d.pick(divisors(c))
    y = d.reshape(x, [d.entry(x, 0, 0), d.entry(x, 1, 1), g, c // g], (*x.axes[:2], g, c // g))
    y = y.become(d.op("Mul", y, d.weight(*d.pick([(g, 1), (c // g,), (g, c // g)]))))
    return d.reshape(y, [0, 0, d.pick([c, -1])], x.axes)


def add_sequence(d: Draft, x: Value) -> Value:
    """SplitToSequence and ConcatFromSequence, or a pick from it."""
    if d.half:
        return x
    c = x.width(-1)
    parts = d.op("SplitToSequence", x, d.ints(c // 2, c - c // 2), axis=2)
    if d.chance(0.5):
        return Value(d.op("SequenceAt", parts, d.index(0)), (*x.axes[:2], c // 2))
    return x.become(d.op("ConcatFromSequence", parts, axis=2))


def add_random_mask(d: Draft, x: Value) -> Value:
    """Dropout, left in an export."""
    return x.become(
        d.op("Dropout", x, d.constant(np.array(0.5, np.float32)), d.constant(np.array(False)))
        if d.chance(0.5)
        else d.op("Dropout", x)
    )


TOKENS: list[Block] = [
    add_linear, add_norm, add_feed_forward, add_feed_forward, add_fused_operators, *[add_attention] * 3,
    add_grouped_query, add_positions, add_class_token, mix_tokens, add_shift, add_convolution, add_view_as, add_chunks,
    add_length_choice, add_loop, add_scan, add_function, add_recurrent, add_heads_norm, add_sequence, add_random_mask,
]  # fmt: skip
__all__ = ["TOKENS", "Size", "linear", "math", "normalize_layer"]
