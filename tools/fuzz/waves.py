"""Blocks of signals, [N, C, L]: front ends, strided and dilated convolutions, codecs, pooling by attention."""

from __future__ import annotations

import numpy as np

from tools.fuzz.draft import Draft, Value
from tools.fuzz.images import Block, activate


def conv(d: Draft, x: Value, out: int, kernel: int, **attributes: object) -> Value:
    """A convolution along the signal."""
    given = [d.weight(out, x.width(1), kernel), *([d.weight(out)] if d.chance(0.6) else [])]
    return x.become(d.op("Conv", x, *given, **attributes), out, 1)


def add_same(d: Draft, x: Value) -> Value:
    """A convolution that keeps the length."""
    k, step = d.pick([1, 3, 5]), d.pick([1, 1, 2])
    y = activate(d, conv(d, x, d.draw_width(), k, pads=[step * (k // 2)] * 2, dilations=[step]))
    c = y.width(1)
    if d.chance(0.3):
        y = y.become(d.op("BatchNormalization", y, d.positive(c), d.weight(c), d.weight(c), d.positive(c)))
    return y


def add_strided(d: Draft, x: Value) -> Value:
    """Stride 2, or more."""
    step = d.pick([2, 2, 4])
    y = conv(d, x, d.draw_width(), 2 * step - 1, strides=[step], pads=d.pick([[step - 1] * 2, [0, 0]]))
    return activate(d, Value(y.name, (x.axes[0], y.axes[1], d.name_size())))


def add_causal(d: Draft, x: Value) -> Value:
    """Zeros in front, or padding on both sides that is cut off behind; with the signal again."""
    c = x.width(1)
    if d.chance(0.5):
        y = Value(d.op("Pad", x, d.ints(0, 0, 2, 0, 0, 0)), (x.axes[0], c, d.name_size()))
        return x.become(d.op("Add", x, conv(d, y, c, 3).name))
    y = conv(d, x, c, 3, pads=[2, 2])
    return x.become(d.op("Add", x, d.slice(y, 2, 0, -2, x.axes[2])))


def add_glu(d: Draft, x: Value) -> Value:
    """Twice the channels, one half gates the other."""
    c = d.draw_width()
    p, q = d.split(conv(d, x, 2 * c, 1), [c, c], 1)
    return p.become(d.op("Mul", d.op("Tanh", p), d.op("Sigmoid", q)))


def add_codec(d: Draft, x: Value) -> Value:
    """Down, up, and cut to the length that was given."""
    c = x.width(1)
    inner = d.draw_width()
    y = conv(d, x, inner, 4, strides=[2], pads=[1, 2])
    y = activate(d, Value(y.name, (x.axes[0], inner, d.name_size())))
    up = d.op("ConvTranspose", y, d.weight(inner, c, 4, fan=inner), strides=[2], pads=[0, 0])
    return x.become(d.op("Add", x, d.op("Slice", up, d.ints(0), d.size(x, 2), d.ints(2))))


def add_padded(d: Draft, x: Value) -> Value:
    """Zeros up to a multiple, then frames of that length."""
    s = d.pick([4, 8])
    m = d.ints(s)
    rest = d.op("Mod", d.op("Neg", d.size(x, 2)), m)
    y = Value(d.op("Pad", x, d.op("Concat", d.ints(0, 0, 0, 0, 0), rest, axis=0)), (*x.axes[:2], d.name_size()))
    out = conv(d, y, d.draw_width(), s, strides=[s])
    return activate(d, Value(out.name, (x.axes[0], out.axes[1], d.name_size())))


def add_pooled_attention(d: Draft, x: Value) -> Value:
    """Weights along the signal by a softmax, and the weighted signal."""
    w = conv(d, activate(d, conv(d, x, d.draw_width(), 1)), x.width(1), 1)
    return x.become(d.op("Mul", x, d.op("Softmax", w, axis=2)))


def add_statistics(d: Draft, x: Value) -> Value:
    """Mean and deviation along the signal beside every sample (ECAPA)."""
    mean = Value(d.reduce("ReduceMean", x, 2), (*x.axes[:2], 1))
    wide = x.become(d.op("Expand", mean, d.op("Shape", x)))
    both = d.concat([x, wide], 1, 2 * x.width(1))
    return conv(d, both, d.draw_width(), 1)


def add_pool(d: Draft, x: Value) -> Value:
    """A pool of 2."""
    kind = d.pick(["MaxPool", "AveragePool"])
    return Value(d.op(kind, x, kernel_shape=[2], strides=[2]), (*x.axes[:2], d.name_size()))


def add_recurrent(d: Draft, x: Value) -> Value:
    """An LSTM or GRU over the signal."""
    from tools.fuzz.tokens import add_recurrent as over_tokens

    return d.transpose(over_tokens(d, d.transpose(x, 0, 2, 1)), 0, 2, 1)


def add_front_end(d: Draft, x: Value) -> Value:
    """A spectrogram of one channel: reflected at the ends, a strided convolution by a fixed basis, power, log."""
    n = 16
    mono = d.slice(x, 1, 0, 1, 1)
    half = n // 2
    y = Value(d.op("Pad", mono, d.ints(0, 0, half, 0, 0, half), mode="reflect"), (x.axes[0], 1, d.name_size()))
    grid = np.outer(np.arange(half + 1), np.arange(n)) * 2 * np.pi / n
    basis = d.floats(np.stack([np.cos(grid), np.sin(grid)]).reshape(2 * (half + 1), 1, n))
    z = Value(d.op("Conv", y, basis, strides=[4]), (x.axes[0], 2 * (half + 1), d.name_size()))
    p, q = d.split(z, [half + 1, half + 1], 1)
    power = d.op("Add", d.op("Mul", p, p), d.op("Mul", q, q))
    return p.become(d.op("Log", d.op("Add", power, d.floats(1e-2))))


def add_quantized_codes(d: Draft, x: Value) -> Value:
    """Snake activation: x + sin^2."""
    a = d.positive(1, x.width(1), 1)
    s = d.op("Sin", d.op("Mul", x, a))
    return x.become(d.op("Add", x, d.op("Div", d.op("Mul", s, s), a)))


WAVES: list[Block] = [
    add_same, add_same, add_strided, add_causal, add_glu, add_codec, add_padded, add_pooled_attention, add_statistics,
    add_pool, add_recurrent, add_front_end, add_quantized_codes,
]  # fmt: skip
