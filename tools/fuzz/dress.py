"""The same graph in other clothes: quantised, with weights elsewhere, other names, unknown operators, stated shapes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz.draft import Draft

Files = dict[str, bytes]
READERS = ("Conv", "MatMul", "Gemm", "ConvTranspose")


def quantize(d: Draft, model: onnx.ModelProto) -> None:
    """Weights as int8 behind DequantizeLinear, and activations through a pair, as static quantisation writes them."""
    graph, weights = model.graph, {t.name: t for t in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    extra: list[TensorProto] = []
    for k, node in enumerate(list(graph.node)):
        if node.op_type in READERS and len(node.input) > 1 and not node.domain:
            t = weights.get(node.input[1])
            if t is not None and t.data_type == TensorProto.FLOAT and len(t.dims) > 1:
                axis = len(t.dims) - 1 if node.op_type == "MatMul" else 0
                name, fresh = f"{t.name}.dq{k}", _quantize_weight(d, t, axis, k)
                extra += fresh
                nodes.append(
                    helper.make_node("DequantizeLinear", [e.name for e in fresh], [name], axis=axis, name=name)
                )
                node.input[1] = name
            if d.chance(0.6):
                nodes += _pair(d, node.input[0], k, extra)
                node.input[0] = nodes[-1].output[0]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(extra)
    used = {i for n in nodes for i in n.input}
    for t in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(t)


def _quantize_weight(d: Draft, t: TensorProto, axis: int, k: int) -> list[TensorProto]:
    """The integers, a scale per channel (no two alike), and zero points."""
    a = numpy_helper.to_array(t)
    rest = tuple(i for i in range(a.ndim) if i != axis)
    scale = (np.abs(a).max(rest) / 127 + 1e-6) * d.numbers.uniform(1.0, 1.2, a.shape[axis])
    scale = scale.astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(a.ndim)]
    q = np.clip(np.round(a / scale.reshape(shape)), -127, 127).astype(np.int8)
    parts = [(q, "q"), (scale, "scale"), (np.zeros(len(scale), np.int8), "zero")]
    return [numpy_helper.from_array(p, f"{t.name}.{n}{k}") for p, n in parts]


def _pair(d: Draft, value: str, k: int, extra: list[TensorProto]) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear of an activation, by one scale."""
    given = [f"{value}.s{k}", f"{value}.z{k}"]
    extra.append(numpy_helper.from_array(np.array(d.pick([0.02, 0.05]), np.float32), given[0]))
    extra.append(numpy_helper.from_array(np.array(128, np.uint8), given[1]))
    q = helper.make_node("QuantizeLinear", [value, *given], [f"{value}.q{k}"], name=f"{value}.q{k}")
    return [q, helper.make_node("DequantizeLinear", [q.output[0], *given], [f"{value}.dq{k}"], name=f"{value}.d{k}")]


def insert_unknown(d: Draft, model: onnx.ModelProto) -> None:
    """An operator of a domain of its own, which a local function or nobody implements."""
    values = [n.output[0] for n in model.graph.node if n.op_type in ("Relu", "Add", "Conv", "MatMul")]
    if not values:
        return
    at = d.pick(values)
    place = next(k for k, n in enumerate(model.graph.node) if at in n.output)
    for n in model.graph.node:
        n.input[:] = ["unknown.out" if i == at else i for i in n.input]
    model.graph.node.insert(place + 1, helper.make_node("Mystery", [at], ["unknown.out"], domain="com.example"))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    if d.chance(0.6):
        inside = [helper.make_node("Sigmoid", ["a"], ["b"]), helper.make_node("Mul", ["a", "b"], ["c"])]
        model.functions.append(
            helper.make_function("com.example", "Mystery", ["a"], ["c"], inside, [helper.make_opsetid("", d.opset)])
        )


def rename(d: Draft, model: onnx.ModelProto) -> None:
    """Two constants, or values, are called like what a compiler might make up."""
    names = [t.name for t in model.graph.initializer] + [o for n in model.graph.node for o in n.output]
    outputs = {o.name for o in model.graph.output}
    bodies = any(a.HasField("g") for n in model.graph.node for a in n.attribute)
    if len(names) < 2 or bodies:
        return
    for _ in range(2):
        old, base = d.pick(names), d.pick(names)
        new = base + d.pick([".use1", ".patch", ".shape", ".operand0", ".keep", ".mask", "_0", ".use2", ".const"])
        if old in outputs or new in names or old.startswith("mean over"):
            continue
        if any(n.name == f"mean over {old}" for n in model.graph.node) or any(i.name == old for i in model.graph.input):
            continue
        names[names.index(old)] = new
        for n in model.graph.node:
            n.input[:] = [new if i == old else i for i in n.input]
            n.output[:] = [new if i == old else i for i in n.output]
        for t in model.graph.initializer:
            t.name = new if t.name == old else t.name


def state_shapes(d: Draft, model: onnx.ModelProto) -> None:
    """Shapes of all values, as an exporter writes them."""
    del d
    try:
        found = onnx.shape_inference.infer_shapes(model)
    except Exception:  # onnx raises errors of several libraries
        return
    model.graph.value_info.extend(found.graph.value_info)


def list_inputs(d: Draft, model: onnx.ModelProto) -> None:
    """Some weights are inputs with a default, too (all were, below version 4 of the format)."""
    for t in list(model.graph.initializer):
        if d.chance(0.3) and t.name not in {i.name for i in model.graph.input}:
            model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))


def store_outside(d: Draft, model: onnx.ModelProto) -> Files:
    """Weights in a file beside the model."""
    data = bytearray()
    for t in model.graph.initializer:
        if len(t.raw_data) < 64 or d.chance(0.1):
            continue
        for key, value in (("location", "weights.bin"), ("offset", len(data)), ("length", len(t.raw_data))):
            t.external_data.add(key=key, value=str(value))
        data += t.raw_data
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
    return {"weights.bin": bytes(data)} if data else {}


def store_sparse(d: Draft, model: onnx.ModelProto) -> None:
    """One weight as a sparse initializer."""
    fits = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2 and t.raw_data]
    if not fits:
        return
    t = d.pick(fits)
    a = numpy_helper.to_array(t)
    places = np.flatnonzero(a.ravel()).astype(np.int64)
    values = numpy_helper.from_array(a.ravel()[places], t.name)
    sparse = onnx.SparseTensorProto(
        values=values, indices=numpy_helper.from_array(places, f"{t.name}.places"), dims=list(a.shape)
    )
    model.graph.initializer.remove(t)
    model.graph.sparse_initializer.append(sparse)


DRESSES = [insert_unknown, rename, state_shapes, state_shapes, list_inputs, store_sparse]
