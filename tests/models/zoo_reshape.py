"""Axes that become digits of other axes: Reshape, Flatten, Transpose, Squeeze, resizing, shuffles, shape arithmetic."""

from __future__ import annotations

import numpy as np

from zoo_base import LAST, Case

CASES: dict[str, Case] = {
    "flatten": Case(  # every channel is a block of 16 columns
        """(float[1,3,4,4] x) => (float[1,5] y) {
            a = Conv(x, w1)  b = Relu(a)  c = Flatten(b)  y = Gemm<transB=1>(c, w2, b2) }""",
        {"w1": (6, 3, 1, 1), "w2": (5, 96), "b2": (5,)},
        {"w1:0 w2:1": 6},
    ),
    "flatten_axis_2": Case(  # channels become rows
        """(float[1,3,4,4] x) => (float[4,16] y) {
            a = Conv(x, w1)  b = Relu(a)  c = Flatten<axis=2>(b)  y = MatMul(w2, c) }""",
        {"w1": (6, 3, 1, 1), "w2": (4, 6)},
        {"w1:0 w2:1": 6},
    ),
    "flatten_nhwc": Case(  # channels are the minor digit
        """(float[1,3,2,4] x) => (float[1,5] y) {
            a = Conv(x, w1)  b = Transpose<perm=[0,2,3,1]>(a)  c = Flatten(b)  y = MatMul(c, w2) }""",
        {"w1": (6, 3, 1, 1), "w2": (48, 5)},
        {"w1:0 w2:0": 6},
    ),
    "flatten_hidden": Case(  # the flattened product feeds a hidden width
        """(float[1,3,4,4] x) => (float[1,5] y) {
            a = Conv(x, w1)  b = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a)  c = Flatten(b)
            d = Gemm<transB=1>(c, w2, b2)  e = Relu(d)  y = Gemm<transB=1>(e, w3) }""",
        {"w1": (6, 3, 1, 1), "w2": (7, 24), "b2": (7,), "w3": (5, 7)},
        {"w1:0 w2:1": 6, "b2:0 w2:0 w3:1": 7},
    ),
    "flatten_two_branches": Case(  # a concatenation of channels, flattened
        """(float[1,3,2,2] x) => (float[1,5] y) {
            a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=1>(a, b)  d = Flatten(c)  y = MatMul(d, w3) }""",
        {"w1": (6, 3, 1, 1), "w2": (7, 3, 1, 1), "w3": (52, 5)},
        {"w1:0 w3:0": 6, "w2:0 w3:0": 7},
    ),
    "reshape_zero_minus_one": Case(
        """(float[1,3,4,5] x) => (float[1,20,4] y) {
            a = Conv(x, w1)  b = Reshape(a, r)  t = Transpose<perm=[0,2,1]>(b)  y = MatMul(t, w2) }""",
        {"w1": (6, 3, 1, 1), "r": [0, 0, -1], "w2": (6, 4)},
        {"w1:0 w2:0": 6},
    ),
    "reshape_flatten": Case(
        """(float[2,3,4,4] x) => (float[2,5] y) { a = Conv(x, w1)  b = Reshape(a, r)  y = MatMul(b, w2) }""",
        {"w1": (6, 3, 1, 1), "r": [0, -1], "w2": (96, 5)},
        {"w1:0 w2:0": 6},
    ),
    "reshape_batch_minus_one": Case(  # -1 stands for the batch: the other entry must follow the channels
        """(float[2,3,4,4] x) => (float[2,5] y) {
            a = Conv(x, w1)  b = GlobalMaxPool(a)  c = Reshape(b, r)  y = MatMul(c, w2) }""",
        {"w1": (6, 3, 1, 1), "r": [-1, 6], "w2": (6, 5)},
        {"w1:0 w2:0": 6},
    ),
    "reshape_splits_channels": Case(  # (2 7) on both sides of a per-digit weight
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Reshape(a, r1)  c = Mul(b, u)  d = Add(c, v)  e = Reshape(d, r2)
            y = MatMul(e, w2) }""",
        {"w1": (4, 14), "r1": [2, 2, 7], "u": (2, 1), "v": (7,), "r2": [2, 14], "w2": (14, 3)},
        {"u:0 w1:1 w2:0": 2, "v:0 w1:1 w2:0": 7},
    ),
    "slice_inside_a_flattened_channel": Case(  # a quarter of the first channel's positions is cut off
        """(float[2,3,4,4] x) => (float[2,3] y) {
            a = Conv(x, w1)  b = Flatten(a)  c = Slice(b, s, e, ax)  y = MatMul(c, w2) }""",
        {"w1": (6, 3, 1, 1), "s": [4], "e": [96], "ax": [1], "w2": (92, 3)},
        {"w1:0 w2:0": 6},
    ),
    "concat_self_as_a_digit": Case(  # the two halves carry the same channels; none of the halves can go alone
        """(float[2,5] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Concat<axis=1>(a, a)  c = Reshape(b, grid)  d = Mul(c, g)  f = Reshape(d, flat)
            y = MatMul(f, w2) }""",
        {"w1": (5, 4), "grid": [2, 2, 4], "g": (2, 1), "flat": [2, 8], "w2": (8, 3)},
        {"w1:1 w2:0": 4},
        frozen={"g:0": ""},
    ),
    "reshape_straddles": Case(  # 12 as (3 4) and as (4 3), with weights on all digits: nothing can go
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Reshape(a, r1)  c = Mul(b, u)  d = Reshape(c, r2)  e = Mul(d, v)
            f = Reshape(e, r3)  y = MatMul(f, w2) }""",
        {"w1": (4, 12), "r1": [2, 3, 4], "u": (3, 4), "r2": [2, 4, 3], "v": (4, 3), "r3": [2, 12], "w2": (12, 3)},
        {},
        frozen=dict.fromkeys(["w1:1", "u:0", "u:1", "v:0", "w2:0"], "no single channel"),
    ),
    "reshape_tokens": Case(  # patches: channels pass a Reshape of frozen axes on both sides
        """(float[1,3,4,4] x) => (float[1,2,2,20] y) {
            a = Conv<strides=[2,2]>(x, w1)  b = Reshape(a, r1)  t = Transpose<perm=[0,2,1]>(b)  c = Add(t, pos)
            d = Reshape(c, r2)  y = MatMul(d, w2) }""",
        {"w1": (6, 3, 2, 2), "r1": [1, 6, 4], "pos": (1, 4, 6), "r2": [1, 2, 2, 6], "w2": (6, 20)},
        {"pos:2 w1:0 w2:0": 6},
    ),
    "shape_arithmetic": Case(  # x.view(x.size(0), -1) as PyTorch writes it
        """(float[2,3,4,4] x) => (float[2,5] y) {
            a = Conv(x, w1)  s = Shape(a)  n = Gather(s, zero)  u = Unsqueeze(n, ax)  r = Concat<axis=0>(u, minus)
            b = Reshape(a, r)  y = MatMul(b, w2) }""",
        {"w1": (6, 3, 1, 1), "zero": 0, "ax": [0], "minus": [-1], "w2": (96, 5)},
        {"w1:0 w2:0": 6},
    ),
    "shape_arithmetic_channels": Case(  # the channel count itself is read, divided and written into the shape
        """(float[2,3,4,4] x) => (float[2,5] y) {
            a = Conv(x, w1)  s = Shape(a)  n = Slice(s, s0, e0)  c = Slice(s, s1, e1)  h = Div(c, two)
            r = Concat<axis=0>(n, h, minus)  b = Reshape(a, r)  m = ReduceMean<keepdims=0>(b, ax)
            y = MatMul(m, w2) }""",
        {
            "w1": (6, 3, 1, 1),
            "s0": [0],
            "e0": [1],
            "s1": [1],
            "e1": [2],
            "two": [2],
            "minus": [-1],
            "ax": [2],
            "w2": (3, 5),
        },
        {"w1:0 w2:0": 3, "w1:0": 2},
        blocks={"w1:0": 3},
        stats=("w1:0",),
    ),
    "symbolic_batch": Case(
        """(float[N,3,4,4] x) => (float[N,5] y) {
            a = Conv(x, w1)  b = Relu(a)  s = Shape<start=0,end=1>(b)  r = Concat<axis=0>(s, minus)
            c = Reshape(b, r)  y = MatMul(c, w2) }""",
        {"w1": (6, 3, 1, 1), "minus": [-1], "w2": (96, 5)},
        {"w1:0 w2:0": 6},
    ),
    "symbolic_heads": Case(  # N*h as one axis: h stays prunable, and d within it
        """(float[N,5,4] x) => (float[N,5,3] y) {
            a = MatMul(x, w1)  b = Reshape(a, r1)  t = Transpose<perm=[0,2,1,3]>(b)  c = Reshape(t, r2)  d = Relu(c)
            e = Reshape(d, r3)  u = Transpose<perm=[0,2,1,3]>(e)  f = Reshape(u, r4)  y = MatMul(f, w2) }""",
        {"w1": (4, 14), "r1": [0, 5, 2, 7], "r2": [-1, 5, 7], "r3": [-1, 2, 5, 7], "r4": [0, 0, 14], "w2": (14, 3)},
        {"w1:1 w2:0": 2, "w1:1 w2:0#2": 7},
        blocks={"w1:1 w2:0#2": 2},
    ),
    "transpose": Case(  # channels last, first, and in the middle
        """(float[2,5,4] x) => (float[3,2,5] y) {
            a = MatMul(x, w1)  b = Transpose<perm=[2,0,1]>(a)  c = Mul(b, s)  d = Transpose<perm=[2,0,1]>(c)
            e = Add(d, t)  f = Transpose<perm=[0,2,1]>(e)  g = MatMul(f, w2)  y = Transpose(g) }""",
        {"w1": (4, 7), "s": (7, 1, 1), "t": (7, 1), "w2": (7, 3)},
        {"s:0 t:0 w1:1 w2:0": 7},
    ),
    "squeeze": Case(
        """(float[1,3,4,4] x) => (float[4] y) {
            a = Conv(x, w1)  b = GlobalAveragePool(a)  c = Squeeze(b)  y = MatMul(c, w2) }""",
        {"w1": (6, 3, 1, 1), "w2": (6, 4)},
        {"w1:0 w2:0": 6},
    ),
    "squeeze_unsqueeze": Case(
        """(float[1,3,4] x) => (float[1,5,4] y) {
            a = Conv(x, w1)  b = Unsqueeze(a, ax)  c = Conv(b, w2)  d = Squeeze(c, ax)  y = Conv(d, w3) }""",
        {"w1": (6, 3, 1), "ax": [-1], "w2": (7, 6, 1, 1), "w3": (5, 7, 1)},
        {"w1:0 w2:1": 6, "w2:0 w3:1": 7},
    ),
    "squeeze_unsqueeze_attributes": Case(
        """(float[1,3,4] x) => (float[1,5,4] y) {
            a = Conv(x, w1)  b = Unsqueeze<axes=[2]>(a)  c = Conv(b, w2)  d = Squeeze<axes=[2]>(c)
            y = Conv(d, w3) }""",
        {"w1": (6, 3, 1), "w2": (7, 6, 1, 1), "w3": (5, 7, 1)},
        {"w1:0 w2:1": 6, "w2:0 w3:1": 7},
        opset=11,
    ),
    "resize_scales": Case(
        """(float[1,3,4,4] x) => (float[1,5,8,8] y) {
            a = Conv(x, w1)  b = Resize<mode="nearest">(a, , sc)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "sc": np.array([1, 1, 2, 2], np.float32), "w2": (5, 6, 1, 1)},
        {"w1:0 w2:1": 6},
    ),
    "resize_sizes": Case(  # the channel count is written in the sizes
        """(float[1,3,4,4] x) => (float[1,5,6,7] y) {
            a = Conv(x, w1)  b = Resize<mode="linear">(a, , , sz)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "sz": [1, 6, 6, 7], "w2": (5, 6, 1, 1)},
        {"w1:0 w2:1": 6},
    ),
    "upsample": Case(
        """(float[1,3,4,4] x) => (float[1,5,8,8] y) {
            a = Conv(x, w1)  b = Upsample<mode="nearest">(a, sc)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "sc": np.array([1, 1, 2, 2], np.float32), "w2": (5, 6, 1, 1)},
        {"w1:0 w2:1": 6},
        opset=9,
    ),
    "depth_to_space": Case(
        """(float[1,3,4,4] x) => (float[1,2,8,8] y) {
            a = Conv(x, w1, b1)  b = DepthToSpace<blocksize=2>(a)  c = Relu(b)  y = Conv(c, w2) }""",
        {"w1": (20, 3, 1, 1), "b1": (20,), "w2": (2, 5, 1, 1)},
        {"b1:0 w1:0 w2:1": 5},
    ),
    "depth_to_space_crd": Case(  # PixelShuffle: the channel is the major digit
        """(float[1,3,4,4] x) => (float[1,2,8,8] y) {
            a = Conv(x, w1, b1)  b = DepthToSpace<blocksize=2,mode="CRD">(a)  c = Relu(b)  y = Conv(c, w2) }""",
        {"w1": (20, 3, 1, 1), "b1": (20,), "w2": (2, 5, 1, 1)},
        {"b1:0 w1:0 w2:1": 5},
    ),
    "depth_to_space_by_reshape": Case(  # the same, written out
        """(float[1,3,4,4] x) => (float[1,2,8,8] y) {
            a = Conv(x, w1)  b = Reshape(a, r1)  t = Transpose<perm=[0,1,4,2,5,3]>(b)  c = Reshape(t, r2)
            y = Conv(c, w2) }""",
        {"w1": (20, 3, 1, 1), "r1": [1, 5, 2, 2, 4, 4], "r2": [1, 5, 8, 8], "w2": (2, 5, 1, 1)},
        {"w1:0 w2:1": 5},
    ),
    "space_to_depth": Case(
        """(float[1,2,4,4] x) => (float[1,4,2,2] y) {
            a = Conv(x, w1)  b = SpaceToDepth<blocksize=2>(a)  c = Relu(b)  y = Conv(c, w2) }""",
        {"w1": (3, 2, 1, 1), "w2": (4, 12, 1, 1)},
        {"w1:0 w2:1": 3},
    ),
    "shuffle": Case(  # ShuffleNet v2: a permutation of ten free channels, half of which pass
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Reshape(a, r1)  t = Transpose<perm=[0,2,1,3,4]>(b)  c = Reshape(t, r2)
            p, q = Split<axis=1>(c, sp)  d = Conv(q, w2)  e = Concat<axis=1>(p, d)  y = Conv(e, w3) }""",
        {
            "w1": (10, 3, 1, 1),
            "r1": [1, 2, 5, 4, 4],
            "r2": [1, 10, 4, 4],
            "sp": [5, 5],
            "w2": (6, 5, 1, 1),
            "w3": (4, 11, 1, 1),
        },
        {"w1:0 w3:1": 5, "w1:0 w2:1": 5, "w2:0 w3:1": 6},
    ),
    "shuffle_identity": Case(  # exports that are not optimised copy in between
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Reshape(a, r1)  t = Transpose<perm=[0,2,1,3,4]>(b)  u = Identity(t)
            c = Reshape(u, r2)  p, q = Split<axis=1>(c, sp)  d = Conv(q, w2)  e = Concat<axis=1>(p, d)
            y = Conv(e, w3) }""",
        {
            "w1": (10, 3, 1, 1),
            "r1": [1, 2, 5, 4, 4],
            "r2": [1, 10, 4, 4],
            "sp": [5, 5],
            "w2": (6, 5, 1, 1),
            "w3": (4, 11, 1, 1),
        },
        {"w1:0 w3:1": 5, "w1:0 w2:1": 5, "w2:0 w3:1": 6},
    ),
    "shuffle_dynamic": Case(  # height and width are symbols: read with Shape and put back by Reshape
        """(float["N",3,"H","W"] x) => (float["N",4,"H","W"] y) {
            a = Conv(x, w1)  s = Shape(a)  n = Slice(s, n0, n1)  hw = Slice(s, n2, n4)  r1 = Concat<axis=0>(n, gc, hw)
            b = Reshape(a, r1)  t = Transpose<perm=[0,2,1,3,4]>(b)  r2 = Concat<axis=0>(n, c10, hw)  c = Reshape(t, r2)
            p, q = Split<axis=1>(c, sp)  d = Conv(q, w2)  e = Concat<axis=1>(p, d)  y = Conv(e, w3) }""",
        {
            "w1": (10, 3, 1, 1),
            "n0": [0],
            "n1": [1],
            "n2": [2],
            "n4": [4],
            "gc": [2, 5],
            "c10": [10],
            "sp": [5, 5],
            "w2": (6, 5, 1, 1),
            "w3": (4, 11, 1, 1),
        },
        {"w1:0 w3:1": 5, "w1:0 w2:1": 5, "w2:0 w3:1": 6},
    ),
    "shuffle_by_height": Case(  # what looks like a shuffle of the channels depends on a symbol: [c, H] read as [H, c]
        """(float[1,3,"H",4] x) => (float[1,4,"H",4] y) {
            a = Conv(x, w1)  s = Shape(a)  h = Slice(s, n2, n3)  f = Concat<axis=0>(one, h, six, four)
            t = Transpose<perm=[0,2,1,3]>(a)  b = Reshape(t, minus)  c = Transpose<perm=[0,2,1,3]>(b)
            d = Reshape(c, s)  y = Conv(d, w2) }""",
        {
            "w1": (6, 3, 1, 1),
            "n2": [2],
            "n3": [3],
            "one": [1],
            "six": [6],
            "four": [4],
            "minus": [1, 6, -1, 4],
            "w2": (4, 6, 1, 1),
        },
        {},
    ),
    "shuffle_of_concat": Case(  # the two halves come from two convolutions
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=1>(a, b)  d = Reshape(c, r1)
            t = Transpose<perm=[0,2,1,3,4]>(d)  e = Reshape(t, r2)  y = Conv(e, w3) }""",
        {"w1": (5, 3, 1, 1), "w2": (5, 3, 1, 1), "r1": [1, 2, 5, 4, 4], "r2": [1, 10, 4, 4], "w3": (4, 10, 1, 1)},
        {"w1:0 w3:1": 5, "w2:0 w3:1": 5},
    ),
    # (g o) shuffled is (o g): the next convolution has o groups of g channels. Read as digits, o could be pruned too;
    # a shuffle is always read as a Gather (ShuffleNet v2 needs it), which leaves free only the larger digit.
    "shuffle_grouped_compatible": Case(
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  b = Conv<group=4>(a, w2)  c = Reshape(b, r1)  t = Transpose<perm=[0,2,1,3,4]>(c)
            d = Reshape(t, r2)  e = Conv<group=3>(d, w3)  y = Conv(e, w4) }""",
        {
            "w1": (8, 3, 1, 1),
            "w2": (12, 2, 1, 1),
            "r1": [1, 4, 3, 4, 4],
            "r2": [1, 12, 4, 4],
            "w3": (6, 4, 1, 1),
            "w4": (5, 6, 1, 1),
        },
        {"w1:0 w2:0 w3:1": 4, "w1:0 w2:1": 2, "w3:0 w4:1": 2},
        blocks={"w3:0 w4:1": 3},
    ),
    "shuffle_grouped_straddling": Case(  # (4 3) shuffled against 2 groups of 6: what is even, and what is odd
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  b = Conv<group=4>(a, w2)  c = Reshape(b, r1)  t = Transpose<perm=[0,2,1,3,4]>(c)
            d = Reshape(t, r2)  e = Conv<group=2>(d, w3)  y = Conv(e, w4) }""",
        {
            "w1": (8, 3, 1, 1),
            "w2": (12, 2, 1, 1),
            "r1": [1, 4, 3, 4, 4],
            "r2": [1, 12, 4, 4],
            "w3": (6, 6, 1, 1),
            "w4": (5, 6, 1, 1),
        },
        {"w1:0 w2:0 w3:1": 2, "w1:0 w2:1": 2, "w3:0 w4:1": 3},
        blocks={"w3:0 w4:1": 2},
    ),
    "roll": Case(  # a cyclic shift in space, by Slice and Concat: channels pass
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  b = Slice(a, s0, e0, ax)  c = Slice(a, s1, e1, ax)  d = Concat<axis=2>(b, c)
            y = Conv(d, w2) }""",
        {"w1": (6, 3, 1, 1), "s0": [1], "e0": [LAST], "s1": [0], "e1": [1], "ax": [2], "w2": (5, 6, 1, 1)},
        {"w1:0 w2:1": 6},
    ),
    "roll_channels": Case(  # the same over channels: two pieces in another order
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  b = Slice(a, s0, e0, ax)  c = Slice(a, s1, e1, ax)  d = Concat<axis=1>(b, c)
            y = Conv(d, w2) }""",
        {"w1": (6, 3, 1, 1), "s0": [2], "e0": [LAST], "s1": [0], "e1": [2], "ax": [1], "w2": (5, 6, 1, 1)},
        {"w1:0 w2:1": 2, "w1:0 w2:1#2": 4},
    ),
    "gram_flat": Case(  # an axis times itself, as a whole: what goes is a row and a column
        """(float[2,5,4] x) => (float[2,6] y) {
            a = MatMul(x, w1)  t = Transpose<perm=[0,2,1]>(a)  g = MatMul(t, a)  f = Reshape(g, flat)
            y = MatMul(f, w2) }""",
        {"w1": (4, 3), "flat": [0, -1], "w2": (9, 6)},
        {"w1:1 w2:0": 3},
    ),
    "gram_rows": Case(  # its first row, and the others: the rows are cut, and so are the columns
        """(float[2,5,4] x) => (float[2,6] y) {
            a = MatMul(x, w1)  t = Transpose<perm=[0,2,1]>(a)  g = MatMul(t, a)  f = Reshape(g, flat)
            b, c = Split<axis=1>(f, parts)  d = MatMul(b, w2)  e = MatMul(c, w3)  y = Add(d, e) }""",
        {"w1": (4, 5), "flat": [0, -1], "parts": [10, 15], "w2": (10, 6), "w3": (15, 6)},
        {"w1:1 w2:0 w3:0": 2, "w1:1 w2:0 w3:0#2": 3},
    ),
    "gram_triangle": Case(  # its lower triangle: every position belongs to two channels
        """(float[2,5,4] x) => (float[2,6] y) {
            a = MatMul(x, w1)  t = Transpose<perm=[0,2,1]>(a)  g = MatMul(t, a)  f = Reshape(g, flat)
            h = Gather<axis=1>(f, triangle)  y = MatMul(h, w2) }""",
        {"w1": (4, 3), "flat": [0, -1], "triangle": [0, 3, 4, 6, 7, 8], "w2": (6, 6)},
        {},
        frozen={"w1:1": "an axis times itself is taken apart", "w2:0": "Gather"},
    ),
    "gram_per_item": Case(  # two channels of an item meet on one axis: all items keep the same
        """(float[2,3,4] x) => (float[2,1,4] y) {
            a = Einsum<equation="bsk,bkd->bsd">(x, w1)  g = Einsum<equation="bsd,bse->bde">(a, a)
            f = Reshape(g, flat)  y = MatMul(f, w2) }""",
        {"w1": (2, 4, 5), "flat": [2, 1, 25], "w2": (2, 25, 4)},
        {"w1:2 w2:1": 5},
    ),
    "weights_per_item": Case(  # where an item is an item everywhere, each keeps channels of its own
        """(float[2,3,4] x) => (float[2,3,4] y) {
            a = Einsum<equation="bsk,bkd->bsd">(x, w1)  y = Einsum<equation="bsd,bde->bse">(a, w2) }""",
        {"w1": (2, 4, 5), "w2": (2, 5, 4)},
        {"w1:2 w2:1": 5},
        blocks={"w1:2 w2:1": 2},
    ),
    "items_regrouped": Case(  # (2 3) items read as (3 2), and added to a transpose: no item stays where it was
        """(float[2,3,4] x) => (float[3,2,4] y) {
            a = Einsum<equation="bsk,bkd->bsd">(x, w1)  b = Einsum<equation="bsd,st->btd">(a, w2)
            c = Reshape(b, shape)  d = Transpose<perm=[1,0,2]>(b)  e = Add(c, d)
            y = Einsum<equation="cbd,bde->cbe">(e, w3) }""",
        {"w1": (2, 4, 5), "w2": (3, 3), "shape": [3, 2, 5], "w3": (2, 5, 4)},
        {"w1:2 w3:1": 5},
    ),
    "items_reversed": Case(  # the second item is added to the first
        """(float[2,3,4] x) => (float[2,3,4] y) {
            a = Einsum<equation="bsk,bkd->bsd">(x, w1)  b = Gather<axis=0>(a, turned)  c = Add(a, b)
            y = Einsum<equation="bsd,bde->bse">(c, w2) }""",
        {"w1": (2, 4, 5), "turned": [1, 0], "w2": (2, 5, 4)},
        {"w1:2 w2:1": 5},
    ),
    "items_looked_up": Case(  # the same, and which item it is comes with the input
        """(float[2,3,4] x, int64[2] i) => (float[2,3,4] y) {
            a = Einsum<equation="bsk,bkd->bsd">(x, w1)  b = Gather<axis=0>(a, i)  c = Add(a, b)
            y = Einsum<equation="bsd,bde->bse">(c, w2) }""",
        {"w1": (2, 4, 5), "w2": (2, 5, 4)},
        {"w1:2 w2:1": 5},
    ),
}
