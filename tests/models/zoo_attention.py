"""Attention: heads are blocks. h is the number of heads, d the channels of one head; q and k share d, v has its own."""

from __future__ import annotations

import numpy as np

from zoo_base import Case

CAUSAL = np.tri(5, dtype=bool)[None, None]

CASES: dict[str, Case] = {
    "attention": Case(  # separate q, k, v with biases; 4 heads of 3
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Add(bq, q0)  q2 = Reshape(q1, r)  q = Transpose<perm=[0,2,1,3]>(q2)
            k0 = MatMul(x, wk)  k1 = Add(bk, k0)  k2 = Reshape(k1, r)  k = Transpose<perm=[0,2,3,1]>(k2)
            v0 = MatMul(x, wv)  v1 = Add(bv, v0)  v2 = Reshape(v1, r)  v = Transpose<perm=[0,2,1,3]>(v2)
            a = MatMul(q, k)  b = Div(a, scale)  p = Softmax<axis=-1>(b)  o = MatMul(p, v)
            o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, ro)  z = MatMul(o2, wo)  y = Add(bo, z) }""",
        {
            "wq": (8, 12),
            "bq": (12,),
            "wk": (8, 12),
            "bk": (12,),
            "wv": (8, 12),
            "bv": (12,),
            "r": [1, 5, 4, 3],
            "scale": 1.7320508,
            "ro": [1, 5, 12],
            "wo": (12, 8),
            "bo": (8,),
        },
        {"bk:0 bq:0 bv:0 wk:1 wo:0 wq:1 wv:1": 4, "bk:0 bq:0 wk:1 wq:1": 3, "bv:0 wo:0 wv:1": 3},
        blocks={"bk:0 bq:0 wk:1 wq:1": 4, "bv:0 wo:0 wv:1": 4},
    ),
    "attention_uneven": Case(  # d of q and k differs from d of v
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, rq)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, rq)  k = Transpose<perm=[0,2,3,1]>(k1)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, rv)  v = Transpose<perm=[0,2,1,3]>(v1)
            a = MatMul(q, k)  p = Softmax<axis=-1>(a)  o = MatMul(p, v)
            o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, ro)  y = MatMul(o2, wo) }""",
        {
            "wq": (8, 6),
            "wk": (8, 6),
            "wv": (8, 14),
            "rq": [0, 0, 2, 3],
            "rv": [0, 0, 2, -1],
            "ro": [0, 0, -1],
            "wo": (14, 8),
        },
        {"wk:1 wo:0 wq:1 wv:1": 2, "wk:1 wq:1": 3, "wo:0 wv:1": 7},
        blocks={"wk:1 wq:1": 2, "wo:0 wv:1": 2},
    ),
    "attention_causal": Case(  # the mask is a constant over tokens
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, r)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, r)  k = Transpose<perm=[0,2,3,1]>(k1)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, r)  v = Transpose<perm=[0,2,1,3]>(v1)
            a = MatMul(q, k)  b = Where(mask, a, low)  p = Softmax<axis=-1>(b)  o = MatMul(p, v)
            o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, ro)  y = MatMul(o2, wo) }""",
        {
            "wq": (8, 12),
            "wk": (8, 12),
            "wv": (8, 12),
            "r": [1, 5, 4, 3],
            "mask": CAUSAL,
            "low": -1e4,
            "ro": [1, 5, 12],
            "wo": (12, 8),
        },
        {"wk:1 wo:0 wq:1 wv:1": 4, "wk:1 wq:1": 3, "wo:0 wv:1": 3},
        blocks={"wk:1 wq:1": 4, "wo:0 wv:1": 4},
    ),
    "attention_relative_bias": Case(  # tables per head are members of h
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, r)  q2 = Transpose<perm=[0,2,1,3]>(q1)  q = Mul(q2, tau)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, r)  k = Transpose<perm=[0,2,3,1]>(k1)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, r)  v = Transpose<perm=[0,2,1,3]>(v1)
            a = MatMul(q, k)  b = Add(a, rel)  p = Softmax<axis=-1>(b)  o = MatMul(p, v)
            o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, ro)  y = MatMul(o2, wo) }""",
        {
            "wq": (8, 12),
            "tau": (4, 1, 1),
            "wk": (8, 12),
            "wv": (8, 12),
            "r": [1, 5, 4, 3],
            "rel": (1, 4, 5, 5),
            "ro": [1, 5, 12],
            "wo": (12, 8),
        },
        {"rel:1 tau:0 wk:1 wo:0 wq:1 wv:1": 4, "wk:1 wq:1": 3, "wo:0 wv:1": 3},
        blocks={"wk:1 wq:1": 4, "wo:0 wv:1": 4},
    ),
    "attention_scale_per_channel": Case(  # a gain over d that all heads share makes d the same in all heads
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, r)  q2 = Mul(q1, g)  q = Transpose<perm=[0,2,1,3]>(q2)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, r)  k = Transpose<perm=[0,2,3,1]>(k1)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, r)  v = Transpose<perm=[0,2,1,3]>(v1)
            a = MatMul(q, k)  p = Softmax<axis=-1>(a)  o = MatMul(p, v)
            o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, ro)  y = MatMul(o2, wo) }""",
        {"wq": (8, 12), "g": (3,), "wk": (8, 12), "wv": (8, 12), "r": [1, 5, 4, 3], "ro": [1, 5, 12], "wo": (12, 8)},
        {"wk:1 wo:0 wq:1 wv:1": 4, "g:0 wk:1 wq:1": 3, "wo:0 wv:1": 3},
        blocks={"wo:0 wv:1": 4},
    ),
    "attention_heads_minor": Case(  # (d h): the block is the inner digit
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, r)  q = Transpose<perm=[0,3,1,2]>(q1)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, r)  k = Transpose<perm=[0,3,2,1]>(k1)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, r)  v = Transpose<perm=[0,3,1,2]>(v1)
            a = MatMul(q, k)  p = Softmax<axis=-1>(a)  o = MatMul(p, v)
            o1 = Transpose<perm=[0,2,3,1]>(o)  o2 = Reshape(o1, ro)  y = MatMul(o2, wo) }""",
        {"wq": (8, 10), "wk": (8, 10), "wv": (8, 10), "r": [1, 5, 5, 2], "ro": [1, 5, 10], "wo": (10, 8)},
        {"wk:1 wo:0 wq:1 wv:1": 2, "wk:1 wq:1": 5, "wo:0 wv:1": 5},
        blocks={"wk:1 wq:1": 2, "wo:0 wv:1": 2},
    ),
    "fused_qkv_split": Case(  # (3 h d), cut along the digit 3 by Split
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wqkv)  q1 = Add(q0, bqkv)  q2 = Reshape(q1, r)  q3 = Transpose<perm=[2,0,3,1,4]>(q2)
            q, k, v = Split<axis=0>(q3, sp)  kt = Transpose<perm=[0,1,2,4,3]>(k)  a = MatMul(q, kt)
            p = Softmax<axis=-1>(a)  o = MatMul(p, v)  o1 = Transpose<perm=[0,1,3,2,4]>(o)  o2 = Reshape(o1, r2)
            y = MatMul(o2, wo) }""",
        {"wqkv": (8, 36), "bqkv": (36,), "r": [1, 5, 3, 4, 3], "sp": [1, 1, 1], "r2": [1, 5, 12], "wo": (12, 8)},
        {"bqkv:0 wo:0 wqkv:1": 4, "bqkv:0 wqkv:1": 3, "bqkv:0 wo:0 wqkv:1#2": 3},
        blocks={"bqkv:0 wqkv:1": 4, "bqkv:0 wo:0 wqkv:1#2": 4},
    ),
    "fused_qkv_gather": Case(  # the same by Gather (timm)
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wqkv)  q2 = Reshape(q0, r)  q3 = Transpose<perm=[2,0,3,1,4]>(q2)
            q = Gather<axis=0>(q3, i0)  k = Gather<axis=0>(q3, i1)  v = Gather<axis=0>(q3, i2)
            kt = Transpose<perm=[0,1,3,2]>(k)  a = MatMul(q, kt)  p = Softmax<axis=-1>(a)  o = MatMul(p, v)
            o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, r2)  y = MatMul(o2, wo) }""",
        {"wqkv": (8, 36), "r": [1, 5, 3, 4, 3], "i0": 0, "i1": 1, "i2": 2, "r2": [1, 5, 12], "wo": (12, 8)},
        {"wo:0 wqkv:1": 4, "wqkv:1": 3, "wo:0 wqkv:1#2": 3},
        blocks={"wqkv:1": 4, "wo:0 wqkv:1#2": 4},
    ),
    "fused_qkv_quantized": Case(  # scales and QuantizeLinear between the linear map and the pick
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wqkv)  q1 = QuantizeLinear(q0, s, z)  q2 = DequantizeLinear(q1, s, z)
            q3 = Reshape(q2, r)  q4 = QuantizeLinear(q3, s, z)  q5 = DequantizeLinear(q4, s, z)
            q6 = Transpose<perm=[2,0,3,1,4]>(q5)  q7 = Mul(half, q6)
            q = Gather<axis=0>(q7, i0)  k = Gather<axis=0>(q7, i1)  v = Gather<axis=0>(q7, i2)
            kt = Transpose<perm=[0,1,3,2]>(k)  a = MatMul(q, kt)  p = Softmax<axis=-1>(a)  o = MatMul(p, v)
            o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, r2)  y = MatMul(o2, wo) }""",
        {
            "wqkv": (8, 36),
            "s": 0.05,
            "z": np.array(128, np.uint8),
            "half": 0.5,
            "r": [1, 5, 3, 4, 3],
            "i0": 0,
            "i1": 1,
            "i2": 2,
            "r2": [1, 5, 12],
            "wo": (12, 8),
        },
        {"wo:0 wqkv:1": 4, "wqkv:1": 3, "wo:0 wqkv:1#2": 3},
        blocks={"wqkv:1": 4, "wo:0 wqkv:1#2": 4},
    ),
    "fused_qkv_channels": Case(  # split along the channels first, then into heads (GPT-2)
        """(float[1,5,8] x) => (float[1,5,8] y) {
            a0 = MatMul(x, wqkv)  q0, k0, v0 = Split<axis=-1>(a0, sp)
            q1 = Reshape(q0, r)  q = Transpose<perm=[0,2,1,3]>(q1)  k1 = Reshape(k0, r)
            k = Transpose<perm=[0,2,3,1]>(k1)  v1 = Reshape(v0, r)  v = Transpose<perm=[0,2,1,3]>(v1)
            a = MatMul(q, k)  p = Softmax<axis=-1>(a)  o = MatMul(p, v)  o1 = Transpose<perm=[0,2,1,3]>(o)
            o2 = Reshape(o1, ro)  y = MatMul(o2, wo) }""",
        {"wqkv": (8, 36), "sp": [12, 12, 12], "r": [1, 5, 4, 3], "ro": [1, 5, 12], "wo": (12, 8)},
        {"wo:0 wqkv:1": 4, "wqkv:1": 3, "wo:0 wqkv:1#2": 3},
        blocks={"wqkv:1": 4, "wo:0 wqkv:1#2": 4},
    ),
    "fused_qkv_per_head": Case(  # (h 3d): every head has its own q, k, v side by side (GPT-NeoX, BLOOM)
        """(float[1,5,8] x) => (float[1,5,8] y) {
            a0 = MatMul(x, wqkv)  a1 = Reshape(a0, r)  a2 = Transpose<perm=[0,2,1,3]>(a1)
            q, k, v = Split<axis=-1>(a2, sp)  kt = Transpose<perm=[0,1,3,2]>(k)  a = MatMul(q, kt)
            p = Softmax<axis=-1>(a)  o = MatMul(p, v)  o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, ro)
            y = MatMul(o2, wo) }""",
        {"wqkv": (8, 36), "r": [1, 5, 4, 9], "sp": [3, 3, 3], "ro": [1, 5, 12], "wo": (12, 8)},
        {"wo:0 wqkv:1": 4, "wqkv:1": 3, "wo:0 wqkv:1#2": 3},
        blocks={"wqkv:1": 4, "wo:0 wqkv:1#2": 4},
    ),
    "gqa": Case(  # 2 kv heads, each repeated for 2 query heads by Expand
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, rq)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, rk)  k2 = Transpose<perm=[0,2,1,3]>(k1)  k3 = Unsqueeze(k2, u)
            k4 = Expand(k3, ex)  k5 = Reshape(k4, rr)  kt = Transpose<perm=[0,1,3,2]>(k5)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, rk)  v2 = Transpose<perm=[0,2,1,3]>(v1)  v3 = Unsqueeze(v2, u)
            v4 = Expand(v3, ex)  v5 = Reshape(v4, rr)
            a = MatMul(q, kt)  p = Softmax<axis=-1>(a)  o = MatMul(p, v5)  o1 = Transpose<perm=[0,2,1,3]>(o)
            o2 = Reshape(o1, ro)  y = MatMul(o2, wo) }""",
        {
            "wq": (8, 18),
            "wk": (8, 6),
            "wv": (8, 6),
            "rq": [1, 5, 6, 3],
            "rk": [1, 5, 2, 3],
            "u": [2],
            "ex": [1, 2, 3, 5, 3],
            "rr": [1, 6, 5, 3],
            "ro": [1, 5, 18],
            "wo": (18, 8),
        },
        {"wk:1 wo:0 wq:1 wv:1": 2, "wo:0 wq:1": 3, "wk:1 wq:1": 3, "wo:0 wv:1": 3},
        blocks={"wo:0 wq:1": 2, "wk:1 wq:1": 2, "wo:0 wv:1": 2},
    ),
    "mqa": Case(  # one kv head for all: d is the same in every query head
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, rq)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(x, wk)  k1 = Unsqueeze(k0, u)  kt = Transpose<perm=[0,1,3,2]>(k1)
            v0 = MatMul(x, wv)  v1 = Unsqueeze(v0, u)  a = MatMul(q, kt)  p = Softmax<axis=-1>(a)  o = MatMul(p, v1)
            o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, ro)  y = MatMul(o2, wo) }""",
        {"wq": (8, 12), "wk": (8, 3), "wv": (8, 5), "rq": [1, 5, 4, 3], "u": [1], "ro": [1, 5, 20], "wo": (20, 8)},
        {"wo:0 wq:1": 4, "wk:1 wq:1": 3, "wo:0 wv:1": 5},
    ),
    "cross_attention": Case(  # keys and values come from a second input
        """(float[1,5,8] x, float[1,3,6] z) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, r)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(z, wk)  k1 = Reshape(k0, r)  k = Transpose<perm=[0,2,3,1]>(k1)
            v0 = MatMul(z, wv)  v1 = Reshape(v0, r)  v = Transpose<perm=[0,2,1,3]>(v1)
            a = MatMul(q, k)  p = Softmax<axis=-1>(a)  o = MatMul(p, v)  o1 = Transpose<perm=[0,2,1,3]>(o)
            o2 = Reshape(o1, ro)  c = MatMul(o2, wo)  y = Add(c, x) }""",
        {"wq": (8, 12), "wk": (6, 12), "wv": (6, 12), "r": [0, -1, 4, 3], "ro": [0, 0, 12], "wo": (12, 8)},
        {"wk:1 wo:0 wq:1 wv:1": 4, "wk:1 wq:1": 3, "wo:0 wv:1": 3},
        blocks={"wk:1 wq:1": 4, "wo:0 wv:1": 4},
    ),
    "einsum_attention": Case(  # heads and channels on axes of their own
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q = Einsum<equation="btc,chd->bthd">(x, wq)  k = Einsum<equation="btc,chd->bthd">(x, wk)
            v = Einsum<equation="btc,che->bthe">(x, wv)  a = Einsum<equation="bqhd,bkhd->bhqk">(q, k)
            p = Softmax<axis=-1>(a)  o = Einsum<equation="bhqk,bkhe->bqhe">(p, v)
            y = Einsum<equation="bqhe,hec->bqc">(o, wo) }""",
        {"wq": (8, 4, 3), "wk": (8, 4, 3), "wv": (8, 4, 6), "wo": (4, 6, 8)},
        {"wk:1 wo:0 wq:1 wv:1": 4, "wk:2 wq:2": 3, "wo:1 wv:2": 6},
        blocks={"wk:2 wq:2": 4, "wo:1 wv:2": 4},
    ),
    "linear_attention": Case(  # no Softmax: k and v are contracted over tokens first
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, r)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, r)  k = Transpose<perm=[0,2,3,1]>(k1)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, r)  v = Transpose<perm=[0,2,1,3]>(v1)
            c = MatMul(k, v)  o = MatMul(q, c)  o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, ro)
            y = MatMul(o2, wo) }""",
        {"wq": (8, 12), "wk": (8, 12), "wv": (8, 12), "r": [1, 5, 4, 3], "ro": [1, 5, 12], "wo": (12, 8)},
        {"wk:1 wo:0 wq:1 wv:1": 4, "wk:1 wq:1": 3, "wo:0 wv:1": 3},
        blocks={"wk:1 wq:1": 4, "wo:0 wv:1": 4},
    ),
    "channel_attention": Case(  # scores between channels, Softmax over d of k and v: frozen; d of q is free
        """(float[1,5,8] x) => (float[1,5,8] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, r)  q = Transpose<perm=[0,2,3,1]>(q1)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, r)  k = Transpose<perm=[0,2,1,3]>(k1)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, r)  v = Transpose<perm=[0,2,3,1]>(v1)
            a = MatMul(q, k)  p = Softmax<axis=-1>(a)  o = MatMul(p, v)  o1 = Transpose<perm=[0,3,1,2]>(o)
            o2 = Reshape(o1, ro)  y = MatMul(o2, wo) }""",
        {"wq": (8, 12), "wk": (8, 12), "wv": (8, 12), "r": [1, 5, 4, 3], "ro": [1, 5, 12], "wo": (12, 8)},
        {"wk:1 wo:0 wq:1 wv:1": 4, "wo:0 wq:1": 3},
        blocks={"wo:0 wq:1": 4},
        frozen={"wk:1": "softmax", "wv:1": "softmax"},
    ),
    "gram_of_heads": Case(  # (h d) (h d)^T: both digits meet themselves, so heads are no blocks
        """(float[1,5,3] x) => (float[1,4,5] y) {
            a = MatMul(x, w1)  t = Transpose<perm=[0,2,1]>(a)  c = MatMul(t, a)  b = Reshape(c, r1)
            e = Transpose<perm=[0,1,3,2,4]>(b)  f = Reshape(e, r2)  y = MatMul(f, w2) }""",
        {"w1": (3, 6), "r1": [1, 2, 3, 2, 3], "r2": [1, 4, 9], "w2": (9, 5)},
        {"w1:1 w2:0": 3},
    ),
    "rotary": Case(  # channel i is paired with channel i+3; the tables are members
        """(float[1,5,8] x) => (float[1,5,5] y) {
            q = MatMul(x, wq)  a = Slice(q, s0, e0, ax)  b = Slice(q, s1, e1, ax)  nb = Neg(b)
            r = Concat<axis=-1>(nb, a)  u = Mul(q, cos)  v = Mul(r, sin)  w = Add(u, v)  k = MatMul(x, wk)
            kt = Transpose<perm=[0,2,1]>(k)  y = MatMul(w, kt) }""",
        {
            "wq": (8, 6),
            "wk": (8, 6),
            "cos": (1, 5, 6),
            "sin": (1, 5, 6),
            "s0": [0],
            "e0": [3],
            "s1": [3],
            "e1": [6],
            "ax": [2],
        },
        {"cos:2 sin:2 wk:1 wq:1": 3},
    ),
    "rotary_heads": Case(  # one table for all heads: pairs, the same in every head
        """(float[1,5,8] x) => (float[1,2,5,5] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, rs)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, rs)  k = Transpose<perm=[0,2,1,3]>(k1)
            qa, qb = Split<axis=-1,num_outputs=2>(q)  qn = Neg(qb)  qr = Concat<axis=-1>(qn, qa)
            ka, kb = Split<axis=-1,num_outputs=2>(k)  kn = Neg(kb)  kr = Concat<axis=-1>(kn, ka)
            qc = Mul(q, cos)  qs = Mul(qr, sin)  qq = Add(qc, qs)  kc = Mul(k, cos)  ks = Mul(kr, sin)
            kk = Add(kc, ks)  kt = Transpose<perm=[0,1,3,2]>(kk)  y = MatMul(qq, kt) }""",
        {"wq": (8, 12), "wk": (8, 12), "rs": [1, 5, 2, 6], "cos": (5, 6), "sin": (5, 6)},
        {"cos:1 sin:1 wk:1 wq:1": 3},
    ),
    "vit": Case(  # patches, class token, positions, one block, head on the class token
        """(float[1,3,4,4] x) => (float[1,5] y) {
            e0 = Conv<strides=[2,2]>(x, we, be)  e1 = Reshape(e0, re)  e2 = Transpose<perm=[0,2,1]>(e1)
            e3 = Concat<axis=1>(cls, e2)  e = Add(e3, pos)  n = LayerNormalization(e, g1, t1)
            q0 = MatMul(n, wqkv)  q1 = Add(q0, bqkv)  q2 = Reshape(q1, r)  q3 = Transpose<perm=[2,0,3,1,4]>(q2)
            q4, k4, v4 = Split<axis=0>(q3, sp)  q = Squeeze(q4, ax)  k = Squeeze(k4, ax)  v = Squeeze(v4, ax)
            kt = Transpose<perm=[0,1,3,2]>(k)  qs = Mul(q, scale)  a = MatMul(qs, kt)  p = Softmax<axis=-1>(a)
            o = MatMul(p, v)  o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, ro)  o3 = MatMul(o2, wo)
            f = Add(e, o3)  m = LayerNormalization(f, g2, t2)  h0 = MatMul(m, w1)  h1 = Add(h0, b1)  h2 = Erf(h1)
            h = MatMul(h2, w2)  z = Add(f, h)  c = Gather<axis=1>(z, i)  y = Gemm<transB=1>(c, wh) }""",
        {
            "we": (10, 3, 2, 2),
            "be": (10,),
            "re": [1, 10, 4],
            "cls": (1, 1, 10),
            "pos": (1, 5, 10),
            "g1": (10,),
            "t1": (10,),
            "wqkv": (10, 24),
            "bqkv": (24,),
            "r": [1, 5, 3, 2, 4],
            "sp": [1, 1, 1],
            "ax": [0],
            "scale": 0.5,
            "ro": [1, 5, 8],
            "wo": (8, 10),
            "g2": (10,),
            "t2": (10,),
            "w1": (10, 7),
            "b1": (7,),
            "w2": (7, 10),
            "i": 0,
            "wh": (5, 10),
        },
        {
            "be:0 cls:2 g1:0 g2:0 pos:2 t1:0 t2:0 w1:0 w2:1 we:0 wh:1 wo:1 wqkv:0": 10,
            "bqkv:0 wo:0 wqkv:1": 2,
            "bqkv:0 wqkv:1": 4,
            "bqkv:0 wo:0 wqkv:1#2": 4,
            "b1:0 w1:1 w2:0": 7,
        },
        blocks={"bqkv:0 wqkv:1": 2, "bqkv:0 wo:0 wqkv:1#2": 2},
        stats=("be:0 cls:2 g1:0 g2:0 pos:2 t1:0 t2:0 w1:0 w2:1 we:0 wh:1 wo:1 wqkv:0",),
    ),
    "swin_window": Case(  # shifted windows of 2x2 on a 4x4 map, relative bias per head, back to the map
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            s = Conv(x, ws)  c = Transpose<perm=[0,2,3,1]>(s)
            c1 = Slice(c, s1, e1, a1)  c2 = Slice(c, s0, e0, a1)  c3 = Concat<axis=1>(c1, c2)
            b1 = Reshape(c3, p1)  b2 = Transpose<perm=[0,1,3,2,4,5]>(b1)  b = Reshape(b2, p2)
            q0 = MatMul(b, wq)  q1 = Reshape(q0, r)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(b, wk)  k1 = Reshape(k0, r)  k = Transpose<perm=[0,2,3,1]>(k1)
            v0 = MatMul(b, wv)  v1 = Reshape(v0, r)  v = Transpose<perm=[0,2,1,3]>(v1)
            t = MatMul(q, k)  u = Add(t, rel)  p = Softmax<axis=-1>(u)  o = MatMul(p, v)
            o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, ro)  o3 = MatMul(o2, wo)
            d1 = Reshape(o3, p3)  d2 = Transpose<perm=[0,1,3,2,4,5]>(d1)  d3 = Reshape(d2, p4)
            f1 = Slice(d3, s3, e3, a1)  f2 = Slice(d3, s2, e2, a1)  f = Concat<axis=1>(f1, f2)
            g = Add(c, f)  h = Transpose<perm=[0,3,1,2]>(g)  y = Conv(h, wh) }""",
        {
            "ws": (7, 3, 1, 1),
            "s1": [1],
            "e1": [4],
            "s0": [0],
            "e0": [1],
            "a1": [1],
            "p1": [1, 2, 2, 2, 2, 7],
            "p2": [4, 4, 7],
            "wq": (7, 6),
            "wk": (7, 6),
            "wv": (7, 6),
            "r": [4, 4, 2, 3],
            "rel": (1, 2, 4, 4),
            "ro": [4, 4, 6],
            "wo": (6, 7),
            "p3": [1, 2, 2, 2, 2, 7],
            "p4": [1, 4, 4, 7],
            "s3": [3],
            "e3": [4],
            "s2": [0],
            "e2": [3],
            "wh": (5, 7, 1, 1),
        },
        {"wh:1 wk:0 wo:1 wq:0 ws:0 wv:0": 7, "rel:1 wk:1 wo:0 wq:1 wv:1": 2, "wk:1 wq:1": 3, "wo:0 wv:1": 3},
        blocks={"wk:1 wq:1": 2, "wo:0 wv:1": 2},
    ),
}
