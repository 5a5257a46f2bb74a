"""Which sizes that a Shape node gives matter: those that only end in shapes that the rewrite writes itself do not."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.model import Model

OVERRIDABLE = {("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0), ("Resize", 3)}
SHAPE_ARITHMETIC = {"Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Identity", "Mul", "Add", "Sub", "Div"}
SHAPE_ARITHMETIC |= {"Reshape", "Split", "Where", "Equal", "Range", "Max", "Min", "Floor", "Ceil"}


def shape_reads(model: Model, node: gs.Node, outputs: set[str], length: int) -> frozenset[int]:
    """Which of the sizes that a Shape gives are used for more than shapes that the rewrite writes itself."""
    y = node.outputs[0]
    every = range(length)
    reads: set[int] = set(every) if y.name in outputs else set()
    for user in y.outputs:
        index = user.inputs[1] if user.op == "Gather" and len(user.inputs) > 1 else None
        picked = _small_ints(model, index) if user.op == "Gather" and user.inputs[0] is y else None
        if not _harmless(user, y, outputs):
            reads |= set(every) if picked is None else {p % max(len(every), 1) for p in picked}
    return frozenset(reads)


def _small_ints(model: Model, t: gs.Tensor | None) -> list[int] | None:
    if not isinstance(t, gs.Constant) or int(np.prod(t.shape, dtype=np.int64)) > 64:
        return None
    return [int(v) for v in np.ravel(model.array(t))]


def _harmless(user: gs.Node, value: gs.Tensor, outputs: set[str]) -> bool:
    """True when everything that comes of `value` in `user` ends in shapes that the rewrite writes itself."""
    todo, seen = [(user, value)], set()
    while todo:
        node, tensor = todo.pop()
        slot = next(i for i, t in enumerate(node.inputs) if t is tensor)
        if (node.op, slot) in OVERRIDABLE or id(node) in seen:
            continue
        if node.op not in SHAPE_ARITHMETIC or any(t.name in outputs for t in node.outputs):
            return False
        seen.add(id(node))
        todo += [(u, t) for t in node.outputs for u in t.outputs]
    return True
