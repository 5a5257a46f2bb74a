"""The rewrite that applies a plan: slice constants, rewrite sizes in attributes and shape operands.

    small = rewrite(graph, masks)       # a Model; the analysed one is not changed

How sizes are written again is told in `rewriting.shape_operands`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, Expr
from spa_compiler.algebra.masks import (
    Ints,
    Masks,
    count_kept,
    find_coordinates,
    is_cut,
    list_kept_positions,
    make_keep_mask,
    make_tensor_masks,
)
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.ir.model import Model, find_element_type, make_constant
from spa_compiler.operators import build
from spa_compiler.operators.build import replace_node
from spa_compiler.operators.site import Site, Value
from spa_compiler.rewriting.shape_operands import OperandWriter, find_own_name

Array = NDArray[Any]


def rewrite(graph: DependencyGraph, masks: Masks) -> Model:
    """The model without the channels that `masks` drop. Raises VerificationError for a shape that cannot be written."""
    model = graph.model.copy()
    _slice_constants(graph, model, masks)
    writer = OperandWriter(graph, model, masks)
    for site, node in zip(graph.sites, list(model.graph.nodes), strict=True):
        _write_attributes(node, site, masks)
        if site.take is not None and is_cut(site.x().axes[site.take.axis], masks):
            _rewrite_selection(model, node, site, masks)
            continue
        if site.op == "Squeeze" and site.ints(1, "axes") is None:
            _name_axes(model, node, site, masks)
        for operand in site.operands:
            writer.write(node, site, operand)
    writer.finish()
    _update_value_info(graph, model, masks)
    return model


def _write_attributes(node: gs.Node, site: Site, masks: Masks) -> None:
    """Sizes in attributes follow the plan; what an absent attribute stood for is written down before it changes."""
    for name, e in site.sizes.items():
        if is_cut(e, masks):
            node.attrs[name] = count_kept(e, masks)
    for name, several in site.lists.items():
        if any(is_cut(e, masks) for e in several):
            node.attrs[name] = [count_kept(e, masks) for e in several]
    for name, (e, value) in site.defaults.items():
        if is_cut(e, masks):
            node.attrs.setdefault(name, value)


@dataclass(frozen=True)
class KeptEntries:
    """Which entries of a value a plan keeps, whatever the sizes of the axes that it does not cut.

    `positions`: per axis, None where all stay. `joint`: they vary along other axes, as one index of the whole array.
    """

    positions: tuple[Ints | None, ...]
    joint: bool

    def take(self, array: Array) -> Array:
        """The entries of an array that stay; the same array where all do."""
        if self.joint:
            free = np.ogrid[tuple(slice(n) for n in array.shape)]
            return array[tuple(f if p is None else p for p, f in zip(self.positions, free, strict=True))]
        for axis, positions in enumerate(self.positions):
            if positions is not None:
                array = array.take(positions, axis)
        return array


def find_kept(graph: DependencyGraph, value: Value, masks: Masks, shape: tuple[int, ...] | None = None) -> KeptEntries:
    """Which entries of a value a plan keeps where it has this shape (that of the analysis).

    Raises Conflict for a shape at which that is not known.
    """
    axes = range(len(value.axes))
    dims = [graph.find_dims(a) for a in value.axes]
    outer = [_find_outer_blocks(dims, i, masks, graph.blocks) for i in axes]
    held = {b for needed in outer for b in needed}
    cut = [is_cut(value.axes[i], masks) or not held.isdisjoint(dims[i]) for i in axes]
    sized = graph.resize_axes(value, shape or value.shape, [i for i in axes if cut[i]])
    if any(outer):
        found = [_make_index(sized, i, masks, graph.blocks, outer[i]) if cut[i] else None for i in axes]
        return KeptEntries(tuple(found), True)
    return KeptEntries(
        tuple(list_kept_positions(sized[i], masks, graph.blocks, {}) if cut[i] else None for i in axes), False
    )


def slice_array(graph: DependencyGraph, value: Value, array: Array, masks: Masks) -> Array:
    """The entries of a tensor that a plan keeps; the same array when it keeps all. Its axes may have grown.

    Raises Conflict as `find_kept` does.
    """
    return find_kept(graph, value, masks, array.shape).take(array)


def find_kept_states(r: Value, masks: Masks, graph: DependencyGraph) -> Ints:
    """(directions, kept): the hidden units that stay in each direction of a recurrent operator with this R."""
    per_axis, full = make_tensor_masks([r.axes[0], r.axes[2]], masks, graph.blocks)
    mask = per_axis[0][:, None] & per_axis[1][None] & (True if full is None else full)
    return np.stack([np.flatnonzero(row) for row in mask if row.any()])


def _find_outer_blocks(dims: list[frozenset[Dim]], i: int, masks: Masks, blocks: Mapping[Dim, Dim]) -> dict[Dim, int]:
    """Blocks on other axes whose index decides what axis i keeps, and those axes; `dims`: those of every axis."""
    needed = {blocks[d] for d in dims[i] if d in masks and masks[d].ndim == 2} - dims[i]
    return {b: j for j, held in enumerate(dims) for b in held if b in needed}


def _make_index(axes: list[Expr], i: int, masks: Masks, blocks: Mapping[Dim, Dim], outer: dict[Dim, int]) -> Ints:
    """Positions of axis i that stay, broadcast over the pruned tensor: they vary along the axes of their blocks."""

    def spread_along(positions: Ints, axis: int) -> Ints:
        return positions.reshape([-1 if j == axis else 1 for j in range(len(axes))])

    indices = np.ndindex(*(b.size for b in outer))
    table = np.array([list_kept_positions(axes[i], masks, blocks, dict(zip(outer, k, strict=True))) for k in indices])
    if not outer:
        return spread_along(table[0], i)
    table = table.reshape(*(b.size for b in outer), -1)
    blocked = []
    for b, j in outer.items():
        held = find_coordinates(axes[j])[b]
        blocked.append(spread_along(held[list_kept_positions(axes[j], masks, blocks, {})], j))
    return np.asarray(np.moveaxis(table[tuple(blocked)].squeeze(i), -1, i))


def has_cut_axis(value: Value, masks: Masks) -> bool:
    """Does a plan cut any axis of this value?"""
    return any(is_cut(a, masks) for a in value.axes)


def _slice_constants(graph: DependencyGraph, model: Model, masks: Masks) -> None:
    for name, tensor in model.constants().items():
        value = graph.values.get(name)
        if value is not None and has_cut_axis(value, masks):
            new = make_constant(name, slice_array(graph, value, model.array(tensor), masks))
            tensor._values = new._values


def _name_axes(model: Model, node: gs.Node, site: Site, masks: Masks) -> None:
    """Squeeze without axes would also drop an axis of which one channel is left."""
    if not any(is_cut(a, masks) and count_kept(a, masks) == 1 for a in site.x().axes):
        return
    axes = [i for i, a in enumerate(site.x().axes) if count_kept(a, {}) == 1]

    def name_constant(values: Array) -> gs.Constant:
        return model.new_constant(f"{node.outputs[0].name}.axes", values)

    replace_node(node, build.squeeze(node.inputs[0], axes, site.opset, name_constant))


def _rewrite_selection(model: Model, node: gs.Node, site: Site, masks: Masks) -> None:
    """A selection of positions becomes (or stays) a Gather of those that are left."""
    assert site.take is not None
    axis, before = site.take.axis, site.take.before
    scalar = site.op == "Gather" and len(site.x(1).shape) == 0
    if before is not None:
        start = count_kept(before, masks)
        left = [*range(start, start + (1 if scalar else count_kept(site.y.axes[axis], masks)))]
    else:  # single channels: no block reaches into them
        kept = make_keep_mask(site.x().axes[axis], {d: m for d, m in masks.items() if m.ndim == 1})
        where = np.cumsum(kept) - 1
        left = [int(where[p]) for p in site.take.positions if kept[p]]
    wide = site.op != "Gather" or find_element_type(node.inputs[1]) == onnx.TensorProto.INT64
    dtype = np.int64 if wide else np.int32
    values = np.array(left[0], dtype) if scalar else np.array(left, dtype)
    own = find_own_name(model, node.inputs[1]) if site.op == "Gather" else ""
    index = make_constant(own, values) if own else model.new_constant(f"{node.outputs[0].name}.positions", values)
    replace_node(node, build.gather(node.inputs[0], index, axis))


def _update_value_info(graph: DependencyGraph, model: Model, masks: Masks) -> None:
    """Recorded shapes of inner values follow the plan; symbols stay symbols."""
    header = onnx.ModelProto()
    header.CopyFrom(model.header)
    alive = {t.name for n in model.graph.nodes for t in n.outputs}
    kept: list[onnx.ValueInfoProto] = []
    for info in header.graph.value_info:
        value = graph.values.get(info.name)
        if value is None or info.name not in alive:
            continue
        dims = info.type.tensor_type.shape.dim
        if len(dims) == len(value.axes):
            for d, a, moves in zip(dims, value.axes, value.dynamic, strict=True):
                if d.HasField("dim_value") and moves:  # exporters write the size of their example there
                    d.Clear()
                elif d.HasField("dim_value"):
                    d.dim_value = count_kept(a, masks)
                elif is_cut(a, masks):  # 12*N is no longer what other values call so: onnxruntime would share buffers
                    d.Clear()
        kept.append(info)
    fresh = [onnx.ValueInfoProto.FromString(i.SerializeToString()) for i in kept]
    del header.graph.value_info[:]
    header.graph.value_info.extend(fresh)
    model.header = header


__all__ = ["has_cut_axis", "rewrite", "slice_array"]
