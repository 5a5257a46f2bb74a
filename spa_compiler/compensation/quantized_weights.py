"""Weights that are stored as integers, or rounded to them at run time: new values on the same steps, or on wider ones.

    chain = list_quantizing(walk, "w.dequantized")        # none: it is stored as it is used
    grid = find_grid(walk, chain).widen(values)           # its own, where the values lie within its ends
    values = grid.round(values)                           # as the node will read them
    put_quantized(model, node.inputs[1], old_grid, grid, values)

A step (scale) and the integer of zero go with the whole weight, or with each index of one axis. Both ways to write it
are one here: integers behind DequantizeLinear, and floats behind QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.ir.model import Model, make_constant
from spa_compiler.operators import build
from spa_compiler.operators.movement import is_permuting_axes, is_transposition
from spa_compiler.operators.site import Row
from spa_compiler.operators.tables import find_rule, find_traits

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """The numbers that a quantised tensor can hold: steps and integers of zero (one, or one for each of an axis)."""

    step: Array
    zero: Array
    axis: int

    @functools.cached_property
    def ends(self) -> tuple[int, int]:
        """The lowest and the highest integer."""
        kind, bits = self.zero.dtype.name.split("int")  # those of 4 bits are none of numpy's
        half = 1 << (int(bits) - 1)
        return (0, 2 * half - 1) if kind == "u" else (-half, half - 1)

    def is_same(self, other: Grid) -> bool:
        """Can both hold the same numbers?"""
        pairs = ((self.step, other.step), (self.zero, other.zero))
        return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)

    def quantize(self, values: Array) -> Array:
        """Integers of these values, those beyond the ends cut off."""
        step, zero = (self._spread(a, values.ndim) for a in (self.step, self.zero))
        return np.clip(np.rint(values / step) + zero, *self.ends).astype(self.zero.dtype)

    def dequantize(self, integers: Array) -> Array:
        """The values of these integers, in the type of the steps."""
        step, zero = (self._spread(a, integers.ndim) for a in (self.step, self.zero))
        return ((integers.astype(np.float64) - zero) * step).astype(self.step.dtype)

    def round(self, values: Array) -> Array:
        """The values as a node reads them."""
        return self.dequantize(self.quantize(values)).astype(values.dtype)

    def widen(self, values: Array) -> Grid:
        """The same grid; steps are wider for each index of the axis some of whose values lie beyond its ends."""
        low, high = self._find_extent(values)
        least, most = self.ends
        step, zero = self.step.astype(np.float64), self.zero.astype(np.float64)
        below, above = zero - least - 1, most - zero
        even = np.maximum(-low / np.maximum(below, 1), high / np.maximum(above, 1))
        uneven = (high - low) / (most - least - 1)  # one is left for an origin between two integers
        is_even = np.abs(below - above) <= 1
        beyond = (low < (least - zero - 0.5) * step) | (high > (most - zero + 0.5) * step)
        wide = np.where(beyond, np.where(is_even, even, uneven), step)
        ends = np.clip(np.rint(least - low / np.where(wide > 0, wide, 1)), least, most)
        origin = np.where(beyond & ~is_even, ends, zero)
        return replace(self, step=wide.astype(self.step.dtype), zero=origin.astype(self.zero.dtype))

    def _find_extent(self, values: Array) -> tuple[Floats, Floats]:
        """The lowest and the highest value of each index of the axis, or of all; 0 is among them."""
        if self.step.ndim and self.step.size > 1:
            rows = np.moveaxis(values.astype(np.float64), self.axis, 0).reshape(self.step.size, -1)
        else:
            rows = values.astype(np.float64).reshape(1, -1)
        low, high = np.minimum(rows.min(1), 0.0), np.maximum(rows.max(1), 0.0)
        return low.reshape(self.step.shape), high.reshape(self.step.shape)

    def _spread(self, numbers: Array, ndim: int) -> Floats:
        """One for each of the axis, ready to be broadcast."""
        wide = np.asarray(numbers, np.float64)
        return wide.reshape([-1 if k == self.axis else 1 for k in range(ndim)]) if wide.size > 1 else wide.reshape(())


STORED, ROUNDED = "its weight is stored as integers", "its weight is rounded to integers at run time"
READ_TWICE = "its weight is read elsewhere, too"
OTHER_KIND = "its weight is quantised in blocks, in floats of 8 bits, or by steps that are computed at run time"


def list_quantizing(walk: Walk, name: str) -> list[onnx.NodeProto]:
    """The nodes that make a value of constants, the last first, where one of them dequantises; else none."""
    chain: list[onnx.NodeProto] = []
    while (node := walk.find_producer(name)) is not None and node.output[0] in walk.constants:
        chain.append(node)
        name = node.input[0]
    return chain if any(find_traits(n).dequantizes for n in chain) else []


def explain_quantized(chain: list[onnx.NodeProto]) -> str:
    """The reason why a weight that these nodes make keeps its values, where nothing makes new ones."""
    return ROUNDED if any(find_traits(n).decides == "step" for n in chain) else STORED


def find_grid(walk: Walk, chain: list[onnx.NodeProto]) -> Grid | str | None:
    """The grid of a weight that these nodes make, its axis as the weight is read, or why it is not written anew.

    None where it is rearranged behind the integers other than by the order of its axes: such a weight is stored as it
    is used when it is new.
    """
    if any(len(walk.liveness.readers[n]) > 1 for n in (chain[-1].input[0], *(n.output[0] for n in chain[1:]))):
        return READ_TWICE
    axes = list(range(walk.constants[chain[0].output[0]].ndim))
    while is_permuting_axes(chain[0].op_type):
        axes = [_read_order(chain[0], len(axes))[k] for k in axes]
        chain = chain[1:]
    if not find_traits(chain[0]).dequantizes:
        return None
    if len(chain) > 2 or not all(find_traits(n).decides == "step" for n in chain[1:]):
        return OTHER_KIND
    grids = [_read_grid(walk, n, walk.constants[chain[0].input[0]].dtype) for n in chain]
    first = grids[0]
    if first is None or any(g is None or not first.is_same(g) for g in grids):
        return OTHER_KIND
    return replace(first, axis=axes.index(first.axis % len(axes)) if axes and first.step.size > 1 else 0)


def _read_order(node: onnx.NodeProto, rank: int) -> list[int]:
    found = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
    return found or list(range(rank))[::-1]


def _read_grid(walk: Walk, node: onnx.NodeProto, dtype: np.dtype[Any]) -> Grid | None:
    """The grid of a node that quantises to or from a type; None where it is none of integers, steps of an axis."""
    attributes = {a.name: a.i for a in node.attribute}
    step = walk.constants.get(node.input[1])
    named = len(node.input) > 2 and bool(node.input[2])
    zero = walk.constants.get(node.input[2]) if named else np.zeros_like(step, dtype) if step is not None else None
    if (
        step is None
        or zero is None
        or step.ndim > 1
        or attributes.get("block_size", 0)
        or not re.fullmatch(r"u?int\d+", zero.dtype.name)
    ):
        return None
    return Grid(step, np.broadcast_to(zero, step.shape) if zero.size == 1 else zero, attributes.get("axis", 1))


def put_quantized(model: Model, tensor: gs.Tensor, before: Grid, after: Grid, values: Array) -> None:
    """Write values on a grid in place of what a tensor is dequantised from."""
    node = tensor.inputs[0]
    orders: list[list[int]] = []
    while is_transposition(node):
        orders.append(list(node.attrs.get("perm") or range(values.ndim)[::-1]))
        node = node.inputs[0].inputs[0]
    nodes = [node]

    def restore(array: Array) -> Array:
        for order in orders:
            array = array.transpose(np.argsort(order))
        return array

    if isinstance(node.inputs[0], gs.Constant):
        node.inputs[0] = replace_constant(model, node.inputs[0], restore(after.quantize(values)))
    else:
        nodes.append(node.inputs[0].inputs[0])
        nodes[1].inputs[0] = replace_constant(model, nodes[1].inputs[0], restore(values))
    if not before.is_same(after):
        step = model.new_constant(f"{tensor.name}.step", after.step)
        zero = model.new_constant(f"{tensor.name}.zero", after.zero)
        for n in nodes:
            for slot, t in enumerate((step, zero), 1):
                if slot < len(n.inputs):
                    n.inputs[slot] = t
                else:
                    n.inputs.append(t)


def _is_dequantizing(node: gs.Node) -> bool:
    row = find_rule(node.domain or "", node.op)
    return isinstance(row, Row) and row.dequantizes


def replace_constant(model: Model, old: gs.Constant, values: Array) -> gs.Constant:
    """A constant with other values, under the old name where nothing else reads that."""
    is_own = len(old.outputs) <= 1 and old.name not in model.captured
    return make_constant(old.name, values) if is_own else model.new_constant(old.name, values)


def make_quantized_bias(
    model: Model, node: gs.Node, slots: tuple[int, int], before: Grid, after: Grid, change: Array
) -> gs.Variable | None:
    """Add to the bias of a node with a quantised weight, in integers; None where it cannot be of integers.

    `slots`: of what it reads, and of the bias. The step is that of the one times that of the weight: kernels for
    integers take no other.
    """
    data, slot = slots
    old = node.inputs[slot] if slot < len(node.inputs) and node.inputs[slot].name else None
    maker = old.inputs[0] if old is not None and old.inputs else None
    if old is None:
        step, zero, values = _find_bias_step(model, node.inputs[data], after), np.zeros((), np.int32), change
        if step is None:
            return None
    elif maker is None or not _is_dequantizing(maker) or not all(isinstance(t, gs.Constant) for t in maker.inputs):
        return None
    else:
        stored, step, *rest = (model.array(t) for t in maker.inputs)
        zero = rest[0] if rest else np.zeros((), stored.dtype)
        values = Grid(step, zero, 0).dequantize(stored).astype(np.float64) + change
        step = step * _measure_widening(before, after, step.size).reshape(step.shape)
    step = np.asarray(step, after.step.dtype)
    grid = Grid(step, np.broadcast_to(zero.reshape(-1)[:1].reshape(()) if zero.size == 1 else zero, step.shape), 0)
    return _put_bias(model, node, slot, grid.widen(values), values)


def _put_bias(model: Model, node: gs.Node, slot: int, grid: Grid, values: Array) -> gs.Variable:
    """A bias of integers and the node that makes numbers of it, in front of the node that adds it."""
    name = f"{node.outputs[0].name}.bias"
    stored = (("integers", grid.quantize(values)), ("step", grid.step), ("zero", grid.zero))
    parts = [model.new_constant(f"{name}.{what}", a) for what, a in stored]
    bias = model.new_value(name, grid.step.dtype, values.shape)
    at = next(i for i, n in enumerate(model.graph.nodes) if n is node)
    model.graph.nodes.insert(at, build.new_node(model, build.dequantize(parts, 0), name, [bias]))
    while len(node.inputs) <= slot:
        node.inputs.append(gs.Variable.empty())
    node.inputs[slot] = bias
    return bias


def _measure_widening(before: Grid, after: Grid, size: int) -> Array:
    """By how much the steps have become wider, one number or one for each of a bias with so many steps."""
    factors = np.ravel(after.step.astype(np.float64) / before.step)
    if size == 1:
        return np.asarray(factors.max(keepdims=True))
    return np.resize(factors, size)  # of a transposed convolution in groups each the same


def _find_bias_step(model: Model, data: gs.Tensor, grid: Grid) -> Array | None:
    """The step of what a node reads times that of its weight; None where it does not read integers on one step."""
    maker = data.inputs[0] if data.inputs else None
    if maker is None or not _is_dequantizing(maker) or not isinstance(maker.inputs[1], gs.Constant):
        return None
    step = model.array(maker.inputs[1])
    return np.asarray(step.reshape(()) * grid.step) if step.size == 1 else None
