"""Matrix products: Gemm and MatMul in all their forms, Einsum, embeddings, gated units, experts, weights used twice."""

from __future__ import annotations

import itertools

from zoo_base import Case

CASES: dict[str, Case] = {
    "matmul_right": Case(
        """(float[2,5,3] x) => (float[2,5,4] y) {
            a = MatMul(x, w1)  b = Add(a, b1)  c = Relu(b)  y = MatMul(c, w2) }""",
        {"w1": (3, 7), "b1": (7,), "w2": (7, 4)},
        {"b1:0 w1:1 w2:0": 7},
        frozen={"w1:0": "graph input", "w2:1": "graph output"},
    ),
    "matmul_left": Case(  # the weight multiplies from the left, channels are rows
        """(float[2,4,5] x) => (float[2,3,5] y) { a = MatMul(w1, x)  b = Add(a, b1)  y = MatMul(w2, b) }""",
        {"w1": (6, 4), "b1": (6, 1), "w2": (3, 6)},
        {"b1:0 w1:0 w2:1": 6},
        frozen={"w1:1": "graph input", "w2:0": "graph output"},
    ),
    "matmul_vector_right": Case(
        """(float[5,4] x) => (float[5] y) { a = MatMul(x, w)  b = Tanh(a)  y = MatMul(b, v) }""",
        {"w": (4, 6), "v": (6,)},
        {"v:0 w:1": 6},
    ),
    "matmul_vector_left": Case(
        """(float[4,5] x) => (float[5] y) { a = MatMul(w, x)  b = Tanh(a)  y = MatMul(v, b) }""",
        {"w": (7, 4), "v": (7,)},
        {"v:0 w:0": 7},
    ),
    "matmul_vector_vector": Case(  # a single sample without batch axis, then a dot product
        """(float[4] x) => (float[3] y) {
            a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, v)  d = Mul(c, u)  y = MatMul(d, o) }""",
        {"w": (4, 6), "v": (6,), "u": (5,), "o": (5, 3)},
        {"v:0 w:1": 6, "o:0 u:0": 5},
    ),
    "matmul_batched_weights": Case(  # three experts side by side; each chooses its own hidden channels
        """(float[1,2,4] x) => (float[3,2,5] y) { a = MatMul(x, w1)  b = Relu(a)  y = MatMul(b, w2) }""",
        {"w1": (3, 4, 6), "w2": (3, 6, 5)},
        {"w1:2 w2:1": 6},
        blocks={"w1:2 w2:1": 3},
        frozen={"w1:0": "output", "w2:0": "output"},
    ),
    "experts_gated": Case(  # a sum over experts weighted by a gate: experts can go as a whole
        """(float[2,4] x) => (float[2,5] y) {
            a = Einsum<equation="ti,eio->teo">(x, w1)  b = Relu(a)  c = Einsum<equation="teo,eod->ted">(b, w2)
            g = MatMul(x, wg)  s = Sigmoid(g)  y = Einsum<equation="te,ted->td">(s, c) }""",
        {"w1": (3, 4, 6), "w2": (3, 6, 5), "wg": (4, 3)},
        {"w1:0 w2:0 wg:1": 3, "w1:2 w2:1": 6},
        blocks={"w1:2 w2:1": 3},
    ),
    "matmul_two_activations": Case(  # a contraction without a weight: the two producers are coupled
        """(float[1,5,4] x) => (float[1,5,5] y) {
            a = MatMul(x, w1)  b = MatMul(x, w2)  t = Transpose<perm=[0,2,1]>(b)  y = MatMul(a, t) }""",
        {"w1": (4, 7), "w2": (4, 7)},
        {"w1:1 w2:1": 7},
    ),
    "low_rank": Case(
        """(float[1,5,6] x) => (float[1,5,6] y) {
            a = MatMul(x, u)  b = MatMul(a, v)  c = Relu(b)  d = MatMul(c, w)  y = Add(d, x) }""",
        {"u": (6, 3), "v": (3, 8), "w": (8, 6)},
        {"u:1 v:0": 3, "v:1 w:0": 8},
    ),
    "gemm_weight_left": Case(
        """(float[4,5] x) => (float[5,3] y) {
            a = Gemm(w1, x, c1)  b = Relu(a)  t = Transpose(b)  y = Gemm<alpha=0.5>(t, w2) }""",
        {"w1": (6, 4), "c1": (6, 1), "w2": (6, 3)},
        {"c1:0 w1:0 w2:0": 6},
    ),
    "gemm_weight_left_transposed": Case(
        """(float[4,5] x) => (float[3,5] y) {
            a = Gemm<transA=1>(w1, x)  b = Relu(a)  y = Gemm<transA=1,beta=0.5>(w2, b, c2) }""",
        {"w1": (4, 6), "w2": (6, 3), "c2": (3, 5)},
        {"w1:1 w2:0": 6},
    ),
    "embedding": Case(
        """(int64[1,5] ids) => (float[1,5,4] y) { e = Gather(emb, ids)  a = Add(e, pos)  y = MatMul(a, w) }""",
        {"emb": (11, 6), "pos": (5, 6), "w": (6, 4)},
        {"emb:1 pos:1 w:0": 6},
        frozen={"emb:0": "index", "pos:0": "input"},
    ),
    "tied_embeddings": Case(  # one matrix is the Gather table and, transposed, the output projection
        """(int64[1,5] ids) => (float[1,5,11] y) {
            e = Gather(emb, ids)  a = MatMul(e, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Add(e, c)
            t = Transpose(emb)  y = MatMul(d, t) }""",
        {"emb": (11, 6), "w1": (6, 9), "w2": (9, 6)},
        {"emb:1 w1:0 w2:1": 6, "w1:1 w2:0": 9},
        frozen={"emb:0": ""},
    ),
    "tied_autoencoder": Case(
        """(float[2,8] x) => (float[2,8] y) {
            a = MatMul(x, w)  b = Add(a, b1)  c = Relu(b)  t = Transpose<perm=[1,0]>(w)  y = MatMul(c, t) }""",
        {"w": (8, 5), "b1": (5,)},
        {"b1:0 w:1": 5},
    ),
    "siamese": Case(  # one weight applied to two inputs
        """(float[2,4] p, float[2,4] q) => (float[2,3] y) {
            a = MatMul(p, w1)  b = Relu(a)  c = MatMul(q, w1)  d = Relu(c)  e = Concat<axis=1>(b, d)
            y = MatMul(e, w2) }""",
        {"w1": (4, 6), "w2": (12, 3)},
        {"w1:1 w2:0": 6},
    ),
    "weight_applied_twice": Case(  # an unrolled recurrence: in and out become one dim
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = MatMul(a, w)  c = Tanh(b)  d = MatMul(c, w)  y = MatMul(d, w2) }""",
        {"w1": (4, 6), "w": (6, 6), "w2": (6, 3)},
        {"w1:1 w2:0 w:0 w:1": 6},
    ),
    "shared_vector": Case(  # equal vectors that an exporter merged: two uses, two groups
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Add(a, z)  c = Relu(b)  d = MatMul(c, w2)  e = Add(d, z)  y = MatMul(e, w3) }""",
        {"w1": (4, 6), "z": (6,), "w2": (6, 6), "w3": (6, 3)},
        {"w1:1 w2:0 z:0": 6, "w2:1 w3:0 z:0": 6},
    ),
    "shared_scalars": Case(  # scalars and one-element vectors tie nothing
        """(float[2,4] x) => (float[2,3] y) {
            a = MatMul(x, w1)  b = Mul(a, half)  c = Relu(b)  d = MatMul(c, w2)  e = Mul(d, half)  f = Add(e, one)
            g = Add(c, one)  h = MatMul(f, w3)  i = MatMul(g, w4)  y = Add(h, i) }""",
        {"w1": (4, 6), "half": 0.5, "one": (1,), "w2": (6, 7), "w3": (7, 3), "w4": (6, 3)},
        {"w1:1 w2:0 w4:0": 6, "w2:1 w3:0": 7},
    ),
    "glu_split": Case(  # one projection cut in halves that gate each other
        """(float[1,5,4] x) => (float[1,5,3] y) {
            a = MatMul(x, w1)  b = Add(a, b1)  p, q = Split<axis=-1>(b, sp)  s = Sigmoid(q)  m = Mul(p, s)
            y = MatMul(m, w2) }""",
        {"w1": (4, 12), "b1": (12,), "sp": [6, 6], "w2": (6, 3)},
        {"b1:0 w1:1 w2:0": 6},
    ),
    "swiglu": Case(
        """(float[1,5,4] x) => (float[1,5,4] y) {
            a = MatMul(x, w1)  s = Sigmoid(a)  g = Mul(a, s)  b = MatMul(x, w2)  m = Mul(g, b)  c = MatMul(m, w3)
            y = Add(x, c) }""",
        {"w1": (4, 7), "w2": (4, 7), "w3": (7, 4)},
        {"w1:1 w2:1 w3:0": 7},
    ),
    "mixer": Case(  # token mixing runs on the transposed tensor
        """(float[1,5,8] x) => (float[1,5,8] y) {
            t = Transpose<perm=[0,2,1]>(x)  a = MatMul(t, t1)  b = Relu(a)  c = MatMul(b, t2)
            u = Transpose<perm=[0,2,1]>(c)  d = Add(x, u)  e = MatMul(d, c1)  f = Relu(e)  g = MatMul(f, c2)
            y = Add(d, g) }""",
        {"t1": (5, 7), "t2": (7, 5), "c1": (8, 6), "c2": (6, 8)},
        {"t1:1 t2:0": 7, "c1:1 c2:0": 6},
    ),
    "einsum_bilinear": Case(
        """(float[2,4] p, float[2,5] q) => (float[2,3] y) {
            a = MatMul(p, w1)  b = MatMul(q, w2)  c = Einsum<equation="bi,ijk,bj->bk">(a, w, b)  y = MatMul(c, w3) }""",
        {"w1": (4, 6), "w2": (5, 7), "w": (6, 7, 8), "w3": (8, 3)},
        {"w1:1 w:0": 6, "w2:1 w:1": 7, "w3:0 w:2": 8},
    ),
    "einsum_ellipsis": Case(
        """(float[1,2,5,4] x) => (float[1,2,5,3] y) {
            a = Einsum<equation="...i,io->...o">(x, w1)  b = Relu(a)
            y = Einsum<equation="...o, ko -> ...k">(b, w2) }""",
        {"w1": (4, 6), "w2": (3, 6)},
        {"w1:1 w2:1": 6},
    ),
    "einsum_implicit_output": Case(  # an implicit output: letters that occur once, in alphabetical order
        """(float[5,4] x) => (float[3,5] y) { a = MatMul(x, w1)  y = Einsum<equation="nc,cb">(a, w2) }""",
        {"w1": (4, 6), "w2": (6, 3)},
        {"w1:1 w2:0": 6},
    ),
    "two_inputs": Case(
        """(float[2,4] p, float[2,5] q) => (float[2,3] y) {
            a = MatMul(p, w1)  b = MatMul(q, w2)  c = Add(a, b)  d = Relu(c)  e = MatMul(q, w3)
            f = Concat<axis=-1>(d, e)  y = MatMul(f, w4) }""",
        {"w1": (4, 6), "w2": (5, 6), "w3": (5, 7), "w4": (13, 3)},
        {"w1:1 w2:1 w4:0": 6, "w3:1 w4:0": 7},
    ),
    "two_outputs": Case(  # the second output freezes the feature it shows, not the rest
        """(float[2,4] x) => (float[2,3] y, float[2,7] z, float[2,2] v) {
            a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  z = Relu(c)  y = MatMul(z, w3)  v = MatMul(b, w4) }""",
        {"w1": (4, 6), "w2": (6, 7), "w3": (7, 3), "w4": (6, 2)},
        {"w1:1 w2:0 w4:0": 6},
        frozen={"w2:1": "graph output", "w3:0": "graph output"},
    ),
}


def gemm(trans_a: int, trans_b: int, shape: tuple[int, ...] | float, members: str) -> Case:
    """Input [2,4], hidden widths 7 and 5; the Gemm under test has M=2, K=7, N=5 and the bias `c`."""
    first = "Gemm<transA=1>(w1, t)" if trans_a else "MatMul(x, w1)"  # [7,2] or [2,7]
    return Case(
        f"""(float[2,4] x) => (float[2,3] y) {{
            t = Transpose(x)  a = {first}  b = Relu(a)
            d = Gemm<transA={trans_a},transB={trans_b},alpha=0.7,beta=1.5>(b, w2, c)  e = Relu(d)
            y = Gemm(e, w3) }}""",
        {"w1": (4, 7), "w2": (5, 7) if trans_b else (7, 5), "c": shape, "w3": (5, 3)},
        {f"w1:1 w2:{trans_b}": 7, f"{members}w2:{1 - trans_b} w3:0": 5},
    )


C_SHAPES: dict[str, tuple[tuple[int, ...] | float, str]] = {
    "n": ((5,), "c:0 "),
    "mn": ((2, 5), "c:1 "),
    "1n": ((1, 5), "c:1 "),
    "m1": ((2, 1), ""),
    "1": ((1,), ""),
    "scalar": (0.25, ""),
}
CASES |= {
    f"gemm_{'t' if a else 'n'}{'t' if b else 'n'}_c_{name}": gemm(a, b, *C_SHAPES[name])
    for a, b, name in [
        *((a, b, "n") for a, b in itertools.product((0, 1), repeat=2)),
        *((0, 1, name) for name in C_SHAPES if name != "n"),
        (1, 0, "mn"),
    ]
}
