"""Operators that move data: Concat, Split, Slice, Gather, Pad, Expand, Tile, and one axis cut into pieces by them."""

from __future__ import annotations

from zoo_base import FIRST, LAST, Case

CASES: dict[str, Case] = {
    "view_as_other_channels": Case(  # c.view_as(a): the channels of a go, those of c stay, and the other way round
        """(float[N,5,8] x) => (float[N,5,4] y) {
            a = MatMul(x, w1)  c = MatMul(a, w2)  s = Shape(a)  v = Reshape(c, s)  y = MatMul(v, w3) }""",
        {"w1": (8, 6), "w2": (6, 6), "w3": (6, 4)},
        {"w1:1 w2:0": 6, "w2:1 w3:0": 6},
    ),
    "view_as_flat": Case(  # the same where the size is a multiple of a symbol: one entry is worked out
        """(float[N,T,8] x) => (float[N,T,4] y) {
            a = MatMul(x, w1)  f = Reshape(a, flat)  c = MatMul(a, w2)  s = Shape(f)  v = Reshape(c, s)
            g = Reshape(v, back)  e = MatMul(g, w3)  m = ReduceMax(f, one)  u = Unsqueeze(m, one)  y = Add(e, u) }""",
        {"w1": (8, 6), "w2": (6, 6), "w3": (6, 4), "flat": [0, -1], "back": [0, -1, 6], "one": [1]},
        None,
    ),
    "pixel_shuffle_pooled": Case(  # a mean over rows and columns, of both of which some go: at any height and width
        """(float[N,3,H,W] x) => (float[N,5] y) {
            a = Conv(x, w1)  n = Shape<start=0,end=1>(a)  h = Shape<start=2,end=3>(a)  w = Shape<start=3,end=4>(a)
            s = Concat<axis=0>(n, five, three, two, h, w)  r = Reshape(a, s)  t = Transpose<perm=[0,1,4,2,5,3]>(r)
            h3 = Mul(h, three)  w2 = Mul(w, two)  s2 = Concat<axis=0>(n, five, h3, w2)  u = Reshape(t, s2)
            p = GlobalAveragePool(u)  f = Flatten(p)  y = MatMul(f, w3) }""",
        {"w1": (30, 3, 1, 1), "two": [2], "three": [3], "five": [5], "w3": (5, 5)},
        {"w1:0 w3:0": 5, "w1:0": 3, "w1:0#2": 2},
        blocks={"w1:0": 5, "w1:0#2": 5},
        stats=("w1:0", "w1:0#2"),
    ),
    "split_to_sequence": Case(  # chunk in exports that are not optimised: 4, 4 and what is left
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  s = SplitToSequence<axis=1>(a, four)  p = SequenceAt(s, i0)  q = SequenceAt(s, i2)
            b = Conv(p, w2)  c = Conv(q, w3)  y = Add(b, c) }""",
        {"w1": (10, 3, 1, 1), "four": 4, "i0": 0, "i2": 2, "w2": (5, 4, 1, 1), "w3": (5, 2, 1, 1)},
        {"w1:0 w2:1": 4, "w1:0": 4, "w1:0 w3:1": 2},
    ),
    "split_to_sequence_sizes": Case(
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  s = SplitToSequence<axis=1>(a, sizes)  p = SequenceAt(s, i0)  q = SequenceAt(s, last)
            b = Conv(p, w2)  c = Conv(q, w3)  y = Add(b, c) }""",
        {"w1": (10, 3, 1, 1), "sizes": [3, 7], "i0": 0, "last": -1, "w2": (5, 3, 1, 1), "w3": (5, 7, 1, 1)},
        {"w1:0 w2:1": 3, "w1:0 w3:1": 7},
    ),
    "sequence_built": Case(  # tensor_split: what is inserted is what is picked, counted from either end
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  p, q = Split<axis=1>(a, sizes)  s0 = SequenceEmpty()  s1 = SequenceInsert(s0, q)
            s = SequenceInsert(s1, p, i0)  t = SequenceAt(s, i0)  u = SequenceAt(s, last)
            b = Conv(t, w2)  c = Conv(u, w3)  y = Add(b, c) }""",
        {"w1": (10, 3, 1, 1), "sizes": [3, 7], "i0": 0, "last": -1, "w2": (5, 3, 1, 1), "w3": (5, 7, 1, 1)},
        {"w1:0 w2:1": 3, "w1:0 w3:1": 7},
    ),
    "sequence_concatenated": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Conv(x, w2)  s = SequenceConstruct(a, b)  c = ConcatFromSequence<axis=1>(s)
            y = Conv(c, w3) }""",
        {"w1": (5, 3, 1, 1), "w2": (6, 3, 1, 1), "w3": (4, 11, 1, 1)},
        {"w1:0 w3:1": 5, "w2:0 w3:1": 6},
    ),
    "piece_overwritten": Case(  # x[:, 4:8] = v as exporters write it: the piece is the updates', the rest x's
        """(float[1,3] x) => (float[1,5] y) {
            a = MatMul(x, w1)  v = MatMul(x, w2)  c = ScatterND(a, i, v)  y = MatMul(c, w3) }""",
        {"w1": (3, 10), "i": [[[0, 4], [0, 5], [0, 6], [0, -3]]], "w2": (3, 4), "w3": (10, 5)},
        {"w1:1 w3:0": 4, "w2:1 w3:0": 4, "w1:1 w3:0#2": 2, "w1:1": 4},
    ),
    "box_overwritten": Case(  # x[:, 1:, 2:] = v, the index built as PyTorch does, batch and all: channels stay coupled
        """(float[N,4,5,3] x) => (float[N,4,5,2] y) {
            a = MatMul(x, w1)  v = MatMul(x, w2)  u = Slice(v, from, to, axes)  n = Shape<start=0,end=1>(x)
            n0 = Squeeze(n, zero)  r = Range(i0, n0, i1)  b = Unsqueeze(r, ends)  l = Constant<value_ints=[3, 3, 1]>()
            s = Concat<axis=0>(n, l)  b1 = Expand(b, s)  r1 = Expand(rows, s)  c1 = Expand(cols, s)
            b2 = Unsqueeze(b1, last)  r2 = Unsqueeze(r1, last)  c2 = Unsqueeze(c1, last)
            g = Concat<axis=-1>(b2, r2, c2)  i = Squeeze(g, three)
            c = ScatterND(a, i, u)  y = MatMul(c, w3) }""",
        {
            "w1": (3, 6),
            "w2": (3, 6),
            "w3": (6, 2),
            "from": [1, 2],
            "to": [4, 5],
            "axes": [1, 2],
            "zero": [0],
            "i0": 0,
            "i1": 1,
            "ends": [1, 2, 3],
            "rows": [[[[1]], [[2]], [[3]]]],
            "cols": [[[[2], [3], [4]]]],
            "last": [-1],
            "three": [3],
        },
        {"w1:1 w2:1 w3:0": 6},
    ),
    "bias_overwritten": Case(  # the zeros in the bias of Swin V2's keys, three parts, and what was overwritten
        """(float[2,4] x) => (float[2,5] y) {
            b = ScatterND(bias, i, zeros)  a = MatMul(x, w1)  c = Add(a, b)  q, k, v = Split<axis=1>(c, sizes)
            qk = Mul(q, k)  z = MatMul(qk, w2)  u = MatMul(v, w3)  y = Add(z, u) }""",
        {
            "bias": (9,),
            "i": [[3], [4], [5]],
            "zeros": (3,),
            "w1": (4, 9),
            "sizes": [3, 3, 3],
            "w2": (3, 5),
            "w3": (3, 5),
        },
        {"bias:0 w1:1 w2:0 zeros:0": 3, "bias:0 w1:1 w3:0": 3, "bias:0": 3},
    ),
    "concat_channels": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=1>(a, b)  d = Relu(c)  y = Conv(d, w3) }""",
        {"w1": (5, 3, 1, 1), "w2": (6, 3, 1, 1), "w3": (4, 11, 1, 1)},
        {"w1:0 w3:1": 5, "w2:0 w3:1": 6},
    ),
    "concat_negative_axis_inputs": Case(  # a piece that is a graph input stays, the other one is free
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Concat<axis=-1>(x, a)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "w2": (10, 3)},
        {"w1:1 w2:0": 6},
    ),
    "concat_space": Case(  # along height: the channels are coupled
        """(float[1,3,4,4] x) => (float[1,4,8,4] y) {
            a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=2>(a, b)  y = Conv(c, w3) }""",
        {"w1": (6, 3, 1, 1), "w2": (6, 3, 1, 1), "w3": (4, 6, 1, 1)},
        {"w1:0 w2:0 w3:1": 6},
    ),
    "concat_self": Case(  # the same tensor twice: one dim, two places
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Concat<axis=1>(a, a)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "w2": (4, 12, 1, 1)},
        {"w1:0 w2:1": 6},
    ),
    "concat_constant": Case(  # learned channels appended to computed ones
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Concat<axis=1>(a, c)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "c": (2, 5), "w2": (11, 3)},
        {"w1:1 w2:0": 6, "c:1 w2:0": 5},
    ),
    "split_sizes": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  p, q = Split<axis=1>(a, sp)  c = Conv(p, w2)  d = Conv(q, w3)  y = Add(c, d) }""",
        {"w1": (8, 3, 1, 1), "sp": [3, 5], "w2": (4, 3, 1, 1), "w3": (4, 5, 1, 1)},
        {"w1:0 w2:1": 3, "w1:0 w3:1": 5},
    ),
    "split_equal": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  p, q = Split<axis=1,num_outputs=2>(a)  b = Conv(q, w2)  c = Concat<axis=1>(p, b)
            y = Conv(c, w3) }""",
        {"w1": (10, 3, 1, 1), "w2": (6, 5, 1, 1), "w3": (4, 11, 1, 1)},
        {"w1:0 w3:1": 5, "w1:0 w2:1": 5, "w2:0 w3:1": 6},
    ),
    "split_uneven": Case(  # num_outputs does not divide: the last part is smaller
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  p, q, r = Split<axis=1,num_outputs=3>(a)  b = Mul(p, q)  c = Concat<axis=1>(b, r)
            y = MatMul(c, w2) }""",
        {"w1": (4, 11), "w2": (7, 3)},
        {"w1:1 w2:0": 4, "w1:1 w2:0#2": 3},
    ),
    "split_attribute": Case(  # sizes were an attribute up to opset 12
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  p, q = Split<axis=1,split=[3,5]>(a)  c = Conv(p, w2)  d = Conv(q, w3)  y = Add(c, d) }""",
        {"w1": (8, 3, 1, 1), "w2": (4, 3, 1, 1), "w3": (4, 5, 1, 1)},
        {"w1:0 w2:1": 3, "w1:0 w3:1": 5},
        opset=11,
    ),
    "split_opset_13": Case(  # no sizes and no num_outputs: equal parts by the number of outputs
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  p, q = Split<axis=-1>(a)  b = Tanh(p)  c = Sigmoid(q)  d = Mul(b, c)
            y = MatMul(d, w2) }""",
        {"w1": (4, 10), "w2": (5, 3)},
        {"w1:1 w2:0": 5},
        opset=13,
    ),
    "slice": Case(  # two halves multiplied: one dim, at two places of w1
        """(float[1,3,4,4] x) => (float[1,2,4,4] y) {
            a = Conv(x, w1)  b = Slice(a, s0, e0, ax)  c = Slice(a, s1, e1, ax)  d = Mul(b, c)  y = Conv(d, w2) }""",
        {"w1": (8, 3, 1, 1), "s0": [0], "e0": [4], "s1": [4], "e1": [8], "ax": [1], "w2": (2, 4, 1, 1)},
        {"w1:0 w2:1": 4},
    ),
    "slice_negative": Case(  # the last five channels; the first two are used elsewhere
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Slice(a, s0, e0, ax)  c = Slice(a, s1, e1, ax)  d = Conv(b, w2)  e = Conv(c, w3)
            y = Add(d, e) }""",
        {
            "w1": (7, 3, 1, 1),
            "s0": [-5],
            "e0": [LAST],
            "s1": [-100],
            "e1": [-5],
            "ax": [-3],
            "w2": (4, 5, 1, 1),
            "w3": (4, 2, 1, 1),
        },
        {"w1:0 w2:1": 5, "w1:0 w3:1": 2},
    ),
    "slice_overlap": Case(  # 0:5 and 3:10: three pieces
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Slice(a, s0, e0, ax)  c = Slice(a, s1, e1, ax)  d = Conv(b, w2)  e = Conv(c, w3)
            y = Add(d, e) }""",
        {
            "w1": (10, 3, 1, 1),
            "s0": [0],
            "e0": [5],
            "s1": [3],
            "e1": [10],
            "ax": [1],
            "w2": (4, 5, 1, 1),
            "w3": (4, 7, 1, 1),
        },
        {"w1:0 w2:1": 3, "w1:0 w2:1 w3:1": 2, "w1:0 w3:1": 5},
    ),
    "slice_overlap_multiplied": Case(  # 0:4 against 2:6: channel i is tied to channel i+2
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Slice(a, s0, e0, ax)  c = Slice(a, s1, e1, ax)  d = Mul(b, c)  y = Conv(d, w2) }""",
        {"w1": (6, 3, 1, 1), "s0": [0], "e0": [4], "s1": [2], "e1": [6], "ax": [1], "w2": (4, 4, 1, 1)},
        {"w1:0 w2:1": 2},
    ),
    "slice_one_channel": Case(  # b has one channel only: without it an axis would be empty
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Slice(a, s0, e0, ax)  c = Slice(a, s1, e1, ax)  d = Concat<axis=1>(c, b)
            y = Conv(d, w2) }""",
        {"w1": (6, 3, 1, 1), "s0": [0], "e0": [1], "s1": [1], "e1": [6], "ax": [1], "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1": 5},
        frozen={"w1:0": "axis has one channel"},
    ),
    "concat_single_channels": Case(  # each is all of its axis, and both are coupled with what Gather reads
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=1>(a, b)  d = Gather<axis=1>(c, order)
            y = Conv(d, w3) }""",
        {"w1": (1, 3, 1, 1), "w2": (1, 3, 1, 1), "order": [1, 0], "w3": (4, 2, 1, 1)},
        {},
        frozen={"w3:1": "axis has one channel"},
    ),
    "concat_with_nothing": Case(  # rotary embedding of whole heads: the part that is not rotated is empty
        """(float[2,5] x) => (float[2,3] y) {
            a = MatMul(x, w1)  p = Slice(a, s0, e0, ax)  q = Slice(a, e0, e1, ax)  r = Neg(p)
            b = Concat<axis=1>(r, q)  y = MatMul(b, w2) }""",
        {"w1": (5, 6), "s0": [0], "e0": [6], "e1": [LAST], "ax": [1], "w2": (6, 3)},
        {"w1:1 w2:0": 6},
    ),
    "as_many_as_data_says": Case(  # how many rows are found is no constant, though nothing symbolic leads there
        """(float[6,5] x) => (float[k,3] y) {
            a = MatMul(x, w1)  s = ReduceSum<keepdims=0>(x, ax)  m = Greater(s, zero)  p = NonZero(m)
            i = Squeeze(p, first)  b = Gather(a, i)  t = Shape(b)  e = Expand(one, t)  c = Add(b, e)
            y = MatMul(c, w2) }""",
        {"w1": (5, 8), "ax": [1], "zero": 0.0, "first": [0], "one": 1.0, "w2": (8, 3)},
        {"w1:1 w2:0": 8},
    ),
    "slice_unused": Case(  # the last three channels reach nothing
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Slice(a, s, e, ax)  y = Conv(b, w2) }""",
        {"w1": (8, 3, 1, 1), "s": [0], "e": [5], "ax": [1], "w2": (4, 5, 1, 1)},
        {"w1:0 w2:1": 5, "w1:0": 3},
    ),
    "slice_step": Case(  # every second channel: five are used, four are not
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Slice(a, s, e, ax, st)  y = Conv(b, w2) }""",
        {"w1": (9, 3, 1, 1), "s": [0], "e": [9], "ax": [1], "st": [2], "w2": (4, 5, 1, 1)},
        {"w1:0 w2:1": 5, "w1:0": 4},
    ),
    "slice_reversed": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Slice(a, s, e, ax, st)  y = Conv(b, w2) }""",
        {"w1": (7, 3, 1, 1), "s": [-1], "e": [FIRST], "ax": [1], "st": [-1], "w2": (4, 7, 1, 1)},
        {"w1:0 w2:1": 7},
    ),
    "slice_attributes": Case(  # starts and ends were attributes up to opset 9
        """(float[1,3,4,4] x) => (float[1,4,3,4] y) {
            a = Conv(x, w1)  b = Slice<axes=[1,2],starts=[0,1],ends=[3,4]>(a)
            c = Slice<axes=[1,2],starts=[3,0],ends=[8,-1]>(a)  d = Conv(b, w2)  e = Conv(c, w3)  y = Add(d, e) }""",
        {"w1": (8, 3, 1, 1), "w2": (4, 3, 1, 1), "w3": (4, 5, 1, 1)},
        {"w1:0 w2:1": 3, "w1:0 w3:1": 5},
        opset=9,
    ),
    "slice_space": Case(  # focus (YOLOv5): strided in space, channels pass and meet again
        """(float[1,3,4,4] x) => (float[1,4,2,2] y) {
            a = Conv(x, w1)  b = Slice(a, s0, e, ax, st)  c = Slice(a, s1, e, ax, st)  d = Concat<axis=1>(b, c)
            y = Conv(d, w2) }""",
        {
            "w1": (5, 3, 1, 1),
            "s0": [0, 0],
            "s1": [1, 1],
            "e": [LAST, LAST],
            "ax": [2, 3],
            "st": [2, 2],
            "w2": (4, 10, 1, 1),
        },
        {"w1:0 w2:1": 5},
    ),
    "slice_no_axes": Case(
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Slice(a, s, e)  y = MatMul(b, w2) }""",
        {"w1": (4, 8), "s": [0, 2], "e": [2, 8], "w2": (6, 3)},
        {"w1:1": 2, "w1:1 w2:0": 6},
    ),
    "gather_permutation": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Gather<axis=1>(a, i)  y = Conv(b, w2) }""",
        {"w1": (7, 3, 1, 1), "i": [3, 6, 0, 5, 1, 2, 4], "w2": (4, 7, 1, 1)},
        {"w1:0 w2:1": 7},
    ),
    "gather_reversed_multiplied": Case(  # channel i is tied to channel 6-i
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Gather<axis=1>(a, i)  c = Mul(a, b)  y = Conv(c, w2) }""",
        {"w1": (7, 3, 1, 1), "i": [6, 5, 4, 3, 2, 1, 0], "w2": (4, 7, 1, 1)},
        {"w1:0 w2:1": 4},
    ),
    "gather_duplicates": Case(  # channel 0 twice, 1 once, 2 twice, 3 never
        """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
            a = Conv(x, w1)  b = Gather<axis=1>(a, i)  y = Conv(b, w2) }""",
        {"w1": (4, 3, 1, 1), "i": [0, 0, 1, 2, -2], "w2": (5, 5, 1, 1)},
        {"w1:0 w2:1": 3, "w1:0": 1},
    ),
    "gather_scalar": Case(  # one channel is taken out of the axis: it stays, what is before and behind it is free
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  g = Gather<axis=1>(a, i)  u = Unsqueeze(g, ax)  s = Sigmoid(u)  b = Mul(a, s)
            y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "i": 2, "ax": [1], "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1": 2, "w1:0 w2:1#2": 3},
    ),
    "gather_token": Case(  # the class token: an index on another axis
        """(float[1,5,4] x) => (float[1,3] y) { a = MatMul(x, w1)  b = Gather<axis=1>(a, i)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "i": 0, "w2": (6, 3)},
        {"w1:1 w2:0": 6},
    ),
    "gather_weights": Case(  # a table with constant indices: rows are units of it, columns pass
        """(float[2,5,4] x) => (float[2,5,3] y) {
            t = Gather(tab, i)  a = MatMul(x, w1)  b = Add(a, t)  y = MatMul(b, w2) }""",
        {"tab": (7, 6), "i": [0, 2, 2, 4, 1], "w1": (4, 6), "w2": (6, 3)},
        {"tab:1 w1:1 w2:0": 6, "tab:0": 3},
    ),
    "gather_run_time_channels": Case(  # the index is an input: every channel may be asked for
        """(float[2,4] x, int64[3] i) => (float[2,3] y) {
            a = MatMul(x, w0)  b = MatMul(a, w1)  y = Gather<axis=1>(b, i) }""",
        {"w0": (4, 5), "w1": (5, 6)},
        {"w0:1 w1:0": 5},
        frozen={"w1:1": "index"},
    ),
    "pad_channels": Case(  # option A shortcut: zeros in front and behind are channels, too
        """(float[1,3,4,4] x) => (float[1,5,2,2] y) {
            a = Conv(x, w1)  s = Slice(a, s0, e0, ax, st)  p = Pad(s, pads)  b = Conv<strides=[2,2]>(a, w2)
            c = Add(p, b)  d = Relu(c)  y = Conv(d, w3) }""",
        {
            "w1": (4, 3, 1, 1),
            "s0": [0, 0],
            "e0": [4, 4],
            "ax": [2, 3],
            "st": [2, 2],
            "pads": [0, 2, 0, 0, 0, 3, 0, 0],
            "w2": (9, 4, 1, 1),
            "w3": (5, 9, 1, 1),
        },
        {"w1:0 w2:0 w2:1 w3:1": 4, "w2:0 w3:1": 2, "w2:0 w3:1#2": 3},
    ),
    "pad_channels_axes": Case(  # pads for the listed axes only (opset 18), with a value
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Pad(a, pads, v, ax)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "pads": [0, 2], "v": 0.5, "ax": [-1], "w2": (8, 3)},
        {"w1:1 w2:0": 6, "w2:0": 2},
    ),
    "pad_reflect_space": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Pad<mode="reflect">(a, pads)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "pads": [0, 0, 1, 1, 0, 0, 1, 1], "w2": (4, 6, 3, 3)},
        {"w1:0 w2:1": 6},
    ),
    "pad_reflect_channels": Case(  # which channel is mirrored depends on the size: frozen
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w0)  b = Conv(a, w1)  c = Pad<mode="reflect">(b, pads)  y = Conv(c, w2) }""",
        {"w0": (5, 3, 1, 1), "w1": (6, 5, 1, 1), "pads": [0, 2, 0, 0, 0, 0, 0, 0], "w2": (4, 8, 1, 1)},
        {"w0:0 w1:1": 5},
        frozen={"w1:0": "pad", "w2:1": "pad"},
    ),
    "pad_attributes": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = Pad<mode="constant",pads=[0,1,1,1,0,2,1,1],value=0.0>(a)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "w2": (4, 9, 3, 3)},
        {"w1:0 w2:1": 6, "w2:1": 1, "w2:1#2": 2},
        opset=10,
    ),
    "expand": Case(  # ASPP: a pooled branch spread over space again
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1)  b = GlobalAveragePool(a)  c = Conv(b, w2)  d = Expand(c, sh)  e = Concat<axis=1>(a, d)
            y = Conv(e, w3) }""",
        {"w1": (6, 3, 1, 1), "w2": (5, 6, 1, 1), "sh": [1, 5, 4, 4], "w3": (4, 11, 1, 1)},
        {"w1:0 w2:1 w3:1": 6, "w2:0 w3:1": 5},
    ),
    "expand_ones": Case(  # ones in the shape leave the axis as it is
        """(float[1,3,1,1] x) => (float[1,4,4,4] y) { a = Conv(x, w1)  b = Expand(a, sh)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "sh": [4, 4], "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1": 6},
    ),
    "expand_class_token": Case(  # a learned token repeated over the batch, then a trunk
        """(float[2,5,4] x) => (float[2,3] y) {
            a = MatMul(x, we)  c = Expand(cls, sh)  b = Concat<axis=1>(c, a)  d = Add(b, pos)  t = Gather<axis=1>(d, i)
            y = MatMul(t, wh) }""",
        {"we": (4, 7), "cls": (1, 1, 7), "sh": [2, 1, 7], "pos": (1, 6, 7), "i": 0, "wh": (7, 3)},
        {"cls:2 pos:2 we:1 wh:0": 7},
    ),
    "tile_space": Case(
        """(float[1,3,4,4] x) => (float[1,4,4,8] y) { a = Conv(x, w1)  b = Tile(a, r)  y = Conv(b, w2) }""",
        {"w1": (6, 3, 1, 1), "r": [1, 1, 1, 2], "w2": (4, 6, 1, 1)},
        {"w1:0 w2:1": 6},
    ),
    "tile_channels": Case(  # the repeats are a digit of w2's axis; every channel may drop its own copies
        """(float[2,4] x) => (float[2,5] y) { a = MatMul(x, w1)  b = Tile(a, r)  y = MatMul(b, w2) }""",
        {"w1": (4, 6), "r": [1, 3], "w2": (18, 5)},
        {"w1:1 w2:0": 6, "w2:0": 3},
        blocks={"w2:0": 6},
    ),
}
