"""Checks of a file before anything else reads it: structure, sizes, external data, onnxruntime's operators."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message
from onnxruntime.capi import _pybind_state

from spa_compiler.errors import ModelError
from spa_compiler.ir.control_flow import DOMAIN
from spa_compiler.ir.external_data import check_tensors, find_locations
from spa_compiler.ir.memory import USUAL_BYTES
from spa_compiler.ir.subgraphs import find_free_names, list_subgraphs


def check_proto(proto: onnx.ModelProto, path: Path, memory: int = USUAL_BYTES) -> list[str]:
    """Text, structure, sizes and external files. What onnx.checker refuses is a note if it is only unknown to it.

    onnx.checker and onnxruntime read external data by themselves: they get a file only after every
    tensor in it was checked.
    Nodes that stand before what they read are put in order (in place), and that is a note: onnxruntime runs such files.
    """
    broken = _find_broken_text(proto)
    if broken:
        raise ModelError(f"{path}: not an ONNX file, or damaged: the text of '{broken}' is not UTF-8")
    check_tensors(proto, path, memory)
    _check_operators(proto.graph.node, path)
    for function in proto.functions:
        _check_operators(function.node, path)
    if twice := _find_repeated_output(proto.graph):
        raise ModelError(f"{path}: invalid model: two nodes make a value called '{twice}'; every value has one maker")
    moved = put_in_order(proto.graph)
    notes = [f"nodes that stood before what they read were put in order: {moved}"] if moved else []
    try:
        onnx.checker.check_model(str(path) if find_locations(proto) else proto)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as e:
        text = str(e).strip().split("\n\n")[0]
        foreign = "No opset import for domain" in text and "''" not in text  # onnxruntime imports its own by itself
        unsorted = bool(moved and find_locations(proto))  # the file itself was checked, for its external data
        ordered = unsorted and "topologically sorted" in text
        if not foreign and not ordered and "No Op registered" not in text and "deprecated" not in text:
            raise ModelError(f"{path}: invalid model: {text}") from e
        return notes if ordered else [*notes, f"onnx.checker: {text}"]
    return notes


def _find_repeated_output(graph: onnx.GraphProto) -> str:
    """A name that two nodes of a graph, or of one of its bodies, give to what they make, or ''."""
    seen: set[str] = set()
    for node in graph.node:
        for name in map(str, node.output):
            if name in seen:
                return name
            seen.update([name] if name else [])
    for body in (body for node in graph.node for body in list_subgraphs(node)):
        if inner := _find_repeated_output(body):
            return inner
    return ""


def put_in_order(graph: onnx.GraphProto) -> int:
    """Put nodes, those of bodies too, behind what they read, otherwise as they are; returns how many stood before it.

    Nodes in a cycle keep their places: it is named by whoever reads the graph.
    """
    inner = sum(put_in_order(body) for node in graph.node for body in list_subgraphs(node))
    maker = {name: k for k, node in enumerate(graph.node) for name in node.output if name}
    reads = [set(node.input).union(*map(find_free_names, list_subgraphs(node))) for node in graph.node]
    before = [{maker[n] for n in names if n in maker} for names in reads]
    late = sum(any(m >= k for m in makers) for k, makers in enumerate(before))
    if not late:
        return inner
    order = _sort_numbers(before)
    if len(order) < len(graph.node):
        return inner
    nodes = [onnx.NodeProto.FromString(graph.node[k].SerializeToString()) for k in order]
    del graph.node[:]
    graph.node.extend(nodes)
    return inner + late


def _sort_numbers(before: list[set[int]]) -> list[int]:
    """Numbers from 0 on, each behind those that have to come before it, small ones first; without those in a cycle."""
    after: dict[int, list[int]] = {}
    for k, makers in enumerate(before):
        for m in makers:
            after.setdefault(m, []).append(k)
    order, missing = [], [len(makers) for makers in before]
    ready = [k for k, makers in enumerate(before) if not makers]  # sorted, and so a heap
    while ready:
        order.append(heapq.heappop(ready))
        for k in after.get(order[-1], []):
            missing[k] -= 1
            if not missing[k]:
                heapq.heappush(ready, k)
    return order


def _find_broken_text(message: Message) -> str:
    """The place of the first text that is not UTF-8 (graph.node[3].input[0]), or ''.

    Protobuf reads such a field as bytes, without a word.
    """
    if isinstance(message, onnx.TensorProto):  # to ask for all of its fields is to copy its numbers
        return next((n for n in ("name", "doc_string") if isinstance(getattr(message, n), bytes)), "")
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        single = isinstance(value, str | bytes | Message)
        for k, v in enumerate([value] if single else value):
            place = field.name if single else f"{field.name}[{k}]"
            if field.type == field.TYPE_STRING and isinstance(v, bytes):
                return str(place)
            inner = _find_broken_text(v) if isinstance(v, Message) else ""
            if inner:
                return f"{place}.{inner}"
    return ""


@functools.cache
def _list_contrib_operators() -> dict[str, tuple[frozenset[int], int, int]]:
    """Inputs that must be given, least and largest number, of onnxruntime's own operators.

    onnx.checker does not know them.
    """
    known: list[Any] = getattr(_pybind_state, "get_all_operator_schema", list)()
    out = {}
    for s in known:
        if s.domain == "com.microsoft":
            needed = frozenset(i for i, p in enumerate(s.inputs) if "Optional" not in str(p.option) and i < s.min_input)
            out[s.name] = needed, s.min_input, s.max_input
    # onnxruntime 1.31 reads the last zero point of these without asking whether it is there
    return {**out, **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu"), (frozenset(range(5)), 5, 5))}


def _check_operators(nodes: Iterable[onnx.NodeProto], path: Path) -> None:
    """Refuse nodes that are known to end the process: what is too little for an operator of onnxruntime's own, what
    onnx's inference takes for a position without asking.
    """
    for node in nodes:
        if node.domain == DOMAIN:
            raise ModelError(f"{path}: node '{node.name}' is of the domain '{DOMAIN}', which files cannot have")
        needed, low, high = _list_contrib_operators().get(node.op_type, (frozenset(), 0, len(node.input)))
        given = {i for i, name in enumerate(node.input) if name}
        if node.domain == "com.microsoft" and not (low <= len(node.input) <= high and needed <= given):
            raise ModelError(
                f"{path}: {node.op_type} '{node.name or ' '.join(node.output)}' has {len(node.input)} inputs, "
                f"it takes {low} to {high}, of which numbers {sorted(needed)} must be given"
            )
        if "" in node.output and _is_naming_all(node):
            raise ModelError(
                f"{path}: {node.op_type} '{node.name or ' '.join(node.output)}' leaves output "
                f"{[*node.output].index('')} out; each of them has to have a name"
            )
        for a in node.attribute:
            if node.op_type == "GatherND" and a.name == "batch_dims" and a.i < 0:
                raise ModelError(f"{path}: GatherND '{node.name or ' '.join(node.output)}' has batch_dims {a.i}")
            for body in [a.g] if a.HasField("g") else a.graphs:
                _check_operators(body.node, path)


def _is_naming_all(node: onnx.NodeProto) -> bool:
    """Has an operator as many outputs as a node wants? None of them is optional: onnxruntime writes to all."""
    try:
        outputs = onnx.defs.get_schema(node.op_type, "" if node.domain == "ai.onnx" else node.domain).outputs
    except onnx.defs.SchemaError:
        return False
    return bool(outputs) and outputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
