"""The steps that random models are made of: functions `(draft, x) -> y` that know the shapes.

Most of them work on the channel axis of any rank; IMAGE and TOKENS need one rank, STATISTICS take a statistic over
channels. A step that does not fit a value returns something close, so that any step may follow any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

T = TypeVar("T")
WIDTHS = (3, 4, 5, 6, 8)
WIDEST = 12  # channels beyond which no step adds any
FAR = 1 << 30  # beyond the end of any axis


@dataclass(frozen=True)
class Value:
    """A tensor of the graph under construction."""

    name: str
    shape: tuple[int, ...]

    @property
    def axis(self) -> int:
        """The channel axis: 1 for images, else the last one."""
        return 1 if len(self.shape) == 4 else len(self.shape) - 1

    @property
    def width(self) -> int:
        return self.shape[self.axis]

    @property
    def per_channel(self) -> tuple[int, ...]:
        """The shape of a constant with one number per channel that broadcasts against this value."""
        return (self.width, 1, 1) if len(self.shape) == 4 else (self.width,)

    def resize(self, width: int) -> tuple[int, ...]:
        """The shape with another number of channels."""
        return (*self.shape[: self.axis], width, *self.shape[self.axis + 1 :])


class Draft:
    """Nodes and initializers so far; `history` holds what residuals and concatenations may refer to."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 999)))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.history: list[Value] = []

    def pick(self, options: Sequence[T]) -> T:
        return self.draw(st.sampled_from(options))

    def ops(
        self, kind: str, inputs: Sequence[Value | str], shapes: Sequence[tuple[int, ...]], **attributes: Any
    ) -> list[Value]:
        at = len(self.nodes)
        outs = [Value(f"t{at}_{k}", s) for k, s in enumerate(shapes)]
        names = [i if isinstance(i, str) else i.name for i in inputs]
        self.nodes.append(helper.make_node(kind, names, [o.name for o in outs], name=f"{kind}_{at}", **attributes))
        return outs

    def op(self, kind: str, inputs: Sequence[Value | str], shape: tuple[int, ...], **attributes: Any) -> Value:
        return self.ops(kind, inputs, [shape], **attributes)[0]

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, fan: int = 1) -> str:
        return self.constant((self.rng.standard_normal(shape) / math.sqrt(fan)).astype(np.float32))

    def positive(self, *shape: int) -> str:
        return self.constant(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))


Step = Callable[[Draft, Value], Value]


def divisors(n: int) -> list[int]:
    """The proper ones, or 1 where there is none."""
    return [d for d in range(2, n) if n % d == 0] or [1]


# -- steps on the channel axis of any rank ---


def project(b: Draft, x: Value, width: int) -> Value:
    """A dense map over the channels: Conv, MatMul or Gemm by rank."""
    if len(x.shape) == 4:
        k = b.pick([1, 3])
        w = b.weight(width, x.width, k, k, fan=x.width * k * k)
        bias = [b.weight(width)] if b.pick([True, False]) else []
        return b.op("Conv", [x, w, *bias], x.resize(width), pads=[k // 2] * 4)
    if len(x.shape) == 2 and b.pick([True, False]):
        turned = b.pick([0, 1])
        w = b.weight(*((width, x.width) if turned else (x.width, width)), fan=x.width)
        return b.op("Gemm", [x, w, b.weight(width)], x.resize(width), transB=turned)
    y = b.op("MatMul", [x, b.weight(x.width, width, fan=x.width)], x.resize(width))
    return b.op("Add", [y, b.weight(width)], y.shape) if b.pick([True, False]) else y


def dense(b: Draft, x: Value) -> Value:
    return project(b, x, b.pick(WIDTHS))


def activation(b: Draft, x: Value) -> Value:
    kind = b.pick(["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Erf", "PRelu"])
    return b.op(kind, [x, b.positive(*x.per_channel)] if kind == "PRelu" else [x], x.shape)


def scale(b: Draft, x: Value) -> Value:
    return b.op(b.pick(["Mul", "Add", "Sub"]), [x, b.weight(*x.per_channel)], x.shape)


def bottleneck(b: Draft, x: Value) -> Value:
    """Down, activation, up, and x again."""
    inner = activation(b, dense(b, x))
    return b.op(b.pick(["Add", "Mul", "Max"]), [x, project(b, inner, x.width)], x.shape)


def shortcut(b: Draft, x: Value) -> Value:
    """An earlier value of the same shape, else a second projection of both."""
    same = [v for v in b.history if v.shape == x.shape and v != x]
    if same:
        return b.op(b.pick(["Add", "Mul"]), [x, b.pick(same)], x.shape)
    p, q = (project(b, x, 6) for _ in range(2))
    return b.op("Add", [p, q], p.shape)


def concat(b: Draft, x: Value) -> Value:
    """With an earlier value, with itself, or with a new branch."""
    fits = [v for v in b.history if len(v.shape) == len(x.shape) and v.resize(x.width) == x.shape]
    other = b.pick([*fits, x]) if b.pick([True, False]) else dense(b, x)
    if x.width + other.width > WIDEST:
        return dense(b, x)
    pair = b.pick([[x, other], [other, x]])
    return b.op("Concat", pair, x.resize(x.width + other.width), axis=x.axis)


def halves(b: Draft, x: Value) -> Value:
    """Split, then swap, gate, drop a part, or pass one part through a projection."""
    cut = x.width // 2 if b.pick([True, False]) else b.pick(range(1, x.width))
    sizes = (cut, x.width - cut)
    p, q = b.ops("Split", [x, b.ints(*sizes)], [x.resize(s) for s in sizes], axis=x.axis)
    kind = b.pick(["gate", "swap", "drop", "cross"])
    if kind == "gate" and p.shape == q.shape:
        return b.op("Mul", [p, b.op("Sigmoid", [q], q.shape)], p.shape)
    if kind == "drop":
        return p
    if kind == "cross":
        q = dense(b, q)
    return b.op("Concat", [q, p], x.resize(p.width + q.width), axis=x.axis)


def cut(b: Draft, x: Value) -> Value:
    """A range, a step, or all channels in reverse."""
    first = b.pick(range(x.width - 1))
    start, end, step = b.pick([(first, x.width, 1), (0, first + 1, 1), (0, x.width, 2), (x.width - 1, -FAR, -1)])
    width = len(range(*slice(start, end if end >= 0 else None, step).indices(x.width)))
    return b.op("Slice", [x, *(b.ints(i) for i in (start, end, x.axis, step))], x.resize(width))


def take(b: Draft, x: Value) -> Value:
    """A permutation, or channels with repeats."""
    index = b.rng.permutation(x.width) if b.pick([True, False]) else b.rng.integers(0, x.width, b.pick(WIDTHS))
    return b.op("Gather", [x, b.ints(*index.tolist())], x.resize(len(index)), axis=x.axis)


def shuffle(b: Draft, x: Value) -> Value:
    """(g c) -> (c g), the channel shuffle."""
    g, a = b.pick(divisors(x.width)), x.axis
    grid = (*x.shape[:a], g, x.width // g, *x.shape[a + 1 :])
    turned = (*x.shape[:a], x.width // g, g, *x.shape[a + 1 :])
    perm = list(range(len(grid)))
    perm[a], perm[a + 1] = a + 1, a
    y = b.op("Reshape", [x, b.ints(*grid)], grid)
    z = b.op("Transpose", [y], turned, perm=perm)
    return b.op("Reshape", [z, b.ints(*x.shape)], x.shape)


def digits(b: Draft, x: Value) -> Value:
    """Channels as (g c), with a weight on one digit or on both."""
    g, a = b.pick(divisors(x.width)), x.axis
    grid = (*x.shape[:a], g, x.width // g, *x.shape[a + 1 :])
    tail = (1,) * (len(x.shape) - a - 1)
    w = b.weight(*b.pick([(g, 1, *tail), (x.width // g, *tail), (g, x.width // g, *tail)]))
    y = b.op("Mul", [b.op("Reshape", [x, b.ints(*grid)], grid), w], grid)
    return b.op("Reshape", [y, b.ints(*x.shape)], x.shape)


def pad(b: Draft, x: Value) -> Value:
    lo, hi = b.pick([(0, 1), (1, 0), (1, 2)])
    if x.width + lo + hi > WIDEST:
        return x
    pads = [0] * (2 * len(x.shape))
    pads[x.axis], pads[x.axis + len(x.shape)] = lo, hi
    return b.op("Pad", [x, b.ints(*pads)], x.resize(x.width + lo + hi))


ANY: list[Step] = [dense, activation, scale, bottleneck, shortcut, concat, halves, cut, take, shuffle, digits, pad]

# -- images ---


def batch_norm(b: Draft, x: Value) -> Value:
    c = x.width
    return b.op("BatchNormalization", [x, b.positive(c), b.weight(c), b.weight(c), b.positive(c)], x.shape)


def grouped_conv(b: Draft, x: Value) -> Value:
    g = b.pick(divisors(x.width))
    out = g * b.pick([n for n in (1, 2, 3) if g * n <= WIDEST])
    w = b.weight(out, x.width // g, 3, 3, fan=9 * x.width // g)
    return b.op("Conv", [x, w, b.weight(out)], x.resize(out), pads=[1] * 4, group=g)


def depthwise_conv(b: Draft, x: Value) -> Value:
    out = x.width * b.pick([n for n in (1, 2) if n == 1 or x.width * n <= WIDEST])
    return b.op("Conv", [x, b.weight(out, 1, 3, 3, fan=9)], x.resize(out), pads=[1] * 4, group=x.width)


def conv_transpose(b: Draft, x: Value) -> Value:
    g = b.pick([1, *divisors(x.width)])
    out = b.pick([n for n in (1, 2, 4) if g * n <= WIDEST])
    w = b.weight(x.width, out, 3, 3, fan=9 * x.width // g)
    return b.op("ConvTranspose", [x, w, b.weight(g * out)], x.resize(g * out), pads=[1] * 4, group=g)


def pool(b: Draft, x: Value) -> Value:
    n, c, h, w = x.shape
    if min(h, w) < 2:
        return x
    kind = b.pick(["MaxPool", "AveragePool"])
    return b.op(kind, [x], (n, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])


def upsample(b: Draft, x: Value) -> Value:
    n, c, h, w = x.shape
    if h > 2:
        return x
    shape = (n, c, 2 * h, 2 * w)
    return b.op("Resize", [x, "", "", b.ints(*shape)], shape, mode="nearest")


def gate(b: Draft, x: Value) -> Value:
    """Squeeze and excitation."""
    mean = b.op("GlobalAveragePool", [x], (*x.shape[:2], 1, 1))
    inner = activation(b, dense(b, mean))
    return b.op("Mul", [x, b.op("Sigmoid", [project(b, inner, x.width)], mean.shape)], x.shape)


def instance_norm(b: Draft, x: Value) -> Value:
    if x.shape[2] * x.shape[3] == 1:
        return x
    return b.op("InstanceNormalization", [x, b.positive(x.width), b.weight(x.width)], x.shape)


def pixel_shuffle(b: Draft, x: Value) -> Value:
    n, c, h, w = x.shape
    if c % 4 or h > 4:
        return x
    mode = b.pick(["DCR", "CRD"])
    return b.op("DepthToSpace", [x], (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=mode)


def channels_last(b: Draft, x: Value) -> Value:
    """A MatMul between two Transposes."""
    n, c, h, w = x.shape
    out = b.pick(WIDTHS)
    y = b.op("Transpose", [x], (n, h, w, c), perm=[0, 2, 3, 1])
    z = b.op("MatMul", [y, b.weight(c, out, fan=c)], (n, h, w, out))
    return b.op("Transpose", [z], (n, out, h, w), perm=[0, 3, 1, 2])


IMAGE: list[Step] = [
    batch_norm, grouped_conv, depthwise_conv, conv_transpose, pool, upsample, gate, instance_norm, pixel_shuffle,
    channels_last,
]  # fmt: skip

# -- tokens ---


def attention(b: Draft, x: Value) -> Value:
    """Separate or fused projections, with residual."""
    n, t, c = x.shape
    h, d = b.pick([(1, 3), (2, 3), (3, 2), (4, 2)])
    if b.pick([True, False]):
        qkv = [b.op("MatMul", [x, b.weight(c, h * d, fan=c)], (n, t, h * d)) for _ in range(3)]
    else:
        fused = b.op("MatMul", [x, b.weight(c, 3 * h * d, fan=c)], (n, t, 3 * h * d))
        qkv = b.ops("Split", [fused, b.ints(*[h * d] * 3)], [(n, t, h * d)] * 3, axis=2)
    q, k, v = (b.op("Reshape", [i, b.ints(0, t, h, d)], (n, t, h, d)) for i in qkv)
    q, v = (b.op("Transpose", [i], (n, h, t, d), perm=[0, 2, 1, 3]) for i in (q, v))
    k = b.op("Transpose", [k], (n, h, d, t), perm=[0, 2, 3, 1])
    p = b.op("Softmax", [b.op("MatMul", [q, k], (n, h, t, t))], (n, h, t, t), axis=-1)
    o = b.op("Transpose", [b.op("MatMul", [p, v], (n, h, t, d))], (n, t, h, d), perm=[0, 2, 1, 3])
    merged = b.op("Reshape", [o, b.ints(0, 0, h * d)], (n, t, h * d))
    return b.op("Add", [x, project(b, merged, c)], x.shape)


def mix_tokens(b: Draft, x: Value) -> Value:
    n, t, c = x.shape
    y = b.op("Transpose", [x], (n, c, t), perm=[0, 2, 1])
    z = b.op("MatMul", [y, b.weight(t, t, fan=t)], (n, c, t))
    return b.op("Transpose", [z], x.shape, perm=[0, 2, 1])


def add_gated_unit(b: Draft, x: Value) -> Value:
    """SwiGLU: two projections, one through a Sigmoid."""
    width = b.pick(WIDTHS)
    p, q = (project(b, x, width) for _ in range(2))
    m = b.op("Mul", [p, b.op("Sigmoid", [q], q.shape)], p.shape)
    return project(b, m, x.width)


TOKENS: list[Step] = [attention, mix_tokens, add_gated_unit]

# -- statistics over channels: prune equals mask only approximately ---


def layer_norm(b: Draft, x: Value) -> Value:
    return b.op("LayerNormalization", [x, b.positive(x.width), b.weight(x.width)], x.shape, axis=-1)


def rms_norm(b: Draft, x: Value) -> Value:
    square = b.op("Mul", [x, x], x.shape)
    mean = b.op("ReduceMean", [square, b.ints(-1)], x.resize(1))
    root = b.op("Sqrt", [b.op("Add", [mean, b.constant(np.array(1e-3, np.float32))], mean.shape)], mean.shape)
    return b.op("Mul", [b.op("Div", [x, root], x.shape), b.positive(x.width)], x.shape)


STATISTICS: list[Step] = [layer_norm, rms_norm]

# -- from one rank to another ---


def to_tokens(b: Draft, x: Value) -> Value:
    n, c, h, w = x.shape
    y = b.op("Reshape", [x, b.ints(n, c, -1)], (n, c, h * w))
    return b.op("Transpose", [y], (n, h * w, c), perm=[0, 2, 1])


def to_vector(b: Draft, x: Value) -> Value:
    """Flatten everything, or reduce what is no channel."""
    n, size = x.shape[0], math.prod(x.shape[1:])
    if b.pick([True, False]):
        return b.op("Flatten", [x], (n, size))
    if len(x.shape) == 4:
        y = b.op("GlobalAveragePool", [x], (*x.shape[:2], 1, 1))
        return b.op("Reshape", [y, b.ints(0, -1)], (n, x.width))
    if b.pick([True, False]):
        return b.op("Gather", [x, b.constant(np.array(0, np.int64))], (n, x.width), axis=1)
    return b.op("ReduceMean", [x, b.ints(1)], (n, x.width), keepdims=0)
