"""Small networks that tests of statistics and scoring share, their graphs and inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spa_compiler.analysis.dependency_graph import DependencyGraph, analyze
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.execution.session import open_session
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import from_proto
from zoo import Case
from zoo_base import build

CONV = Case(
    "(float[N,3,6,6] x) => (float[N,4,6,6] y) { a = Conv <pads = [1,1,1,1]> (x, w1, b1)  r = Relu(a)"
    "  y = Conv <pads = [1,1,1,1]> (r, w2, b2) }",
    {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (4, 8, 3, 3), "b2": (4,)},
    None,
)
DENSE = Case(
    "(float[N,5] x) => (float[N,3] y) { a = Gemm <transB = 1> (x, w1, b1)  r = Relu(a)  y = MatMul(r, w2) }",
    {"w1": (7, 5), "b1": (7,), "w2": (7, 3)},
    None,
)


def graph_of(case: Case, **changed: np.ndarray) -> DependencyGraph:
    inits = {**case.inits, **changed}
    model, _ = normalize(from_proto(build(Case(case.text, inits, None, opset=case.opset)), Path("test.onnx")))
    return analyze(model)


def feeds(shape: tuple[int, ...], chunks: int = 4, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(chunks)]


CLASSIFIER = Case(
    "(float[N,3,16,16] x) => (float[N,3] y) { a = Conv <pads = [1,1,1,1]> (x, w1, b1)  r = Relu(a)"
    "  p = GlobalAveragePool(r)  f = Flatten(p)  y = Gemm <transB = 1> (f, w2, b2) }",
    {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (3, 8), "b2": (3,)},
    None,
)


RESIDUAL = Case(
    "(float[N,3,6,6] x) => (float[N,2] y) { s = Conv <pads = [1,1,1,1]> (x, ws, bs)"
    "  a = Conv <pads = [1,1,1,1]> (s, w1, b1)  r = Relu(a)  c = Conv <pads = [1,1,1,1]> (r, w2)"
    "  n = BatchNormalization (c, vg, vb, vm, varv)  t = Add(n, s)"
    "  u = Relu(t)  p = GlobalAveragePool(u)  f = Flatten(p)  y = Gemm <transB = 1> (f, wf, bf) }",
    {
        "ws": (6, 3, 3, 3), "bs": (6,), "w1": (8, 6, 3, 3), "b1": (8,), "w2": (6, 8, 3, 3), "vg": (6,), "vb": (6,),
        "vm": (6,), "varv": (6,), "wf": (2, 6), "bf": (2,),
    },
    None,
)  # fmt: skip


def outputs(model: Model, given: list[dict[str, Any]]) -> np.ndarray:
    session = open_session(model.proto(), model.folder)
    return np.concatenate([session.run(None, f)[0].reshape(len(f["x"]), -1) for f in given])


def cut(graph: DependencyGraph, share: float = 0.5, labels: Mapping[str, int] | None = None) -> dict[Any, np.ndarray]:
    """Drop the last channels of every group."""
    out = {}
    for g in graph.groups:
        mask = np.ones(g.shape, bool)
        mask[..., max(1, round(g.size * share)) :] = False
        out[g.dims[0]] = mask
    return out
