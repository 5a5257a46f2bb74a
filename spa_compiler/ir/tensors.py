"""Every tensor of a model, wherever the file holds it: initializers, sparse ones, attributes, bodies, functions.

    for tensor, holders in iterate_tensors(proto): ...      # holders: the messages around it, the outermost first
    describe_tensor(tensor, holders)                       # "function 'local.F', node 'c', attribute 'value'"

The walk follows ONNX's own description of its messages, so that no place of a tensor can be forgotten.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import onnx
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

Holders = tuple[Message, ...]
TENSOR_TYPES = (onnx.TensorProto, onnx.SparseTensorProto)


def iterate_tensors(message: Message, around: Holders = ()) -> Iterator[tuple[onnx.TensorProto, Holders]]:
    """The tensors inside a message, each with the messages that hold it, `message` among them."""
    for found, holders in _walk(message, around, TENSOR_TYPES[:1]):
        if isinstance(found, onnx.TensorProto):
            yield found, holders


def iterate_sparse_tensors(message: Message) -> Iterator[tuple[onnx.SparseTensorProto, Holders]]:
    """The sparse tensors inside a message, each with the messages that hold it."""
    for found, holders in _walk(message, (), TENSOR_TYPES[1:]):
        if isinstance(found, onnx.SparseTensorProto):
            yield found, holders


def _walk(message: Message, around: Holders, kinds: tuple[type[Message], ...]) -> Iterator[tuple[Message, Holders]]:
    holders = (*around, message)
    for name, repeated in _find_tensor_fields(message.DESCRIPTOR):
        if repeated or message.HasField(name):
            for inner in getattr(message, name) if repeated else (getattr(message, name),):
                if isinstance(inner, kinds):
                    yield inner, holders
                else:
                    yield from _walk(inner, holders, kinds)


@functools.cache
def _find_tensor_fields(kind: Descriptor) -> tuple[tuple[str, bool], ...]:
    """Fields of a kind of message through which a tensor can be reached, and whether there may be many of one."""
    inside = ((f, f.message_type) for f in kind.fields if f.message_type is not None)
    return tuple((f.name, _is_many(f)) for f, inner in inside if _can_reach(inner, frozenset()))


def _is_many(field: object) -> bool:
    """Is a field a list? Older releases of protobuf have a label in place of the property."""
    many = getattr(field, "is_repeated", None)
    return bool(getattr(field, "label", 0) == 3 if many is None else many)


def _can_reach(kind: Descriptor, seen: frozenset[str]) -> bool:
    if kind.full_name in {w.DESCRIPTOR.full_name for w in TENSOR_TYPES}:
        return True
    inner = [f.message_type for f in kind.fields if f.message_type is not None]
    return any(_can_reach(k, seen | {kind.full_name}) for k in inner if k.full_name not in seen)


def describe_tensor(tensor: onnx.TensorProto | onnx.SparseTensorProto, holders: Holders) -> str:
    """A tensor's place in a user's words."""
    words = [f"function '{m.domain}.{m.name}'" for m in holders if isinstance(m, onnx.FunctionProto)]
    words += ["training info" for m in holders if isinstance(m, onnx.TrainingInfoProto)]
    inner = holders[-1] if holders else None
    sparse = inner if isinstance(inner, onnx.SparseTensorProto) else None
    around = [m for m in holders if not isinstance(m, onnx.SparseTensorProto)]
    if around and isinstance(around[-1], onnx.AttributeProto):
        node = next((m for m in reversed(around) if isinstance(m, onnx.NodeProto)), None)
        if node is not None:
            words.append(f"{node.op_type} '{node.name or ' '.join(node.output)}'")
        words.append(f"attribute '{around[-1].name}'")
    elif isinstance(tensor, onnx.SparseTensorProto) or sparse is not None:
        held = tensor if isinstance(tensor, onnx.SparseTensorProto) else sparse
        words.append(f"sparse initializer '{held.values.name if held is not None else ''}'")
    else:
        words.append(f"initializer '{tensor.name}'")
    if sparse is not None:
        words.append("its indices" if tensor is sparse.indices else "its values")
    return ", ".join(words)
