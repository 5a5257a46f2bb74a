"""Folding: what depends on constants only, at every size of the symbolic axes, becomes a constant.

Weights stay as they are in the file, and what is computed from them stays computed. Only statistics over weights (the
mean and variance of weight standardisation) are written down: pruned weights would have others.
"""

from __future__ import annotations

import math
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.execution.session import add_outputs, open_session, run_session
from spa_compiler.ir.control_flow import is_control, is_marker
from spa_compiler.ir.model import Model, find_element_type, make_constant
from spa_compiler.operators.facts import is_statistic
from spa_compiler.operators.movement import find_joined_axis
from spa_compiler.shape_inference.environment import Facts
from spa_compiler.shape_inference.every_binding import General

Array = NDArray[Any]
FLOAT_TYPES = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}


def fold_constants(model: Model, general: Facts) -> int:
    """Replace what is the same for every binding by constants; returns how many nodes went. Changes the model.

    What is computed from weights stays as it is: the file would grow (a half cast to float, a table that is gathered),
    and the weights would lose their names.
    """
    outputs = {t.name for t in model.graph.outputs} | set(model.captured)
    outputs |= {t.name for n in model.graph.nodes if is_control(n) for t in n.inputs}  # what bodies give
    weights = {n for n, t in model.constants().items() if len(t.shape) > 0 and math.prod(t.shape) > 1 and _is_float(t)}
    folded: list[gs.Node] = []
    for node in model.graph.nodes:
        names = [t.name for t in node.outputs if t.name]
        if is_marker(node) or is_control(node):  # what is decided there was put in its place before
            continue
        if any(t.name in weights for t in node.inputs) and all(_is_floating(n, general) for n in names):
            weights.update(names)
            continue
        if not names or not all(n in general.values and n not in outputs for n in names):
            continue
        folded.append(node)
    for node in reversed(folded):  # readers first: what only they read needs no constant
        for tensor in list(node.outputs):
            if tensor.name and tensor.outputs:
                _replace(tensor, make_constant(tensor.name, general.values[tensor.name]))
        node.inputs.clear()
        node.outputs.clear()
    gone = {id(n) for n in folded}
    model.graph.nodes[:] = [n for n in model.graph.nodes if id(n) not in gone]
    return len(gone)


def skip_empty(model: Model, general: General) -> int:
    """Concat without inputs that are empty anyway: rotary embeddings of whole heads cut off a rest of size 0."""
    made = 0
    for node in model.graph.nodes:
        if find_joined_axis(node) is not None:
            kept = [t for t in node.inputs if 0 not in (general.axes(t.name) or ())]
            if 0 < len(kept) < len(node.inputs):
                made += len(node.inputs) - len(kept)
                node.inputs = kept
    return made


def fold_statistics(model: Model) -> int:
    """Means and variances over weights become constants; one run of the nodes that they need gives them.

    A BatchNormalization in training mode over weights (weight standardisation) is such a statistic as a whole.
    """
    known = set(model.constants())
    inner: list[gs.Node] = []
    for node in model.graph.nodes:
        if node.inputs and all(not t.name or t.name in known for t in node.inputs) and not _has_body(node):
            known |= {t.name for t in node.outputs}
            inner.append(node)
    targets = [n for n in inner if is_statistic(n) and n.outputs[0].name not in {t.name for t in model.graph.outputs}]
    if not targets:
        return 0
    values = evaluate_nodes(model, inner, [n.outputs[0].name for n in targets])
    for node in targets:
        _replace(node.outputs[0], make_constant(node.outputs[0].name, values[node.outputs[0].name]))
    return len(targets)


def _has_body(node: gs.Node) -> bool:
    return is_marker(node) or is_control(node) or any(isinstance(a, gs.Graph) for a in node.attrs.values())


def evaluate_nodes(model: Model, nodes: list[gs.Node], names: list[str]) -> dict[str, Array]:
    """Values that depend on constants only, by a run of the nodes that make them."""
    part = model.copy()
    wanted = {n.outputs[0].name for n in nodes}
    part.graph.nodes[:] = [n for n in part.graph.nodes if n.outputs and n.outputs[0].name in wanted]
    part.graph.inputs, part.graph.outputs = [], []
    proto = part.proto()
    del proto.graph.input[:], proto.graph.output[:]
    session = open_session(add_outputs(proto, names), model.folder, what=str(model.path))
    return dict(zip([o.name for o in session.get_outputs()], run_session(session, {}, str(model.path)), strict=True))


def _is_float(t: gs.Constant) -> bool:
    return find_element_type(t) in FLOAT_TYPES


def _is_floating(name: str, facts: Facts) -> bool:
    """Is this value, or one that nothing is known of, made of floats?"""
    return name not in facts.types or facts.types[name].tensor_type.elem_type in FLOAT_TYPES


def _replace(old: gs.Tensor, new: gs.Tensor) -> None:
    """Every reader of `old` reads `new`."""
    for user in list(old.outputs):
        for i, t in enumerate(user.inputs):
            if t is old:
                user.inputs[i] = new
