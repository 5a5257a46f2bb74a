"""A product with a matrix that is two smaller ones, made to be these two.

    found = factor_products(graph, "svd", is_open=lambda site: True, tol=1e-5, growth=1.0)
    found.model, found.factored, found.nearest

"svd": a matrix W [k, n] of rank r is A [k, r] times B [r, n]: r (k + n) of k n multiplications are left, and r is a dim
of its own whose channels may be pruned. "monarch": of inputs (i, j) and outputs (s, t), m values for i and m
for t, W[ij, st] = R[i, j, t] L[t, i, s], which takes m (k + n) [Monarch matrices, arXiv 2204.00595]. For every i and t
that is a matrix of rank 1 over j and s, so the nearest such product is made of the first singular vectors of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.analysis.channel_rows import EXACT_TYPES
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.execution.finite import is_finite
from spa_compiler.ir.editing import find_index
from spa_compiler.ir.model import Model, find_element_type
from spa_compiler.operators import build
from spa_compiler.operators.build import Call, new_node
from spa_compiler.operators.matrix import Matrix, find_matrix
from spa_compiler.operators.site import Site

Floats = NDArray[np.float64]
IsOpen = Callable[[Site], bool]


@dataclass(frozen=True)
class Pair:
    """Two maps in place of one; `inner` is the rank, or the number of blocks; `distance` is a share of the norm."""

    first: Floats
    second: Floats
    inner: int
    distance: float


@dataclass
class Factored:
    """The edited model, which pairs took the place of which weights, and how far the others are from the nearest."""

    model: Model
    factored: dict[str, Pair] = field(default_factory=dict)
    nearest: dict[str, float] = field(default_factory=dict)


def factor_products(graph: DependencyGraph, kind: str, is_open: IsOpen, tol: float, growth: float) -> Factored:
    """A copy of the analysed model in which products are two where that is exact and `growth` times as much at most."""
    model = graph.model.copy()
    find = find_low_rank if kind == "svd" else find_monarch
    write = _write_low_rank if kind == "svd" else _write_monarch
    out = Factored(model)
    for node, matrix in list(_find_products(graph, model)):
        weight = node.inputs[matrix.weight]
        w = np.asarray(model.array(weight))
        if not is_open(graph.makers[node.outputs[0].name]) or not is_finite(w) or not w.any():
            continue
        wide = w.astype(np.float64).T if matrix.is_flipped else w.astype(np.float64)
        pair = find(wide, tol, growth)
        if pair is None or pair.distance > tol:
            out.nearest[weight.name] = 1.0 if pair is None else pair.distance
            continue
        parts = pair.first.astype(w.dtype), pair.second.astype(w.dtype)
        _replace(model, node, matrix, write(model, node, parts, len(graph.values[node.outputs[0].name].axes)))
        out.factored[weight.name] = pair
    return out


def _find_products(graph: DependencyGraph, model: Model) -> Iterator[tuple[gs.Node, Matrix]]:
    """Products with a matrix that nothing else reads, in the order of the graph."""
    inside = {s.outputs[0].name for s in graph.sites if s.path and s.outputs and s.outputs[0] is not None}
    shared = {*model.copies, *model.copies.values(), *model.captured, *(t.name for t in model.graph.outputs)}
    for node in model.graph.nodes:
        matrix = find_matrix(node)
        if matrix is None or node.outputs[0].name in inside or node.outputs[0].name not in graph.values:
            continue
        weight = node.inputs[matrix.weight]
        is_own = isinstance(weight, gs.Constant) and len(weight.outputs) == 1 and weight.name not in shared
        is_number = is_own and find_element_type(weight) in EXACT_TYPES and len(weight.shape) == 2
        x = graph.values.get(node.inputs[0].name)
        if is_number and x is not None and not x.constant and len(x.axes) > 1:
            yield node, matrix


def find_low_rank(w: Floats, tol: float, growth: float) -> Pair | None:
    """W as A B of the lowest rank within `tol`, else of the highest that `growth` allows; None below rank 1.

    >>> pair = find_low_rank(np.outer([1.0, 2.0, 3.0], [1.0, 0.0, 2.0]), 1e-9, 1.0)
    >>> pair.inner, pair.first.shape, pair.second.shape
    (1, (3, 1), (1, 3))
    """
    u, values, v = np.linalg.svd(w, full_matrices=False)
    left = np.sqrt(np.append(np.cumsum((values**2)[::-1])[::-1], 0.0)) / np.linalg.norm(values)
    most = min(int(growth * w.size / sum(w.shape)), len(values))
    if most < 1:
        return None
    rank = max(1, int(np.argmax(left <= tol))) if left[most] <= tol else most
    root = np.sqrt(values[:rank])
    return Pair(u[:, :rank] * root, root[:, None] * v[:rank], rank, float(left[rank]))


def find_monarch(w: Floats, tol: float, growth: float) -> Pair | None:
    """The first pair, with fewest blocks, within `tol`, else the nearest; None where none takes so little.

    >>> rng = np.random.default_rng(0)
    >>> r, l = rng.standard_normal((2, 3, 2)), rng.standard_normal((2, 2, 3))
    >>> pair = find_monarch(np.einsum("ijt,tis->ijst", r, l).reshape(6, 6), 1e-9, 1.0)
    >>> pair.inner, pair.distance < 1e-12
    (2, True)
    """
    best: Pair | None = None
    for m in range(2, math.gcd(*w.shape) + 1):
        if math.gcd(*w.shape) % m or m * sum(w.shape) > growth * w.size:
            continue
        pair = project_monarch(w, m)
        if pair.distance <= tol:
            return pair
        best = pair if best is None or pair.distance < best.distance else best
    return best


def project_monarch(w: Floats, m: int) -> Pair:
    """The nearest product of two block-diagonal maps with m blocks: R [i, j, t] and L [t, i, s]."""
    k, n = w.shape
    blocks = w.reshape(m, k // m, n // m, m).transpose(0, 3, 1, 2)  # i t j s
    u, values, v = np.linalg.svd(blocks, full_matrices=False)
    root = np.sqrt(values[..., :1])
    first, second = root * u[..., 0], root * v[..., 0, :]  # i t j, i t s
    distance = float(np.sqrt((values[..., 1:] ** 2).sum()) / np.linalg.norm(values))
    return Pair(first.transpose(0, 2, 1), second.transpose(1, 0, 2), m, distance)


def _write_low_rank(model: Model, node: gs.Node, parts: tuple[Floats, Floats], rank: int) -> list[Call[gs.Tensor]]:
    name = node.inputs[1].name
    a, b = (model.new_constant(f"{name}.{end}", p) for end, p in zip(("first", "second"), parts, strict=True))
    return [build.multiply_matrices(node.inputs[0], a), build.multiply_matrices(node.inputs[0], b)]


def _write_monarch(model: Model, node: gs.Node, parts: tuple[Floats, Floats], rank: int) -> list[Call[gs.Tensor]]:
    """The chain, each call on what the one before it gives (its first operand is put in by `_replace`)."""
    x, name, lead = node.inputs[0], node.inputs[1].name, rank - 1
    m, j, t = parts[0].shape
    kept, between = [0] * lead, list(range(1, lead))

    def hold(end: str, values: NDArray[np.int64] | Floats) -> gs.Constant:
        return model.new_constant(f"{name}.{end}", values)

    first, second = (p.reshape(len(p), *[1] * (lead - 1), *p.shape[1:]) for p in parts)
    return [
        build.reshape(x, hold("blocks", np.array([*kept, m, j], np.int64))),
        build.transpose(x, [lead, *range(lead), lead + 1]),  # i ... j
        build.multiply_matrices(x, hold("first", first)),  # i ... t
        build.transpose(x, [lead + 1, 1, *[b + 1 for b in between], 0]),  # t ... i
        build.multiply_matrices(x, hold("second", second)),  # t ... s
        build.transpose(x, [1, *[b + 1 for b in between], lead + 1, 0]),  # ... s t
        build.reshape(x, hold("outputs", np.array([*kept, parts[1].shape[2] * t], np.int64))),
    ]


def _replace(model: Model, node: gs.Node, matrix: Matrix, calls: list[Call[gs.Tensor]]) -> None:
    """Put a chain of calls, and the bias behind it, in place of a node."""
    out, x, name = node.outputs[0], node.inputs[0], node.name or node.outputs[0].name
    bias = node.inputs[matrix.bias] if matrix.bias else None
    at, fresh = find_index(model.graph, node), list[gs.Node]()
    node.inputs.clear()
    node.outputs.clear()
    for k, call in enumerate(calls):
        is_last = k == len(calls) - 1 and bias is None
        y = out if is_last else model.new_value(f"{out.name}.factor{k}", out.dtype)
        fresh.append(new_node(model, Call(call.op, [x, *call.inputs[1:]], call.attributes), f"{name}.factor{k}", [y]))
        x = y
    if bias is not None:
        fresh.append(new_node(model, build.add(x, bias), f"{name}.bias", [out]))
    model.graph.nodes[at : at + 1] = fresh


__all__ = ["Factored", "Pair", "factor_products", "find_low_rank", "find_monarch", "project_monarch"]
