"""Graphs inside nodes: what they read from outside, and the weights that lie inside them.

`control_flow` opens the bodies of If, Loop and Scan. Whatever other operators hold (and control nodes that do not fit
their bodies) is not analysed: nothing inside can be pruned, and weights there are counted and reported as frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

TensorProto = onnx.TensorProto
WEIGHT_TYPES = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
    TensorProto.UINT8,
    TensorProto.INT8,
    TensorProto.UINT4,
    TensorProto.INT4,
}
WEIGHT_TYPES |= {
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
}
"""Element types that count as parameters."""


def list_subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The bodies of a node."""
    return [g for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]


def find_free_names(graph: onnx.GraphProto) -> set[str]:
    """Names that a body reads and does not define itself."""
    read: set[str] = {o.name for o in graph.output}
    defined = {v.name for v in (*graph.input, *graph.initializer)}
    for node in graph.node:
        read |= set(node.input).union(*map(find_free_names, list_subgraphs(node)))
        defined |= set(node.output)
    return read - defined - {""}


def rename_values(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of a node in which values have these names, those that its bodies read from outside as well."""
    out = onnx.NodeProto()
    out.CopyFrom(node)
    out.input[:] = [names.get(n, n) for n in node.input]
    out.output[:] = [names.get(n, n) for n in node.output]
    for body in list_subgraphs(out):
        _rename_body(body, {n: names[n] for n in find_free_names(body) if names.get(n, n) != n})
    return out


def _rename_body(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in body.node if names else ():
        node.input[:] = [names.get(n, n) for n in node.input]
        for inner in list_subgraphs(node):
            _rename_body(inner, {n: new for n, new in names.items() if n in find_free_names(inner)})
    for v in body.output:
        v.name = names.get(v.name, v.name)


def find_captured(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto | None]:
    """Names that bodies read from the main graph, with their initializers."""
    names = {n for node in graph.node for body in list_subgraphs(node) for n in find_free_names(body)}
    inits = {t.name: t for t in graph.initializer}
    return {n: inits.get(n) for n in sorted(names)}


def find_outer_values(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.TensorProto | None]]:
    """Names that the bodies of a node read from outside (None), and the initializers inside them."""
    for body in list_subgraphs(node):
        yield from ((n, None) for n in sorted(find_free_names(body)))
        yield from ((t.name, t) for t in body.initializer)
        for inner in body.node:
            yield from find_outer_values(inner)


def find_body_weights(node: onnx.NodeProto) -> list[onnx.TensorProto]:
    """Initializers and values of Constant nodes in the bodies of a node that count as parameters."""
    found = (t for body in list_subgraphs(node) for t in _iterate_tensors(body))
    return [t for t in found if t.dims and t.data_type in WEIGHT_TYPES]


def _iterate_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Tensors of a body and of the bodies inside it."""
    yield from graph.initializer
    for node in graph.node:
        yield from (a.t for a in node.attribute if a.HasField("t"))
        for body in list_subgraphs(node):
            yield from _iterate_tensors(body)
