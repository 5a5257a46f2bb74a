"""Gathers that move nothing: PyTorch's dynamo exporter writes `as_strided` as Reshape [-1] and a Gather by a grid.

Where the grid, under both bindings of the symbols, just counts from 0 to the end, the Gather is a Reshape.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.facts import Facts
from spa_compiler.model import Model, constant


def identity_gathers(model: Model, first: Facts, second: Facts) -> int:
    """Replace such Gathers by Reshapes; returns how many. Changes the model."""
    made = 0
    for node in model.graph.nodes:
        if node.op == "Gather" and len(node.inputs) == 2 and int(node.attrs.get("axis", 0)) == 0:
            target = _target(node, first, second)
            if target is not None:
                shape = constant(f"{node.outputs[0].name}.shape", np.array(target, np.int64))
                node.op, node.attrs, node.inputs = "Reshape", {}, [node.inputs[0], shape]
                made += 1
    return made


def _target(node: gs.Node, first: Facts, second: Facts) -> list[int] | None:
    """The shape to reshape to, -1 for the axis that follows a symbol; None where positions move."""
    x, index = (t.name for t in node.inputs)
    shapes = []
    for facts in (first, second):
        flat, grid = facts.shape(x), facts.values.get(index)
        if flat is None or grid is None or len(flat) != 1 or grid.ndim < 2 or grid.size != flat[0]:
            return None
        if not np.array_equal(grid.ravel(), np.arange(flat[0])):
            return None
        shapes.append(grid.shape)
    a, b = shapes
    if len(a) != len(b) or sum(p != q for p, q in zip(a, b, strict=True)) > 1:
        return None
    return [p if p == q else -1 for p, q in zip(a, b, strict=True)]
