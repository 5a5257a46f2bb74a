"""The derivative of a graph as a graph, so that onnxruntime gives it: reverse accumulation, one row per operator.

    tape = Tape(nodes, constants, shapes, "x")
    tape.add("y", "dy")                          # the derivative by y is (also) this value
    tape.back(RULES)                             # name of the derivative by x; tape.made are the nodes that give it

A rule says what the derivative by an operator's inputs is, given the one by its output (`derivatives` has them). Where
there is none `back` raises Unknown: a derivative that lacks a path is none. Opset 16 or newer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from spa_compiler.ir.names import Names

Array = NDArray[Any]
OPSET = 16
"""The oldest whose ScatterElements adds."""
READ = {"Shape": 0, "Size": 0, "CastLike": 1}
"""Operators that look at the numbers of their first inputs only."""


class Unknown(Exception):
    """An operator whose derivative is not known here."""


class Tape:
    """Nodes of a forward graph with static shapes, and those that go back through it."""

    def __init__(
        self,
        nodes: Sequence[onnx.NodeProto],
        constants: Mapping[str, Array],
        shapes: Mapping[str, Sequence[int]],
        source: str,
        opset: int = OPSET,
        names: Names | None = None,
    ) -> None:
        self.nodes, self.constants, self.shapes, self.source = nodes, constants, shapes, source
        self.opset = opset  # of the forward nodes
        self.made: list[onnx.NodeProto] = []
        self.tables: list[onnx.TensorProto] = []
        self.parts: dict[str, list[str]] = {}
        self.names = Names(constants) if names is None else names.copy()  # of the model that the nodes are of
        self.names.add_nodes(nodes)
        self.live = {source}  # what depends on it
        for node in nodes:
            if not self.live.isdisjoint(node.input[: READ.get(node.op_type)]):
                self.live |= {n for n in node.output if n}

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """A new node: the name of its (last) output."""
        names = [self.names.value(f"spa.grad.{len(self.made)}.{k}") for k in range(outputs)]
        self.made.append(helper.make_node(kind, inputs, names, **attributes))
        return names[-1]

    def number(self, values: Any, dtype: type = np.float32) -> str:
        """A new constant."""
        name = self.names.value(f"spa.grad.c{len(self.tables)}")
        self.tables.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, value: str, derivative: str) -> None:
        """One more summand of the derivative by a value."""
        self.parts.setdefault(value, []).append(derivative)

    def back(self, rules: Mapping[str, Rule]) -> str:
        """Go from the last node to the first. Returns the name of the derivative by the source.

        Raises Unknown where an operator on the way has no rule, or none for the form it is in.
        """
        for node in reversed(self.nodes):
            given = [self._total(n) for n in node.output]
            if any(given) and not self.live.isdisjoint(node.input):
                self._through(node, given, rules)
        found = self._total(self.source)
        if found is None:
            raise Unknown("nothing depends on the input")
        return found

    def _total(self, value: str) -> str | None:
        """The derivative by a value: the sum of what was added, None where nothing was."""
        parts = self.parts.pop(value, [])
        return None if not parts else parts[0] if len(parts) == 1 else self.op("Sum", *parts)

    def _through(self, node: onnx.NodeProto, given: list[str | None], rules: Mapping[str, Rule]) -> None:
        if node.op_type not in rules:
            raise Unknown(f"{node.op_type} has no derivative here")
        first, *others = given
        if node.op_type == "Split":
            first = self._together(node, given)
        elif first is None or any(others):
            raise Unknown(f"{node.op_type} of which more than the first output is read")
        try:
            found = rules[node.op_type](self, node, first)
        except Unknown:
            raise
        except Exception as e:  # a form of the operator that its rule does not expect
            raise Unknown(f"{node.op_type}: {type(e).__name__}: {e}") from e
        if any(n in self.live and slot not in found for slot, n in enumerate(node.input)):
            raise Unknown(f"{node.op_type} by an input that is constant elsewhere")
        for slot, derivative in found.items():
            if node.input[slot] in self.live:
                self.add(node.input[slot], derivative)

    def _together(self, node: onnx.NodeProto, given: list[str | None]) -> str:
        """The derivatives by the parts of a Split as one; parts that nothing reads have none."""
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        parts = [g or self.number(np.zeros(self.shape(n))) for g, n in zip(given, node.output, strict=True)]
        return self.op("Concat", *parts, axis=axis)

    def shape(self, name: str) -> list[int]:
        """Static shape of a value. Raises Unknown where it has none."""
        if name in self.constants:
            return list(self.constants[name].shape)
        if name not in self.shapes:
            raise Unknown(f"the shape of '{name}' is not known")
        return list(self.shapes[name])

    def constant(self, name: str) -> Array:
        """The numbers of a constant. Raises Unknown where it is made at run time."""
        if name not in self.constants:
            raise Unknown(f"'{name}' is made at run time")
        return self.constants[name]

    def shaped(self, value: str, like: Sequence[int]) -> str:
        """Reshape to these sizes."""
        return self.op("Reshape", value, self.number(like, np.int64))

    def fitted(self, value: str, shape: Sequence[int], like: Sequence[int]) -> str:
        """Sum over the axes along which an operand of shape `like` was broadcast to `shape`."""
        if list(shape) == list(like):
            return value
        lead = len(shape) - len(like)
        axes = [k for k in range(len(shape)) if k < lead or (like[k - lead] == 1 and shape[k] != 1)]
        return self.shaped(self.op("ReduceSum", value, self.number(axes, np.int64)), like)


Derivatives = dict[int, str]
"""By input slot the name of the derivative by that input."""
Rule = Callable[[Tape, onnx.NodeProto, str], Derivatives]
