"""Checks of every exporter's output: compare it with its framework, and strip what names a machine.

agree(model, {"x": array}, [wanted])         # raises unless onnxruntime gives what the framework gave
clean(model)                                 # no doc strings, no metadata: they hold paths and stack traces
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

TOLERANCE = 1e-4
PATH = re.compile(rb"/(?:home|root|work|tmp|usr|opt|Users)/|site-packages|\.py\b")


def agree(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], wanted: Sequence[np.ndarray]) -> None:
    """Raise ValueError unless onnxruntime gives what the framework gave, within TOLERANCE of the outputs' scale."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = {v.name for v in session.get_inputs()}
    for found, right in zip(session.run(None, {k: v for k, v in inputs.items() if k in taken}), wanted, strict=True):
        error = np.abs(found - right).max() / np.abs(right).max() if found.shape == right.shape else np.inf
        if not error <= TOLERANCE:  # not: NaN
            raise ValueError(f"onnxruntime disagrees with the framework by {error:.1e}")


def messages(message: object) -> Iterator[object]:
    """A protobuf message and every message inside it."""
    yield message
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        if field.message_type is not None:
            for inner in value if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]:
                yield from messages(inner)


def clean(model: onnx.ModelProto) -> bytes:
    """The model without doc strings and metadata, as bytes. Raises ValueError for a path that is still inside."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for message in messages(copy):
        for name in ("doc_string", "metadata_props"):
            if name in message.DESCRIPTOR.fields_by_name:  # type: ignore[attr-defined]
                message.ClearField(name)  # type: ignore[attr-defined]
    data = copy.SerializeToString(deterministic=True)
    for tensor in messages(copy):
        if isinstance(tensor, onnx.TensorProto):
            tensor.ClearField("raw_data")  # numbers may read as anything
    found = PATH.search(copy.SerializeToString())
    if found:
        raise ValueError(f"a path is left in the model: {found.group().decode()}")
    return data
