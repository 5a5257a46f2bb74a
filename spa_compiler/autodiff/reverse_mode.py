"""The derivative of a graph as a graph that onnxruntime runs: reverse accumulation, one row per operator.

    tape = Tape(nodes, constants, shapes, "x")
    tape.add("y", "dy")                          # the derivative by y is (also) this value
    tape.run_backward(DERIVATIVES)               # name of the derivative by x; tape.made are the nodes that give it

A rule says what the derivative by an operator's inputs is, given the one by its output (`operators.derivatives` has
them). Where there is none `run_backward` raises Unknown: a derivative that lacks a path is none. Opset 16 or newer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from spa_compiler.execution.session import open_quiet_session
from spa_compiler.execution.single_node import OLDEST_IR
from spa_compiler.ir.names import Names
from spa_compiler.operators.derivatives import JOINED_DERIVATIVES, DerivativeNodes, DerivativeRule, Unknown

Array = NDArray[Any]
OPSET = 16
"""The oldest whose ScatterElements adds."""


class Tape(DerivativeNodes):
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
        super().__init__(nodes, constants, shapes, source, opset, names)
        self.parts: dict[str, list[str]] = {}

    def run(self, graph: onnx.GraphProto, feed: Mapping[str, Array]) -> Array:
        """The first output of a small graph, by onnxruntime."""
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=OLDEST_IR)
        return np.asarray(open_quiet_session(model.SerializeToString(), 0, 1).run(None, dict(feed))[0])

    def add(self, value: str, derivative: str) -> None:
        """One more summand of the derivative by a value."""
        self.parts.setdefault(value, []).append(derivative)

    def run_backward(self, rules: Mapping[str, DerivativeRule]) -> str:
        """Go from the last node to the first. Returns the name of the derivative by the source.

        Raises Unknown where an operator on the way has no rule, or none for the form it is in.
        """
        for node in reversed(self.nodes):
            given = [self._sum_derivatives(n) for n in node.output]
            if any(given) and not self.live.isdisjoint(node.input):
                self._differentiate_node(node, given, rules)
        found = self._sum_derivatives(self.source)
        if found is None:
            raise Unknown("nothing depends on the input")
        return found

    def _sum_derivatives(self, value: str) -> str | None:
        """The derivative by a value: the sum of what was added, None where nothing was."""
        parts = self.parts.pop(value, [])
        return None if not parts else parts[0] if len(parts) == 1 else self.op("Sum", *parts)

    def _differentiate_node(
        self, node: onnx.NodeProto, given: list[str | None], rules: Mapping[str, DerivativeRule]
    ) -> None:
        if node.op_type not in rules:
            raise Unknown(f"{node.op_type} has no derivative here")
        first, *others = given
        if node.op_type in JOINED_DERIVATIVES:
            first = JOINED_DERIVATIVES[node.op_type](self, node, given)
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


__all__ = ["OPSET", "Tape", "Unknown"]
