"""Fused operators: attention of ONNX and of com.microsoft, fused norms and activations, quantised families."""

from __future__ import annotations

import numpy as np

from zoo_base import Case


def int8(*shape: int) -> np.ndarray:
    """Small integers, no two neighbours equal."""
    return ((np.arange(np.prod(shape)) * 7 % 23 - 11).reshape(shape)).astype(np.int8)


def u8(value: int) -> np.ndarray:
    return np.array(value, np.uint8)


def i8(value: int) -> np.ndarray:
    return np.array(value, np.int8)


GQA = {"wk:1 wo:0 wq:1 wv:1": 2, "wo:0 wq:1": 2, "wk:1 wq:1": 3, "wo:0 wv:1": 5}
CASES: dict[str, Case] = {
    "attention_23": Case(  # 4 query heads on 2 key heads; keys of 3, values of 5
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            o = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v)  y = MatMul(o, wo) }""",
        {"wq": (8, 12), "wk": (8, 6), "wv": (8, 10), "wo": (20, 8)},
        GQA,
        blocks={"wo:0 wq:1": 2, "wk:1 wq:1": 2, "wo:0 wv:1": 2},
        opset=23,
    ),
    "attention_23_4d": Case(
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, rq)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, rq)  k = Transpose<perm=[0,2,1,3]>(k1)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, rv)  v = Transpose<perm=[0,2,1,3]>(v1)
            o = Attention<is_causal=1>(q, k, v)  t = Transpose<perm=[0,2,1,3]>(o)  f = Reshape(t, ro)
            y = MatMul(f, wo) }""",
        {"wq": (8, 6), "wk": (8, 6), "wv": (8, 10), "rq": [0, 0, 2, 3], "rv": [0, 0, 2, 5], "ro": [0, 0, 10],
         "wo": (10, 8)},
        {"wk:1 wo:0 wq:1 wv:1": 2, "wk:1 wq:1": 3, "wo:0 wv:1": 5},
        blocks={"wk:1 wq:1": 2, "wo:0 wv:1": 2},
        opset=23,
    ),
    "rms_norm_23": Case(
        """(float[1,5,8] x) => (float[1,5,4] y) { a = MatMul(x, w1)  b = RMSNormalization(a, g)  y = MatMul(b, w2) }""",
        {"w1": (8, 6), "g": (6,), "w2": (6, 4)},
        {"g:0 w1:1 w2:0": 6},
        stats=("g:0 w1:1 w2:0",),
        opset=23,
    ),
    "rotary_23": Case(  # the pair (i, i + 3) of every head turns together, by one table for all heads
        """(float[1,5,8] x) => (float[1,5,4] y) {
            a = MatMul(x, w1)  b = RotaryEmbedding<num_heads=2>(a, cos, sin)  y = MatMul(b, w2) }""",
        {"w1": (8, 12), "cos": (1, 5, 3), "sin": (1, 5, 3), "w2": (12, 4)},
        {"w1:1 w2:0": 2, "cos:2 sin:2 w1:1 w2:0": 3},
        blocks={"w1:1 w2:0": 3},  # every pair may keep heads of its own
        opset=23,
    ),
    "rotary_23_interleaved": Case(
        """(float[1,5,8] x) => (float[1,5,4] y) {
            a = MatMul(x, w1)  b = RotaryEmbedding<num_heads=2, interleaved=1>(a, cos, sin)  y = MatMul(b, w2) }""",
        {"w1": (8, 12), "cos": (1, 5, 3), "sin": (1, 5, 3), "w2": (12, 4)},
        {"w1:1 w2:0": 2, "cos:2 sin:2 w1:1 w2:0": 3},
        blocks={"w1:1 w2:0": 3},  # every pair may keep heads of its own
        opset=23,
    ),
    "multi_head_attention": Case(
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            o = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v, b)  y = MatMul(o, wo) }""",
        {"wq": (8, 6), "wk": (8, 6), "wv": (8, 10), "b": (22,), "wo": (10, 8)},
        {"b:0 wk:1 wo:0 wq:1 wv:1": 2, "b:0 wk:1 wq:1": 3, "b:0 wo:0 wv:1": 5},
        blocks={"b:0 wk:1 wq:1": 2, "b:0 wo:0 wv:1": 2},
    ),
    "microsoft_attention": Case(  # one weight for queries, keys and values; sizes become unequal
        """(float[1,5,8] x) => (float[1,5,8] y) {
            o = com.microsoft.Attention<num_heads=2>(x, w, b)  y = MatMul(o, wo) }""",
        {"w": (8, 24), "b": (24,), "wo": (8, 8)},
        {"b:0 w:1 wo:0": 2, "b:0 w:1": 4, "b:0 w:1 wo:0#2": 4},
        blocks={"b:0 w:1": 2, "b:0 w:1 wo:0#2": 2},
    ),
    "microsoft_attention_sizes": Case(
        """(float[1,5,8] x) => (float[1,5,8] y) {
            o = com.microsoft.Attention<num_heads=2, qkv_hidden_sizes=[6,6,10]>(x, w, b)  y = MatMul(o, wo) }""",
        {"w": (8, 22), "b": (22,), "wo": (10, 8)},
        {"b:0 w:1 wo:0": 2, "b:0 w:1": 3, "b:0 w:1 wo:0#2": 5},
        blocks={"b:0 w:1": 2, "b:0 w:1 wo:0#2": 2},
    ),
    "group_query_attention": Case(  # the caches hold the key heads and the head size
        """(float[1,3,8] x, int32[1] n, int32 t, float[1,2,4,8] pk, float[1,2,4,8] pv)
            => (float[1,3,8] y, float[1,2,7,8] nk, float[1,2,7,8] nv)
            <float[1,3,32] o> {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            o, nk, nv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>(q, k, v, pk, pv, n, t)
            y = MatMul(o, wo) }""",
        {"wq": (8, 32), "wk": (8, 16), "wv": (8, 16), "wo": (32, 8)},
        {"wo:0 wq:1": 2},
        blocks={"wo:0 wq:1": 2},
        runs=False,  # its lengths have to agree with one another, random ones do not
    ),
    "grouped_query_size": Case(  # head sizes in steps of 8, the same number in each key head
        """(float[1,3,8] x) => (float[1,3,8] y) <float[1,3,96] o> {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            o, nk, nv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>(q, k, v, , , n, t)
            y = MatMul(o, wo) }""",
        {"wq": (8, 96), "wk": (8, 48), "wv": (8, 48), "wo": (96, 8), "n": np.array([2], np.int32),
         "t": np.array(3, np.int32)},
        {"wk:1 wo:0 wq:1 wv:1": 2, "wo:0 wq:1": 2, "wk:1 wo:0 wq:1 wv:1#2": 3},
        blocks={"wo:0 wq:1": 2, "wk:1 wo:0 wq:1 wv:1#2": 2},
    ),
    "grouped_query_rotated": Case(  # the table of angles is shared by the heads, and so is the choice
        """(float[1,3,8] x) => (float[1,3,8] y) <float[1,3,128] o> {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            o, nk, nv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2, do_rotary=1>
                (q, k, v, , , n, t, cos, sin)
            y = MatMul(o, wo) }""",
        {"wq": (8, 128), "wk": (8, 64), "wv": (8, 64), "wo": (128, 8), "n": np.array([2], np.int32),
         "t": np.array(3, np.int32), "cos": (8, 16), "sin": (8, 16)},
        {"wk:1 wo:0 wq:1 wv:1": 2, "wo:0 wq:1": 2, "cos:1 sin:1 wk:1 wo:0 wq:1 wv:1": 2},
        blocks={"wo:0 wq:1": 2},
    ),
    "skip_layer_norm": Case(
        """(float[1,5,8] x) => (float[1,5,4] y) {
            a = MatMul(x, w1)  s = MatMul(x, w2)  b = com.microsoft.SkipLayerNormalization(a, s, g, t, c)
            y = MatMul(b, w3) }""",
        {"w1": (8, 6), "w2": (8, 6), "g": (6,), "t": (6,), "c": (6,), "w3": (6, 4)},
        {"c:0 g:0 t:0 w1:1 w2:1 w3:0": 6},
        stats=("c:0 g:0 t:0 w1:1 w2:1 w3:0",),
    ),
    "skip_simplified_layer_norm": Case(  # the sum goes on as the trunk
        """(float[1,5,8] x) => (float[1,5,4] y) {
            a = MatMul(x, w1)  s = MatMul(x, w2)
            b, m, v, r = com.microsoft.SkipSimplifiedLayerNormalization(a, s, g)  d = Add(b, r)  y = MatMul(d, w3) }""",
        {"w1": (8, 6), "w2": (8, 6), "g": (6,), "w3": (6, 4)},
        {"g:0 w1:1 w2:1 w3:0": 6},
        stats=("g:0 w1:1 w2:1 w3:0",),
    ),
    "embed_layer_norm": Case(
        """(int32[1,5] i, int32[1,5] s) => (float[1,5,4] y) {
            a, m = com.microsoft.EmbedLayerNormalization(i, s, we, pe, se, g, t)  y = MatMul(a, w) }""",
        {"we": (9, 6), "pe": (5, 6), "se": (3, 6), "g": (6,), "t": (6,), "w": (6, 4)},
        {"g:0 pe:1 se:1 t:0 w:0 we:1": 6},
        stats=("g:0 pe:1 se:1 t:0 w:0 we:1",),
    ),
    "fused_activations": Case(
        """(float[1,5,8] x) => (float[1,5,4] y) {
            a = MatMul(x, w1)  b = com.microsoft.BiasGelu(a, c)  d = com.microsoft.FastGelu(b, e)
            f = com.microsoft.QuickGelu(d)  g = com.microsoft.Gelu(f)  y = MatMul(g, w2) }""",
        {"w1": (8, 6), "c": (6,), "e": (6,), "w2": (6, 4)},
        {"c:0 e:0 w1:1 w2:0": 6},
    ),
    "fused_conv": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w0)  b = com.microsoft.FusedConv<activation="Relu">(x, w1, c, a)  y = Conv(b, w2) }""",
        {"w0": (6, 3, 1, 1), "w1": (6, 3, 1, 1), "c": (6,), "w2": (4, 6, 1, 1)},
        {"c:0 w0:0 w1:0 w2:1": 6},
    ),
    "fused_matmul": Case(
        """(float[2,4] x) => (float[2,3] y) {
            a = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(x, w1)
            b = com.microsoft.FusedGemm<activation="Relu">(a, w2, c)  y = MatMul(b, w3) }""",
        {"w1": (6, 4), "w2": (6, 5), "c": (5,), "w3": (5, 3)},
        {"w1:0 w2:0": 6, "c:0 w2:1 w3:0": 5},
    ),
    "matmul_nbits": Case(
        """(float[2,16] x) => (float[2,4] y) {
            a = MatMul(x, w1)  b = com.microsoft.MatMulNBits<K=16, N=5, bits=4, block_size=16>(a, q, s)
            y = MatMul(b, w2) }""",
        {"w1": (16, 16), "q": np.full((5, 1, 8), 91, np.uint8), "s": (5,), "w2": (5, 4)},
        {},
        frozen={"w1:1": "blocks of quantised weights", "w2:0": "blocks of quantised weights"},
    ),
    "qlinear_conv": Case(  # the weights count from 3: what is masked is 3, not 0
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = QuantizeLinear(x, s, z)  b = QLinearConv(a, s, z, w1, s, zw, s1, z, b1)
            c = com.microsoft.QLinearSigmoid(b, s1, z, s0, z0)  d = QLinearConv(c, s0, z0, w2, s, zw, s2, z)
            y = DequantizeLinear(d, s2, z) }""",
        {"s": 0.02, "z": u8(128), "w1": int8(6, 3, 1, 1), "zw": i8(3), "s1": 0.01, "s0": 0.004, "z0": u8(0),
         "b1": np.arange(6, dtype=np.int32) * 40, "w2": int8(4, 6, 1, 1), "s2": 0.004},
        None,
    ),
    "qlinear_matmul": Case(
        """(float[2,4] x) => (float[2,3] y) {
            a = QuantizeLinear(x, s, z)  b = QLinearMatMul(a, s, z, w1, s, zw, s1, z)
            c = com.microsoft.QLinearAdd(b, s1, z, k, s, z, s1, z)  d = QLinearMatMul(c, s1, z, w2, s, zw, s1, z)
            y = DequantizeLinear(d, s1, z) }""",
        {"s": 0.02, "z": u8(128), "w1": int8(4, 6), "zw": i8(2), "s1": 0.01, "k": np.arange(6, dtype=np.uint8) * 40,
         "w2": int8(6, 3)},
        None,
    ),
    "integer_matmul": Case(  # the range of the activations is a statistic over all of them
        """(float[2,4] x) => (float[2,3] y) {
            e = MatMul(x, w0)  a, s, z = DynamicQuantizeLinear(e)  b = MatMulInteger(a, w1, z, zw)  c = Cast<to=1>(b)
            d = Mul(c, s)  f = Mul(d, sw)  y = MatMul(f, w2) }""",
        {"w0": (4, 5), "w1": int8(5, 6), "zw": i8(2), "sw": (6,), "w2": (6, 3)},
        {"w0:1": 5, "sw:0 w2:0": 6},
        stats=("w0:1",),
    ),
    "transposed_matmuls": Case(
        """(float[4,2] x) => (float[2,3] y) {
            a = com.microsoft.FusedMatMul<transA=1, alpha=2.0>(x, w1)
            b = com.microsoft.TransposeMatMul<transB=1>(a, w2)
            d = com.microsoft.FusedGemm<activation="Tanh", transB=1, alpha=0.5, beta=2.0>(b, w3, c)
            y = com.microsoft.FusedMatMul<transB=1>(d, w4) }""",
        {"w1": (4, 6), "w2": (5, 6), "w3": (7, 5), "c": (7,), "w4": (3, 7)},
        {"w1:1 w2:1": 6, "w2:0 w3:1": 5, "c:0 w3:0 w4:1": 7},
    ),
    "dynamic_quantize_matmul": Case(  # the scale of what it reads is that of its largest channel
        """(float[2,4] x) => (float[2,3] y) {
            a = com.microsoft.DynamicQuantizeMatMul(x, w1, s6, z6, c)
            y = com.microsoft.DynamicQuantizeMatMul(a, w2, s, z) }""",
        {"w1": int8(4, 6), "s6": np.full(6, 0.02, np.float32), "z6": np.zeros(6, np.int8), "c": (6,),
         "w2": int8(6, 3), "s": 0.02, "z": i8(3)},
        {"c:0 s6:0": 6},
        stats=("c:0 s6:0",),
    ),
    "matmul_integer_to_float": Case(
        """(float[2,4] x) => (float[2,3] y) {
            q = QuantizeLinear(x, s, z)  a = com.microsoft.MatMulIntegerToFloat(q, w1, s, s6, z, z6, c)
            b = QuantizeLinear(a, s, z)  y = com.microsoft.MatMulIntegerToFloat(b, w2, s, s3, z, z3) }""",
        {"s": 0.02, "z": u8(128), "w1": int8(4, 6), "s6": np.full(6, 0.02, np.float32), "z6": np.zeros(6, np.int8),
         "c": (6,), "w2": int8(6, 3), "s3": 0.01, "z3": i8(3)},
        {"c:0 s6:0": 6},
    ),
    "qgemm_per_channel": Case(  # one scale and one zero point per row of B
        """(float[2,4] x) => (float[2,3] y) {
            a = QuantizeLinear(x, s, z)  b = com.microsoft.QGemm<transB=1>(a, s, z, w1, s6, z6, c, s1, z)
            d = com.microsoft.QGemm<transB=1>(b, s1, z, w2, s3, z3)  y = Identity(d) }""",
        {"s": 0.02, "z": u8(128), "w1": int8(6, 4), "s6": np.full(6, 0.02, np.float32), "z6": np.zeros(6, np.int8),
         "s1": 0.01, "c": np.arange(6, dtype=np.int32) * 40, "w2": int8(3, 6), "s3": np.full(3, 0.02, np.float32),
         "z3": np.zeros(3, np.int8)},
        {"s6:0": 6},
    ),
    "qgemm": Case(
        """(float[2,4] x) => (float[2,3] y) {
            a = QuantizeLinear(x, s, z)  b = com.microsoft.QGemm<transB=1>(a, s, z, w1, s, zw, c, s1, z)
            d = com.microsoft.QGemm<transB=1>(b, s1, z, w2, s, zw)  y = Identity(d) }""",
        {"s": 0.02, "z": u8(128), "w1": int8(6, 4), "zw": i8(0), "s1": 0.01, "c": np.arange(6, dtype=np.int32) * 40,
         "w2": int8(3, 6)},
        None,
    ),
}  # fmt: skip

CASES |= {
    "inverse": Case(
        """(float[1,3,4] x) => (float[1,5,4] y) {
            a = Conv(x, w1)  b = Reshape(a, r)  c = Add(b, eye)  d = com.microsoft.Inverse(c)  e = Reshape(d, r2)
            y = Conv(e, w2) }""",
        {"w1": (6, 3, 1), "w2": (5, 6, 1), "r": [1, 6, 2, 2], "r2": [1, 6, 4], "eye": np.eye(2, dtype=np.float32) * 9},
        {"w1:0 w2:1": 6},
    ),
    "distances": Case(  # of every row to some places: the rows are free, the coordinates are not
        """(float[3,4] x) => (float[5,2] y) {
            a = MatMul(w1, x)  b = com.microsoft.CDist<metric="euclidean">(a, places)  y = MatMul(w2, b) }""",
        {"w1": (6, 3), "w2": (5, 6), "places": (2, 4)},
        {"w1:0 w2:1": 6},
    ),
}
