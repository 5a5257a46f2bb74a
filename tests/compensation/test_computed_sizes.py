"""Sizes that a dense model computes and the compiled one holds as numbers: all weights behind them are still solved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import spa_compiler
from zoo import Case, build
from zoo_base import Init

HEADS = """(float[N,6,16] x) => (float[N,6,5] y) {{
    t = Transpose<perm=[1,0,2]>(x)  q = MatMul(t, wq)  n = Shape<start=1,end=2>(t)  l = Shape<start=0,end=1>(t)
    rows = Mul(n, heads)  {size}  shape = Concat<axis=0>(l, rows, width)  r = Reshape(q, shape)
    v = Transpose<perm=[1,0,2]>(r)  k = Transpose<perm=[0,2,1]>(v)  a = MatMul(v, k)  s = Softmax(a)  o = MatMul(s, v)
    e = Transpose<perm=[1,0,2]>(o)  f = Reshape(e, back)  h = MatMul(f, wo)  g = Relu(h)  z = MatMul(g, w2)
    y = Transpose<perm=[1,0,2]>(z) }}"""
SIZES = {
    "a number": "width = Identity(four)",
    "computed": "c = Shape<start=2,end=3>(x)  width = Div(c, heads)",
    "computed and cast": "c = Shape<start=2,end=3>(x)  d = Div(c, heads)  b = Cast<to=6>(d)  width = Cast<to=7>(b)",
}
WEIGHTS: dict[str, Init] = {
    "wq": (16, 16), "heads": [4], "four": [4], "back": [6, -1, 16], "wo": (16, 12), "w2": (12, 5)
}  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_every_contraction_behind_a_computed_size_is_solved(tmp_path: Path, size: str) -> None:
    """Rows of heads folded into the batch are worked out in the compiled model: nothing reads their number there."""
    text = HEADS.format(size=SIZES[size])
    path = tmp_path / "heads.onnx"
    onnx.save(build(Case(text, {n: w for n, w in WEIGHTS.items() if n != "four" or "four" in text}, None)), path)
    x = np.random.default_rng(0).standard_normal((64, 6, 16)).astype(np.float32)
    plan = {"group_ratio": {"*": 0.5}}
    report = spa_compiler.compile(path, calib={"x": x}, align=1, latency=False, quality=False, **plan).report
    assert any(g["kept"] < g["size"] for g in report["groups"])
    assert report["compensation"]["left"] == {}
    assert report["compensation"]["solved"] >= 2
