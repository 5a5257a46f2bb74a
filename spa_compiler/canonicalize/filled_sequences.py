"""A sequence that a Loop fills with a tensor each round is a slice that the Loop stacks: tensors have axes to analyse.

    q, n = Loop(m, c, SequenceEmpty(), n0) {.. q1 = SequenceInsert(q0, row) ..}     y = ConcatFromSequence<axis=0>(q)

becomes a Loop without that state which gives `row` of every round, and a Reshape. PyTorch writes lists so that a loop
fills, before `stack` or `cat`.

    made = stack_filled_sequences(model, general)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra.sizes import compute_value, find_size_symbols
from spa_compiler.ir.control_flow import find_chains, is_control, is_marker
from spa_compiler.ir.editing import drop_repeats
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import find_input_axes
from spa_compiler.operators import build
from spa_compiler.operators.build import replace_node
from spa_compiler.operators.sequence_uses import SequenceUse, find_use
from spa_compiler.shape_inference.every_binding import General

LOOP_STATES, BODY_STATES = 2, 3
"""Where the states of a Loop begin among what it is given, and among what its marker gives."""
Shape = tuple[int | None, ...]
"""Sizes that are the same in every round; None where they follow a symbol."""


@dataclass(frozen=True)
class Filled:
    """A state of a Loop that is a sequence: the node that appends to it, and those that join it behind the Loop."""

    loop: gs.Node
    marker: gs.Node
    state: int
    insert: gs.Node
    joins: tuple[gs.Node, ...]
    shape: Shape
    kind: int


def stack_filled_sequences(model: Model, general: General) -> int:
    """Replace every such state; returns how many. Changes the model."""
    made = 0
    while (found := _find_filled(model, general)) is not None:
        _stack(model, found)
        made += 1
    return made


def _find_filled(model: Model, general: General) -> Filled | None:
    nodes = model.graph.nodes
    markers = {n.attrs["path"]: n for n in nodes if is_marker(n)}
    inside = {id(n): chain[-1] for n, chain in zip(nodes, find_chains(nodes), strict=True) if chain}
    for node in nodes:
        if is_control(node) and node.op == "Loop":
            marker = markers[node.attrs["paths"][0]]
            for k in range(int(node.attrs["states"])):
                found = _read_state(model, node, marker, k, general)
                if found is not None and inside.get(id(found.insert)) == marker.attrs["path"]:
                    return found
    return None


def _read_state(model: Model, loop: gs.Node, marker: gs.Node, k: int, general: General) -> Filled | None:
    """State k, where it starts empty, is appended to once a round, and is joined and nothing else."""
    states = int(loop.attrs["states"])
    first, formal = marker.inputs[LOOP_STATES + k], marker.outputs[BODY_STATES + k]
    result, final = loop.inputs[states + 1 + k], loop.outputs[k]
    kept = {t.name for t in model.graph.outputs} | set(model.captured)
    starts = [n for n in first.inputs if find_use(n) is SequenceUse.START]
    inserts = [n for n in result.inputs if find_use(n) is SequenceUse.INSERT and n.inputs[0] is formal]
    joins = drop_repeats(list(final.outputs))
    if not starts or not inserts or not joins or {formal.name, result.name, final.name} & kept:
        return None
    insert = inserts[0]
    is_appended = len(insert.inputs) == 2 or not insert.inputs[2].name
    readers = [*drop_repeats(list(formal.outputs)), *drop_repeats(list(result.outputs))]
    if not is_appended or any(n is not insert and n is not loop for n in readers):
        return None
    if any(find_use(n) is not SequenceUse.JOIN for n in joins):
        return None
    member = insert.inputs[1].name
    shape = _find_shape(model, member, general)
    if not shape or not all(_can_join(n, shape) for n in joins):
        return None
    return Filled(loop, marker, k, insert, tuple(joins), shape, general.types[member].tensor_type.elem_type)


def _find_shape(model: Model, name: str, general: General) -> Shape | None:
    """The shape of a value of a body, where it is the same in every round: it follows from that of the inputs."""
    axes = general.axes(name)
    told = {s: 1 for row in find_input_axes(model).values() for size in row for s in find_size_symbols(size)}
    if axes is None or any(compute_value(size, told) is None for size in axes):
        return None
    return tuple(size if isinstance(size, int) else None for size in axes)


def _can_join(node: gs.Node, shape: Shape) -> bool:
    """Can a stack of such members be brought into the shape that the node gives?"""
    if node.attrs.get("new_axis", 0):
        return True
    axis = int(node.attrs["axis"]) % len(shape)
    return shape[axis] == 1 or None not in shape[axis + 1 :]


def _stack(model: Model, found: Filled) -> None:
    """Give the member of each round in place of the state."""
    loop, k, path = found.loop, found.state, found.marker.attrs["path"]
    states = int(loop.attrs["states"])
    member = found.insert.inputs[1]
    stacked = model.new_value(f"{loop.outputs[k].name}.stacked")
    for node in found.joins:
        _join(model, node, stacked, found.shape)
    del loop.inputs[states + 1 + k], loop.inputs[k], loop.outputs[k]
    loop.inputs.append(member)
    loop.outputs.append(stacked)
    loop.attrs["states"] = states - 1
    loop.attrs["unread"] = [i - (i > k) for i in loop.attrs["unread"]]
    del found.marker.inputs[LOOP_STATES + k], found.marker.outputs[BODY_STATES + k]
    frame = onnx.GraphProto()
    frame.CopyFrom(model.bodies[path])
    del frame.input[LOOP_STATES + k], frame.output[1 + k]
    frame.output.append(onnx.helper.make_tensor_value_info(member.name, found.kind, None))
    model.bodies = {**model.bodies, path: frame}
    found.insert.inputs.clear()
    found.insert.outputs.clear()
    model.graph.nodes[:] = [n for n in model.graph.nodes if n is not found.insert]


def _join(model: Model, node: gs.Node, stacked: gs.Variable, shape: Shape) -> None:
    """Make of a ConcatFromSequence what gives the same of the stack."""
    is_new = bool(node.attrs.get("new_axis", 0))
    rank = len(shape) + 1
    axis = int(node.attrs["axis"]) % (rank if is_new else rank - 1)
    name = node.outputs[0].name
    if axis:
        turned = model.new_value(f"{name}.turned")
        order = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
        before = build.new_node(model, build.transpose(stacked, order), f"{name}.turned", [turned])
        at = next(i for i, n in enumerate(model.graph.nodes) if n is node)
        model.graph.nodes.insert(at, before)
        stacked = turned
    if is_new:
        replace_node(node, build.identity(stacked))
    elif shape[axis] == 1:
        replace_node(node, build.squeeze(stacked, [axis + 1], model.opset.get("", 1), _name_axes(model, name)))
    else:
        sizes = np.array([*[0] * axis, -1, *shape[axis + 1 :]], np.int64)
        replace_node(node, build.reshape(stacked, model.new_constant(f"{name}.shape", sizes)))


def _name_axes(model: Model, name: str) -> build.Constant[gs.Tensor]:
    def make(values: NDArray[Any]) -> gs.Constant:
        return model.new_constant(f"{name}.axes", values)

    return make
