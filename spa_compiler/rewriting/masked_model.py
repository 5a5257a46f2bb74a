"""The masked model: the dense graph in which removed channels do not count. The rewrite must equal it.

A channel counts where it is *consumed*: where a contraction sums over it, or a statistic is taken over it. So the
reference zeroes the slices of weights that contract the channel, and multiplies by a mask where two activations are
contracted or a statistic runs over it; statistics are taken over the kept channels only. What the channel holds on its
way there does not matter (Sigmoid(0) is not 0, and a weight may divide), so nothing else is touched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, Expr, iterate_dims
from spa_compiler.algebra.masks import Masks, make_tensor_masks
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.ir.model import Model, make_constant
from spa_compiler.operators import build
from spa_compiler.operators.site import Scope, Site, Value
from spa_compiler.rewriting.masked_norms import MaskedNorm
from spa_compiler.rewriting.node_editor import NodeEditor

Array = NDArray[Any]


def make_masked_model(graph: DependencyGraph, masks: Masks) -> Model:
    """The analysed model with the channels that `masks` drop taking no part; all shapes as they were."""
    model = graph.model.copy()
    _zero_weights(graph, model, masks)
    for site, node in zip(graph.sites, list(model.graph.nodes), strict=True):
        for scope in site.scopes:
            _SiteMasker(graph, model, site, node, masks).apply(scope)
    return model


def _find_pruned_dims(e: Expr, masks: Masks) -> set[Dim]:
    return {d for d in iterate_dims(e) if d in masks and not masks[d].all()}


def _zero_weights(graph: DependencyGraph, model: Model, masks: Masks) -> None:
    """Slices of constants that contract a removed channel become zero."""
    constants = model.constants()
    for name in graph.weights:
        value = graph.values[name]
        hit = {d: masks[d] for a in value.axes for d in _find_pruned_dims(a, masks) if graph.is_contracted(value, d)}
        if not hit:
            continue
        array = np.asarray(model.array(constants[name]))
        array = np.where(
            _make_kept_mask(graph, value.axes, hit, array.shape), array, _find_neutral(graph, value, array, constants)
        )
        constants[name]._values = make_constant(name, array)._values


def _find_neutral(graph: DependencyGraph, value: Value, array: Array, constants: dict[str, gs.Constant]) -> Array:
    """The entry of a weight that adds nothing: 0, or the zero point of its output channel."""
    zero = np.zeros((), array.dtype)
    for site in graph.readers.get(value.name, []):
        slot = site.traits.zero_points[1]
        point = site.inputs[slot] if 0 < slot < len(site.inputs) else None
        if point is not None and point.name in constants:
            zero = np.asarray(graph.model.array(constants[point.name]))
            if zero.size > 1 and (site.traits.is_convolution or site.attrs.get("transB", 0)):
                zero = zero.reshape([-1] + [1] * (array.ndim - 1))
    return zero.astype(array.dtype)


def _make_kept_mask(
    graph: DependencyGraph, axes: list[Expr], masks: Masks, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    per_axis, full = make_tensor_masks(axes, masks, graph.blocks)
    kept = np.ones(shape, bool) if full is None else np.broadcast_to(full, shape).copy()
    for i, k in enumerate(per_axis):
        kept &= k.reshape([-1 if j == i else 1 for j in range(len(shape))])
    return kept


class _SiteMasker:
    """Decides what around one node of the copy has to be masked, and masks it."""

    def __init__(self, graph: DependencyGraph, model: Model, site: Site, node: gs.Node, masks: Masks) -> None:
        self.graph, self.model, self.site, self.node, self.masks = graph, model, site, node, masks
        self.weights = set(graph.weights)
        self.editor = NodeEditor(model, node)

    def apply(self, scope: Scope) -> None:
        """Mask what this node contracts without a weight, and what it takes statistics over."""
        stats = {d for n in scope.stats for d in _find_pruned_dims(scope.env[n], self.masks)}
        if stats:
            self._statistic(scope, stats)
        for name in scope.find_contracted() - scope.stats:
            dims = _find_pruned_dims(scope.env[name], self.masks) if name in scope.env else set()
            holders = [v for v, _, row in scope.tensors if any(name in names for names in row)]
            if dims and (self.site.traits.biased or not any(v.name in self.weights for v in holders)):
                self._mask_input(holders[0], dims)
        for value, output, row in scope.tensors:  # a recurrence put together from pieces: no weight to zero in
            square = {n for n in frozenset().union(*row) if sum(n in names for names in row) > 1 and n in scope.env}
            dims = {d for n in square for d in _find_pruned_dims(scope.env[n], self.masks)}
            if dims and value.constant and not output and value.name not in self.weights:
                self._mask_input(value, dims)

    def _make_mask(self, value: Value, dims: set[Dim]) -> Array:
        """1 where kept; axes that carry none of the dims have size 1. dtype as the value's."""
        hit = {d: self.masks[d] for d in dims}
        partners = {self.graph.blocks[d] for d in dims if self.masks[d].ndim == 2}
        axes = [a if {*iterate_dims(a)} & (dims | partners) else Dim(1) for a in value.axes]
        kept = _make_kept_mask(self.graph, axes, hit, tuple(a.size for a in axes))
        return kept.astype(self._dtype(value))

    def _dtype(self, value: Value) -> Any:
        shapes = self.model.shapes
        kind = shapes.kind.get(value.name, 0) if shapes is not None else 0
        return onnx.helper.tensor_dtype_to_np_dtype(kind or onnx.TensorProto.FLOAT)

    def _mask_input(self, value: Value, dims: set[Dim]) -> None:
        """The removed channels of an activation become 0, or the zero point that integers count from."""
        slot = next(i for i, t in enumerate(self.node.inputs) if t.name == value.name)
        mask, x = self._make_mask(value, dims), self.node.inputs[slot]
        if mask.dtype.kind == "f" or mask.dtype.kind == "V":
            self.node.inputs[slot] = self.editor.put(build.multiply(x, self.editor.put_mask(x, value, mask)))
        else:
            slot_of_zero = self.site.traits.zero_points[0]
            given = self.node.inputs[slot_of_zero] if 0 < slot_of_zero < len(self.node.inputs) else None
            zero = given if given is not None and given.name else self.editor.put_constant(np.zeros((), mask.dtype))
            self.node.inputs[slot] = self.editor.put(
                build.choose(self.editor.put_mask(x, value, mask.astype(bool)), x, zero)
            )

    def _statistic(self, scope: Scope, dims: set[Dim]) -> None:
        traits = self.site.traits
        value = self.site.y if traits.norm is not None and traits.norm.sum_output else self.site.x()
        mask = self._make_mask(value, dims)
        if traits.norm is not None:
            MaskedNorm(self.editor, self.site, traits.norm).write_out(value, mask)
        elif traits.neutral:
            fill = self.editor.put_constant(np.array(traits.neutral, mask.dtype))
            x = self.node.inputs[0]
            self.node.inputs[0] = self.editor.put(
                build.choose(self.editor.put_mask(x, value, mask.astype(bool)), x, fill)
            )
        else:
            x = self.node.inputs[0]
            self.node.inputs[0] = self.editor.put(build.multiply(x, self.editor.put_mask(x, value, mask)))
            if traits.mean:
                self._scale_output(scope, value, mask)

    def _scale_output(self, scope: Scope, value: Value, mask: Array) -> None:
        """A mean over all channels with zeros in it becomes the mean over the kept ones."""
        row = next(row for v, output, row in scope.tensors if v is value and not output)
        reduced = tuple(i for i, names in enumerate(row) if names & scope.stats)
        share = mask.astype(np.float64).mean(axis=reduced, keepdims=bool(self.site.attrs.get("keepdims", 1)))
        self.editor.divide_output(share.astype(mask.dtype))
