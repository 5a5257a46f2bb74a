"""Initializers: constants of the model, or defaults of inputs that a run may replace.

    defaults, notes = find_defaults(proto)              # graph inputs with a default, by name
    given = take_defaults(proto.graph, defaults)        # they are inputs like any other from here on
    list_inputs(proto, given)                           # the reverse, for the file that is written

An initializer that is listed among the graph inputs says two things. Before IR version 4 every initializer had to be
listed, and none can be replaced (onnxruntime refuses it): they are constants. Since then a run may give another value,
so that nothing may be worked out from it. But exporters also list all weights of a model out of habit (PyTorch's
`keep_initializers_as_inputs`): where every weight is listed, they are weights, and the compiled file does not list them
any more, because what was pruned or folded cannot be replaced. Where only some are listed, those are meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from spa_compiler.ir.subgraphs import WEIGHT_TYPES

REPLACEABLE_SINCE = 4
"""The IR version from which a listed initializer is a default that a run may replace."""
REPLACEABLE = "a run may give another value: it is a graph input with a default"
"""Why it may not be pruned."""
HABIT = (
    "all weights are listed as graph inputs with defaults, as some exporters do: they are taken for weights; a file "
    "that is changed lists them no more, so that no run can replace what was pruned or folded"
)


@dataclass(frozen=True)
class Default:
    """A graph input that a run may leave out: its declaration, and its value then (external data is not read)."""

    info: onnx.ValueInfoProto
    tensor: onnx.TensorProto


def find_initializer_names(graph: onnx.GraphProto) -> set[str]:
    """Names of dense and sparse initializers."""
    return {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}


def find_defaults(proto: onnx.ModelProto) -> tuple[dict[str, onnx.ValueInfoProto], list[str]]:
    """Graph inputs that have a default which a run may replace, and what to say of those that are none."""
    held = find_initializer_names(proto.graph)
    listed = {v.name: v for v in proto.graph.input if v.name in held}
    if proto.ir_version < REPLACEABLE_SINCE or not listed:
        return {}, []
    tensors = [(t.name, t.dims, t.data_type) for t in proto.graph.initializer]
    tensors += [(s.values.name, s.dims, s.values.data_type) for s in proto.graph.sparse_initializer]
    weights = {name for name, dims, kind in tensors if len(dims) >= 2 and kind in WEIGHT_TYPES}
    return ({}, [HABIT]) if weights and weights <= listed.keys() else (listed, [])


def take_defaults(graph: onnx.GraphProto, defaults: Mapping[str, onnx.ValueInfoProto]) -> dict[str, Default]:
    """Take the initializers of these inputs out of a graph, which is changed."""
    if not defaults:
        return {}
    tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer]
    del graph.initializer[:]
    graph.initializer.extend(t for t in tensors if t.name not in defaults)
    values = {t.name: t for t in tensors if t.name in defaults}
    infos = {n: onnx.ValueInfoProto.FromString(v.SerializeToString()) for n, v in defaults.items()}
    return {n: Default(info, values[n]) for n, info in infos.items()}


def list_inputs(proto: onnx.ModelProto, defaults: Mapping[str, Default]) -> None:
    """List as graph inputs what has to be: defaults, and before IR version 4 every initializer. Changes the proto."""
    graph, info = proto.graph, onnx.helper.make_tensor_value_info
    if proto.ir_version < REPLACEABLE_SINCE:
        graph.input.extend(info(t.name, t.data_type, t.dims) for t in graph.initializer)
    graph.initializer.extend(d.tensor for d in defaults.values())
    graph.input.extend(d.info for d in defaults.values())


def replace_constant_nodes(graph: onnx.GraphProto) -> None:
    """Constant nodes of numbers become initializers; strings and sparse tensors stay nodes."""
    outputs = {o.name for o in graph.output}
    found = [(n, _find_constant_value(n)) for n in graph.node if n.op_type == "Constant" and n.output[0] not in outputs]
    found = [(n, t) for n, t in found if t is not None]
    graph.initializer.extend(t for _, t in found if t is not None)
    gone = {n.output[0] for n, _ in found}
    kept = [n for n in graph.node if n.op_type != "Constant" or n.output[0] not in gone]
    if gone:
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
        del graph.node[:]
        graph.node.extend(kept)


def _find_constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    a = node.attribute[0] if node.attribute else onnx.AttributeProto()
    if a.name == "value":
        out = onnx.TensorProto()
        out.CopyFrom(a.t)
        out.name = node.output[0]
        return out
    if a.name in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(a), np.int64), node.output[0])
    if a.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(a), np.float32), node.output[0])
    return None
