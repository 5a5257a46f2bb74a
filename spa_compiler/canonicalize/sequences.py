"""Sequences of tensors replaced by their tensors: a sequence has no axes to analyse, a tensor has.

- `unpack_split`: a sequence that is only split and picked from is a Slice per pick.
- `unpack_built`: of a sequence whose members are known where it is written, a pick is the member itself and
  ConcatFromSequence a Concat. PyTorch writes `tensor_split` so, and lists that loops fill which run once.

    made = unpack_sequences(model)
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.ir.editing import drop_repeats
from spa_compiler.ir.model import Model
from spa_compiler.operators import build
from spa_compiler.operators.build import replace_node
from spa_compiler.operators.sequence_uses import SequenceUse, find_use


def unpack_sequences(model: Model) -> int:
    """Replace every such pick; returns how many. Changes the model."""
    return unpack_split(model) + unpack_built(model)


def unpack_built(model: Model) -> int:
    """SequenceAt and ConcatFromSequence read the members instead; nodes are sorted, so one pass finds them."""
    made = 0
    known: dict[str, list[gs.Tensor]] = {}
    for node in model.graph.nodes:
        use = find_use(node)
        if use is SequenceUse.START:
            known[node.outputs[0].name] = []
        elif use is SequenceUse.COLLECT:
            known[node.outputs[0].name] = list(node.inputs)
        elif node.inputs and node.inputs[0].name in known:
            made += _follow_sequence(model, node, known)
    return made


def _follow_sequence(model: Model, node: gs.Node, known: dict[str, list[gs.Tensor]]) -> int:
    """Follow a known sequence through a node that reads it; 1 where the node does not read it any more."""
    members, out = known[node.inputs[0].name], node.outputs[0].name
    use = find_use(node)
    if use is SequenceUse.COPY:
        known[out] = members
    elif use is SequenceUse.INSERT:
        at = _find_position(model, node, 2, len(members))
        if at is not None:
            known[out] = [*members[:at], node.inputs[1], *members[at:]]
    elif use is SequenceUse.PICK:
        at = _find_position(model, node, 1, len(members))
        if at is not None and at < len(members):
            replace_node(node, build.identity(members[at]))
            return 1
    elif use is SequenceUse.JOIN and members and not node.attrs.get("new_axis", 0):
        replace_node(node, build.concat(members, int(node.attrs["axis"])))
        return 1
    return 0


def _find_position(model: Model, node: gs.Node, slot: int, count: int) -> int | None:
    """The position that an operand gives, the end where there is none; None where it is not known or not valid."""
    if len(node.inputs) <= slot or not node.inputs[slot].name:
        return count
    if not isinstance(node.inputs[slot], gs.Constant):
        return None
    at = int(model.array(node.inputs[slot]).item())
    at += count if at < 0 else 0
    return at if 0 <= at <= count else None


def unpack_split(model: Model) -> int:
    """SplitToSequence whose parts are all picked by SequenceAt: each pick is a Slice (Slice stops at the end)."""
    made = 0
    kept = {t.name for t in model.graph.outputs} | set(model.captured)
    for node in [n for n in model.graph.nodes if find_use(n) is SequenceUse.SPLIT and n.outputs[0].name not in kept]:
        users = drop_repeats(node.outputs[0].outputs)
        if len(node.inputs) < 2 or any(find_use(u) is not SequenceUse.PICK for u in users):
            continue
        operands = [node.inputs[1], *(u.inputs[1] for u in users)]
        if not all(isinstance(t, gs.Constant) for t in operands):
            continue
        sizes, *picks = [model.array(t) for t in operands]
        if sizes.ndim == 0 and any(p.item() < 0 for p in picks):
            continue
        for user, pick in zip(users, picks, strict=True):
            at = int(pick.item()) % len(sizes) if sizes.ndim else int(pick.item())
            start = int(sizes[:at].sum()) if sizes.ndim else at * int(sizes)
            bounds = start, start + int(sizes[at] if sizes.ndim else sizes), int(node.attrs.get("axis", 0))
            whats = zip(("starts", "ends", "axes"), bounds, strict=True)
            name = user.outputs[0].name
            operands = [model.new_constant(f"{name}.{w}", np.array([v], np.int64)) for w, v in whats]
            replace_node(user, build.cut(node.inputs[0], *operands))
            made += 1
    return made
