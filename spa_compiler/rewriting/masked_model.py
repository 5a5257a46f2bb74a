"""The masked model: the dense graph in which removed channels do not count. The rewrite must equal it.

A channel counts where it is *consumed*: where a contraction sums over it, or a statistic is taken over it. So the
reference zeroes the slices of weights that contract the channel, and multiplies by a mask where two activations are
contracted or a statistic runs over it; statistics are taken over the kept channels only. What the channel holds on its
way there does not matter (Sigmoid(0) is not 0, and a weight may divide), so nothing else is touched.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, Expr, Prod, iterate_dims, resolve
from spa_compiler.algebra.masks import Masks, make_tensor_masks
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.ir.model import Model, make_constant
from spa_compiler.operators import build
from spa_compiler.operators.build import Call, new_node
from spa_compiler.operators.site import Scope, Site, Value
from spa_compiler.operators.traits import Norm

Array = NDArray[Any]


def make_masked_model(graph: DependencyGraph, masks: Masks) -> Model:
    """The analysed model with the channels that `masks` drop taking no part; all shapes as they were."""
    model = graph.model.copy()
    _zero_weights(graph, model, masks)
    for site, node in zip(graph.sites, list(model.graph.nodes), strict=True):
        for scope in site.scopes:
            _Editor(graph, model, site, node, masks).apply(scope)
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


def _count_repeats(mask: Array, axis: int, e: Expr) -> tuple[int, int]:
    """How often the mask of an axis repeats as a whole, and how often each entry: digits that it does not depend on."""
    e = resolve(e)
    sizes = [p.size for p in e.parts] if isinstance(e, Prod) else [e.size]
    digits = np.moveaxis(mask, axis, 0).reshape(*sizes, -1)
    needed = [k for k in range(len(sizes)) if (digits != digits.take([0], k)).any()] or [0]
    return math.prod(sizes[: needed[0]]), math.prod(sizes[needed[-1] + 1 :])


class _Editor:
    """Edits around one node of the copy."""

    def __init__(self, graph: DependencyGraph, model: Model, site: Site, node: gs.Node, masks: Masks) -> None:
        self.graph, self.model, self.site, self.node, self.masks = graph, model, site, node, masks
        self.weights = set(graph.weights)
        self.stem = f"{node.outputs[0].name}.masked"
        self.made = 0

    def apply(self, scope: Scope) -> None:
        """Mask what this node contracts without a weight, and what it takes statistics over."""
        stats = {d for n in scope.stats for d in _find_pruned_dims(scope.env[n], self.masks)}
        if stats:
            self._statistic(stats)
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

    def _put(self, call: Call[gs.Tensor]) -> gs.Variable:
        """A new node before this one."""
        self.made += 1
        out = self.model.new_value(f"{self.stem}.{self.made}")
        at = next(i for i, n in enumerate(self.model.graph.nodes) if n is self.node)
        self.model.graph.nodes.insert(at, new_node(self.model, call, out.name, [out]))
        return out

    def _const(self, values: Array) -> gs.Constant:
        self.made += 1
        return self.model.new_constant(f"{self.stem}.{self.made}", values)

    def _make_mask_operand(self, x: gs.Tensor, value: Value, mask: Array) -> gs.Tensor:
        """`mask` as an operand beside x, which has the shape of `value`.

        An axis that multiplies channels with a symbol, `(c h w)`, has no constant length: there the mask holds the
        digits from the first to the last that it depends on, and is spread over x as it comes.
        """
        wide = [i for i, d in enumerate(value.dynamic) if d and mask.shape[i] > 1]
        outer, inner = _count_repeats(mask, wide[0], value.axes[wide[0]]) if len(wide) == 1 else (1, 1)
        if outer == inner == 1:
            return self._const(mask)
        axis = wide[0]
        held = mask.shape[axis] // (outer * inner)
        digits = [*mask.shape[:axis], outer, held, inner, *mask.shape[axis + 1 :]]
        small = mask.reshape(digits).take([0], axis).take([0], axis + 2)
        length = self._put(build.gather(self._put(build.shape_of(x)), self._const(np.array([axis], np.int64)), 0))
        fixed = self._const(np.array([held * (outer if inner > 1 else 1)], np.int64))
        free = self._put(build.divide(length, fixed))
        sizes = [self._const(np.array([n], np.int64)) for n in small.shape]
        sizes[axis + 2 if inner > 1 else axis] = free
        if inner > 1:
            sizes[axis] = self._const(np.array([outer], np.int64))
        whole_mask = self._put(build.expand(self._const(small), self._put(build.concat(sizes, 0))))
        shape = [-1 if i == axis else n for i, n in enumerate(mask.shape)]
        return self._put(build.reshape(whole_mask, self._const(np.array(shape, np.int64))))

    def _slot(self, value: Value) -> int:
        return next(i for i, t in enumerate(self.node.inputs) if t.name == value.name)

    def _mask_input(self, value: Value, dims: set[Dim]) -> None:
        """The removed channels of an activation become 0, or the zero point that integers count from."""
        slot = self._slot(value)
        mask, x = self._make_mask(value, dims), self.node.inputs[slot]
        if mask.dtype.kind == "f" or mask.dtype.kind == "V":
            self.node.inputs[slot] = self._put(build.multiply(x, self._make_mask_operand(x, value, mask)))
        else:
            slot_of_zero = self.site.traits.zero_points[0]
            given = self.node.inputs[slot_of_zero] if 0 < slot_of_zero < len(self.node.inputs) else None
            zero = given if given is not None and given.name else self._const(np.zeros((), mask.dtype))
            self.node.inputs[slot] = self._put(
                build.choose(self._make_mask_operand(x, value, mask.astype(bool)), x, zero)
            )

    def _statistic(self, dims: set[Dim]) -> None:
        traits = self.site.traits
        value = self.site.y if traits.norm is not None and traits.norm.sum_output else self.site.x()
        mask = self._make_mask(value, dims)
        if traits.norm is not None:
            self._norm(traits.norm, value, mask)
        elif traits.neutral:
            fill = self._const(np.array(traits.neutral, mask.dtype))
            x = self.node.inputs[0]
            self.node.inputs[0] = self._put(build.choose(self._make_mask_operand(x, value, mask.astype(bool)), x, fill))
        else:
            x = self.node.inputs[0]
            self.node.inputs[0] = self._put(build.multiply(x, self._make_mask_operand(x, value, mask)))
            if traits.mean:
                self._scale_output(value, mask)

    def _scale_output(self, value: Value, mask: Array) -> None:
        """A mean over all channels with zeros in it becomes the mean over the kept ones."""
        axes = self.site.ints(1, "axes")
        reduced = tuple(i % len(value.axes) for i in (axes if axes else range(len(value.axes))))
        share = mask.astype(np.float64).mean(axis=reduced, keepdims=bool(self.site.attrs.get("keepdims", 1)))
        result = self.node.outputs[0]
        raw = self.model.new_value(f"{self.stem}.raw")
        at = next(i for i, n in enumerate(self.model.graph.nodes) if n is self.node)
        self.node.outputs = [raw]
        divisor = self._const(share.astype(mask.dtype))
        mean = new_node(self.model, build.divide(raw, divisor), f"{self.stem}.mean", [result])
        self.model.graph.nodes.insert(at + 2, mean)

    def _mean(self, x: gs.Tensor, mask: Array, spread: gs.Tensor, axes: list[int]) -> gs.Variable:
        """Mean over the kept entries of these axes, which stay with size 1; `spread` is the mask as an operand."""
        kept = self._put(build.multiply(x, spread))
        mean = self._reduce_mean(kept, axes)
        share = mask.astype(np.float64).mean(axis=tuple(axes), keepdims=True)
        return self._put(build.divide(mean, self._const(share.astype(mask.dtype))))

    def _reduce_mean(self, x: gs.Tensor, axes: list[int]) -> gs.Variable:
        return self._put(build.reduce_mean(x, axes, self.model.opset.get("", 1), self._const))

    def _norm(self, norm: Norm, value: Value, mask: Array) -> None:
        """A normalisation written out, with its statistics over the kept channels only."""
        if norm.over == "groups":
            return self._group_norm(norm, value, mask)
        rank = len(value.axes)
        x: gs.Tensor = self._copy_sum(norm.sum_output) if norm.sum_output else self.node.inputs[0]
        axes, spread = self._norm_axes(norm, rank), self._make_mask_operand(x, value, mask)
        if norm.centred:
            x = self._put(build.multiply(self._put(build.subtract(x, self._mean(x, mask, spread, axes))), spread))
        self._finish(self._apply_affine(norm, self._normalise(norm, x, mask, spread, axes), rank))
        return None

    def _norm_axes(self, norm: Norm, rank: int) -> list[int]:
        if norm.over == "space":
            return list(range(2, rank))
        if norm.over == "axes":
            return [int(a) % rank for a in self.site.attrs.get("axes", [0, 2, 3])]
        return list(range(int(self.site.attrs.get("axis", -1)) % rank, rank))

    def _copy_sum(self, slot: int) -> gs.Variable:
        """The sum that a fused operator normalises, as an output of a copy of it."""
        self.made += 1
        out = self.model.new_value(f"{self.stem}.{self.made}")
        outputs = [self.model.new_value(f"{out.name}.first"), *(gs.Variable.empty() for _ in range(slot - 1)), out]
        attrs, inputs = dict(self.node.attrs), list(self.node.inputs)
        copy = self.model.new_node(self.node.op, out.name, attrs, inputs, outputs, self.node.domain)
        at = next(i for i, n in enumerate(self.model.graph.nodes) if n is self.node)
        self.model.graph.nodes.insert(at, copy)
        return out

    def _normalise(self, norm: Norm, x: gs.Tensor, mask: Array, spread: gs.Tensor, axes: list[int]) -> gs.Variable:
        eps = float(self.site.attrs.get("epsilon", norm.epsilon))
        power = self._mean(self._put(build.multiply(x, x)), mask, spread, axes)
        root = self._put(build.square_root(self._put(build.add(power, self._const(np.array(eps, mask.dtype))))))
        return self._put(build.divide(x, root))

    def _apply_affine(self, norm: Norm, y: gs.Tensor, rank: int) -> gs.Tensor:
        """Gain and bias; those of a normalisation per channel lie on axis 1."""
        operands = self.node.inputs[norm.gain : norm.gain + 1 + norm.centred]
        for combine, t in zip((build.multiply, build.add), operands, strict=False):
            if t.name:
                shape = self._const(np.array([-1] + [1] * (rank - 2), np.int64))
                y = self._put(combine(y, self._put(build.reshape(t, shape)) if norm.is_per_channel else t))
        return y

    def _group_norm(self, norm: Norm, value: Value, mask: Array) -> None:
        """Channels (G c) with any spatial axes: a mean over space, then over the kept channels of a group."""
        rank, groups = len(value.axes), int(self.site.attrs["num_groups"])
        space = list(range(2, rank))
        small = mask.reshape(1, groups, -1)
        back = self._const(np.array([0, -1] + [1] * (rank - 2), np.int64))

        def per_group(t: gs.Tensor) -> gs.Variable:
            mean = self._reduce_mean(t, space)
            flat = self._put(build.reshape(mean, self._const(np.array([0, groups, -1], np.int64))))
            ones = self._const(np.ones(small.shape, small.dtype))
            mean = self._mean(flat, small, self._const(small), [2])
            return self._put(build.reshape(self._put(build.multiply(mean, ones)), back))

        x = self.node.inputs[0]
        centred = self._put(build.subtract(x, per_group(x)))
        eps = self._const(np.array(float(self.site.attrs.get("epsilon", norm.epsilon)), mask.dtype))
        power = per_group(self._put(build.multiply(centred, centred)))
        root = self._put(build.square_root(self._put(build.add(power, eps))))
        self._finish(self._apply_affine(norm, self._put(build.divide(centred, root)), rank))

    def _finish(self, y: gs.Tensor) -> None:
        """The written-out form takes the place of the node's first output."""
        result = self.node.outputs[0]
        self.node.outputs[0] = self.model.new_value(f"{self.stem}.unused")
        at = next(i for i, n in enumerate(self.model.graph.nodes) if n is self.node)
        self.model.graph.nodes.insert(at, new_node(self.model, build.identity(y), f"{self.stem}.y", [result]))
