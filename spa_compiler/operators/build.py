"""Builders of the nodes that a rewrite makes, by meaning: `add` for a sum, `unsqueeze` for an axis of size 1.

    call = multiply(x, y)                                # Call("Mul", [x, y], {}): of tensors, or of names
    graph.nodes.insert(at, new_node(model, call, "scaled", [out]))
    replace_node(node, gather(x, index, axis=0))         # the node is another one from now on

What an operator is called, which operand is where, and from which opset its integers are an input stands here and
nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.ir.model import Model, find_element_type

V = TypeVar("V")
"""A value: a tensor of a graph, or a name."""
Constant = Callable[[NDArray[Any]], V]
"""Makes a constant of an array."""
SHORT_FLOATS = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
"""Types in which weights are stored that a Cast makes longer before they are used."""
INPUT_SINCE = {"Split": 13, "Squeeze": 13, "Unsqueeze": 13, "Slice": 10, "Pad": 11, "Reshape": 5, "ReduceMean": 18}
"""Opset from which an operator takes its integers as an input; before, they were an attribute."""


@dataclass(frozen=True)
class Call(Generic[V]):
    """One use of an operator: its name, what it reads, its attributes."""

    op: str
    inputs: Sequence[V]
    attributes: dict[str, Any] = field(default_factory=dict)


def new_node(model: Model, call: Call[gs.Tensor], wanted: str, outputs: list[gs.Tensor]) -> gs.Node:
    """A node of a model, under a name that no other node has; it is put into the graph by the caller."""
    return model.new_node(call.op, wanted, call.attributes, list(call.inputs), outputs)


def unnamed_node(call: Call[gs.Tensor], outputs: list[gs.Tensor]) -> gs.Node:
    """A node without a name; it is put into the graph by the caller."""
    return gs.Node(call.op, "", call.attributes, list(call.inputs), outputs)


def replace_node(node: gs.Node, call: Call[gs.Tensor]) -> None:
    """Make another operator of a node; its outputs stay."""
    node.op, node.attrs, node.inputs = call.op, call.attributes, list(call.inputs)


def has_input(op: str, opset: int) -> bool:
    """Does an operator take its integers as an input at this opset, and not as an attribute?"""
    return opset >= INPUT_SINCE.get(op, 0)


def add(a: V, b: V) -> Call[V]:
    """A + b."""
    return Call("Add", [a, b])


def add_all(parts: Sequence[V]) -> Call[V]:
    """The sum of all parts."""
    return Call("Sum", list(parts))


def maximum(a: V, b: V) -> Call[V]:
    """The larger one."""
    return Call("Max", [a, b])


def is_sum(node: gs.Node) -> bool:
    """Is this a node that `add` makes?"""
    return bool(node.op == "Add")


def dequantize(parts: Sequence[V], axis: int) -> Call[V]:
    """Of integers, steps and zeros (integers - zero) * step; these are one, or one for each index of the axis."""
    return Call("DequantizeLinear", list(parts), {"axis": axis})


def subtract(a: V, b: V) -> Call[V]:
    """A - b."""
    return Call("Sub", [a, b])


def multiply(a: V, b: V) -> Call[V]:
    """A * b."""
    return Call("Mul", [a, b])


def divide(a: V, b: V) -> Call[V]:
    """A / b."""
    return Call("Div", [a, b])


def multiply_matrices(a: V, b: V) -> Call[V]:
    """A @ b; leading axes are broadcast."""
    return Call("MatMul", [a, b])


def is_product(node: gs.Node) -> bool:
    """Is this a node that `multiply` makes?"""
    return bool(node.op == "Mul")


def is_concat(node: gs.Node) -> bool:
    """Is this a node that `concat` makes?"""
    return bool(node.op == "Concat")


def is_size_movement(node: gs.Node) -> bool:
    """Does a node give the one size that it takes, in another shape or type?"""
    return node.op in ("Unsqueeze", "Squeeze", "Cast", "Identity")


def square_root(x: V) -> Call[V]:
    """The root of x."""
    return Call("Sqrt", [x])


def choose(condition: V, a: V, b: V) -> Call[V]:
    """A where the condition holds, else b."""
    return Call("Where", [condition, a, b])


def is_choice(node: gs.Node) -> bool:
    """Is this a node that `choose` makes?"""
    return bool(node.op == "Where")


def cast(x: V, to: int) -> Call[V]:
    """X in another element type of ONNX."""
    return Call("Cast", [x], {"to": to})


def find_stored(t: gs.Tensor) -> gs.Constant | None:
    """The constant that a tensor is, in a shorter type of floats; None where it is none."""
    maker = t.inputs[0] if not isinstance(t, gs.Constant) and len(t.inputs) == 1 else None
    source = maker.inputs[0] if maker is not None and maker.op == "Cast" and len(maker.inputs) == 1 else None
    return source if isinstance(source, gs.Constant) and find_element_type(source) in SHORT_FLOATS else None


def identity(x: V) -> Call[V]:
    """X under another name."""
    return Call("Identity", [x])


def shape_of(x: V) -> Call[V]:
    """The sizes of x."""
    return Call("Shape", [x])


def gather(x: V, index: V, axis: int) -> Call[V]:
    """The entries of an axis at the positions of `index`."""
    return Call("Gather", [x, index], {"axis": axis})


def concat(parts: Sequence[V], axis: int) -> Call[V]:
    """The parts, one after the other along an axis."""
    return Call("Concat", list(parts), {"axis": axis})


def cut(x: V, starts: V, ends: V, axes: V) -> Call[V]:
    """From starts to before ends of some axes (opset 10)."""
    return Call("Slice", [x, starts, ends, axes])


def reshape(x: V, shape: V) -> Call[V]:
    """The entries of x in another shape."""
    return Call("Reshape", [x, shape])


def expand(x: V, shape: V) -> Call[V]:
    """X repeated along its axes of size 1."""
    return Call("Expand", [x, shape])


def transpose(x: V, order: Sequence[int]) -> Call[V]:
    """The axes of x in another order."""
    return Call("Transpose", [x], {"perm": list(order)})


def unsqueeze(x: V, axes: Sequence[int], opset: int, constant: Constant[V]) -> Call[V]:
    """Axes of size 1."""
    return _with_integers("Unsqueeze", x, "axes", axes, {}, opset, constant)


def squeeze(x: V, axes: Sequence[int], opset: int, constant: Constant[V]) -> Call[V]:
    """Without axes of size 1."""
    return _with_integers("Squeeze", x, "axes", axes, {}, opset, constant)


def reduce_mean(x: V, axes: Sequence[int], opset: int, constant: Constant[V]) -> Call[V]:
    """The mean over axes, which stay with size 1."""
    return _with_integers("ReduceMean", x, "axes", axes, {"keepdims": 1}, opset, constant)


def reduce_sum(x: V, axes: V) -> Call[V]:
    """The sum over axes, which stay with size 1 (opset 13)."""
    return Call("ReduceSum", [x, axes])


def reduce_sum_all(x: V) -> Call[V]:
    """The sum of all entries, without axes."""
    return Call("ReduceSum", [x], {"keepdims": 0})


def _with_integers(
    op: str, x: V, name: str, values: Sequence[int], more: dict[str, Any], opset: int, constant: Constant[V]
) -> Call[V]:
    if has_input(op, opset):
        return Call(op, [x, constant(np.array(values, np.int64))], more)
    return Call(op, [x], {name: list(values), **more})
