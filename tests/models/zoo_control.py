"""If, Loop and Scan: bodies are parts of the graph, whatever they capture or hold; what is not simple is frozen."""

from __future__ import annotations

import numpy as np

from zoo_base import Case

CASES: dict[str, Case] = {
    "if_captured": Case(  # both branches read b and give c: three dims that all of them share
        """(float[1,3,4,4] x, bool cond) => (float[1,4,4,4] y) {
            a = Conv(x, w0)  b = Conv(a, w1)
            c = If(cond) <
                then_branch = yes () => (float[1,7,4,4] u) { u = Conv(b, w2) },
                else_branch = no () => (float[1,7,4,4] v) { v = Conv(b, w3) }>
            y = Conv(c, w4) }""",
        {"w0": (5, 3, 1, 1), "w1": (6, 5, 1, 1), "w2": (7, 6, 1, 1), "w3": (7, 6, 1, 1), "w4": (4, 7, 1, 1)},
        {"w0:0 w1:1": 5, "w1:0 w2:1 w3:1": 6, "w2:0 w3:0 w4:1": 7},
    ),
    "if_own_weights": Case(  # each branch has weights, and hidden channels, of its own; both call them the same
        """(float[2,3] x, bool cond) => (float[2,4] y) {
            c = If(cond) <
                then_branch = yes () => (float[2,7] u) { a = MatMul(x, v1)  r = Relu(a)  u = MatMul(r, v2) },
                else_branch = no () => (float[2,7] v) { a = MatMul(x, v3)  r = Tanh(a)  v = MatMul(r, v4) }>
            y = MatMul(c, w) }""",
        {"v1": (3, 5), "v2": (5, 7), "v3": (3, 6), "v4": (6, 7), "w": (7, 4)},
        {"v1:1 v2:0": 5, "v3:1 v4:0": 6, "v2:1 v4:1 w:0": 7},
        inside={"v1": "c/then_branch", "v2": "c/then_branch", "v3": "c/else_branch", "v4": "c/else_branch"},
    ),
    "if_two_outputs": Case(  # the second output is an input of one branch, and made in the other
        """(float[2,3] x, bool cond) => (float[2,4] y) {
            h = MatMul(x, w0)
            c, d = If(cond) <
                then_branch = yes () => (float[2,5] u, float[2,6] p) { u = MatMul(x, w1)  p = Identity(h) },
                else_branch = no () => (float[2,5] v, float[2,6] q) { v = MatMul(x, w2)  q = Relu(h) }>
            e = Concat<axis=1>(c, d)  y = MatMul(e, w3) }""",
        {"w0": (3, 6), "w1": (3, 5), "w2": (3, 5), "w3": (11, 4)},
        {"w1:1 w2:1 w3:0": 5, "w0:1 w3:0": 6},
    ),
    "if_means": Case(  # statistics over captured channels and over those of a branch: the mask stays inside of it
        """(float[2,3] x, bool cond) => (float[2,4] y) {
            h = MatMul(x, w0)
            c = If(cond) <
                then_branch = yes () => (float[2,1] u) { p = MatMul(h, v1)  u = ReduceMean<keepdims=1>(p, one) },
                else_branch = no () => (float[2,1] v) { v = ReduceMean<keepdims=1>(h, one) }>
            d = Add(h, c)  y = MatMul(d, w) }""",
        {"w0": (3, 6), "v1": (6, 5), "one": [1], "w": (6, 4)},
        {"v1:0 w0:1 w:0": 6, "v1:1": 5},
        stats=("v1:0 w0:1 w:0", "v1:1"),
        inside={"v1": "c/then_branch"},
    ),
    "if_nested": Case(  # what the inner If captures comes from two graphs further out
        """(float[2,3] x, bool p, bool q) => (float[2,4] y) {
            h = MatMul(x, w0)
            c = If(p) <
                then_branch = yes () => (float[2,7] u) {
                    g = MatMul(h, v1)
                    u = If(q) <
                        then_branch = yy () => (float[2,7] s) { s = MatMul(g, v2) },
                        else_branch = yn () => (float[2,7] t) { k = MatMul(h, v3)  t = Relu(k) }> },
                else_branch = no () => (float[2,7] v) { v = MatMul(h, v4) }>
            y = MatMul(c, w) }""",
        {"w0": (3, 5), "v1": (5, 6), "v2": (6, 7), "v3": (5, 7), "v4": (5, 7), "w": (7, 4)},
        {"v1:0 v3:0 v4:0 w0:1": 5, "v1:1 v2:0": 6, "v2:1 v3:1 v4:1 w:0": 7},
        inside={"v2": "c/then_branch/u/then_branch"},
    ),
    "if_decided": Case(  # the size that decides is known: one branch takes the If's place, the other is gone
        """(float[2,3] x) => (float[2,4] y) {
            s = Shape<start=1>(x)  t = Squeeze(s)  cond = Equal(t, three)
            c = If(cond) <
                then_branch = yes () => (float[2,7] u) { u = MatMul(x, w1) },
                else_branch = no () => (float[2,7] v) { k = Squeeze(x)  v = MatMul(k, w2) }>
            y = MatMul(c, w3) }""",
        {"three": 3, "w1": (3, 7), "w2": (3, 7), "w3": (7, 4)},
        {"w1:1 w3:0": 7},
    ),
    "if_of_two_shapes": Case(  # exporters squeeze in one branch only: no axis is known to be the same
        """(float[2,3] x, bool cond) => (float[2,1] y) {
            a = MatMul(x, w0)  b = MatMul(a, w1)
            c = If(cond) <
                then_branch = yes () => (float[2,6] u) { u = MatMul(b, w2) },
                else_branch = no () => (float[2,7] v) { v = MatMul(b, w3) }>
            y = ReduceMean<keepdims=1>(c, one) }""",
        {"w0": (3, 4), "w1": (4, 5), "w2": (5, 6), "w3": (5, 7), "one": [1]},
        {"w0:1 w1:0": 4, "w1:1 w2:0 w3:0": 5},
        frozen={"w2:1": "several shapes", "w3:1": "several shapes"},
    ),
    "scan": Case(  # a recurrence by hand: the state is one dim inside and outside
        """(float[5,1,3] x) => (float[5,1,2] y) {
            e = MatMul(x, w0)  f = MatMul(e, wi)
            last, out = Scan<num_scan_inputs=1,
                body = step (float[1,6] h, float[1,4] t) => (float[1,6] g, float[1,6] o) {
                p = MatMul(t, ws)  q = MatMul(h, wr)  r = Add(p, q)  g = Tanh(r)  o = Identity(g) }>(h0, f)
            y = MatMul(out, wo) }""",
        {"w0": (3, 5), "wi": (5, 4), "ws": (4, 6), "wr": (6, 6), "h0": (1, 6), "wo": (6, 2)},
        {"w0:1 wi:0": 5, "wi:1 ws:0": 4, "h0:1 wo:0 wr:0 wr:1 ws:1": 6},
    ),
    "scan_gru": Case(  # as TensorFlow writes a GRU: gates from one kernel over the input and the state
        """(float[5,1,3] x) => (float[1,2] y) {
            last = Scan<num_scan_inputs=1, body = step (float[1,6] h, float[1,3] t) => (float[1,6] g) {
                a = Concat<axis=1>(t, h)  b = Gemm(a, k, kb)  s = Sigmoid(b)  r, u = Split<axis=1>(s, sp)
                c = Mul(r, h)  d = Concat<axis=1>(t, c)  e = Gemm(d, n, nb)  m = Tanh(e)
                v = Sub(one, u)  p = Mul(u, h)  q = Mul(v, m)  g = Add(p, q) }>(h0, x)
            y = Gemm(last, w, wb) }""",
        {
            "k": (9, 12),
            "kb": (12,),
            "sp": [6, 6],
            "n": (9, 6),
            "nb": (6,),
            "one": 1.0,
            "h0": (1, 6),
            "w": (6, 2),
            "wb": (2,),
        },
        {"h0:1 k:0 k:1 kb:0 n:0 n:1 nb:0 w:0": 6},
        frozen={"k:0": "graph input"},
        inside={"k": "last/body", "kb": "last/body", "n": "last/body"},
    ),
    "scan_axes": Case(  # along the second axis, backwards, stacked along the last one
        """(float[2,5,3] x) => (float[2,4,5] y) {
            e = MatMul(x, w0)
            last, out = Scan<num_scan_inputs=1, scan_input_axes=[1], scan_input_directions=[1], scan_output_axes=[-1],
                scan_output_directions=[1],
                body = step (float[2,6] h, float[2,4] t) => (float[2,6] g, float[2,7] o) {
                p = MatMul(t, ws)  q = Add(h, p)  g = Relu(q)  o = MatMul(g, wg) }>(h0, e)
            y = MatMul(wo, out) }""",
        {"w0": (3, 4), "ws": (4, 6), "wg": (6, 7), "h0": (2, 6), "wo": (4, 7)},
        {"w0:1 ws:0": 4, "h0:1 wg:0 ws:1": 6, "wg:1 wo:1": 7},
    ),
    "scan_over_weights": Case(  # a stack of equal blocks: the Scan runs along their number
        """(float[2,3] x) => (float[2,2] y) {
            e = MatMul(x, w0)
            out = Scan<num_scan_inputs=2, body = block (float[2,6] h, float[6,7] a, float[7,6] b) => (float[2,6] g) {
                p = MatMul(h, a)  q = Relu(p)  r = MatMul(q, b)  g = Add(h, r) }>(e, wa, wb)
            y = MatMul(out, wo) }""",
        {"w0": (3, 6), "wa": (4, 6, 7), "wb": (4, 7, 6), "wo": (6, 2)},
        {"w0:1 wa:1 wb:2 wo:0": 6, "wa:2 wb:1": 7},
        frozen={"wa:0": "runs along"},
    ),
    "scan_state_output": Case(  # streaming: the state is graph input and output, what is inside may go
        """(float[5,1,3] x, float[1,6] h0) => (float[5,1,2] y, float[1,6] last) {
            last, y = Scan<num_scan_inputs=1, body = step (float[1,6] h, float[1,3] t) => (float[1,6] g, float[1,2] o) {
                p = MatMul(t, ws)  q = MatMul(p, wr)  r = Add(h, q)  g = Tanh(r)  o = MatMul(g, wo) }>(h0, x) }""",
        {"ws": (3, 5), "wr": (5, 6), "wo": (6, 2)},
        {"wr:0 ws:1": 5},
        frozen={"wr:1": "graph", "wo:0": "graph"},
    ),
    "scan_if": Case(  # an If inside the body of a Scan, with a condition from the input
        """(float[5,1,3] x) => (float[5,1,2] y) {
            last, out = Scan<num_scan_inputs=1,
                body = step (float[1,6] h, float[1,3] t) => (float[1,6] g, float[1,6] o) {
                m = ReduceMax<keepdims=0>(t)  c = Greater(m, zero)
                r = If(c) <
                    then_branch = yes () => (float[1,6] u) { p = MatMul(t, w1)  u = Add(p, h) },
                    else_branch = no () => (float[1,6] v) { p = MatMul(h, w2)  v = Relu(p) }>
                g = Tanh(r)  o = Identity(g) }>(h0, x)
            y = MatMul(out, wo) }""",
        {"zero": 0.5, "w1": (3, 6), "w2": (6, 6), "h0": (1, 6), "wo": (6, 2)},
        {"h0:1 w1:1 w2:0 w2:1 wo:0": 6},
        inside={"w1": "last/body", "w2": "last/body/r/else_branch"},
    ),
    "loop": Case(  # three rounds: the state is one dim, the slices that are stacked have one of their own
        """(float[2,3] x) => (float[3,2,2] y) {
            e = MatMul(x, w0)
            last, out = Loop(three, true, e) <body = round (int64 i, bool go, float[2,6] h)
                => (bool on, float[2,6] g, float[2,7] o) {
                on = Identity(go)  p = MatMul(h, wr)  g = Tanh(p)  o = MatMul(g, wg) }>
            y = MatMul(out, wo) }""",
        {"three": 3, "true": np.array(True), "w0": (3, 6), "wr": (6, 6), "wg": (6, 7), "wo": (7, 2)},
        {"w0:1 wg:0 wr:0 wr:1": 6, "wg:1 wo:0": 7},
        inside={"wg": "last/body"},
    ),
    "loop_of_unknown_length": Case(  # how often it runs is an input, and it stops when the state is large
        """(float[2,3] x, int64 n) => (float[2,2] y) {
            e = MatMul(x, w0)
            last = Loop(n, true, e) <body = round (int64 i, bool go, float[2,6] h) => (bool on, float[2,6] g) {
                p = MatMul(h, w1)  q = Tanh(p)  g = MatMul(q, w2)  s = ReduceMax<keepdims=0>(p)  on = Less(s, ten) }>
            y = MatMul(last, wo) }""",
        {"true": np.array(True), "ten": 10.0, "w0": (3, 6), "w1": (6, 7), "w2": (7, 6), "wo": (6, 2)},
        {"w0:1 w1:0 w2:1 wo:0": 6, "w1:1 w2:0": 7},
        stats=("w1:1 w2:0",),
    ),
    "loop_once": Case(  # its body takes its place
        """(float[2,3] x) => (float[1,2,2] y) {
            e = MatMul(x, w0)
            last, out = Loop(once, , e) <body = round (int64 i, bool go, float[2,6] h)
                => (bool on, float[2,5] g, float[2,7] o) {
                on = Identity(go)  p = MatMul(h, wr)  g = Tanh(p)  o = MatMul(g, wg) }>
            y = MatMul(out, wo) }""",
        {"once": 1, "w0": (3, 6), "wr": (6, 5), "wg": (5, 7), "wo": (7, 2)},
        {"w0:1 wr:0": 6, "wg:0 wr:1": 5, "wg:1 wo:0": 7},
    ),
    "loop_that_grows": Case(  # the state gets longer with every round: nothing that it touches has one shape
        """(float[2,3] x) => (float[2,2] y) {
            z = MatMul(x, wx)  e = MatMul(z, w0)
            last = Loop(three, , e) <body = round (int64 i, bool go, float[m,6] h) => (bool on, float[k,6] g) {
                on = Identity(go)  p = MatMul(e, wr)  g = Concat<axis=0>(h, p) }>
            f = Slice(last, from, to)  y = MatMul(f, wo) }""",
        {"three": 3, "wx": (3, 4), "w0": (4, 6), "wr": (6, 6), "from": [0], "to": [2], "wo": (6, 2)},
        {"w0:0 wx:1": 4},
        frozen={"w0:1": "has [2, 6], then [4, 6]", "wr:0": "has [2, 6]", "wo:0": "has [2, 6]"},
    ),
    "scan_of_opset_8": Case(  # had a batch axis: it is not opened
        """(float[1,5,3] x) => (float[1,5,2] y) {
            e = MatMul(x, w0)  f = MatMul(e, wi)
            last, out = Scan<num_scan_inputs=1, body = step (float[6] h, float[4] t) => (float[6] g, float[6] o) {
                p = MatMul(t, ws)  r = Add(p, h)  g = Tanh(r)  o = Identity(g) }>(, h0, f)
            y = MatMul(out, wo) }""",
        {"w0": (3, 5), "wi": (5, 4), "ws": (4, 6), "h0": (1, 6), "wo": (6, 2)},
        {"w0:1 wi:0": 5},
        opset=8,
        frozen={"wi:1": "bodies of scan", "ws:0": "scan", "wo:0": "bodies of scan"},
    ),
    "scan_symbolic": Case(  # length and batch are symbols, the zero state is made at run time
        """(float[T,N,3] x) => (float[T,N,2] y) {
            s = Shape<start=1,end=2>(x)  z = Concat<axis=0>(s, six)  h0 = ConstantOfShape(z)
            last, out = Scan<num_scan_inputs=1,
                body = step (float[N,6] h, float[N,3] t) => (float[N,6] g, float[N,6] o) {
                p = MatMul(t, ws)  q = MatMul(h, wr)  r = Add(p, q)  g = Tanh(r)  o = Reshape(g, rs) }>(h0, x)
            y = MatMul(out, wo) }""",
        {"six": [6], "rs": [-1, 6], "ws": (3, 6), "wr": (6, 6), "wo": (6, 2)},
        {"wo:0 wr:0 wr:1 ws:1": 6},
    ),
    "if_gives_a_constant": Case(  # a table in one branch is a member like a weight
        """(float[2,3] x, bool cond) => (float[2,4] y) {
            c = If(cond) <
                then_branch = yes () => (float[2,7] u) { u = Identity(k) },
                else_branch = no () => (float[2,7] v) { v = MatMul(x, w1) }>
            y = MatMul(c, w2) }""",
        {"k": (2, 7), "w1": (3, 7), "w2": (7, 4)},
        {"k:1 w1:1 w2:0": 7},
    ),
    "loop_without_state": Case(  # every round gives the same
        """(float[2,3] x) => (float[2,2] y) {
            e = MatMul(x, w0)
            out = Loop(three, true) <body = round (int64 i, bool go) => (bool on, float[2,7] o) {
                on = Identity(go)  o = MatMul(e, wg) }>
            k = ReduceSum<keepdims=0>(out, zero)  y = MatMul(k, wo) }""",
        {"three": 3, "true": np.array(True), "zero": [0], "w0": (3, 6), "wg": (6, 7), "wo": (7, 2)},
        {"w0:1 wg:0": 6, "wg:1 wo:0": 7},
    ),
    "loop_over_a_sequence": Case(  # what a round appends is a slice that the loop gives
        """(float[2,3] x) => (float[2,2] y) {
            z = MatMul(x, wx)  e = MatMul(z, w0)  s0 = SequenceEmpty()
            s, last = Loop(three, , s0, e) <body = round (int64 i, bool go, seq(float) s1, float[2,6] h)
                => (bool on, seq(float) s2, float[2,6] g) {
                on = Identity(go)  g = MatMul(h, wr)  s2 = SequenceInsert(s1, g) }>
            c = ConcatFromSequence<axis=0>(s)  f = Slice(c, from, to)  k = Add(f, last)  y = MatMul(k, wo) }""",
        {"three": 3, "wx": (3, 4), "w0": (4, 6), "wr": (6, 6), "from": [0], "to": [2], "wo": (6, 2)},
        {"w0:0 wx:1": 4, "w0:1 wo:0 wr:0 wr:1": 6},
    ),
    "sequence_map_inside": Case(  # the body of another operator, inside a branch: it is not opened
        """(float[2,3] x, bool cond) => (float[2,4] y) {
            a = MatMul(x, w0)
            c = If(cond) <
                then_branch = yes () => (float[2,7] u) {
                    s = SplitToSequence<axis=0>(a)
                    m = SequenceMap(s) <body = one (float[1,5] e) => (float[1,7] f) { f = MatMul(e, w1) }>
                    u = ConcatFromSequence<axis=0>(m) },
                else_branch = no () => (float[2,7] v) { v = MatMul(a, w2) }>
            y = MatMul(c, w3) }""",
        {"w0": (3, 5), "w1": (5, 7), "w2": (5, 7), "w3": (7, 4)},
        {},
        frozen={"w0:1": "not known", "w1:0": "sequencemap", "w2:1": "concatfromsequence"},
    ),
}
