"""Normalisations, gates over statistics, elementwise operators, and operators that fix a channel axis."""

from __future__ import annotations

import numpy as np

from zoo_base import Case

CASES: dict[str, Case] = {
    "layer_norm_mean_read": Case(  # the mean over all channels is an output, and what it means depends on all of them
        """(float[2,5,8] x) => (float[2,5,4] y) {
            a = MatMul(x, w1)  n, m, s = LayerNormalization(a, g)  q = Add(n, m)  y = MatMul(q, w2) }""",
        {"w1": (8, 6), "g": (6,), "w2": (6, 4)},
        {},
        frozen={"w1:1": "gives out its mean", "w2:0": "gives out its mean"},
    ),
    "layer_norm_mean_unread": Case(
        """(float[2,5,8] x) => (float[2,5,4] y) {
            a = MatMul(x, w1)  n, m, s = LayerNormalization(a, g)  y = MatMul(n, w2) }""",
        {"w1": (8, 6), "g": (6,), "w2": (6, 4)},
        {"g:0 w1:1 w2:0": 6},
        stats=("g:0 w1:1 w2:0",),
    ),
    "positions_of_maxima_read": Case(  # an index counts through all channels
        """(float[1,3,4,4] x) => (float[1,4,2,2] y) {
            a = Conv(x, w1)  m, p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)  f = Cast<to=1>(p)
            y = Conv(f, w2) }""",
        {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1)},
        {},
        frozen={"w1:0": "positions of maxima", "w2:1": "positions of maxima"},
    ),
    "positions_of_maxima_unread": Case(
        """(float[1,3,4,4] x) => (float[1,4,2,2] y) {
            a = Conv(x, w1)  m, p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)  y = Conv(m, w2) }""",
        {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1": 6},
    ),
    "instance_norm": Case(  # the statistic is spatial: channels are exact
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = InstanceNormalization(a, s, t)  c = Relu(b)  y = Conv(c, w2) }""",
        {"w1": (6, 3, 1, 1), "s": (6,), "t": (6,), "w2": (4, 6, 1, 1)},
        {"s:0 t:0 w1:0 w2:1": 6},
    ),
    "layer_norm": Case(
        """(float[1,5,4] x) => (float[1,5,3] y) {
            a = MatMul(x, w1)  b = LayerNormalization<axis=-1>(a, s, t)  y = MatMul(b, w2) }""",
        {"w1": (4, 7), "s": (7,), "t": (7,), "w2": (7, 3)},
        {"s:0 t:0 w1:1 w2:0": 7},
        stats=("s:0 t:0 w1:1 w2:0",),
    ),
    "layer_norm_all_axes": Case(  # over channels and space (axis=1); the spatial part is frozen
        """(float[1,3,2,4] x) => (float[1,4,2,4] y) {
            a = Conv(x, w1)  b = LayerNormalization<axis=1>(a, s, t)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "s": (6, 2, 4), "t": (6, 2, 4), "w2": (4, 6, 1, 1)},
        {"s:0 t:0 w1:0 w2:1": 6},
        stats=("s:0 t:0 w1:0 w2:1",),
    ),
    "layer_norm_decomposed": Case(  # as exporters wrote it before opset 17
        """(float[1,5,4] x) => (float[1,5,3] y) {
            a = MatMul(x, w1)  m = ReduceMean<axes=[-1]>(a)  d = Sub(a, m)  q = Pow(d, two)
            v = ReduceMean<axes=[-1]>(q)  e = Add(v, eps)  r = Sqrt(e)  n = Div(d, r)  g = Mul(n, s)  h = Add(g, t)
            y = MatMul(h, w2) }""",
        {"w1": (4, 7), "two": 2.0, "eps": 1e-5, "s": (7,), "t": (7,), "w2": (7, 3)},
        {"s:0 t:0 w1:1 w2:0": 7},
        stats=("s:0 t:0 w1:1 w2:0",),
        opset=13,
    ),
    "pre_norm_residual": Case(  # the statistic marks the trunk; the hidden channels stay exact
        """(float[1,5,4] x) => (float[1,5,3] y) {
            a = MatMul(x, we)  b = LayerNormalization(a, s, t)  c = MatMul(b, w1)  d = Gelu(c)  e = MatMul(d, w2)
            f = Add(a, e)  y = MatMul(f, wh) }""",
        {"we": (4, 7), "s": (7,), "t": (7,), "w1": (7, 9), "w2": (9, 7), "wh": (7, 3)},
        {"s:0 t:0 w1:0 w2:1 we:1 wh:0": 7, "w1:1 w2:0": 9},
        stats=("s:0 t:0 w1:0 w2:1 we:1 wh:0",),
        opset=20,
    ),
    "rms_norm_decomposed": Case(
        """(float[1,5,4] x) => (float[1,5,3] y) {
            a = MatMul(x, w1)  q = Pow(a, two)  v = ReduceMean<keepdims=1>(q, ax)  e = Add(v, eps)  r = Sqrt(e)
            i = Reciprocal(r)  n = Mul(a, i)  g = Mul(s, n)  y = MatMul(g, w2) }""",
        {"w1": (4, 7), "two": 2.0, "ax": [-1], "eps": 1e-5, "s": (7,), "w2": (7, 3)},
        {"s:0 w1:1 w2:0": 7},
        stats=("s:0 w1:1 w2:0",),
    ),
    "rms_norm": Case(
        """(float[1,5,4] x) => (float[1,5,3] y) {
            a = MatMul(x, w1)  b = RMSNormalization<axis=-1>(a, s)  y = MatMul(b, w2) }""",
        {"w1": (4, 7), "s": (7,), "w2": (7, 3)},
        {"s:0 w1:1 w2:0": 7},
        stats=("s:0 w1:1 w2:0",),
        opset=23,
    ),
    "group_norm": Case(  # G and c have the same members; whole groups are exact, c is not
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  b = GroupNormalization<num_groups=3>(a, s, t)  c = Relu(b)  y = Conv(c, w2) }""",
        {"w1": (12, 3, 1, 1), "s": (12,), "t": (12,), "w2": (5, 12, 1, 1)},
        {"s:0 t:0 w1:0 w2:1": 3, "s:0 t:0 w1:0 w2:1#2": 4},
        blocks={"s:0 t:0 w1:0 w2:1#2": 3},
        stats=("s:0 t:0 w1:0 w2:1#2",),
        opset=21,
    ),
    "group_norm_more_groups": Case(  # more groups than channels in one: a statistic never is the block
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  b = GroupNormalization<num_groups=4>(a, s, t)  c = Relu(b)  y = Conv(c, w2) }""",
        {"w1": (12, 3, 1, 1), "s": (12,), "t": (12,), "w2": (5, 12, 1, 1)},
        {"s:0 t:0 w1:0 w2:1": 4, "s:0 t:0 w1:0 w2:1#2": 3},
        blocks={"s:0 t:0 w1:0 w2:1#2": 4},
        stats=("s:0 t:0 w1:0 w2:1#2",),
        opset=21,
    ),
    "group_norm_by_reshape_dynamic": Case(  # c*H*W has no constant length
        """(float["N",3,"H","W"] x) => (float["N",5,"H","W"] y) {
            a = Conv(x, w1)  r = Reshape(a, r1)  i = InstanceNormalization(r, s, t)  r2 = Shape(a)  b = Reshape(i, r2)
            c = Mul(b, g)  d = Add(c, h)  y = Conv(d, w2) }""",
        {
            "w1": (12, 3, 1, 1),
            "r1": [0, 3, -1],
            "s": (3,),
            "t": (3,),
            "g": (12, 1, 1),
            "h": (12, 1, 1),
            "w2": (5, 12, 1, 1),
        },
        {"g:0 h:0 s:0 t:0 w1:0 w2:1": 3, "g:0 h:0 w1:0 w2:1": 4},
        blocks={"g:0 h:0 w1:0 w2:1": 3},
        stats=("g:0 h:0 w1:0 w2:1",),
    ),
    "mean_over_flat_dynamic": Case(  # the mean runs over (W c), the channel being the minor digit
        """(float["N",3,"W"] x) => (float["N",4,1] y) {
            a = Conv(x, w1)  t = Transpose<perm=[0,2,1]>(a)  f = Reshape(t, flat)  m = ReduceMean<keepdims=1>(f, axes)
            e = Exp(m)  c = Mul(e, k)  y = MatMul(w2, c) }""",
        {"w1": (6, 3, 1), "flat": [0, 1, -1], "axes": [2], "k": (5, 1), "w2": (4, 5)},
        {"w1:0": 6, "k:0 w2:1": 5},
        stats=("w1:0",),
    ),
    "group_norm_by_reshape": Case(  # PyTorch exports: InstanceNormalization over [1, G, c*H*W]
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  r = Reshape(a, r1)  i = InstanceNormalization(r, s, t)  b = Reshape(i, r2)
            c = Mul(b, g)  d = Add(c, h)  y = Conv(d, w2) }""",
        {
            "w1": (12, 3, 1, 1),
            "r1": [0, 3, -1],
            "s": (3,),
            "t": (3,),
            "r2": [1, 12, 4, 4],
            "g": (12, 1, 1),
            "h": (12, 1, 1),
            "w2": (5, 12, 1, 1),
        },
        {"g:0 h:0 s:0 t:0 w1:0 w2:1": 3, "g:0 h:0 w1:0 w2:1": 4},
        blocks={"g:0 h:0 w1:0 w2:1": 3},
        stats=("g:0 h:0 w1:0 w2:1",),
    ),
    "mean_variance_norm": Case(  # over batch and space
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  b = MeanVarianceNormalization<axes=[0,2,3]>(a)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "w2": (5, 6, 1, 1)},
        {"w1:0 w2:1": 6},
    ),
    "cast_like": Case(  # HardSwish as the dynamo exporter writes it: of the second operand only the type is read
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  c = CastLike(three, a)  b = Add(a, c)  d = Clip(b, lo, hi)  y = Conv(d, w2) }""",
        {"w1": (6, 3, 1, 1), "three": 3, "lo": 0.0, "hi": 6.0, "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1": 6},
    ),
    "prelu_channel": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) { a = Conv(x, w1)  b = PRelu(a, p)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "p": (6, 1, 1), "w2": (4, 6, 1, 1)},
        {"p:0 w1:0 w2:1": 6},
    ),
    "prelu_vector": Case(
        """(float[2,4] x) => (float[2,3] y) { a = MatMul(x, w1)  b = PRelu(a, p)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "p": (6,), "w2": (6, 3)},
        {"p:0 w1:1 w2:0": 6},
    ),
    "prelu_shared": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) { a = Conv(x, w1)  b = PRelu(a, p)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "p": (1,), "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1": 6},
    ),
    "divided_by_weight": Case(  # the mask of a divisor is one, not zero
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Sub(a, mu)  c = Div(b, var)  y = MatMul(c, w2) }""",
        {"w1": (4, 6), "mu": (6,), "var": (6,), "w2": (6, 3)},
        {"mu:0 var:0 w1:1 w2:0": 6},
    ),
    "variadic": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Conv(x, w2)  c = Conv(x, w3)  d = Sum(a, b, c)  e = Max(d, v)  f = Mean(e, a)
            y = Conv(f, w4) }""",
        {"w1": (6, 3, 1, 1), "w2": (6, 3, 1, 1), "w3": (6, 3, 1, 1), "v": (6, 1, 1), "w4": (4, 6, 1, 1)},
        {"v:0 w1:0 w2:0 w3:0 w4:1": 6},
    ),
    "where_channel_mask": Case(  # a boolean constant follows the channels, it is no member
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Conv(x, w2)  c = Where(m, a, b)  y = Conv(c, w3) }""",
        {
            "w1": (6, 3, 1, 1),
            "w2": (6, 3, 1, 1),
            "m": np.array([1, 0, 0, 1, 1, 0], bool).reshape(1, 6, 1, 1),
            "w3": (4, 6, 1, 1),
        },
        {"w1:0 w2:0 w3:1": 6},
    ),
    "where_input_mask": Case(
        """(float[1,5,4] x, bool[1,5,1] m) => (float[1,5,3] y) {
            a = MatMul(x, w1)  b = Where(m, a, z)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "z": (6,), "w2": (6, 3)},
        {"w1:1 w2:0 z:0": 6},
    ),
    "where_comparison": Case(  # x > threshold: the comparison's output carries the channels, too
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  g = Greater(a, th)  b = Where(g, a, th)  c = Cast<to=7>(g)  d = Cast<to=1>(c)
            e = Mul(b, d)  y = MatMul(e, w2) }""",
        {"w1": (4, 6), "th": (6,), "w2": (6, 3)},
        {"th:0 w1:1 w2:0": 6},
    ),
    "clip_dropout_cast": Case(
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Clip(a, lo, hi)  c, unused = Dropout(b, ratio)  d = Cast<to=11>(c)  e = Exp(d)
            f = Cast<to=1>(e)  y = MatMul(f, w2) }""",
        {"w1": (4, 6), "lo": -1.0, "hi": 1.0, "ratio": 0.5, "w2": (6, 3)},
        {"w1:1 w2:0": 6},
    ),
    "clip_attributes": Case(
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Clip<min=-0.5,max=0.5>(a)  c = Dropout<ratio=0.3>(b)  y = MatMul(c, w2) }""",
        {"w1": (4, 6), "w2": (6, 3)},
        {"w1:1 w2:0": 6},
        opset=9,
    ),
    "reduce_max_space": Case(
        """(float[1,3,4,5] x) => (float[1,4] y) {
            a = Conv(x, w1)  b = ReduceMax<keepdims=0>(a, ax)  y = MatMul(b, w2) }""",
        {"w1": (6, 3, 1, 1), "ax": [2, -1], "w2": (6, 4)},
        {"w1:0 w2:0": 6},
    ),
    "reduce_mean_channels": Case(  # no weight behind it: every channel counts, as a statistic
        """(float[1,3,4,5] x) => (float[1,1,4,5] y) { a = Conv(x, w1)  y = ReduceMean<axes=[1]>(a) }""",
        {"w1": (6, 3, 1, 1)},
        {"w1:0": 6},
        stats=("w1:0",),
        opset=13,
    ),
    "reduce_l2_channels": Case(  # features divided by their norm
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  n = ReduceL2(a, ax)  e = Add(n, one)  b = Div(a, e)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "ax": [1], "one": 1.0, "w2": (6, 3)},
        {"w1:1 w2:0": 6},
        stats=("w1:1 w2:0",),
    ),
    "reduce_sum_channels": Case(  # exact where a removed channel is zero, which an activation may spoil
        """(float[2,5,4] x) => (float[2,5,3] y) {
            a = MatMul(x, w1)  b = Sigmoid(a)  c = ReduceSum<keepdims=1>(b, ax)  d = Div(b, c)  y = MatMul(d, w2) }""",
        {"w1": (4, 6), "ax": [-1], "w2": (6, 3)},
        {"w1:1 w2:0": 6},
        stats=("w1:1 w2:0",),
    ),
    "reduce_no_axes": Case(  # without axes everything is reduced
        """(float[1,3,4,5] x) => (float[1,1,1,1] y) { a = Conv(x, w1)  b = Conv(a, w2)  y = ReduceMean(b) }""",
        {"w1": (6, 3, 1, 1), "w2": (5, 6, 1, 1)},
        {"w1:0 w2:1": 6, "w2:0": 5},
        stats=("w2:0",),
    ),
    "reduce_noop": Case(  # noop_with_empty_axes and no axes: an identity
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = ReduceMean<noop_with_empty_axes=1>(a)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "w2": (6, 3)},
        {"w1:1 w2:0": 6},
    ),
    "spatial_attention": Case(  # CBAM: mean and max over channels make a one-channel gate
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  m = ReduceMean(a, ax)  n = ReduceMax(a, ax)  c = Concat<axis=1>(m, n)
            d = Conv<pads=[1,1,1,1]>(c, ws)  g = Sigmoid(d)  b = Mul(a, g)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "ax": [1], "ws": (1, 2, 3, 3), "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1": 6},
        stats=("w1:0 w2:1",),
        frozen={"ws:1": ""},
    ),
    "lrn": Case(  # a window over neighbouring channels
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w0)  b = Conv(a, w1)  c = LRN<size=3>(b)  y = Conv(c, w2) }""",
        {"w0": (5, 3, 1, 1), "w1": (6, 5, 1, 1), "w2": (4, 6, 1, 1)},
        {"w0:0 w1:1": 5},
        frozen={"w1:0": "lrn", "w2:1": "lrn"},
    ),
    "lp_normalization": Case(
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w0)  b = MatMul(a, w1)  c = LpNormalization<axis=-1>(b)  y = MatMul(c, w2) }""",
        {"w0": (4, 5), "w1": (5, 6), "w2": (6, 3)},
        {"w0:1 w1:0": 5, "w1:1 w2:0": 6},
        stats=("w1:1 w2:0",),
    ),
    "softmax_channels": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w0)  b = Conv(a, w1)  c = Softmax<axis=1>(b)  y = Conv(c, w2) }""",
        {"w0": (5, 3, 1, 1), "w1": (6, 5, 1, 1), "w2": (4, 6, 1, 1)},
        {"w0:0 w1:1": 5},
        frozen={"w1:0": "softmax", "w2:1": "softmax"},
    ),
    "softmax_space": Case(  # over the last axis: channels pass
        """(float[1,3,4,5] x) => (float[1,4,4,5] y) { a = Conv(x, w1)  b = Softmax<axis=-1>(a)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1": 6},
    ),
    "softmax_opset_11": Case(  # before opset 13 the axes from `axis` on are one
        """(float[1,3,4,5] x) => (float[1,4,4,5] y) {
            a = Conv(x, w0)  b = Conv(a, w1)  c = Softmax<axis=1>(b)  d = Conv(c, w2)  e = Softmax<axis=2>(d)
            y = Conv(e, w3) }""",
        {"w0": (5, 3, 1, 1), "w1": (6, 5, 1, 1), "w2": (7, 6, 1, 1), "w3": (4, 7, 1, 1)},
        {"w0:0 w1:1": 5, "w2:0 w3:1": 7},
        opset=11,
        frozen={"w1:0": "softmax"},
    ),
    "argmax_channels": Case(
        """(float[1,3,4,5] x) => (int64[1,1,4,5] y) { a = Conv(x, w0)  b = Conv(a, w1)  y = ArgMax<axis=1>(b) }""",
        {"w0": (5, 3, 1, 1), "w1": (6, 5, 1, 1)},
        {"w0:0 w1:1": 5},
        frozen={"w1:0": "argmax"},
    ),
    "topk_channels": Case(
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w0)  b = MatMul(a, w1)  v, i = TopK<axis=-1>(b, k)  y = MatMul(v, w2) }""",
        {"w0": (4, 5), "w1": (5, 7), "k": [3], "w2": (3, 3)},
        {"w0:1 w1:0": 5},
        frozen={"w1:1": "topk", "w2:0": ""},
    ),
    "topk_space": Case(  # over tokens: channels pass
        """(float[1,5,4] x) => (float[1,2,3] y) {
            a = MatMul(x, w1)  v, i = TopK<axis=1>(a, k)  y = MatMul(v, w2) }""",
        {"w1": (4, 6), "k": [2], "w2": (6, 3)},
        {"w1:1 w2:0": 6},
    ),
    "cumsum_channels": Case(
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w0)  b = MatMul(a, w1)  c = CumSum(b, ax)  y = MatMul(c, w2) }""",
        {"w0": (4, 5), "w1": (5, 6), "ax": 1, "w2": (6, 3)},
        {"w0:1 w1:0": 5},
        frozen={"w1:1": "cumsum", "w2:0": "cumsum"},
    ),
    "cumsum_tokens": Case(
        """(float[1,5,4] x) => (float[1,5,3] y) {
            a = MatMul(x, w1)  b = CumSum(a, ax)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "ax": 1, "w2": (6, 3)},
        {"w1:1 w2:0": 6},
    ),
    "instancenorm_stored": Case(  # with stored statistics PyTorch writes BatchNormalization over batch times channels
        """(float[N,3,4,4] x) => (float[N,4,4,4] y) {
            a = Conv(x, w1)  n = Shape<end=1>(a)  b = Reshape(a, flat)
            gn = Tile(gain, n)  sn = Tile(shift, n)  mn = Tile(mu, n)  vn = Tile(var, n)
            c = BatchNormalization(b, gn, sn, mn, vn)  s = Shape(a)  d = Reshape(c, s)  y = Conv(d, w2) }""",
        {
            "w1": (6, 3, 1, 1),
            "flat": [1, -1, 4, 4],
            "gain": (6,),
            "shift": (6,),
            "mu": (6,),
            "var": (6,),
            "w2": (4, 6, 1, 1),
        },
        {"gain:0 mu:0 shift:0 var:0 w1:0 w2:1": 6},
    ),
}
