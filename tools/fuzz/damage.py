"""Models that are broken: bytes are changed, or one field of one node, constant, input or output."""

from __future__ import annotations

import random

import onnx


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, dropped, repeated, or the end cut off."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out))
        kind = rng.choice(["set", "flip", "drop", "repeat", "cut"])
        if kind == "set":
            out[at] = rng.randrange(256)
        elif kind == "flip":
            out[at] ^= 1 << rng.randrange(8)
        elif kind == "drop":
            del out[at : at + rng.randint(1, 8)]
        elif kind == "repeat":
            out[at:at] = out[at : at + rng.randint(1, 8)]
        elif rng.random() < 0.2:
            del out[at:]
        if not out:
            break
    return bytes(out)


def damage_fields(model: onnx.ModelProto, rng: random.Random) -> None:  # noqa: C901 - a table of mutations
    """One field of one node, constant, input or output changed."""
    graph = model.graph
    names = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output] + ["", "nowhere"]
    ops = [n.op_type for n in graph.node] + ["Reshape", "Transpose", "Slice", "Loop", "MatMul", "Unknown", "Identity"]
    node = rng.choice(graph.node)
    kind = rng.randrange(13)
    if kind == 0 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif kind == 1:
        node.op_type = rng.choice(ops)
    elif kind == 2 and node.attribute:
        damage_attribute(rng.choice(node.attribute), rng)
    elif kind == 3 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([0, 1, 2, 3, 7, -1, 1 << 40])
    elif kind == 4 and graph.initializer:
        rng.choice(graph.initializer).data_type = rng.randrange(25)
    elif kind == 5:
        graph.node.remove(node)
    elif kind == 6 and node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(names)
    elif kind == 7:
        shape = rng.choice([*graph.input, *graph.output]).type.tensor_type.shape
        if shape.dim:
            rng.choice(shape.dim).dim_value = rng.choice([0, 1, 2, 5, -3, 1 << 33])
    elif kind == 8:
        model.opset_import[0].version = rng.choice([1, 6, 7, 9, 11, 13, 18, 22, 99])
    elif kind == 9:
        node.domain = rng.choice(["com.microsoft", "ai.onnx.ml", "com.example", "local"])
    elif kind == 10:
        graph.node.add().CopyFrom(node)
    elif kind == 11 and graph.initializer:
        graph.initializer.remove(rng.choice(graph.initializer))
    else:
        del node.input[rng.randrange(len(node.input) + 1) :]


def damage_attribute(a: onnx.AttributeProto, rng: random.Random) -> None:
    """Another value, mostly one that makes no sense."""
    if a.type == onnx.AttributeProto.INT:
        a.i = rng.choice([-9, -1, 0, 1, 2, 5, 1 << 40])
    elif a.ints:
        a.ints[rng.randrange(len(a.ints))] = rng.choice([-9, -1, 0, 1, 3, 1 << 40])
    elif a.type == onnx.AttributeProto.FLOAT:
        a.f = rng.choice([0.0, -1.0, float("nan"), float("inf")])
    elif a.s:
        a.s = rng.choice([b"", b"SAME_UPPER", b"reverse", b"\xff"])
    elif a.g.node:
        a.g.node.remove(rng.choice(a.g.node))
    else:
        a.name = "unknown"
