"""Uses of the sizes that a Shape node gives: those that only end in shapes which the rewrite writes are harmless."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.ir.model import Model

OVERRIDABLE = {("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0), ("Resize", 3)}
SHAPE_ARITHMETIC = {"Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Identity", "Mul", "Add", "Sub", "Div"}
SHAPE_ARITHMETIC |= {"Reshape", "Split", "Where", "Equal", "Range", "Max", "Min", "Floor", "Ceil", "Mod"}


def find_shape_reads(model: Model, node: gs.Node, outputs: set[str], length: int) -> frozenset[int]:
    """Which of the sizes that a Shape gives are used for more than shapes that the rewrite writes itself."""
    return _find_reads(model, node.outputs[0], outputs, list(range(length)))


def _find_reads(model: Model, value: gs.Tensor, outputs: set[str], held: list[int]) -> frozenset[int]:
    """Which of the sizes that `value` holds, one an entry, are read for more."""
    reads: set[int] = set(held) if value.name in outputs else set()
    for user in value.outputs:
        places = _find_taken(model, user, value, len(held))
        if places is not None:  # what it does not take is not read, whatever becomes of the rest
            reads |= _find_reads(model, user.outputs[0], outputs, [held[p] for p in places])
        elif not _is_harmless(user, value, outputs):
            reads |= set(held)
    return frozenset(reads)


def _find_taken(model: Model, user: gs.Node, value: gs.Tensor, length: int) -> list[int] | None:
    """The entries of a row that a node takes, in order; None for one that does anything else with them."""
    if not user.inputs or user.inputs[0] is not value or not length:
        return None
    if user.op in ("Cast", "Identity", "Squeeze") and (user.op != "Squeeze" or length == 1):
        return list(range(length))
    operands = [_read_small_ints(model, t) if t.name else None for t in user.inputs[1:]]
    if user.op == "Gather" and operands and operands[0] is not None:
        return [p % length for p in operands[0]]
    if user.op == "Slice" and len(operands) >= 2 and all(len(o) == 1 if o is not None else False for o in operands):
        starts, ends, _, steps = [o[0] for o in operands if o is not None] + [0, 1][len(operands) - 2 :]
        return list(range(length))[starts:ends:steps]
    return None


def _read_small_ints(model: Model, t: gs.Tensor | None) -> list[int] | None:
    if not isinstance(t, gs.Constant) or int(np.prod(t.shape, dtype=np.int64)) > 64:
        return None
    return [int(v) for v in np.ravel(model.array(t))]


def _is_harmless(user: gs.Node, value: gs.Tensor, outputs: set[str]) -> bool:
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
