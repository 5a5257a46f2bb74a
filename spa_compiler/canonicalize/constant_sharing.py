"""Constants that several nodes read: copies of their own before the analysis, shared again afterwards."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from spa_compiler.ir.editing import drop_repeats, find_index
from spa_compiler.ir.model import Model, find_element_type
from spa_compiler.operators.facts import is_fill
from spa_compiler.operators.movement import is_copy, is_slice


def bypass(model: Model) -> int:
    """Exporters share equal constants through Identity: the readers get the constant itself."""
    made = 0
    kept = {t.name for t in model.graph.outputs} | set(model.captured)
    for node in model.graph.nodes:
        if is_copy(node) and isinstance(node.inputs[0], gs.Constant) and node.outputs[0].name not in kept:
            for user in drop_repeats(node.outputs[0].outputs):
                for i in [i for i, t in enumerate(user.inputs) if t is node.outputs[0]]:
                    user.inputs[i] = node.inputs[0]
            made += 1
    return made


def untie_constants(model: Model) -> int:
    """One copy per use of every shared constant that has at most one axis longer than 1, or one value only."""
    made = 0
    for name, tensor in model.constants().items():
        if len(tensor.outputs) < 2 or name in model.captured or not _is_small(model, tensor):
            continue
        values = model.array(tensor)
        if all(is_slice(n) for n in tensor.outputs):  # gates picked from one bias: what it means
            continue
        slots = [(n, i) for n in drop_repeats(tensor.outputs) for i, t in enumerate(n.inputs) if t is tensor]
        for k, (node, i) in enumerate(slots[1:], 1):
            copy = node.inputs[i] = model.new_constant(f"{name}.use{k}", values)
            model.copies[copy.name] = name
            made += 1
    return made


def untie_zeros(model: Model) -> int:
    """One ConstantOfShape per use: the zero state of every recurrent operator is its own."""
    return sum(_untie_node(model, node) for node in [n for n in model.graph.nodes if is_fill(n)])


def retie_constants(model: Model) -> int:
    """Readers of a copy that `untie_constants` made read the original again where both hold the same; returns how many
    went.

    For the file: a plan that cut one use and not the other leaves them apart.
    """
    made = 0
    constants = model.constants()
    for name, copy in constants.items():
        original = constants.get(model.copies.get(name, ""))
        if original is None or name in model.captured or find_element_type(original) != find_element_type(copy):
            continue
        if original.shape == copy.shape and model.array(original).tobytes() == model.array(copy).tobytes():
            for user in drop_repeats(copy.outputs):
                for i in [i for i, t in enumerate(user.inputs) if t is copy]:
                    user.inputs[i] = original
            made += 1
    return made


def _untie_node(model: Model, node: gs.Node) -> int:
    out = node.outputs[0]
    slots = [(n, i) for n in drop_repeats(out.outputs) for i, t in enumerate(n.inputs) if t is out]
    for k, (user, i) in enumerate(slots[1:], 1):
        copy = model.new_value(f"{out.name}.use{k}", out.dtype, out.shape)
        user.inputs[i] = copy
        fresh = model.new_node(node.op, f"{node.name or out.name}.use{k}", dict(node.attrs), list(node.inputs), [copy])
        model.graph.nodes.insert(find_index(model.graph, node), fresh)
    return max(len(slots) - 1, 0)


def _is_small(model: Model, tensor: gs.Constant) -> bool:
    if sum(d > 1 for d in tensor.shape) <= 1:
        return True
    if math.prod(tensor.shape) > 1 << 16:
        return False
    values = model.array(tensor)
    return bool((values == values.ravel()[0]).all()) if values.size else True
