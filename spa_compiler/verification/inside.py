"""Inner values of the graph that a proof compares, and pushes for weights that the inputs do not reach.

    names = find_inner_values(graph)                   # what contractions, and nodes that read a weight, give
    pushed = find_pushed(graph, names)           # what they read
    proto = add_pushes(proto, pushed, shapes)     # every such value x becomes x + push, and push is an input

A unit that no drawn input turns on hides every weight that reads it. A push is added to what is read, the same for the
units that stay in the masked and in the pruned model; prune equals mask holds for whatever these values are. With
pushes of zero the model is the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from spa_compiler.algebra.expr import Dim, Expr, is_trivial
from spa_compiler.algebra.masks import Masks, count_kept
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.ir.control_flow import is_control, is_marker
from spa_compiler.ir.model import Shapes
from spa_compiler.operators.site import Site, Value
from spa_compiler.rewriting.prune import KeptEntries, find_kept

Array = NDArray[Any]
Push = dict[str, Array]
MOST_BYTES = 256 << 20
"""Bytes of values inside of the graph that one run may keep."""
BROADCASTS_SINCE = 7
"""From this opset on, Add broadcasts by itself."""
FRACTION_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
PUSHABLE_TYPES = (*FRACTION_TYPES, onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32)
LARGEST_PUSH = 1 << 16
"""Elements of a push."""


def find_inner_values(graph: DependencyGraph) -> list[str]:
    """Outputs of contractions and of nodes that read a weight, outside of bodies, in the order of the graph."""
    found = []
    outputs = {t.name for t in graph.model.graph.outputs}
    for node, site in zip(graph.model.graph.nodes, graph.sites, strict=True):
        if site.path or is_marker(node):
            continue
        if site.traits.is_contraction or is_control(node) or has_weight_input(graph, site) or is_summing(site):
            read = {t.name for t in node.outputs if t.outputs or t.name in outputs}
            given = [v for v in site.outputs if v is not None and v.name in read and not v.constant]
            found += [v.name for v in given if _is_kind(graph, v, PUSHABLE_TYPES)]
    return list(dict.fromkeys(found))


def has_weight_input(graph: DependencyGraph, site: Site) -> bool:
    """Is a constant of rank 1 or more, of numbers with a fraction, among what a node reads?"""
    return any(v is not None and v.constant and v.shape and _is_kind(graph, v, FRACTION_TYPES) for v in site.inputs)


def is_summing(site: Site) -> bool:
    """Does its rule say that the node sums over an axis, or takes a statistic?"""
    return any(scope.stats or scope.find_contracted() for scope in site.scopes)


def _is_kind(graph: DependencyGraph, value: Value, kinds: tuple[int, ...]) -> bool:
    shapes = graph.model.shapes
    return shapes is not None and shapes.kind.get(value.name, onnx.TensorProto.FLOAT) in kinds


def sample_evenly(graph: DependencyGraph, names: list[str], samples: float) -> list[str]:
    """As many of these values, evenly spread, as fit into BOUND; `samples`: how much larger than analysed they are."""
    sizes = [samples * 4 * math.prod(graph.values[n].shape) for n in names]
    step = max(1, math.ceil(sum(sizes) / MOST_BYTES))
    return [
        n for n, size in zip(names[::-1][::step][::-1], sizes[::-1][::step][::-1], strict=True) if size <= MOST_BYTES
    ]


class Cuts:
    """Of values of the masked model what the pruned one has; where the positions lie is found once for each value."""

    def __init__(self, graph: DependencyGraph, masks: Masks) -> None:
        self.graph, self.masks = graph, masks
        self.known: dict[str, tuple[list[bool], KeptEntries]] = {}

    def cut(self, name: str, array: Any) -> Any:
        """The entries that stay; None where the size of this array does not tell which they are."""
        value = self.graph.values.get(name)
        if value is None or not isinstance(array, np.ndarray):
            return array
        if len(value.axes) != array.ndim:
            return None
        fixed, kept = self._find(value)
        if any(f and n != a.size for f, n, a in zip(fixed, array.shape, value.axes, strict=True)):
            return None
        return kept.take(array)

    def find_fixed(self, value: Value) -> list[bool]:
        """Which axes of a value are cut by positions that hold for one size only."""
        return self._find(value)[0]

    def _find(self, value: Value) -> tuple[list[bool], KeptEntries]:
        if value.name not in self.known:
            self.known[value.name] = (
                find_fixed_axes(self.graph, value, self.masks),
                find_kept(self.graph, value, self.masks),
            )
        return self.known[value.name]


def find_fixed_axes(graph: DependencyGraph, value: Value, masks: Masks) -> list[bool]:
    """Which axes of a value a plan cuts by positions that hold for one size only: those that lose some, and blocks."""
    held = [graph.find_dims(a) for a in value.axes]
    blocks = {graph.blocks[d] for dims in held for d in dims if d in masks and masks[d].ndim == 2}

    def is_losing(axis: Expr, dims: frozenset[Dim]) -> bool:
        return not dims.isdisjoint(masks) and count_kept(axis, masks) != axis.size

    axes = zip(value.axes, held, strict=True)
    return [is_losing(a, dims) or not blocks.isdisjoint(dims) for a, dims in axes]


def find_pushed(graph: DependencyGraph, masks: Masks) -> list[str]:
    """Values, made by nodes outside of bodies, that meet a weight or are summed over: a push may be added to them."""
    model = graph.model
    if model.opset.get("", 1) < BROADCASTS_SINCE:
        return []
    made = {
        t.name
        for n, s in zip(model.graph.nodes, graph.sites, strict=True)
        for t in n.outputs
        if not s.path and not is_marker(n) and t.name
    }
    found = []
    for site in graph.sites:
        if not site.path and not site.traits.additive and has_weight_input(graph, site):
            read = [v for v in site.inputs if v is not None and not v.constant and v.name in made]
            found += [v.name for v in read if _is_pushable(graph, v, masks)]
    return list(dict.fromkeys(found))


def _is_pushable(graph: DependencyGraph, value: Value, masks: Masks) -> bool:
    shapes = graph.model.shapes
    if shapes is None or shapes.kind.get(value.name) not in FRACTION_TYPES or not value.shape:
        return False
    return not any(d and f for f, d in zip(find_fixed_axes(graph, value, masks), value.dynamic, strict=True))


def draw_pushes(
    graph: DependencyGraph, names: Iterable[str], cuts: Cuts, rng: np.random.Generator
) -> tuple[Push, Push]:
    """Pushes for the masked model, and the entries of them that the pruned one has; all positive, about 1.

    They differ along the second and the last axis and wherever units lie, and are the same along the others.
    """
    whole: Push = {}
    small: Push = {}
    for name in names:
        value = graph.values[name]
        rank = len(value.shape)
        fixed = [f or _has_units(graph, value, i) for i, f in enumerate(cuts.find_fixed(value))]
        free = [i in (1, rank - 1) or rank < 3 for i in range(rank)]
        still = [not d for d in value.dynamic]
        shape = [n if s and (f or r) else 1 for n, f, r, s in zip(value.shape, fixed, free, still, strict=True)]
        if math.prod(shape) > LARGEST_PUSH:
            shape = [n if f else 1 for n, f in zip(shape, fixed, strict=True)]
        assert graph.model.shapes is not None
        dtype = helper.tensor_dtype_to_np_dtype(graph.model.shapes.kind[name])
        whole[name] = rng.uniform(0.25, 1.75, shape).astype(dtype)
        small[name] = cuts.cut(name, whole[name])
    return whole, small


def _has_units(graph: DependencyGraph, value: Value, axis: int) -> bool:
    blocks = set(graph.blocks.values())
    return any(not is_trivial(d) and (d in blocks or not d.frozen) for d in graph.find_dims(value.axes[axis]))


def zero_pushes(graph: DependencyGraph, names: Iterable[str]) -> Push:
    """Pushes that change nothing."""
    assert graph.model.shapes is not None
    kinds = graph.model.shapes.kind
    return {n: np.zeros([1] * len(graph.values[n].shape), helper.tensor_dtype_to_np_dtype(kinds[n])) for n in names}


def name_pushes(names: Iterable[str], taken: set[str]) -> dict[str, tuple[str, str]]:
    """For every value the names of its push and of what it was before; none of them is taken."""
    stem = "push"
    while any(t.startswith(f"{stem}/") for t in taken):
        stem += "_"
    return {n: (f"{stem}/{n}", f"{stem}/raw/{n}") for n in names}


def add_pushes(proto: onnx.ModelProto, pushed: Mapping[str, tuple[str, str]], shapes: Shapes) -> onnx.ModelProto:
    """The model that adds an input to each of these values where it is made. The proto is changed in place.

    The input has the value's rank, from which onnxruntime tells ranks in bodies that declare none; its sizes are open.
    """
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        nodes.append(node)
        for k, name in enumerate(node.output):
            if name in pushed:
                push, raw = pushed[name]
                node.output[k] = raw
                nodes.append(helper.make_node("Add", [raw, push], [name], push))
    made = {n.name for n in nodes}
    del proto.graph.node[:], proto.graph.value_info[:]  # exporters record wrong shapes that only now would be looked at
    proto.graph.node.extend(nodes)
    for name, (push, _) in pushed.items():
        if push in made:
            proto.graph.input.append(onnx.ValueInfoProto(name=push, type=_open_type(shapes, name)))
    return proto


def _open_type(shapes: Shapes, name: str) -> onnx.TypeProto:
    """A tensor of the kind and rank of a value, of any sizes."""
    out = onnx.TypeProto()
    out.tensor_type.elem_type = shapes.kind[name]
    out.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in shapes.shape[name])
    return out
