"""Blocks of pictures, [N, C, H, W]: convolutions, norms, gates, skips, shuffles, windows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from onnx import helper

from tools.fuzz.draft import Draft, Value

Block = Callable[[Draft, Value], Value]


def divisors(n: int) -> list[int]:
    """The divisors of a number but for 1 and itself, or 1 where there is none."""
    return [k for k in range(2, n) if n % k == 0] or [1]


def conv(d: Draft, x: Value, out: int, kernel: int = 1, group: int = 1, **attributes: object) -> Value:
    """A convolution that keeps the sides."""
    c = x.width(1)
    w = d.weight(out, c // group, kernel, kernel)
    bias = [d.weight(out, name="b")] if d.chance(0.6) else []
    pads = {"pads": [kernel // 2] * 4} if kernel > 1 else {}
    if d.chance(0.5):
        attributes["kernel_shape"] = [kernel, kernel]
    return x.become(d.op("Conv", x, w, *bias, group=group, **{**pads, **attributes}), out, 1)


def activate(d: Draft, x: Value) -> Value:
    """An activation, also one that exporters write out."""
    kind = d.pick(
        [
            "Relu",
            "Relu",
            "Sigmoid",
            "Tanh",
            "LeakyRelu",
            "Clip",
            "HardSigmoid",
            "Elu",
            "silu",
            "gelu",
            "relu6",
            "hardswish",
            "prelu",
        ]
    )
    if kind == "silu":
        return x.become(d.op("Mul", x, d.op("Sigmoid", x)))
    if kind == "relu6":
        return x.become(d.op("Clip", x, d.floats(0.0), d.floats(6.0)))
    if kind == "Clip":
        return x.become(d.op("Clip", x, d.floats(-1.0)))
    if kind == "hardswish":
        if d.opset >= 14 and d.chance(0.5):
            return x.become(d.op("HardSwish", x))
        inner = d.op("Clip", d.op("Add", x, d.floats(3.0)), d.floats(0.0), d.floats(6.0))
        return x.become(d.op("Mul", x, d.op("Div", inner, d.floats(6.0))))
    if kind == "gelu":
        if d.opset >= 20 and d.chance(0.4):
            return x.become(d.op("Gelu", x, approximate=d.pick(["none", "tanh"])))
        inner = d.op("Add", d.op("Erf", d.op("Div", x, d.floats(math.sqrt(2)))), d.floats(1.0))
        return x.become(d.op("Mul", d.op("Mul", x, inner), d.floats(0.5)))
    if kind == "prelu":
        first, last = (a if isinstance(a, int) else 1 for a in (x.axes[1], x.axes[-1]))
        return x.become(d.op("PRelu", x, d.positive(*((first, 1, 1) if x.rank == 4 else (last,)))))
    return x.become(d.op(kind, x))


def normalize_batch(d: Draft, x: Value) -> Value:
    """BatchNormalization."""
    c = x.width(1)
    given = d.positive(c), d.weight(c), d.weight(c), d.positive(c)
    return x.become(d.op("BatchNormalization", x, *given))


def add_conv(d: Draft, x: Value) -> Value:
    """A convolution, perhaps with BatchNorm and an activation."""
    y = conv(d, x, d.draw_width(), d.pick([1, 3, 3, 5]))
    y = normalize_batch(d, y) if d.chance(0.4) else y
    return activate(d, y) if d.chance(0.7) else y


def add_strided(d: Draft, x: Value) -> Value:
    """Stride 2, with pads of each kind."""
    out, c = d.draw_width(), x.width(1)
    how = d.pick(
        [{"pads": [1, 1, 1, 1]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"pads": [0, 1, 1, 0]}]
    )
    y = d.op("Conv", x, d.weight(out, c, 3, 3), strides=d.pick([[2, 2], [2, 1]]), **how)
    return activate(d, Value(y, (x.axes[0], out, d.name_size(), d.name_size())))


def add_bottleneck(d: Draft, x: Value) -> Value:
    """Down, across, up, and x again."""
    inner = activate(d, conv(d, activate(d, conv(d, x, d.draw_width())), d.draw_width(), 3))
    return x.become(d.op(d.pick(["Add", "Add", "Mul", "Max"]), x, conv(d, inner, x.width(1))))


def add_grouped(d: Draft, x: Value) -> Value:
    """Groups of channels."""
    g = d.pick(divisors(x.width(1)))
    return activate(d, conv(d, x, g * d.pick([1, 2, 3, 4]), 3, group=g))


def add_depthwise(d: Draft, x: Value) -> Value:
    """Expand, depthwise, project."""
    wide = activate(d, conv(d, x, 2 * x.width(1)))
    c = wide.width(1) * d.pick([1, 1, 2])
    return conv(d, activate(d, conv(d, wide, c, 3, group=wide.width(1))), d.draw_width())


def add_transposed(d: Draft, x: Value) -> Value:
    """A transposed convolution that doubles the sides."""
    c, g = x.width(1), d.pick([1, *divisors(x.width(1))])
    out = d.pick([1, 2, 4])
    y = d.op("ConvTranspose", x, d.weight(c, out, 2, 2, fan=c), d.weight(g * out), strides=[2, 2], group=g)
    return Value(y, (x.axes[0], g * out, d.name_size(), d.name_size()))


def add_deformable(d: Draft, x: Value) -> Value:
    """Deformable convolution: offsets (and a mask) by a convolution; groups of channels and of offsets."""
    if d.opset < 19 or d.half:
        return add_grouped(d, x)
    c = x.width(1)
    g, o = d.pick([1, *divisors(c)]), d.pick([1, *divisors(c)])
    out = g * d.pick([1, 2, 3])
    offsets = conv(d, x, 2 * o * 9, 3)
    given = [x.name, d.weight(out, c // g, 3, 3), offsets.name]
    if d.chance(0.6):
        given += [d.weight(out), d.op("Sigmoid", conv(d, x, o * 9, 3))]
    return x.become(d.op("DeformConv", *given, group=g, offset_group=o, pads=[1] * 4, kernel_shape=[3, 3]), out, 1)


def add_pool(d: Draft, x: Value) -> Value:
    """A pool: over windows, or along one axis only."""
    kind, form = d.pick(["MaxPool", "AveragePool"]), d.pick(["half", "same", "ceil", "one axis", "lp"])
    axes = (x.axes[0], x.axes[1], d.name_size(), d.name_size())
    if form == "half":
        return Value(d.op(kind, x, kernel_shape=[2, 2], strides=[2, 2]), axes)
    if form == "same":
        return x.become(d.op(kind, x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4))
    if form == "ceil":
        return Value(d.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), axes)
    if form == "lp":
        return Value(d.op("LpPool", x, kernel_shape=[2, 2], strides=[2, 2], p=2), axes)
    return Value(d.op(kind, x, kernel_shape=[2, 1], strides=[2, 1]), (*x.axes[:2], axes[2], x.axes[3]))


def pool_all(d: Draft, x: Value) -> Value:
    """The mean over both sides, in one of its forms."""
    if d.chance(0.5):
        return Value(d.op("GlobalAveragePool", x), (*x.axes[:2], 1, 1))
    return Value(d.reduce("ReduceMean", x, *d.pick([(2, 3), (-1, -2)])), (*x.axes[:2], 1, 1))


def add_gate(d: Draft, x: Value) -> Value:
    """Squeeze and excitation by convolutions or by Gemm and a Reshape back."""
    c, mean = x.width(1), pool_all(d, x)
    inner = d.draw_width()
    if d.chance(0.5):
        gate = d.op("Sigmoid", conv(d, activate(d, conv(d, mean, inner)), c))
        return x.become(d.op("Mul", x, gate))
    flat = d.op("Flatten", mean) if d.chance(0.5) else d.reshape(mean, [d.entry(x, 0, 0), -1], (x.axes[0], c)).name
    hidden = d.op("Relu", d.op("Gemm", flat, d.weight(inner, c), d.weight(inner), transB=1))
    gate = Value(d.op("Sigmoid", d.op("Gemm", hidden, d.weight(c, inner), d.weight(c), transB=1)), (x.axes[0], c))
    how = d.pick(["reshape", "unsqueeze", "view_as"])
    if how == "unsqueeze":
        back = d.unsqueeze(gate, 2, 3)
    elif how == "view_as":
        back = d.op("Reshape", gate, d.op("Shape", mean))
    else:
        back = d.reshape(gate, d.leave_open(d.entry(gate, 0, 0), d.entry(gate, 1, 1), 1, 1), mean.axes).name
    return x.become(d.op("Mul", x, d.op("Expand", back, d.op("Shape", x)) if d.chance(0.2) else back))


def add_channel_attention(d: Draft, x: Value) -> Value:
    """CBAM's spatial gate: the mean and the largest over the channels; what is pruned has no part in them."""
    d.exact = False
    mean, most = (x.become(d.reduce(k, x, 1), 1, 1) for k in ("ReduceMean", "ReduceMax"))
    both = d.concat([mean, most], 1, 2)
    return x.become(d.op("Mul", x, d.op("Sigmoid", conv(d, both, 1, 3))))


def add_efficient_attention(d: Draft, x: Value) -> Value:
    """ECA: a convolution over the channels, which ties them to their places."""
    mean = pool_all(d, x)
    flat = d.transpose(Value(d.squeeze(mean, -1), (x.axes[0], x.axes[1], 1)), 0, 2, 1)
    gate = d.op("Conv", flat, d.weight(1, 1, 3), pads=[1, 1])
    gate = d.unsqueeze(d.op("Transpose", gate, perm=[0, 2, 1]), -1)
    return x.become(d.op("Mul", x, d.op("Sigmoid", gate)))


def add_dense_block(d: Draft, x: Value) -> Value:
    """Concatenations, as in DenseNet."""
    for _ in range(d.pick([1, 2])):
        if x.width(1) > 24:
            break
        new = activate(d, conv(d, x, 4, 3))
        x = d.concat([x, new] if d.chance(0.7) else [new, x], 1, x.width(1) + 4)
    return x


def add_split(d: Draft, x: Value) -> Value:
    """Halves: one is convolved, both are joined; or gated."""
    c = x.width(1)
    cut = c // 2 if d.chance(0.6) else d.rng.randint(1, c - 1)
    p, q = d.split(x, [cut, c - cut], 1)
    if cut * 2 == c and d.chance(0.4):
        return p.become(d.op("Mul", p, d.op("Sigmoid", q)))
    q = activate(d, conv(d, q, d.draw_width(), 3))
    return _join(d, p, q)


def _join(d: Draft, p: Value, q: Value) -> Value:
    parts = d.pick([[p, q], [q, p], [p, q, p]])
    return d.concat(parts, 1, sum(v.width(1) for v in parts))


def add_shuffle(d: Draft, x: Value) -> Value:
    """Channel shuffle."""
    c = x.width(1)
    g = d.pick(divisors(c))
    n, h, w = (d.entry(x, k, 9) for k in (0, 2, 3))
    y = d.reshape(x, d.leave_open(n, g, c // g, h, w), (x.axes[0], g, c // g, *x.axes[2:]))
    z = d.transpose(y, 0, 2, 1, 3, 4)
    return d.reshape(z, d.leave_open(n, c, h, w), x.axes)


def add_pixel_shuffle(d: Draft, x: Value) -> Value:
    """Channels become pixels: DepthToSpace, or written out."""
    out = d.pick([2, 3, 4])
    x = conv(d, x, 4 * out, 3)
    axes = (x.axes[0], out, d.name_size(), d.name_size())
    if d.chance(0.6):
        return Value(d.op("DepthToSpace", x, blocksize=2, mode=d.pick(["DCR", "CRD"])), axes)
    n, h, w = (d.entry(x, k, 9) for k in (0, 2, 3))
    y = d.reshape(x, d.leave_open(n, out, 2, 2, h, w), (x.axes[0], out, 2, 2, *x.axes[2:]))
    z = d.transpose(y, 0, 1, 4, 2, 5, 3)
    return d.reshape(z, d.leave_open(n, out, d.times(h, 2), d.times(w, 2)), axes)


def add_focus(d: Draft, x: Value) -> Value:
    """Every second pixel, four times, joined (YOLOv5's Focus); sides are made even before."""
    x = pad_to_multiple(d, x, 2)
    parts = []
    for a in (0, 1):
        rows = d.slice(x, 2, a, 1 << 62, d.name_size(), 2)
        parts += [d.slice(rows, 3, b, 1 << 62, d.name_size(), 2) for b in (0, 1)]
    return add_conv(d, d.concat(parts, 1, 4 * x.width(1)))


def pad_to_multiple(d: Draft, x: Value, multiple: int) -> Value:
    """Zeros behind both sides up to a multiple, computed at run time."""
    rest = []
    for k in (2, 3):
        m = d.ints(multiple)
        size = d.size(x, k)
        rest.append(d.op("Mod", d.op("Sub", m, d.op("Mod", size, m)), m))
    pads = d.op("Concat", d.ints(0, 0, 0, 0, 0, 0), *rest, axis=0)
    mode = d.pick(["constant", "constant", "edge"])
    given = [d.floats(0.0)] if mode == "constant" and d.chance(0.5) else []
    return Value(d.op("Pad", x, pads, *given, mode=mode), (*x.axes[:2], d.name_size(), d.name_size()))


def add_padded_block(d: Draft, x: Value) -> Value:
    """Pad to a multiple, go down and up, crop to the size that was given."""
    y = pad_to_multiple(d, x, d.pick([2, 4, 8]))
    c = d.draw_width()
    y = Value(
        d.op("Conv", y, d.weight(c, x.width(1), 2, 2), strides=[2, 2]), (x.axes[0], c, d.name_size(), d.name_size())
    )
    y = activate(d, conv(d, y, c, 3))
    y = Value(
        d.op("ConvTranspose", y, d.weight(c, 6, 2, 2, fan=c), strides=[2, 2]),
        (x.axes[0], 6, d.name_size(), d.name_size()),
    )
    ends = d.op("Concat", d.size(x, 2), d.size(x, 3), axis=0)
    return Value(d.op("Slice", y, d.ints(0, 0), ends, d.ints(2, 3)), (x.axes[0], 6, *x.axes[2:]))


def add_resize(d: Draft, x: Value) -> Value:
    """A skip in the middle of a hourglass: down, up to the size that was there before."""
    c = d.draw_width()
    down = activate(d, add_like_pool(d, conv(d, x, c, 3)))
    mode = d.pick(
        [
            {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
            {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        ]
    )
    shape = d.op("Shape", down)
    sizes = d.op(
        "Concat",
        d.op("Slice", shape, d.ints(0), d.ints(2), d.ints(0)),
        d.op("Slice", d.op("Shape", x), d.ints(2), d.ints(4), d.ints(0)),
        axis=0,
    )
    up = Value(d.op("Resize", down, "", "", sizes, **mode), (x.axes[0], c, *x.axes[2:]))
    return d.concat([x, up], 1, x.width(1) + c) if d.chance(0.5) else x.become(d.op("Add", x, conv(d, up, x.width(1))))


def add_like_pool(d: Draft, x: Value) -> Value:
    """Half the sides."""
    return Value(d.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), (*x.axes[:2], d.name_size(), d.name_size()))


def add_upsample(d: Draft, x: Value) -> Value:
    """Twice the sides."""
    scales = d.constant(np.array([1, 1, 2, 2], np.float32))
    return Value(d.op("Resize", x, "", scales, mode="nearest"), (*x.axes[:2], d.name_size(), d.name_size()))


def add_group_norm(d: Draft, x: Value) -> Value:
    """GroupNorm as exporters write it; where its gain is cut, only shapes are compared."""
    c = x.width(1)
    g = d.pick([1, c, *divisors(c)])
    y = d.reshape(x, [0, g, -1], (x.axes[0], g, d.name_size()))
    y = y.become(d.op("InstanceNormalization", y, d.floats(np.ones(g)), d.floats(np.zeros(g))))
    y = Value(d.op("Reshape", y, d.op("Shape", x)), x.axes)
    shape = (c, 1, 1)
    return x.become(d.op("Add", d.op("Mul", y, d.positive(*shape, name="stat")), d.weight(*shape, name="stat")))


def add_instance_norm(d: Draft, x: Value) -> Value:
    """InstanceNormalization."""
    c = x.width(1)
    return x.become(d.op("InstanceNormalization", x, d.positive(c), d.weight(c)))


def add_local_response(d: Draft, x: Value) -> Value:
    """LRN: neighbours among the channels."""
    return x.become(d.op("LRN", x, size=3, alpha=0.1, beta=0.75))


def add_layer_scale(d: Draft, x: Value) -> Value:
    """A number per channel and a constant of another rank."""
    c = x.width(1)
    y = d.op("Mul", x, d.weight(*d.pick([(c, 1, 1), (1, c, 1, 1)])))
    return x.become(d.op(d.pick(["Add", "Sub"]), y, d.pick([d.floats(0.5), d.weight(1, 1, 1)])))


def add_weight_norm(d: Draft, x: Value) -> Value:
    """A convolution whose weight is computed: direction by norm, times gain."""
    if d.half:
        return add_conv(d, x)
    out, c = d.draw_width(), x.width(1)
    v = d.weight(out, c, 3, 3)
    norm = d.op("Sqrt", d.op("Add", d.reduce("ReduceSum", d.op("Mul", v, v), 1, 2, 3), d.floats(1e-4)))
    w = d.op("Mul", d.op("Div", v, norm), d.positive(out, 1, 1, 1))
    return x.become(d.op("Conv", x, w, pads=[1] * 4), out, 1)


def add_channels_last(d: Draft, x: Value) -> Value:
    """ConvNeXt's middle: channels last, LayerNorm, two MatMuls, back."""
    from tools.fuzz.tokens import normalize_layer

    c, out = x.width(1), d.draw_width()
    y = d.transpose(x, 0, 2, 3, 1)
    y = normalize_layer(d, y) if d.chance(0.5) else y
    y = activate(d, y.become(d.op("Add", d.op("MatMul", y, d.weight(c, out, fan=c)), d.weight(out)), out))
    y = y.become(d.op("MatMul", y, d.weight(out, c, fan=out)), c)
    return x.become(d.op("Add", x, d.transpose(y, 0, 3, 1, 2)))


def add_pixel_attention(d: Draft, x: Value) -> Value:
    """Attention over pixels: sides are folded together, heads perhaps into the batch.

    At sides that are free its scores are large, and are drawn seldom.
    """
    if not all(isinstance(a, int) for a in x.axes[2:]) and d.chance(0.8):
        return add_gate(d, x)
    c = x.width(1)
    heads, k = d.pick([(1, 4), (2, 3), (2, 4), (4, 2)])
    inner = heads * k
    n, h, w = (d.entry(x, i, 9) for i in (0, 2, 3))
    folded = d.chance(0.4)
    if folded:
        shape, axes = [d.times(n, heads), k, -1], (d.name_size(), k, d.name_size())
    else:
        shape, axes = [n, heads, k, -1], (x.axes[0], heads, k, d.name_size())
    q, key, v = (d.reshape(conv(d, x, inner), shape, axes) for _ in range(3))
    turned = [0, 2, 1] if folded else [0, 1, 3, 2]
    scores = d.op("Softmax", d.op("Mul", d.op("MatMul", d.transpose(q, *turned), key), d.floats(k**-0.5)), axis=-1)
    o = d.op("MatMul", v, d.op("Transpose", scores, perm=turned))
    merged = Value(d.op("Reshape", o, d.shape(n, d.pick([inner, -1]), h, w)), (x.axes[0], inner, *x.axes[2:]))
    return x.become(d.op("Add", x, conv(d, merged, c)))


def add_gram(d: Draft, x: Value) -> Value:
    """A Gram matrix of the channels, flattened, gates them (second-order pooling)."""
    y = conv(d, x, d.pick([3, 4, 5, 6]))
    c, n = y.width(1), d.entry(x, 0, 0)
    flat = d.reshape(y, [n, c, -1], (x.axes[0], c, d.name_size()))
    gram = Value(d.op("MatMul", flat, d.transpose(flat, 0, 2, 1)), (x.axes[0], c, c))
    gram = gram.become(d.op("Mul", gram, d.floats(0.01)))
    rows = d.reshape(gram, d.leave_open(n, c * c), (x.axes[0], c * c))
    many = c * c
    if d.chance(0.4):  # its triangle
        places = [i * c + j for i in range(c) for j in range(i)]
        many = len(places)
        rows = rows.become(d.op("Gather", rows, d.ints(*places), axis=1), many)
    gate = d.op("Sigmoid", d.op("MatMul", rows, d.weight(many, x.width(1), fan=many)))
    return x.become(d.op("Mul", x, d.unsqueeze(gate, 2, 3)))


def add_windows(d: Draft, x: Value) -> Value:
    """Windows of 4 by 4 of a padded picture, mixed inside, and put back; perhaps shifted."""
    s = d.pick([2, 4])
    padded = pad_to_multiple(d, x, s)
    c = x.width(1)
    n = d.entry(x, 0, 9)
    rows, columns = (d.op("Div", d.size(padded, k), d.ints(s)) for k in (2, 3))
    y = d.reshape(padded, [n, c, rows, s, columns, s], (x.axes[0], c, "r", s, "q", s))
    y = d.transpose(y, 0, 2, 4, 3, 5, 1)
    y = d.reshape(y, [-1, s * s, c], (d.name_size(), s * s, c))
    inner = d.draw_width()
    z = activate(d, y.become(d.op("MatMul", y, d.weight(c, inner, fan=c)), inner))
    if d.chance(0.5):  # tokens are mixed
        z = z.become(d.op("MatMul", d.weight(s * s, s * s, fan=s * s), z))
    z = z.become(d.op("MatMul", z, d.weight(inner, c, fan=inner)), c)
    z = d.reshape(z, [n, rows, columns, s, s, d.pick([c, -1])], (x.axes[0], "r", "q", s, s, c))
    z = d.transpose(z, 0, 5, 1, 3, 2, 4)
    z = d.reshape(z, [n, c, d.op("Mul", rows, d.ints(s)), d.op("Mul", columns, d.ints(s))], padded.axes)
    ends = d.op("Concat", d.size(x, 2), d.size(x, 3), axis=0)
    return x.become(d.op("Add", x, d.op("Slice", z, d.ints(0, 0), ends, d.ints(2, 3))))


def add_group_gate(d: Draft, x: Value) -> Value:
    """EMA: groups of channels in the batch, mixed, and put back."""
    c = x.width(1)
    g = d.pick(divisors(c))
    n, h, w = (d.entry(x, k, 9) for k in (0, 2, 3))
    first = d.times(n, g)
    y = d.reshape(x, [first, d.pick([-1, c // g]), h, w], (d.name_size(), c // g, *x.axes[2:]))
    gate = d.op("Sigmoid", conv(d, y, c // g, d.pick([1, 3])))
    return d.reshape(y.become(d.op("Mul", y, gate)), d.leave_open(n, c, h, w), x.axes)


def add_masked(d: Draft, x: Value) -> Value:
    """A mask in the form of Where, Expand or ConstantOfShape."""
    form = d.pick(["where", "expand", "constant", "cumulated"])
    if form == "where":
        return x.become(d.op("Where", d.op("Greater", x, d.floats(0.1)), x, d.floats(0.1)))
    if form == "expand":
        return x.become(d.op("Add", x, d.op("Expand", d.weight(1, x.width(1), 1, 1), d.op("Shape", x))))
    if form == "cumulated":
        return x.become(d.op("CumSum", x, d.index(3))) if not d.half else x
    n, h, w = (d.entry(x, k, 9) for k in (0, 2, 3))
    shape = d.shape(n, 2, h, w)
    value = helper.make_tensor("value", d.float_type, [1], [0.5])
    extra = x.become(d.op("ConstantOfShape", shape, value=value), 2, 1)
    return d.concat([x, extra], 1, x.width(1) + 2)


def add_pick(d: Draft, x: Value) -> Value:
    """Some channels: a range, a step, an order of their own."""
    c, form = x.width(1), d.pick(["range", "step", "gather", "loop"])
    if form == "range":
        a = d.rng.randint(0, c - 2)
        return d.slice(x, 1, a, c, c - a)
    if form == "step":
        return d.slice(x, 1, 0, c, (c + 1) // 2, 2)
    if form == "gather":
        order = d.numbers.permutation(c).tolist()
        return x.become(d.op("Gather", x, d.ints(*order), axis=1), c, 1)
    parts = [d.slice(x, 1, k, k + 1, 1) for k in range(min(c, 4))]
    return d.concat([p.become(d.op("Mul", p, d.floats(k + 0.5))) for k, p in enumerate(parts)], 1, len(parts))


def add_pad(d: Draft, x: Value) -> Value:
    """Zeros, edges or a reflection around the sides, or zeros among the channels."""
    mode = d.pick(["constant", "edge", "reflect", "channels"])
    if mode == "channels":
        return x.become(d.op("Pad", x, d.ints(0, 0, 0, 0, 0, 2, 0, 0)), x.width(1) + 2, 1)
    y = d.op("Pad", x, d.ints(0, 0, 1, 1, 0, 0, 1, 2), mode=mode)
    return Value(y, (*x.axes[:2], d.name_size(), d.name_size()))


def add_dead_branch(d: Draft, x: Value) -> Value:
    """Units that are off by their bias, and channels of a gain of 0."""
    c, out = x.width(1), d.draw_width()
    bias = d.numbers.standard_normal(out)
    bias[: out // 3] = -50
    y = x.become(d.op("Relu", d.op("Conv", x, d.weight(out, c, 1, 1), d.floats(bias))), out, 1)
    gain = d.numbers.uniform(0.5, 1.5, (out, 1, 1))
    gain[-out // 4 :] = 0
    return y.become(d.op("Mul", y, d.floats(gain)))


def add_fourier(d: Draft, x: Value) -> Value:
    """A Fourier transform along the width; the real part."""
    if d.opset < 17 or d.half:
        return add_conv(d, x)
    given = [d.unsqueeze(x, -1)]
    if d.opset >= 20:
        given += ["", d.index(3)]
        f = d.op("DFT", *given)
    else:
        f = d.op("DFT", *given, axis=3)
    part = d.op("Slice", f, d.ints(0), d.ints(1), d.ints(-1))
    return x.become(d.op("Mul", d.squeeze(part, -1), d.floats(0.3)))


def add_product(d: Draft, x: Value) -> Value:
    """Einsum over the channels."""
    out, c = d.draw_width(), x.width(1)
    return x.become(d.op("Einsum", x, d.weight(out, c), equation="nchw,oc->nohw"), out, 1)


def add_experts(d: Draft, x: Value) -> Value:
    """Dynamic convolution's sum of experts, mixed by a gate of the mean."""
    c, k, out = x.width(1), 3, d.draw_width()
    flat = Value(d.op("Flatten", pool_all(d, x)), (x.axes[0], c))
    gate = Value(d.op("Softmax", d.op("MatMul", flat, d.weight(c, k, fan=c)), axis=-1), (x.axes[0], k))
    parts = []
    for n, g in enumerate(d.split(gate, [1] * k, 1)):
        y = conv(d, x, out, d.pick([1, 3]))
        parts.append(y.become(d.op("Mul", y, d.unsqueeze(g, 2, 3))))
        if n and d.chance(0.3):
            break
    return parts[0].become(d.op("Sum", *parts) if d.chance(0.5) else _sum(d, parts))


def _sum(d: Draft, parts: list[Value]) -> str:
    total = parts[0].name
    for p in parts[1:]:
        total = d.op("Add", total, p)
    return total


IMAGES: list[Block] = [
    add_conv, add_conv, add_strided, add_bottleneck, add_grouped, add_depthwise, add_transposed, add_deformable,
    add_pool, add_gate, add_channel_attention, add_efficient_attention, add_dense_block, add_split, add_shuffle,
    add_pixel_shuffle, add_focus, add_padded_block, add_resize, add_upsample, add_group_norm, add_instance_norm,
    add_local_response, add_layer_scale, add_weight_norm, add_channels_last, add_pixel_attention, add_gram,
    add_windows, add_group_gate, add_masked, add_pick, add_pad, add_dead_branch, add_fourier, add_product,
    add_experts,
]  # fmt: skip
