"""Reading a model file: parse and check it, inline its functions, open the bodies of control nodes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import networkx as nx
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from spa_compiler.errors import ModelError
from spa_compiler.ir.control_flow import flatten_bodies
from spa_compiler.ir.external_data import PROTOBUF_LIMIT, densify, embed_tensor, find_locations
from spa_compiler.ir.initializers import (
    find_defaults,
    find_initializer_names,
    replace_constant_nodes,
    take_defaults,
)
from spa_compiler.ir.memory import USUAL_BYTES
from spa_compiler.ir.model import Model
from spa_compiler.ir.names import Names
from spa_compiler.ir.snapshots import Snapshot
from spa_compiler.ir.subgraphs import find_captured, list_subgraphs
from spa_compiler.ir.tensors import describe_tensor, iterate_tensors
from spa_compiler.ir.validation import check_proto

MODEL_FIELDS = ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string")


def _detach_node(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node, or a copy where graphsurgeon holds its tensors: exporting them changes their names in place."""
    if all(a.type not in (a.TENSOR, a.TENSORS) for a in node.attribute):
        return node
    out = onnx.NodeProto()
    out.CopyFrom(node)
    return out


def load(path: str | os.PathLike[str], memory: int = USUAL_BYTES) -> Model:
    """Read and check a model. Raises ModelError with the file, the place and what to do.

    `memory`: bytes that a value of it may take.
    """
    path = Path(path)
    files = Snapshot.of([path], whole=True)  # before it is read: what changes from now on is seen at the end
    proto = read_proto(path)
    _check_inlined(proto, path)  # onnx.checker follows every call
    notes, external = check_proto(proto, path, memory), find_locations(proto)
    files = files.join(Snapshot.of(path.parent / name for name in sorted(external)))
    if proto.functions:
        proto, inlined = _inline_functions(proto, path)
        notes += inlined
    return replace(from_proto(proto, path, notes), external=external, files=files, memory=memory)


TORCH, TENSORFLOW = "torch.onnx.export(model, inputs, 'model.onnx')", "python -m tf2onnx.convert"
OTHER_FORMATS = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors"), ("weights or a program of PyTorch", TORCH)),
    ".pt2": ("a program of torch.export", TORCH),
    ".tflite": ("a model of TensorFlow Lite", f"{TENSORFLOW} --tflite model.tflite --output model.onnx"),
    ".pb": ("a graph of TensorFlow", f"{TENSORFLOW} --saved-model FOLDER --output model.onnx"),
    **dict.fromkeys((".h5", ".keras"), ("a model of Keras", "model.export('model.onnx', format='onnx')")),
    ".mlmodel": ("a model of Core ML", "export the model that it was made from"),
    ".engine": ("a plan of TensorRT", "compile the ONNX file that it was built from"),
    ".gguf": ("weights of llama.cpp", "export the model that they were made from"),
}
"""Files that people have, by the end of their names: what they are, and how an ONNX file is made."""


def read_proto(path: Path) -> onnx.ModelProto:
    """Parse the protobuf of a file without its external data."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    if path.stat().st_size > PROTOBUF_LIMIT:
        raise ModelError(f"{path}: larger than protobuf's 2 GiB; save the model with external data")
    if path.suffix.lower() in OTHER_FORMATS:
        what, how = OTHER_FORMATS[path.suffix.lower()]
        raise ModelError(f"{path}: {what}, no ONNX model; export it first ({how})")
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, RecursionError) as e:
        raise ModelError(f"{path}: not an ONNX file, or truncated ({e})") from e
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX model: it has no graph or no opset")
    return proto


MOST_INLINED = 500_000
"""Nodes that a model may have when its functions are inlined: two that call each other twice are doubled each time."""


def _check_inlined(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse functions that become too many nodes, before they do."""
    bodies = {(f.domain, f.name): [*_list_nodes(f.node)] for f in proto.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[onnx.NodeProto]) -> int:
        return sum(counts.get((n.domain, n.op_type), 1) for n in nodes)

    calls = nx.DiGraph((name, (n.domain, n.op_type)) for name, nodes in bodies.items() for n in nodes)
    try:
        order = [name for name in reversed([*nx.topological_sort(calls)]) if name in bodies]
    except nx.NetworkXUnfeasible as e:
        cycle = " -> ".join(f"'{a[1]}'" for a, _ in nx.find_cycle(calls))
        raise ModelError(f"{path}: the model's own functions call themselves: {cycle}") from e
    for name in order:
        counts[name] = count(bodies[name])
    total = count(_list_nodes(proto.graph.node))
    if total > MOST_INLINED:
        most = max(counts, key=lambda name: counts[name])
        raise ModelError(
            f"{path}: the model's own functions would become {total:,} nodes when they are inlined (one call of "
            f"'{most[1]}' is {counts[most]:,}); at most {MOST_INLINED:,} are read"
        )


def _list_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of the bodies in them."""
    for node in nodes:
        yield node
        for body in list_subgraphs(node):
            yield from _list_nodes(body.node)


def _inline_functions(proto: onnx.ModelProto, path: Path) -> tuple[onnx.ModelProto, list[str]]:
    """Calls of the model's own functions become their bodies: a body has one shape, a pruned call its own."""
    names = {(f.domain, f.name) for f in proto.functions}
    calls = sum((n.domain, n.op_type) in names for n in proto.graph.node)
    try:
        flat = onnx.inliner.inline_local_functions(proto)
    except Exception as e:
        raise ModelError(f"{path}: the model's own functions cannot be inlined: {e}") from e
    return flat, [f"{calls} calls of {len(names)} functions of the model's own were inlined"]


def from_proto(proto: onnx.ModelProto, path: Path, notes: list[str] | None = None) -> Model:
    """A model from protobuf, which is changed: Constant nodes become initializers, bodies are opened."""
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
    names, (defaults, listed) = Names.of(proto), find_defaults(proto)
    bodies, homes = flatten_bodies(proto.graph, version, names)
    initializers = find_initializer_names(proto.graph)
    replace_constant_nodes(proto.graph)
    _embed_tensors(proto, path)
    header = onnx.ModelProto()
    for name in MODEL_FIELDS:
        if proto.HasField(name):
            setattr(header, name, getattr(proto, name))
    for name in ("opset_import", "metadata_props", "functions", "training_info"):
        getattr(header, name).extend(getattr(proto, name))
    g = header.graph
    g.name, g.doc_string = proto.graph.name, proto.graph.doc_string
    g.input.extend(i for i in proto.graph.input if i.name not in initializers)
    for name in ("output", "value_info", "quantization_annotation", "metadata_props"):
        getattr(g, name).extend(getattr(proto.graph, name))
    sparse = tuple(onnx.SparseTensorProto.FromString(s.SerializeToString()) for s in proto.graph.sparse_initializer)
    proto.graph.initializer.extend(densify_sparse(s, path) for s in sparse)
    del proto.graph.sparse_initializer[:]
    given = take_defaults(proto.graph, defaults)
    try:
        graph = gs.import_onnx(proto)
    except Exception as e:
        raise ModelError(f"{path}: onnx-graphsurgeon cannot read the graph: {e}") from e
    origin = {n.output[0]: _detach_node(n) for n in proto.graph.node if n.output}
    held = find_captured(proto.graph)
    flat = Model(graph, header, origin, path, held, None, [*(notes or []), *listed], bodies=bodies, homes=homes)
    return replace(flat, sparse=sparse, names=names, defaults=given)


def _embed_tensors(proto: onnx.ModelProto, path: Path) -> None:
    """Take external data into the file, but for that of initializers, which may be large: those stay where they are.

    Sparse tensors, attributes, functions and training info are read by code that looks for files in the working folder.
    """
    total = 0
    for tensor, holders in iterate_tensors(proto):
        if len(holders) == 2 and isinstance(holders[1], onnx.GraphProto):
            continue
        try:
            total += embed_tensor(tensor, path.parent, PROTOBUF_LIMIT - total)
        except ModelError as e:
            raise ModelError(f"{path}: {describe_tensor(tensor, holders)} {e}") from e


def densify_sparse(sparse: onnx.SparseTensorProto, path: Path) -> onnx.TensorProto:
    """A sparse initializer as a dense one."""
    name = sparse.values.name
    try:
        return numpy_helper.from_array(densify(sparse, path.parent), name)
    except ModelError as e:
        raise ModelError(f"{path}: sparse initializer '{name}' {e}") from e
