"""How weights come (Constant, Identity, Cast, quantized), operators without a rule, indexing, symbols."""

from __future__ import annotations

import numpy as np

from zoo_base import Case


def int8(*shape: int) -> np.ndarray:
    """Small integers, no two neighbours equal."""
    return ((np.arange(np.prod(shape)) * 7 % 23 - 11).reshape(shape)).astype(np.int8)


CASES: dict[str, Case] = {
    "no_weights": Case("(float[1,3] x) => (float[1,3] y) { a = Relu(x)  y = Softmax(a) }", {}, {}),
    "pass_through": Case(  # an output that is an input, and a weight that is an output
        """(float[2,4] x) => (float[2,4] x, float[4,6] w, float[2,6] y) { y = MatMul(x, w) }""",
        {"w": (4, 6)},
        {},
        frozen={"w:0": "graph", "w:1": "graph output"},
    ),
    "constant_nodes": Case(  # members carry the names of the Constant nodes' outputs
        """(float[1,2] x) => (float[1,2] y) {
            w1 = Constant<value = float[2,3] {0.1, 0.2, -0.3, 0.4, -0.5, 0.6}>()
            b1 = Constant<value_floats = [0.1, -0.2, 0.3]>()
            w2 = Constant<value = float[3,2] {0.6, -0.5, 0.4, 0.3, 0.2, -0.1}>()
            a = MatMul(x, w1)  b = Add(a, b1)  c = Relu(b)  y = MatMul(c, w2) }""",
        {},
        {"b1:0 w1:1 w2:0": 3},
    ),
    "identity_vector": Case(  # a vector that an exporter merged and reads through Identity: two groups
        """(float[2,4] x) => (float[2,3] y) {
            z2 = Identity(z)  a = MatMul(x, w1)  b = Add(a, z)  c = Relu(b)  d = MatMul(c, w2)  e = Add(d, z2)
            y = MatMul(e, w3) }""",
        {"w1": (4, 6), "z": (6,), "w2": (6, 6), "w3": (6, 3)},
        {"w1:1 w2:0 z:0": 6, "w2:1 w3:0 z:0": 6},
    ),
    "identity_matrix": Case(  # a matrix shared through Identity is tied for its meaning: one group
        """(float[2,4] p, float[2,4] q) => (float[2,3] y) {
            w2 = Identity(w1)  a = MatMul(p, w1)  b = MatMul(q, w2)  c = Concat<axis=1>(a, b)  y = MatMul(c, w3) }""",
        {"w1": (4, 6), "w3": (12, 3)},
        {"w1:1 w3:0": 6},
    ),
    "float16_weights": Case(  # stored as half, computed as float
        """(float[2,4] x) => (float[2,3] y) {
            w = Cast<to=1>(w1)  a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, w2) }""",
        {"w1": np.linspace(-1, 1, 24).reshape(4, 6).astype(np.float16), "w2": (6, 3)},
        {"w1:1 w2:0": 6},
    ),
    "initializers_as_inputs": Case(  # IR version 3: every initializer is listed as an input
        """(float[1,3,4,4] x, float[6,3,1,1] w1, float[4,6,1,1] w2) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1": 6},
        opset=9,
    ),
    "qdq_per_channel": Case(  # integer weights are no members; their scales are
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            w1 = DequantizeLinear<axis=0>(q1, s1, z1)  b1 = DequantizeLinear<axis=0>(qb, sb)
            w2 = DequantizeLinear<axis=0>(q2, s2, z2)  a = Conv(x, w1, b1)  b = Relu(a)
            c = QuantizeLinear(b, sa, za)  d = DequantizeLinear(c, sa, za)  y = Conv(d, w2) }""",
        {
            "q1": int8(6, 3, 1, 1),
            "s1": (6,),
            "z1": np.zeros(6, np.int8),
            "qb": int8(6).astype(np.int32),
            "sb": (6,),
            "q2": int8(4, 6, 1, 1),
            "s2": (4,),
            "z2": np.zeros(4, np.int8),
            "sa": 0.05,
            "za": np.array(3, np.uint8),
        },
        {"s1:0 sb:0": 6},
        frozen={"s2:0": "graph output"},
    ),
    "qdq_matmul": Case(  # the channel axis is the second one; the next weight has one scale for all
        """(float[2,4] x) => (float[2,3] y) {
            w1 = DequantizeLinear<axis=1>(q1, s1, z1)  w2 = DequantizeLinear(q2, s2)
            a = MatMul(x, w1)  b = Add(a, b1)  y = MatMul(b, w2) }""",
        {"q1": int8(4, 6), "s1": (6,), "z1": int8(6), "b1": (6,), "q2": int8(6, 3), "s2": 0.05},
        {"b1:0 s1:0": 6},
        opset=13,
    ),
    "custom_op": Case(  # what it touches is frozen, the rest is not
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) <float[1,6,4,4] c> {
            a = Conv(x, w0)  b = Conv(a, w1)  c = custom.Mystery(b, t)  y = Conv(c, w2) }""",
        {"w0": (5, 3, 1, 1), "w1": (6, 5, 1, 1), "t": (6, 7), "w2": (4, 6, 1, 1)},
        {"w0:0 w1:1": 5},
        frozen={"w1:0": "mystery", "t:0": "mystery", "t:1": "mystery", "w2:1": "mystery"},
        runs=False,
    ),
    "scatter_nd": Case(  # rows are indexed, the channels of data and updates are coupled
        """(float[5,4] x, float[2,3] z) => (float[5,3] y) {
            a = MatMul(x, w1)  b = MatMul(z, w2)  c = ScatterND(a, i, b)  y = MatMul(c, w3) }""",
        {"w1": (4, 6), "w2": (3, 6), "i": np.array([[3], [1]], np.int64), "w3": (6, 3)},
        {"w1:1 w2:1 w3:0": 6},
    ),
    "gather_nd": Case(
        """(float[5,4] x) => (float[2,3] y) { a = MatMul(x, w1)  b = GatherND(a, i)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "i": np.array([[3], [1]], np.int64), "w2": (6, 3)},
        {"w1:1 w2:0": 6},
    ),
    "grid_sample": Case(  # moves in space only
        """(float[1,3,4,4] x, float[1,2,2,2] g) => (float[1,4,2,2] y) {
            a = Conv(x, w1)  b = GridSample(a, g)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1": 6},
        opset=16,
    ),
    "time_embedding": Case(  # diffusion UNets: an embedding of the step is added to every position
        """(float[1,3,4,4] x, float[1,5] t) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  e = Gemm<transB=1>(t, t1, tb)  s = Sigmoid(e)  m = Mul(e, s)  f = Gemm<transB=1>(m, t2)
            u = Unsqueeze(f, ax)  b = Add(a, u)  c = Relu(b)  y = Conv(c, w2) }""",
        {"w1": (6, 3, 1, 1), "t1": (7, 5), "tb": (7,), "t2": (6, 7), "ax": [2, 3], "w2": (4, 6, 1, 1)},
        {"t2:0 w1:0 w2:1": 6, "t1:0 t2:1 tb:0": 7},
    ),
    "film": Case(  # scale and shift from one projection, cut in two: channel i goes with channel i+6
        """(float[1,3,4,4] x, float[1,5] t) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  e = MatMul(t, wt)  u = Unsqueeze(e, ax)  p, q = Split<axis=1>(u, sp)  r = Add(p, one)
            b = Mul(a, r)  c = Add(b, q)  y = Conv(c, w2) }""",
        {"w1": (6, 3, 1, 1), "wt": (5, 12), "ax": [2, 3], "sp": [6, 6], "one": 1.0, "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1 wt:1": 6},
    ),
    "maxout": Case(  # (2 c), reduced over 2; every c may keep a half of its own
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Reshape(a, r)  c = ReduceMax<keepdims=0>(b, ax)  y = MatMul(c, w2) }""",
        {"w1": (4, 14), "r": [2, 2, 7], "ax": [1], "w2": (7, 3)},
        {"w1:1 w2:0": 7, "w1:1": 2},
        blocks={"w1:1": 7},
        stats=("w1:1",),
    ),
    "detection_heads": Case(  # two scales, one shared head: the scales are coupled by it
        """(float[1,3,4,4] x) => (float[1,5,4,4] y, float[1,5,2,2] z) {
            a = Conv(x, w1)  b = Conv<strides=[2,2]>(a, w2)  p = Conv(a, l1)  q = Conv(b, l2)
            c = Conv(p, h1)  d = Conv(q, h1)  y = Conv(c, h2)  z = Conv(d, h2) }""",
        {
            "w1": (6, 3, 1, 1),
            "w2": (7, 6, 1, 1),
            "l1": (8, 6, 1, 1),
            "l2": (8, 7, 1, 1),
            "h1": (9, 8, 1, 1),
            "h2": (5, 9, 1, 1),
        },
        {"l1:1 w1:0 w2:1": 6, "l2:1 w2:0": 7, "h1:1 l1:0 l2:0": 8, "h1:0 h2:1": 9},
    ),
    "message_passing": Case(  # edges point into the nodes, whose number is a symbol
        """(float[N,4] x, int64[2,E] e) => (float[N,3] y) {
            h = MatMul(x, w1)  s = Gather<axis=0>(e, i0)  d = Gather<axis=0>(e, i1)  t = Gather(h, s)
            u = Unsqueeze(d, ax)  v = GatherND(h, u)  c = Concat<axis=1>(t, v)  m = MatMul(c, wm)
            a = ScatterND<reduction="add">(h, u, m)  y = MatMul(a, w2) }""",
        {"w1": (4, 6), "i0": 0, "i1": 1, "ax": [1], "wm": (12, 6), "w2": (6, 3)},
        {"w1:1 w2:0 wm:0 wm:1": 6},
    ),
    "scattered_by_index": Case(  # PyTorch's scatter_add: what is added is cut to the size of the indices, on every axis
        """(float[N,4] x, int64[2,E] e) => (float[N,3] y) {
            h = MatMul(x, w1)  d = Gather<axis=0>(e, i1)  t = Gather(h, d)  u = Unsqueeze(d, ax)  v = Expand(u, m)
            q = Shape(v)  c = Slice(t, from, q)  k = Shape(h)  z = ConstantOfShape(k)
            a = ScatterElements<axis=0, reduction="add">(z, v, c)  y = MatMul(a, w2) }""",
        {"w1": (4, 6), "i1": 1, "ax": [1], "m": [1, 6], "from": [0, 0], "w2": (6, 3)},
        {"w1:1 w2:0": 6},
    ),
    "fpn": Case(  # a top-down sum: lateral convolutions share one dim
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  b = Conv<strides=[2,2]>(a, w2)  p = Conv(a, l1)  q = Conv(b, l2)
            r = Resize<mode="nearest">(q, , sc)  s = Add(p, r)  y = Conv(s, h) }""",
        {
            "w1": (6, 3, 1, 1),
            "w2": (7, 6, 1, 1),
            "l1": (8, 6, 1, 1),
            "l2": (8, 7, 1, 1),
            "sc": np.array([1, 1, 2, 2], np.float32),
            "h": (5, 8, 1, 1),
        },
        {"l1:1 w1:0 w2:1": 6, "l2:1 w2:0": 7, "h:1 l1:0 l2:0": 8},
    ),
    "batchnorm_vector": Case(
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = BatchNormalization(a, s, t, mu, var)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "s": (6,), "t": (6,), "mu": (6,), "var": (6,), "w2": (6, 3)},
        {"mu:0 s:0 t:0 var:0 w1:1 w2:0": 6},
    ),
}
