"""New weights and biases for the compiled model; a bias is added where a node has none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.compensation.quantized_weights import Grid, make_quantized_bias, put_quantized
from spa_compiler.execution.finite import ignore_overflow, is_finite
from spa_compiler.ir.editing import drop_dead
from spa_compiler.ir.model import Model, find_element_type, make_constant
from spa_compiler.operators import build
from spa_compiler.operators.build import new_node
from spa_compiler.operators.contraction import Form

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass
class Update:
    """New weights and the change of the bias of one node, by the name of its first output."""

    form: Form
    weights: Array
    bias: Floats  # (rows,) to be added to the output
    grids: tuple[Grid, Grid] | None = None  # before and after, of weights that are quantised


@dataclass
class Replacement:
    """New constants of a node whose bias is its own (a recurrent operator), by input slot."""

    constants: dict[int, Array]


@dataclass
class Outcome:
    """How many nodes have new weights, which of them are recurrent, and why contractions that were cut have none.

    `unfit` are those of the others whose values in calibration are not finite, or too large to be squared.
    """

    solved: int = 0
    recurrent: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    unfit: list[str] = field(default_factory=list)


def find_key(outputs: Iterable[str]) -> str:
    """The key of a node: its last output that has a name (the first one may be made up: `add_step_outputs`)."""
    return next((n for n in reversed(list(outputs)) if n), "")


def apply_updates(small: Model, updates: Mapping[str, Update | Replacement]) -> Model:
    """The model with the new weights; a bias is created where there was none."""
    model = small.copy()
    outputs = {t.name for t in model.graph.outputs}
    for node in list(model.graph.nodes):
        update = updates.get(find_key(t.name for t in node.outputs))
        if isinstance(update, Replacement):
            for slot, values in update.constants.items():
                _put_constant(model, node, slot, values)
        if not isinstance(update, Update):
            continue
        tensor = node.inputs[update.form.weight]
        weight = update.weights
        if update.grids is not None:
            put_quantized(model, tensor, *update.grids, weight)
        else:
            put_weight(model, node, update.form.weight, weight, f"{node.outputs[0].name}.weight")
        if update.form.bias is None and update.bias.any():
            _add_behind(model, node, update, outputs)
        elif update.form.bias is not None:
            _add_bias(model, node, update, update.form.bias)
    drop_dead(model)
    return model


def put_weight(model: Model, node: gs.Node, slot: int, values: Array, wanted: str) -> None:
    """Other numbers for a weight; one that is stored in a shorter type, behind a Cast, stays so."""
    old = node.inputs[slot]
    stored = build.find_stored(old)
    kind = onnx.TensorProto.FLOAT if stored is None else find_element_type(stored)
    with ignore_overflow():
        short = values.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    if stored is None or not is_finite(short.astype(np.float64)):
        own = isinstance(old, gs.Constant)
        node.inputs[slot] = make_constant(old.name, values) if own else model.new_constant(wanted, values)
        return
    maker = old.inputs[0]
    if len(old.outputs) == 1 and len(stored.outputs) == 1 and not {old.name, stored.name} & set(model.captured):
        maker.inputs[0] = make_constant(stored.name, short)
        return
    node.inputs[slot] = model.new_value(wanted)
    call = build.cast(model.new_constant(f"{wanted}.stored", short), int(maker.attrs["to"]))
    at = next(i for i, n in enumerate(model.graph.nodes) if n is node)
    model.graph.nodes.insert(at, new_node(model, call, wanted, [node.inputs[slot]]))


def _add_bias(model: Model, node: gs.Node, update: Update, slot: int) -> None:
    """Into the bias input of Conv, ConvTranspose or Gemm; an Add in front of it where it is made at run time."""
    beta = getattr(update.form, "beta", 1.0)
    old = node.inputs[slot] if slot < len(node.inputs) and node.inputs[slot].name else None
    if update.grids is not None and beta != 0:
        slots = update.form.data, slot
        if make_quantized_bias(model, node, slots, *update.grids, update.bias / beta) is not None:
            return
    stored = None if old is None else build.find_stored(old)
    if beta != 0 and old is not None and stored is not None:
        values = (model.array(stored).astype(np.float64) + update.bias / beta).astype(update.weights.dtype)
        put_weight(model, node, slot, values, f"{node.outputs[0].name}.bias")
        return
    if beta != 0 and old is not None and not isinstance(old, gs.Constant):
        change = (update.bias / beta).astype(update.weights.dtype)
        addend = model.new_constant(f"{node.outputs[0].name}.bias", change)
        total = node.inputs[slot] = model.new_value(f"{addend.name}.sum")
        at = next(i for i, n in enumerate(model.graph.nodes) if n is node)
        model.graph.nodes.insert(at, new_node(model, build.add(old, addend), total.name, [total]))
        return
    before = 0.0 if old is None or beta == 0 else model.array(old).astype(np.float64)
    if beta == 0:
        node.attrs["beta"] = beta = 1.0
    values = (before + update.bias / beta).astype(update.weights.dtype)
    while len(node.inputs) <= slot:
        node.inputs.append(gs.Variable.empty())
    wanted = f"{node.outputs[0].name}.bias"
    own = "" if old is None or len(old.outputs) > 1 or old.name in model.captured else old.name
    node.inputs[slot] = make_constant(own, values) if own else model.new_constant(wanted, values)


def _add_behind(model: Model, node: gs.Node, update: Update, outputs: set[str]) -> None:
    """Into the constant of an Add behind a MatMul, or as an Add of its own."""
    y = node.outputs[0]
    bias = update.form.spread(update.bias, update.weights).astype(update.weights.dtype)
    reader = y.outputs[0] if len(y.outputs) == 1 and y.name not in outputs else None
    if reader is not None and build.is_sum(reader):
        for k, t in enumerate(reader.inputs):
            if not isinstance(t, gs.Constant) or len(t.outputs) > 1 or t.name in model.captured:
                continue
            old = model.array(t)
            if old.shape[-bias.ndim :] == bias.shape and old.size == bias.size:
                added = old.astype(np.float64) + bias.reshape(old.shape)
                reader.inputs[k] = make_constant(t.name, added.astype(old.dtype))
                return
    raw = model.new_value(f"{y.name}.unbiased")
    node.outputs[0] = raw
    at = next(i for i, n in enumerate(model.graph.nodes) if n is node)
    addend = model.new_constant(f"{y.name}.bias", bias)
    model.graph.nodes.insert(at + 1, new_node(model, build.add(raw, addend), f"{y.name}.bias", [y]))


def _put_constant(model: Model, node: gs.Node, slot: int, values: Array) -> None:
    """A constant into an input that may not have been there."""
    while len(node.inputs) <= slot:
        node.inputs.append(gs.Variable.empty())
    old, wanted = node.inputs[slot].name, f"{find_key(t.name for t in node.outputs)}.{slot}"
    node.inputs[slot] = make_constant(old, values) if old else model.new_constant(wanted, values)
