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

        Axes that multiply channels with a symbol, `(c h w)`, have no constant length: there the mask holds the
        digits from the first to the last that it depends on, and is spread over x as it comes.
        """
        wide = [i for i, d in enumerate(value.dynamic) if d and mask.shape[i] > 1]
        repeats = {i: _count_repeats(mask, i, value.axes[i]) for i in wide}
        repeats = {i: counts for i, counts in repeats.items() if counts != (1, 1)}
        if not repeats:
            return self.put_constant(mask)
        digits: list[int] = []
        places = {}
        for i, size in enumerate(mask.shape):
            outer, inner = repeats.get(i, (1, 1))
            places[i] = len(digits)
            digits += [outer, size // (outer * inner), inner] if i in repeats else [size]
        small = mask.reshape(digits)
        for i in repeats:
            small = small.take([0], places[i]).take([0], places[i] + 2)
        sizes, lengths = [self._put_size(n) for n in small.shape], {}
        for i, (outer, inner) in repeats.items():
            lengths[i] = self.put(build.gather(self.put(build.shape_of(x)), self._put_size(i), 0))
            fixed = self._put_size(small.shape[places[i] + 1] * (outer if inner > 1 else 1))
            sizes[places[i] + 2 if inner > 1 else places[i]] = self.put(build.divide(lengths[i], fixed))
            if inner > 1:
                sizes[places[i]] = self._put_size(outer)
        whole_mask = self.put(build.expand(self.put_constant(small), self.put(build.concat(sizes, 0))))
        if len(repeats) == 1:
            shape: gs.Tensor = self.put_constant(
                np.array([-1 if i in repeats else n for i, n in enumerate(mask.shape)])
            )
        else:
            parts = [lengths[i] if i in repeats else self._put_size(n) for i, n in enumerate(mask.shape)]
            shape = self.put(build.concat(parts, 0))
        return self.put(build.reshape(whole_mask, shape))

    def _put_size(self, size: int) -> gs.Constant:
        return self.put_constant(np.array([size], np.int64))

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
    needed = [k for k in range(len(sizes)) if (digits != digits.take([0], k)).any()]
    if not needed:
        return math.prod(sizes), 1
    return math.prod(sizes[: needed[0]]), math.prod(sizes[needed[-1] + 1 :])
