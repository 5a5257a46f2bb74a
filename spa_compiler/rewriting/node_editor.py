"""Nodes, constants and masks put beside one node of a model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Expr, Prod, resolve
from spa_compiler.ir.model import Model
from spa_compiler.operators import build
from spa_compiler.operators.build import Call, new_node
from spa_compiler.operators.site import Value

Array = NDArray[Any]


class NodeEditor:
    """Puts nodes and constants before one node of a model, and others in the place of what that node gives."""

    def __init__(self, model: Model, node: gs.Node) -> None:
        self.model, self.node = model, node
        self.stem = f"{node.outputs[0].name}.masked"
        self.made = 0

    def put(self, call: Call[gs.Tensor]) -> gs.Variable:
        """Put a node before this one: the value that it gives."""
        out = self._name_value()
        self._insert(new_node(self.model, call, out.name, [out]))
        return out

    def put_constant(self, values: Array) -> gs.Constant:
        """A new constant."""
        self.made += 1
        return self.model.new_constant(f"{self.stem}.{self.made}", values)

    def put_copy(self, slot: int) -> gs.Variable:
        """An output of a copy of this node."""
        out = self._name_value()
        outputs = [self.model.new_value(f"{out.name}.first"), *(gs.Variable.empty() for _ in range(slot - 1)), out]
        attrs, inputs = dict(self.node.attrs), list(self.node.inputs)
        self._insert(self.model.new_node(self.node.op, out.name, attrs, inputs, outputs, self.node.domain))
        return out

    def put_mask(self, x: gs.Tensor, value: Value, mask: Array) -> gs.Tensor:
        """`mask` as an operand beside x, which has the shape of `value`.

        An axis that multiplies channels with a symbol, `(c h w)`, has no constant length: there the mask holds the
        digits from the first to the last that it depends on, and is spread over x as it comes.
        """
        wide = [i for i, d in enumerate(value.dynamic) if d and mask.shape[i] > 1]
        outer, inner = _count_repeats(mask, wide[0], value.axes[wide[0]]) if len(wide) == 1 else (1, 1)
        if outer == inner == 1:
            return self.put_constant(mask)
        axis = wide[0]
        held = mask.shape[axis] // (outer * inner)
        digits = [*mask.shape[:axis], outer, held, inner, *mask.shape[axis + 1 :]]
        small = mask.reshape(digits).take([0], axis).take([0], axis + 2)
        length = self.put(build.gather(self.put(build.shape_of(x)), self.put_constant(np.array([axis], np.int64)), 0))
        fixed = self.put_constant(np.array([held * (outer if inner > 1 else 1)], np.int64))
        free = self.put(build.divide(length, fixed))
        sizes = [self.put_constant(np.array([n], np.int64)) for n in small.shape]
        sizes[axis + 2 if inner > 1 else axis] = free
        if inner > 1:
            sizes[axis] = self.put_constant(np.array([outer], np.int64))
        whole_mask = self.put(build.expand(self.put_constant(small), self.put(build.concat(sizes, 0))))
        shape = [-1 if i == axis else n for i, n in enumerate(mask.shape)]
        return self.put(build.reshape(whole_mask, self.put_constant(np.array(shape, np.int64))))

    def divide_output(self, divisor: Array) -> None:
        """Divide what the node gives by a constant."""
        result = self.node.outputs[0]
        raw = self.model.new_value(f"{self.stem}.raw")
        self.node.outputs = [raw]
        mean = new_node(self.model, build.divide(raw, self.put_constant(divisor)), f"{self.stem}.mean", [result])
        self.model.graph.nodes.insert(self._position() + 1, mean)

    def replace_output(self, y: gs.Tensor) -> None:
        """Put a value in the place of the node's first output."""
        result = self.node.outputs[0]
        self.node.outputs[0] = self.model.new_value(f"{self.stem}.unused")
        self._insert(new_node(self.model, build.identity(y), f"{self.stem}.y", [result]))

    def _name_value(self) -> gs.Variable:
        self.made += 1
        return self.model.new_value(f"{self.stem}.{self.made}")

    def _insert(self, node: gs.Node) -> None:
        self.model.graph.nodes.insert(self._position(), node)

    def _position(self) -> int:
        return next(i for i, n in enumerate(self.model.graph.nodes) if n is self.node)


def _count_repeats(mask: Array, axis: int, e: Expr) -> tuple[int, int]:
    """How often the mask of an axis repeats as a whole, and how often each entry: digits that it does not depend on."""
    e = resolve(e)
    sizes = [p.size for p in e.parts] if isinstance(e, Prod) else [e.size]
    digits = np.moveaxis(mask, axis, 0).reshape(*sizes, -1)
    needed = [k for k in range(len(sizes)) if (digits != digits.take([0], k)).any()] or [0]
    return math.prod(sizes[: needed[0]]), math.prod(sizes[needed[-1] + 1 :])
