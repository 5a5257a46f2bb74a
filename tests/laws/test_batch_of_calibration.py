"""Scores and compensated weights follow the inputs, not the batches in which they come.

Where one axis holds a symbolic batch together with channels, `(n h)`, inputs of any number say which channels matter.
"""

from __future__ import annotations

import numpy as np
import pytest

from networks import cut, feeds, graph_of
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.compensation.lockstep import compensate_weights
from spa_compiler.compensation.options import Options
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.scoring.obs import obspa
from spa_compiler.statistics.moments import collect_moments
from zoo_base import Case

SPLIT = "u = Reshape(a, heads)  t = Transpose<perm=[0,2,1,3]>(u)  c = Reshape(t, rows)"
JOIN = "e = Reshape(d, back)  f = Transpose<perm=[0,2,1,3]>(e)  g = Reshape(f, flat)  y = MatMul(g, w2)"

MODELS = {
    "heads in the batch, as nn.MultiheadAttention": (
        Case(
            """(float[N,5,6] x) => (float[N,5,3] y) {
            q0 = MatMul(x, wq)  q1 = Reshape(q0, heads)  q2 = Transpose<perm=[0,2,1,3]>(q1)  q = Reshape(q2, rows)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, heads)  k2 = Transpose<perm=[0,2,3,1]>(k1)  k = Reshape(k2, columns)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, heads)  v2 = Transpose<perm=[0,2,1,3]>(v1)  v = Reshape(v2, rows)
            s = MatMul(q, k)  p = Softmax(s)  d = MatMul(p, v) """
            + JOIN
            + "}",
            {
                **dict.fromkeys(["wq", "wk", "wv"], (6, 12)),
                "heads": [0, 5, 3, 4],
                "rows": [-1, 5, 4],
                "columns": [-1, 4, 5],
                "back": [-1, 3, 5, 4],
                "flat": [0, 0, 12],
                "w2": (12, 3),
            },
            None,
        ),
        (5, 6),
    ),
    "a layer for every head": (
        Case(
            "(float[N,5,4] x) => (float[N,5,3] y) { a = MatMul(x, w1)  "
            + SPLIT
            + "  b = MatMul(c, w3)  d = Relu(b)  "
            + JOIN
            + "}",
            {
                "w1": (4, 14),
                "heads": [0, 5, 2, 7],
                "rows": [-1, 5, 7],
                "w3": (7, 6),
                "back": [-1, 2, 5, 6],
                "flat": [0, 0, 12],
                "w2": (12, 3),
            },
            None,
        ),
        (5, 4),
    ),
    "heads before the batch": (
        Case(
            """(float[N,5,4] x) => (float[N,5,3] y) {
            a = MatMul(x, w1)  u = Reshape(a, heads)  t = Transpose<perm=[2,0,1,3]>(u)  c = Reshape(t, rows)
            b = MatMul(c, w3)  d = Relu(b)  e = Reshape(d, back)  f = Transpose<perm=[1,2,0,3]>(e)
            g = Reshape(f, flat)  y = MatMul(g, w2) }""",
            {
                "w1": (4, 14),
                "heads": [0, 5, 2, 7],
                "rows": [-1, 5, 7],
                "w3": (7, 6),
                "back": [2, -1, 5, 6],
                "flat": [0, 0, 12],
                "w2": (12, 3),
            },
            None,
        ),
        (5, 4),
    ),
    "groups of channels in the batch, with a BatchNormalization": (
        Case(
            """(float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)  c = Reshape(a, rows)  b = Conv(c, w3)
            n = BatchNormalization(b, scale, bias, mean, var)  d = Relu(n)  e = Reshape(d, back)  y = Conv(e, w2) }""",
            {
                "w1": (12, 3, 1, 1),
                "rows": [-1, 4, 4, 4],
                "w3": (5, 4, 1, 1),
                **dict.fromkeys(["scale", "bias", "mean", "var"], (5,)),
                "back": [-1, 15, 4, 4],
                "w2": (2, 15, 1, 1),
            },
            None,
        ),
        (3, 4, 4),
    ),
}


def split_rows(rows: np.ndarray, sizes: list[int]) -> list[dict[str, np.ndarray]]:
    return [{"x": part} for part in np.split(rows, np.cumsum(sizes)[:-1])]


def compensate_by(graph: DependencyGraph, given: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The constants that are compensated with these inputs; every contraction is solved."""
    masks = cut(graph)
    small, outcome = compensate_weights(graph, masks, rewrite(graph, masks), given, Options())
    assert not outcome.left and not outcome.unfit
    return {n: small.array(t) for n, t in small.constants().items()}


@pytest.mark.parametrize("name", MODELS)
def test_scores_and_weights_do_not_depend_on_batches(name: str) -> None:
    case, shape = MODELS[name]
    graph = graph_of(case)
    assert graph.groups
    rows = feeds((24, *shape), 1)[0]["x"]
    ways = [split_rows(rows, sizes) for sizes in ([24], [8, 8, 8], [13, 1, 10])]
    scores = [obspa(graph, collect_moments(graph, given), np.random.default_rng(0)) for given in ways]
    weights = [compensate_by(graph, given) for given in ways]
    for others in scores[1:]:
        for label, values in scores[0].items():
            np.testing.assert_allclose(others[label], values, rtol=1e-3, atol=1e-6, err_msg=label)
    for some in weights[1:]:
        for constant, array in weights[0].items():
            np.testing.assert_allclose(some[constant], array, rtol=1e-3, atol=1e-4, err_msg=constant)
