"""Convolutions: plain, grouped, depthwise, transposed; shortcuts, gates, pooling, blocks of known networks."""

from __future__ import annotations

from zoo_base import Case

CASES: dict[str, Case] = {
    "conv": Case(
        """(float[1,3,6,6] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1, b1)  b = Relu(a)  y = Conv(b, w2, b2) }""",
        {"w1": (5, 3, 3, 3), "b1": (5,), "w2": (4, 5, 1, 1), "b2": (4,)},
        {"b1:0 w1:0 w2:1": 5},
        frozen={"w1:1": "graph input", "w2:0": "graph output", "b2:0": "graph output"},
    ),
    "conv_1d": Case(
        """(float[1,3,9] x) => (float[1,4,3] y) {
            a = Conv<strides=[2]>(x, w1)  b = LeakyRelu<alpha=0.1>(a)  y = Conv<dilations=[1]>(b, w2) }""",
        {"w1": (7, 3, 3), "w2": (4, 7, 2)},
        {"w1:0 w2:1": 7},
    ),
    "conv_3d": Case(
        """(float[1,2,4,4,4] x) => (float[1,3,2,2,2] y) {
            a = Conv(x, w1, b1)  b = Elu(a)  y = Conv(b, w2) }""",
        {"w1": (5, 2, 3, 3, 3), "b1": (5,), "w2": (3, 5, 1, 1, 1)},
        {"b1:0 w1:0 w2:1": 5},
    ),
    "residual": Case(
        """(float[1,3,8,8] x) => (float[1,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1, b1)  b = BatchNormalization(a, s, t, mu, var)  c = Relu(b)
            d = Conv(c, w2)  e = Add(d, c)  f = GlobalAveragePool(e)  h = Flatten(f)
            y = Gemm<transB=1>(h, w3, b3) }""",
        {
            "w1": (8, 3, 3, 3),
            "b1": (8,),
            "s": (8,),
            "t": (8,),
            "mu": (8,),
            "var": (8,),
            "w2": (8, 8, 1, 1),
            "w3": (5, 8),
            "b3": (5,),
        },
        {"b1:0 mu:0 s:0 t:0 var:0 w1:0 w2:0 w2:1 w3:1": 8},
        frozen={"w3:0": "output", "b3:0": "output"},
    ),
    "residual_projection": Case(  # the trunk widens: two groups, the shortcut has its own convolution
        """(float[1,3,8,8] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Conv<strides=[2,2]>(a, w2)  c = Relu(b)  d = Conv(c, w3)
            s = Conv<strides=[2,2]>(a, ws)  e = Add(d, s)  y = Conv(e, w4) }""",
        {"w1": (5, 3, 1, 1), "w2": (6, 5, 1, 1), "w3": (9, 6, 1, 1), "ws": (9, 5, 1, 1), "w4": (4, 9, 1, 1)},
        {"w1:0 w2:1 ws:1": 5, "w2:0 w3:1": 6, "w3:0 w4:1 ws:0": 9},
    ),
    "residual_on_input": Case(  # what is added to a graph input cannot change
        """(float[1,6,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  d = Add(c, x)  y = Conv(d, w3) }""",
        {"w1": (5, 6, 1, 1), "w2": (6, 5, 1, 1), "w3": (4, 6, 1, 1)},
        {"w1:0 w2:1": 5},
        frozen={"w2:0": "input", "w3:1": "input"},
    ),
    "grouped_conv": Case(
        """(float[1,3,6,6] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1, b1)  b = Relu(a)  c = Conv<group=3>(b, w2, b2)  d = Relu(c)  y = Conv(d, w3) }""",
        {"w1": (6, 3, 1, 1), "b1": (6,), "w2": (12, 2, 3, 3), "b2": (12,), "w3": (5, 12, 1, 1)},
        {"b1:0 b2:0 w1:0 w2:0 w3:1": 3, "b1:0 w1:0 w2:1": 2, "b2:0 w2:0 w3:1": 4},
        blocks={"b1:0 w1:0 w2:1": 3, "b2:0 w2:0 w3:1": 3},
    ),
    "grouped_conv_on_input": Case(  # the groups and their inputs are those of the graph input: only o is free
        """(float[1,6,4,4] x) => (float[1,5,4,4] y) { a = Conv<group=3>(x, w1)  b = Relu(a)  y = Conv(b, w2) }""",
        {"w1": (12, 2, 1, 1), "w2": (5, 12, 1, 1)},
        {"w1:0 w2:1": 4},
        blocks={"w1:0 w2:1": 3},
        frozen={"w1:1": "input"},
    ),
    "grouped_conv_1d": Case(
        """(float[1,3,7] x) => (float[1,4,5] y) {
            a = Conv(x, w1)  b = Conv<group=2>(a, w2)  y = Conv(b, w3) }""",
        {"w1": (10, 3, 1), "w2": (6, 5, 3), "w3": (4, 6, 1)},
        {"w1:0 w2:0 w3:1": 2, "w1:0 w2:1": 5, "w2:0 w3:1": 3},
        blocks={"w1:0 w2:1": 2, "w2:0 w3:1": 2},
    ),
    "grouped_conv_pair": Case(  # equal group counts, one after the other: the same blocks all the way
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Conv<group=3>(a, w2)  c = Conv<group=3>(b, w3)  y = Conv(c, w4) }""",
        {"w1": (6, 3, 1, 1), "w2": (12, 2, 1, 1), "w3": (15, 4, 1, 1), "w4": (4, 15, 1, 1)},
        {"w1:0 w2:0 w3:0 w4:1": 3, "w1:0 w2:1": 2, "w2:0 w3:1": 4, "w3:0 w4:1": 5},
        blocks={"w1:0 w2:1": 3, "w2:0 w3:1": 3, "w3:0 w4:1": 3},
    ),
    "depthwise": Case(
        """(float[1,3,4,4] x) => (float[1,5,2,2] y) {
            a = Conv(x, w1)  b = Conv<group=6>(a, wd, bd)  c = Clip(b, lo, hi)  y = Conv(c, w2) }""",
        {"w1": (6, 3, 1, 1), "wd": (6, 1, 3, 3), "bd": (6,), "lo": 0.0, "hi": 6.0, "w2": (5, 6, 1, 1)},
        {"bd:0 w1:0 w2:1 wd:0": 6},
    ),
    "depthwise_multiplier": Case(
        """(float[1,3,4,4] x) => (float[1,5,2,2] y) {
            a = Conv(x, w1)  b = Conv<group=4>(a, wd)  y = Conv(b, w2) }""",
        {"w1": (4, 3, 1, 1), "wd": (12, 1, 3, 3), "w2": (5, 12, 1, 1)},
        {"w1:0 w2:1 wd:0": 4, "w2:1 wd:0": 3},
        blocks={"w2:1 wd:0": 4},
    ),
    "depthwise_concat_split": Case(  # 6+4 against 5+5: cut into 5, 1 and 4; Mul ties 5 to 1+4
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Conv<group=6>(a, wd)  c = Conv(x, w2)  d = Concat<axis=1>(b, c)
            e, f = Split<axis=1>(d, sp)  g = Mul(e, f)  y = Conv(g, w3) }""",
        {"w1": (6, 3, 1, 1), "wd": (6, 1, 1, 1), "w2": (4, 3, 1, 1), "sp": [5, 5], "w3": (4, 5, 1, 1)},
        {"w1:0 w3:1 wd:0": 1, "w1:0 w2:0 w3:1 wd:0": 4},
    ),
    "inverted_residual": Case(
        """(float[1,3,6,6] x) => (float[1,4,6,6] y) {
            a = Conv(x, ws)  b = Conv(a, we)  c = HardSwish(b)  d = Conv<group=9,pads=[1,1,1,1]>(c, wd)
            e = HardSigmoid(d)  f = Conv(e, wp)  g = Add(a, f)  y = Conv(g, wh) }""",
        {"ws": (5, 3, 1, 1), "we": (9, 5, 1, 1), "wd": (9, 1, 3, 3), "wp": (5, 9, 1, 1), "wh": (4, 5, 1, 1)},
        {"we:1 wh:1 wp:0 ws:0": 5, "wd:0 we:0 wp:1": 9},
    ),
    "resnext": Case(
        """(float[1,3,6,6] x) => (float[1,4] y) {
            s = Conv(x, ws)  a = Conv(s, w1)  b = Relu(a)  c = Conv<group=3,pads=[1,1,1,1]>(b, w2)  d = Relu(c)
            e = Conv(d, w3)  f = Add(s, e)  g = GlobalAveragePool(f)  h = Flatten(g)  y = MatMul(h, w4) }""",
        {"ws": (10, 3, 1, 1), "w1": (6, 10, 1, 1), "w2": (12, 2, 3, 3), "w3": (10, 12, 1, 1), "w4": (10, 4)},
        {"w1:1 w3:0 w4:0 ws:0": 10, "w1:0 w2:0 w3:1": 3, "w1:0 w2:1": 2, "w2:0 w3:1": 4},
        blocks={"w1:0 w2:1": 3, "w2:0 w3:1": 3},
    ),
    "regnet_se": Case(  # the gate sees the channels of all conv groups, and keeps them apart
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Conv<group=3>(a, w2)  c = GlobalAveragePool(b)  d = Conv(c, e1, eb)  e = Relu(d)
            f = Conv(e, e2)  g = Sigmoid(f)  h = Mul(b, g)  y = Conv(h, w3) }""",
        {
            "w1": (6, 3, 1, 1),
            "w2": (12, 2, 1, 1),
            "e1": (5, 12, 1, 1),
            "eb": (5,),
            "e2": (12, 5, 1, 1),
            "w3": (4, 12, 1, 1),
        },
        {"e1:1 e2:0 w1:0 w2:0 w3:1": 3, "w1:0 w2:1": 2, "e1:1 e2:0 w2:0 w3:1": 4, "e1:0 e2:1 eb:0": 5},
        blocks={"w1:0 w2:1": 3, "e1:1 e2:0 w2:0 w3:1": 3},
    ),
    "se_gate": Case(
        """(float[1,3,4,4] x) => (float[1,2,4,4] y) {
            a = Conv(x, w1)  b = ReduceMean<keepdims=1>(a, ax)  c = Conv(b, w2)  d = Relu(c)  e = Conv(d, w3)
            f = Sigmoid(e)  g = Mul(a, f)  y = Conv(g, w4) }""",
        {"w1": (6, 3, 1, 1), "ax": [2, 3], "w2": (5, 6, 1, 1), "w3": (6, 5, 1, 1), "w4": (2, 6, 1, 1)},
        {"w1:0 w2:1 w3:0 w4:1": 6, "w2:0 w3:1": 5},
    ),
    "se_gate_linear": Case(  # the gate as Gemm on [1, C], unsqueezed again
        """(float[1,3,4,4] x) => (float[1,2,4,4] y) {
            a = Conv(x, w1)  b = ReduceMean<keepdims=0>(a, ax)  c = Gemm<transB=1>(b, w2, b2)  d = Relu(c)
            e = Gemm(d, w3)  f = Sigmoid(e)  u = Unsqueeze(f, ax)  g = Mul(u, a)  y = Conv(g, w4) }""",
        {"w1": (6, 3, 1, 1), "ax": [2, 3], "w2": (5, 6), "b2": (5,), "w3": (5, 6), "w4": (2, 6, 1, 1)},
        {"w1:0 w2:1 w3:1 w4:1": 6, "b2:0 w2:0 w3:0": 5},
    ),
    "conv_transpose": Case(
        """(float[1,3,4,4] x) => (float[1,4,8,8] y) {
            a = Conv(x, w1)  b = ConvTranspose<strides=[2,2]>(a, wt, bt)  c = Relu(b)  y = Conv(c, w2) }""",
        {"w1": (8, 3, 1, 1), "wt": (8, 5, 2, 2), "bt": (5,), "w2": (4, 5, 1, 1)},
        {"w1:0 wt:0": 8, "bt:0 w2:1 wt:1": 5},
    ),
    "conv_transpose_grouped": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = ConvTranspose<group=2,strides=[2,2]>(a, wt, bt)
            c = MaxPool<kernel_shape=[2,2],strides=[2,2]>(b)  y = Conv(c, w2) }""",
        {"w1": (8, 3, 1, 1), "wt": (8, 3, 2, 2), "bt": (6,), "w2": (4, 6, 1, 1)},
        {"bt:0 w1:0 w2:1 wt:0": 2, "w1:0 wt:0": 4, "bt:0 w2:1 wt:1": 3},
        blocks={"w1:0 wt:0": 2, "bt:0 w2:1 wt:1": 2},
    ),
    "conv_transpose_depthwise": Case(
        """(float[1,3,4] x) => (float[1,2,8] y) {
            a = Conv(x, w1)  b = ConvTranspose<group=5,strides=[2]>(a, wt)  y = Conv(b, w2) }""",
        {"w1": (5, 3, 1), "wt": (5, 1, 2), "w2": (2, 5, 1)},
        {"w1:0 w2:1 wt:0": 5},
    ),
    "unet": Case(  # encoder, bottleneck, ConvTranspose, skip by Concat
        """(float[1,3,4,4] x) => (float[1,2,4,4] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1)  b = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a)  c = Conv(b, w2)
            d = Relu(c)  e = ConvTranspose<strides=[2,2]>(d, wt)  f = Concat<axis=1>(a, e)  y = Conv(f, w3) }""",
        {"w1": (4, 3, 3, 3), "w2": (6, 4, 1, 1), "wt": (6, 5, 2, 2), "w3": (2, 9, 1, 1)},
        {"w1:0 w2:1 w3:1": 4, "w2:0 wt:0": 6, "w3:1 wt:1": 5},
    ),
    "conv_bias_by_add": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Add(a, b1)  c = Relu(b)  d = Conv(c, w2)  e = Add(b2, d)  y = Conv(e, w3) }""",
        {"w1": (5, 3, 1, 1), "b1": (1, 5, 1, 1), "w2": (7, 5, 1, 1), "b2": (7, 1, 1), "w3": (4, 7, 1, 1)},
        {"b1:1 w1:0 w2:1": 5, "b2:0 w2:0 w3:1": 7},
    ),
    "convnext": Case(  # NHWC inside the block; layer scale is a member of the trunk
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            s = Conv(x, ws)  a = Conv<group=6,pads=[1,1,1,1]>(s, wd, bd)  b = Transpose<perm=[0,2,3,1]>(a)
            c = LayerNormalization<axis=-1>(b, g, t)  d = MatMul(c, w1)  e = Add(b1, d)  f = Erf(e)
            h = MatMul(f, w2)  i = Add(b2, h)  j = Mul(i, ls)  k = Transpose<perm=[0,3,1,2]>(j)  l = Add(s, k)
            y = Conv(l, wh) }""",
        {
            "ws": (6, 3, 1, 1),
            "wd": (6, 1, 3, 3),
            "bd": (6,),
            "g": (6,),
            "t": (6,),
            "w1": (6, 10),
            "b1": (10,),
            "w2": (10, 6),
            "b2": (6,),
            "ls": (6,),
            "wh": (4, 6, 1, 1),
        },
        {"b2:0 bd:0 g:0 ls:0 t:0 w1:0 w2:1 wd:0 wh:1 ws:0": 6, "b1:0 w1:1 w2:0": 10},
        stats=("b2:0 bd:0 g:0 ls:0 t:0 w1:0 w2:1 wd:0 wh:1 ws:0",),
    ),
    "nhwc_transposes": Case(  # TensorFlow exports: every Conv between two Transposes
        """(float[1,4,4,3] x) => (float[1,4,4,2] y) {
            a = Transpose<perm=[0,3,1,2]>(x)  b = Conv(a, w1)  c = Transpose<perm=[0,2,3,1]>(b)  d = Add(c, b1)
            e = Relu(d)  f = Transpose<perm=[0,3,1,2]>(e)  g = Conv(f, w2)  y = Transpose<perm=[0,2,3,1]>(g) }""",
        {"w1": (5, 3, 1, 1), "b1": (5,), "w2": (2, 5, 1, 1)},
        {"b1:0 w1:0 w2:1": 5},
    ),
    "densenet": Case(
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, ws)  b = Conv(a, w1)  c = Concat<axis=1>(a, b)  d = BatchNormalization(c, s, t, mu, var)
            e = Conv(d, w2)  f = Concat<axis=1>(a, b, e)  y = Conv(f, w3) }""",
        {
            "ws": (6, 3, 1, 1),
            "w1": (3, 6, 1, 1),
            "s": (9,),
            "t": (9,),
            "mu": (9,),
            "var": (9,),
            "w2": (4, 9, 1, 1),
            "w3": (5, 13, 1, 1),
        },
        {"mu:0 s:0 t:0 var:0 w1:1 w2:1 w3:1 ws:0": 6, "mu:0 s:0 t:0 var:0 w1:0 w2:1 w3:1": 3, "w2:0 w3:1": 4},
    ),
    "c2f": Case(  # split, a bottleneck chain with shortcut, concat of everything
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  b, c = Split<axis=1,num_outputs=2>(a)  d = Conv(c, w2)  e = Relu(d)  f = Conv(e, w3)
            g = Add(c, f)  h = Concat<axis=1>(b, c, g)  y = Conv(h, w4) }""",
        {"w1": (8, 3, 1, 1), "w2": (6, 4, 1, 1), "w3": (4, 6, 1, 1), "w4": (5, 12, 1, 1)},
        {"w1:0 w4:1": 4, "w1:0 w2:1 w3:0 w4:1": 4, "w2:0 w3:1": 6},
    ),
    "res2net": Case(  # scales: the output of one is added to the next part
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  p, q, r = Split<axis=1>(a, sp)  b = Conv(q, w2)  c = Add(b, r)  d = Conv(c, w3)
            e = Concat<axis=1>(p, b, d)  y = Conv(e, w4) }""",
        {"w1": (11, 3, 1, 1), "sp": [3, 4, 4], "w2": (4, 4, 1, 1), "w3": (6, 4, 1, 1), "w4": (5, 13, 1, 1)},
        {"w1:0 w4:1": 3, "w1:0 w2:1": 4, "w1:0 w2:0 w3:1 w4:1": 4, "w3:0 w4:1": 6},
    ),
    "gram": Case(  # style features: the channel axis meets itself
        """(float[1,3,4,4] x) => (float[1,5] y) {
            a = Conv(x, w1)  b = Reshape(a, r1)  t = Transpose<perm=[0,2,1]>(b)  c = MatMul(b, t)  d = Flatten(c)
            y = MatMul(d, w2) }""",
        {"w1": (6, 3, 1, 1), "r1": [1, 6, 16], "w2": (36, 5)},
        {"w1:0 w2:0": 6},
    ),
    "weight_standardized": Case(  # the weight of a Conv is computed from two initializers
        """(float[1,3,4,4] x) => (float[1,4,2,2] y) { w = Mul(v, g)  a = Conv(x, w)  y = Conv(a, w2) }""",
        {"v": (5, 3, 3, 3), "g": (5, 1, 1, 1), "w2": (4, 5, 1, 1)},
        {"g:0 v:0 w2:1": 5},
    ),
}

POOLS = {
    "max_pool": "MaxPool<kernel_shape=[2,2],strides=[2,2]>",
    "average_pool": "AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],strides=[2,2],count_include_pad=1>",
    "lp_pool": "LpPool<kernel_shape=[2,2],strides=[2,2],p=2>",
    "global_average_pool": "GlobalAveragePool",
    "global_max_pool": "GlobalMaxPool",
    "global_lp_pool": "GlobalLpPool<p=2>",
}
CASES |= {
    name: Case(
        f"(float[1,3,4,4] x) => (float[1,5,{s},{s}] y) {{ a = Conv(x, w1)  b = {op}(a)  y = Conv(b, w2) }}",
        {"w1": (7, 3, 1, 1), "w2": (5, 7, 1, 1)},
        {"w1:0 w2:1": 7},
    )
    for name, op in POOLS.items()
    for s in [1 if "global" in name else 2]
}
DEFORM = """(float[1,3,5,5] x) => (float[1,3,5,5] y) {{
    a = Conv(x, w1)  f = Conv(x, w3)  b = DeformConv<group={groups},offset_group={offsets}>(a, w2, f)
    y = Conv(b, w4) }}"""
CASES |= {
    "deform_conv_groups": Case(  # one set of offsets for all channels
        DEFORM.format(groups=2, offsets=1),
        {"w1": (12, 3, 1, 1), "w3": (2, 3, 1, 1), "w2": (10, 6, 1, 1), "w4": (3, 10, 1, 1)},
        {"w1:0 w2:0 w4:1": 2, "w1:0 w2:1": 6, "w2:0 w4:1": 5},
        blocks={"w1:0 w2:1": 2, "w2:0 w4:1": 2},
        opset=19,
    ),
    "deform_conv_groups_and_offsets": Case(  # channels are dealt out to the offsets by their numbers: nothing may move
        DEFORM.format(groups=2, offsets=2),
        {"w1": (12, 3, 1, 1), "w3": (4, 3, 1, 1), "w2": (10, 6, 1, 1), "w4": (3, 10, 1, 1)},
        {"w2:0 w4:1": 5},
        blocks={"w2:0 w4:1": 2},
        opset=19,
        frozen=dict.fromkeys(["w1:0", "w2:1"], "fixes the size"),
    ),
}
CASES |= {
    "conv_over_tokens": Case(  # a Mixer that mixes tokens by a kernel of 1: the features pass
        """(float[1,6,4] x) => (float[1,6,3] y) {
            a = MatMul(x, w1)  b = Relu(a)  c = Conv(b, m1, b1)  d = Relu(c)  e = Conv(d, m2)  y = MatMul(e, w2) }""",
        {"w1": (4, 7), "m1": (5, 6, 1), "b1": (5,), "m2": (6, 5, 1), "w2": (7, 3)},
        {"w1:1 w2:0": 7, "b1:0 m1:0 m2:1": 5},
        frozen={"m1:1": "input", "m2:0": "output"},
    ),
    "conv_along_time": Case(  # a kernel along one axis only; the other one holds features
        """(float[1,2,6,4] x) => (float[1,3,6,3] y) {
            a = MatMul(x, w1)  c = Conv<pads=[1,0,1,0]>(a, m1)  d = Relu(c)  y = MatMul(d, w2) }""",
        {"w1": (4, 7), "m1": (3, 2, 3, 1), "w2": (7, 3)},
        {"w1:1 w2:0": 7},
    ),
    "conv_transpose_over_tokens": Case(
        """(float[1,6,4] x) => (float[1,5,3] y) { a = MatMul(x, w1)  c = ConvTranspose(a, m1)  y = MatMul(c, w2) }""",
        {"w1": (4, 7), "m1": (6, 5, 1), "w2": (7, 3)},
        {"w1:1 w2:0": 7},
    ),
    "conv_strides_over_features": Case(  # a kernel of 1 with a stride picks positions
        """(float[1,6,4] x) => (float[1,5,3] y) {
            a = MatMul(x, w1)  c = Conv<strides=[2]>(a, m1)  y = MatMul(c, w2) }""",
        {"w1": (4, 7), "m1": (5, 6, 1), "w2": (4, 3)},
        {},
        frozen={"w1:1": "works along", "w2:0": "works along"},
    ),
}

KEPT_WIDTHS = {
    "max_pool": "MaxPool<kernel_shape=[2,1],strides=[2,1]>",
    "average_pool": "AveragePool<kernel_shape=[2,1],strides=[2,1]>",
    "average_pool_padded": "AveragePool<kernel_shape=[3,1],pads=[0,0,1,0],strides=[2,1],ceil_mode=1>",
    "max_pool_same": 'MaxPool<kernel_shape=[2,1],strides=[2,1],auto_pad="SAME_UPPER">',
    "lp_pool": "LpPool<kernel_shape=[2,1],strides=[2,1],p=2>",
}
"""Pooling along the height alone: the width is passed on."""
CASES |= {
    f"{name}_along_one_axis": Case(
        f"(float[1,1,4,5] x) => (float[1,1,2,3] y) {{ a = MatMul(x, w1)  b = {op}(a)  y = MatMul(b, w2) }}",
        {"w1": (5, 6), "w2": (6, 3)},
        {"w1:1 w2:0": 6},
    )
    for name, op in KEPT_WIDTHS.items()
}
CASES["pool_that_pads_along_the_width"] = Case(
    """(float[1,1,4,5] x) => (float[1,1,4,3] y) {
        a = MatMul(x, w1)  b = AveragePool<kernel_shape=[1,1],pads=[0,0,0,1]>(a)  y = MatMul(b, w2) }""",
    {"w1": (5, 6), "w2": (7, 3)},
    {},
    frozen={"w1:1": "AveragePool works along this axis"},
    runs=False,  # onnxruntime takes no pads of a whole window
)
CASES["pool_that_skips_along_the_width"] = Case(
    """(float[1,1,4,5] x) => (float[1,1,4,3] y) {
        a = MatMul(x, w1)  b = MaxPool<kernel_shape=[1,1],strides=[1,2]>(a)  y = MatMul(b, w2) }""",
    {"w1": (5, 6), "w2": (3, 3)},
    {},
    frozen={"w1:1": "MaxPool works along this axis"},
)
CASES |= {
    f"{name}_over_features": Case(  # a normalisation over the last axis, as tf2onnx writes one
        f"""(float[1,4,5] x) => (float[1,4,3] y) {{
            a = MatMul(x, w1)  u = Unsqueeze(a, three)  m = {op}(u)  d = Sub(u, m)  s = Squeeze(d, three)
            y = MatMul(s, w2) }}""",
        {"w1": (5, 6), "w2": (6, 3), "three": [3]},
        {"w1:1 w2:0": 6},
        stats=("w1:1 w2:0",),
    )
    for name, op in POOLS.items()
    if "global" in name
}
CASES["global_average_pool_over_blocks"] = Case(
    """(float[1,4,5] x) => (float[1,4,3] y) {
        a = MatMul(x, w1)  u = Reshape(a, r)  m = GlobalAveragePool(u)  d = Add(u, m)  s = Reshape(d, r2)
        y = MatMul(s, w2) }""",
    {"w1": (5, 6), "w2": (6, 3), "r": [4, 2, 3, 1], "r2": [1, 4, 6]},
    {"w1:1 w2:0": 2, "w1:1 w2:0#2": 3},
    blocks={"w1:1 w2:0#2": 2},
    stats=("w1:1 w2:0#2",),
)
FOURIER = {
    "opset_17": ("DFT<axis=2>(u)", 17, {}),
    "opset_20": ("DFT(u, , two)", 20, {"two": 2}),
    "of_some_length": ("DFT<axis=2>(u, length)", 17, {"length": 4}),
}
CASES |= {
    f"fourier_transform_{name}": Case(
        f"""(float[1,3,4] x) => (float[1,5,4,2] y) {{
            a = Conv(x, w1)  u = Unsqueeze(a, last)  f = {op}  h = Reshape(f, r)  c = Conv(h, w2)
            y = Reshape(c, r2) }}""",
        {"w1": (6, 3, 1), "w2": (5, 6, 1), "last": [-1], "r": [1, 6, 8], "r2": [1, 5, 4, 2], **more},
        {"w1:0 w2:1": 6},
        opset=opset,
    )
    for name, (op, opset, more) in FOURIER.items()
}
CASES |= {
    "fourier_transform_over_channels": Case(
        """(float[1,3,4] x) => (float[1,5,4] y) {
            a = Conv(x, w1)  u = Unsqueeze(a, last)  f = DFT<axis=1>(u)  e = ReduceSum<keepdims=0>(f, last)
            y = Conv(e, w2) }""",
        {"w1": (6, 3, 1), "w2": (5, 6, 1), "last": [-1]},
        {},
        opset=17,
        frozen={"w1:0": "DFT works along this axis", "w2:1": "DFT works along this axis"},
    ),
    "short_time_fourier_transform": Case(
        """(float[1,3,16] x) => (float[5,30] y) {
            a = Conv(x, w1)  u = Reshape(a, r)  f = STFT<onesided=1>(u, step, window)  t = Reshape(f, r2)
            y = MatMul(w2, t) }""",
        {"w1": (6, 3, 1), "w2": (5, 6), "r": [6, 16, 1], "r2": [6, 30], "step": 4, "window": (8,)},
        {"w1:0 w2:1": 6},
        opset=17,
    ),
    "columns_to_image": Case(
        """(float[1,3,4] x) => (float[1,5,3,3] y) {
            a = Conv(x, w1)  b = Col2Im(a, image, block)  y = Conv(b, w2) }""",
        {"w1": (24, 3, 1), "w2": (5, 6, 1, 1), "image": [3, 3], "block": [2, 2]},
        {"w1:0 w2:1": 6},
    ),
    "determinant": Case(
        """(float[1,3,4] x) => (float[1,5] y) {
            a = Conv(x, w1)  b = Reshape(a, r)  d = Det(b)  y = MatMul(d, w2) }""",
        {"w1": (6, 3, 1), "w2": (6, 5), "r": [1, 6, 2, 2]},
        {"w1:0 w2:0": 6},
    ),
}
