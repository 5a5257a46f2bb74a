"""Running models in onnxruntime: sessions, inputs in their valid ranges, and extra outputs.

    session = open_session(proto, folder)
    session.run(None, random_inputs(model, sizes, rng))
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from google.protobuf.message import EncodeError
from numpy.typing import NDArray

from spa_compiler.errors import ModelError, UsageError
from spa_compiler.model import PROTOBUF_LIMIT, Model, write
from spa_compiler.shapes import input_types, quiet_session, random_array

Array = NDArray[Any]


def open_session(
    proto: onnx.ModelProto, folder: Path, level: int = 1, threads: int = 0, what: str = "the model"
) -> ort.InferenceSession:
    """A CPU session for a model in memory whose external data, if any, lies in `folder`.

    Raises ModelError with onnxruntime's message.
    """
    try:
        data = _serialized(proto)
        if data is not None:
            return quiet_session(data, level, threads, str(folder.resolve()))
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / "model.onnx"
            write(proto, folder, target)
            return quiet_session(str(target), level, threads)
    except Exception as e:
        raise ModelError(f"onnxruntime cannot load {what}: {_first_line(e)}") from e


def _serialized(proto: onnx.ModelProto) -> bytes | None:
    """The model as bytes, or None where that is more than protobuf takes. To ask for its size costs as much."""
    try:
        data = proto.SerializeToString()
    except (EncodeError, ValueError):
        return None
    return data if len(data) < PROTOBUF_LIMIT else None


def _first_line(e: Exception) -> str:
    return " ".join(str(e).split())[:400]


def run(session: ort.InferenceSession, feed: Mapping[str, Array], what: str = "the model") -> list[Any]:
    """All outputs of one run. Raises ModelError with onnxruntime's message."""
    try:
        return list(session.run(None, dict(feed)))
    except Exception as e:
        raise ModelError(f"onnxruntime cannot run {what}: {_first_line(e)}") from e


def with_outputs(proto: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The same model that also gives these values. The proto is changed in place."""
    have = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in have)
    return proto


MOVING = ("Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Slice")


def index_limits(model: Model) -> dict[str, int]:
    """For integer inputs that index something: the size of what they index (a vocabulary, a table of positions)."""
    limits: dict[str, int] = {}
    for tensor in model.graph.inputs:
        todo, seen = [tensor], set()
        while todo:
            t = todo.pop()
            for node in t.outputs:
                size = _indexed(model, node, t)
                if size is not None:
                    limits[tensor.name] = min(size, limits.get(tensor.name, size))
                elif id(node) not in seen and node.op in MOVING:
                    seen.add(id(node))
                    todo += node.outputs
    return limits


def _indexed(model: Model, node: gs.Node, index: gs.Tensor) -> int | None:
    """How long the axis is that `index` points into, where this node looks something up."""
    tables = {"Gather": {1: 0}, "EmbedLayerNormalization": {0: 2, 1: 4}}.get(node.op, {})
    for slot, table in tables.items():
        if max(slot, table) < len(node.inputs) and node.inputs[slot] is index:
            known = model.shapes.shape if model.shapes is not None else {}
            shape = known.get(node.inputs[table].name) or node.inputs[table].shape
            size = shape[int(node.attrs.get("axis", 0))] if shape else None
            return size if isinstance(size, int) else None
    return None


def random_inputs(
    model: Model,
    sizes: dict[str, int],
    rng: np.random.Generator,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Array]:
    """Inputs of the right types and shapes: floats standard normal or uniform in their range, ids below their limit."""
    out: dict[str, Array] = {}
    limits = index_limits(model)
    for name, t in input_types(model, sizes).items():
        bounds = (ranges or {}).get(name)
        if bounds is None:
            out[name] = random_array(t, rng, limits.get(name, 8))
        else:
            drawn = rng.uniform(*bounds, [d.dim_value for d in t.tensor_type.shape.dim])
            out[name] = drawn.astype(onnx.helper.tensor_dtype_to_np_dtype(t.tensor_type.elem_type))
    return out


def named(option: str, entries: tuple[str, ...], model: Model) -> list[tuple[str, str, str]]:
    """(input, value, entry) of entries NAME:VALUE; with a single input the name may be left out.

    Raises UsageError for a name that no input has.
    """
    names = [vi.name for vi in model.header.graph.input]
    out = []
    for entry in entries:
        name, colon, value = entry.rpartition(":")
        if not colon and len(names) == 1:
            name = names[0]
        if name not in names:
            raise UsageError(f"{option} {entry}: expected NAME:VALUES with one of the inputs {', '.join(names)}")
        out.append((name, value, entry))
    return out


def parse_ranges(entries: tuple[str, ...], model: Model) -> dict[str, tuple[float, float]]:
    """`("x:0,255",)` as a dictionary. Raises UsageError for anything else."""
    out: dict[str, tuple[float, float]] = {}
    for name, bounds, entry in named("--input-range", entries, model):
        try:
            low, high = (float(b) for b in bounds.split(","))
        except ValueError as e:
            raise UsageError(f"--input-range {entry}: expected NAME:LOW,HIGH") from e
        if not (low < high and np.isfinite([low, high]).all()):
            raise UsageError(f"--input-range {entry}: expected NAME:LOW,HIGH with LOW < HIGH")
        out[name] = (low, high)
    return out
