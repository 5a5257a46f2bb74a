"""LSTM, GRU and RNN: the gates are one axis (n h), the hidden channels meet themselves in R."""

from __future__ import annotations

from zoo_base import Case

CASES: dict[str, Case] = {
    "lstm": Case(
        """(float[5,1,3] x) => (float[5,1,2] y) {
            a, h, c = LSTM<hidden_size=6>(x, w, r, b)  d = Reshape(a, rs)  y = MatMul(d, wo) }""",
        {"w": (1, 24, 3), "r": (1, 24, 6), "b": (1, 48), "rs": [5, 1, 6], "wo": (6, 2)},
        {"b:1 r:1 r:2 w:1 wo:0": 6},
        frozen={"w:2": "graph input"},
    ),
    "gru": Case(
        """(float[5,1,3] x) => (float[5,1,2] y) {
            a, h = GRU<hidden_size=6>(x, w, r, b)  d = Squeeze(a, sq)  y = MatMul(d, wo) }""",
        {"w": (1, 18, 3), "r": (1, 18, 6), "b": (1, 36), "sq": [1], "wo": (6, 2)},
        {"b:1 r:1 r:2 w:1 wo:0": 6},
    ),
    "gru_from_pieces": Case(  # PyTorch without constant folding: its gates in the order of ONNX, two biases
        """(float[5,1,3] x) => (float[5,1,2] y) {
            w1 = Slice(w, i6, i12, i0)  w2 = Slice(w, i0, i6, i0)  w3 = Slice(w, i12, i18, i0)
            w4 = Concat<axis=0>(w1, w2, w3)
            r1 = Slice(r, i6, i12, i0)  r2 = Slice(r, i0, i6, i0)  r3 = Slice(r, i12, i18, i0)
            r4 = Concat<axis=0>(r1, r2, r3)
            b1 = Slice(b, i6, i12, i0)  b2 = Slice(b, i0, i6, i0)  b3 = Slice(b, i12, i18, i0)
            b4 = Concat<axis=0>(b1, b2, b3)
            c1 = Slice(c, i6, i12, i0)  c2 = Slice(c, i0, i6, i0)  c3 = Slice(c, i12, i18, i0)
            c4 = Concat<axis=0>(c1, c2, c3)
            wu = Unsqueeze(w4, i0)  ru = Unsqueeze(r4, i0)  d4 = Concat<axis=0>(b4, c4)  bu = Unsqueeze(d4, i0)
            a, h = GRU<hidden_size=6>(x, wu, ru, bu)  d = Squeeze(a, sq)  y = MatMul(d, wo) }""",
        {
            "w": (18, 3),
            "r": (18, 6),
            "b": (18,),
            "c": (18,),
            "i0": [0],
            "i6": [6],
            "i12": [12],
            "i18": [18],
            "sq": [1],
            "wo": (6, 2),
        },
        {"b:0 c:0 r:0 r:1 w:0 wo:0": 6},
    ),
    "gru_linear_before_reset": Case(  # and an input width that can go; the last state is used
        """(float[5,1,3] x) => (float[1,2] y) {
            e = MatMul(x, wi)  a, h = GRU<hidden_size=6,linear_before_reset=1>(e, w, r, b)  d = Squeeze(h, sq)
            y = MatMul(d, wo) }""",
        {"wi": (3, 4), "w": (1, 18, 4), "r": (1, 18, 6), "b": (1, 36), "sq": [0], "wo": (6, 2)},
        {"b:1 r:1 r:2 w:1 wo:0": 6, "w:2 wi:1": 4},
    ),
    "rnn": Case(
        """(float[5,1,3] x) => (float[5,1,2] y) {
            a, h = RNN<hidden_size=6>(x, w, r)  d = Squeeze(a, sq)  y = MatMul(d, wo) }""",
        {"w": (1, 6, 3), "r": (1, 6, 6), "sq": [1], "wo": (6, 2)},
        {"r:1 r:2 w:1 wo:0": 6},
    ),
    "lstm_states_peepholes": Case(  # learned initial states and peepholes are members
        """(float[5,1,3] x) => (float[5,1,2] y) {
            a, h, c = LSTM<hidden_size=6>(x, w, r, b, , h0, c0, p)  d = Squeeze(a, sq)  y = MatMul(d, wo) }""",
        {
            "w": (1, 24, 3),
            "r": (1, 24, 6),
            "b": (1, 48),
            "h0": (1, 1, 6),
            "c0": (1, 1, 6),
            "p": (1, 18),
            "sq": [1],
            "wo": (6, 2),
        },
        {"b:1 c0:2 h0:2 p:1 r:1 r:2 w:1 wo:0": 6},
    ),
    "lstm_state_input": Case(  # streaming: the state is graph input and output, so it stays
        """(float[5,1,3] x, float[1,1,6] h0, float[1,1,6] c0) => (float[5,1,2] y, float[1,1,6] h, float[1,1,6] c) {
            e = MatMul(x, wi)  a, h, c = LSTM<hidden_size=6>(e, w, r, b, , h0, c0)  d = Squeeze(a, sq)
            y = MatMul(d, wo) }""",
        {"wi": (3, 4), "w": (1, 24, 4), "r": (1, 24, 6), "b": (1, 48), "sq": [1], "wo": (6, 2)},
        {"w:2 wi:1": 4},
        frozen={"r:2": "graph", "w:1": "graph", "wo:0": "graph"},
    ),
    "lstm_zero_state": Case(  # exporters make the zero state from the batch size at run time; every use is its own
        """(float[5,N,3] x) => (float[5,N,2] y) {
            s = Shape<start=1,end=2>(x)  z = Concat<axis=0>(one, s, six)  h0 = ConstantOfShape(z)
            a, h1, c1 = LSTM<hidden_size=6>(x, w, r, b, , h0, h0)  a2 = Squeeze(a, sq)
            d, h2, c2 = LSTM<hidden_size=6>(a2, v, q, , , h0, h0)  e = Squeeze(d, sq)  y = MatMul(e, wo) }""",
        {
            "one": [1],
            "six": [6],
            "w": (1, 24, 3),
            "r": (1, 24, 6),
            "b": (1, 48),
            "sq": [1],
            "v": (1, 24, 6),
            "q": (1, 24, 6),
            "wo": (6, 2),
        },
        {"b:1 r:1 r:2 v:2 w:1": 6, "q:1 q:2 v:1 wo:0": 6},
    ),
    "lstm_stacked": Case(
        """(float[5,1,3] x) => (float[5,1,2] y) {
            a, h1, c1 = LSTM<hidden_size=6>(x, w1, r1, b1)  b = Squeeze(a, sq)
            c, h2, c2 = LSTM<hidden_size=4>(b, w2, r2)  d = Squeeze(c, sq)  y = MatMul(d, wo) }""",
        {
            "w1": (1, 24, 3),
            "r1": (1, 24, 6),
            "b1": (1, 48),
            "sq": [1],
            "w2": (1, 16, 6),
            "r2": (1, 16, 4),
            "wo": (4, 2),
        },
        {"b1:1 r1:1 r1:2 w1:1 w2:2": 6, "r2:1 r2:2 w2:1 wo:0": 4},
    ),
    "lstm_bidirectional": Case(  # directions are blocks: each one keeps hidden channels of its own
        """(float[5,1,3] x) => (float[5,1,2] y) {
            a, h, c = LSTM<hidden_size=6,direction="bidirectional">(x, w, r, b)
            t = Transpose<perm=[0,2,1,3]>(a)  d = Reshape(t, rs)  y = MatMul(d, wo) }""",
        {"w": (2, 24, 3), "r": (2, 24, 6), "b": (2, 48), "rs": [0, 0, -1], "wo": (12, 2)},
        {"b:1 r:1 r:2 w:1 wo:0": 6},
        blocks={"b:1 r:1 r:2 w:1 wo:0": 2},
        frozen={"w:0": "lstm", "r:0": "lstm"},
    ),
    "gru_bidirectional_sum": Case(  # the directions are added: one and the same choice for both
        """(float[5,1,3] x) => (float[5,1,2] y) {
            a, h = GRU<hidden_size=6,direction="bidirectional">(x, w, r)
            p, q = Split<axis=1>(a, sp)  s = Add(p, q)  d = Squeeze(s, sq)  y = MatMul(d, wo) }""",
        {"w": (2, 18, 3), "r": (2, 18, 6), "sp": [1, 1], "sq": [1], "wo": (6, 2)},
        {"r:1 r:2 w:1 wo:0": 6},
        frozen={"w:0": "gru"},
    ),
}
