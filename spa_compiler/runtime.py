"""Running models in onnxruntime: sessions, inputs in their valid ranges, and extra outputs.

    session = open_session(proto, folder)
    session.run(None, random_inputs(model, sizes, rng))
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from google.protobuf.message import EncodeError
from numpy.typing import NDArray

from spa_compiler.errors import ModelError, UsageError
from spa_compiler.external import PROTOBUF_LIMIT
from spa_compiler.model import Model, write
from spa_compiler.shapes import input_types, quiet_session, random_array

Array = NDArray[Any]


def open_session(
    proto: onnx.ModelProto, folder: Path, level: int = 1, threads: int = 0, what: str = "the model",
    exact: bool = False,
) -> ort.InferenceSession:  # fmt: skip
    """A CPU session for a model in memory whose external data, if any, lies in `folder`.

    Raises ModelError with onnxruntime's message.
    """
    try:
        data = _serialized(proto)
        if data is not None:
            return quiet_session(data, level, threads, str(folder.resolve()), exact)
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / "model.onnx"
            write(proto, folder, target)
            return quiet_session(str(target), level, threads, exact=exact)
    except Exception as e:
        raise ModelError(f"onnxruntime cannot load {what}: {_first_line(e)}") from e


INTEGER = """ConvInteger MatMulInteger DynamicQuantizeMatMul MatMulIntegerToFloat QLinearConv QLinearMatMul
QGemm""".split()
"""Operators that contract integers."""


def exact_session(
    proto: onnx.ModelProto, folder: Path, level: int = 1, threads: int = 0, what: str = "the model"
) -> ort.InferenceSession:
    """A session in which products of integers are exact: some processors let those of signed weights overflow.

    Where onnxruntime has no kernel for other weights it is one like any other. Raises ModelError as `open_session`.
    """
    if any(n.op_type in INTEGER for n in proto.graph.node):
        try:
            return open_session(proto, folder, max(level, 2), threads, what, exact=True)
        except ModelError:
            pass
    return open_session(proto, folder, level, threads, what)


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


MOVING = dict.fromkeys(
    "Cast Expand Flatten Gather GatherND Identity Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split(), (0,)
) | {"Concat": None, "Where": (1, 2)}
"""Operators that pass ids on, and the inputs that they pass on; None: all of them."""
SELECTING = {"Gather", "GatherND", "Slice", "Split", "Where"}
"""Pass on some of them only."""
WHOLE = 8
"""Whole numbers that the graph says nothing about are below this."""
LOOKUPS = dict.fromkeys(
    "Gather GatherElements GatherND Scatter ScatterElements ScatterND".split(), ((1, 0),)
) | {"EmbedLayerNormalization": ((0, 2), (1, 4))}
"""Operators that look something up: pairs of the input that holds ids and the input that they point into."""


def index_limits(model: Model, sizes: Mapping[str, int] | None = None, fixed: bool = False) -> dict[str, int]:
    """For integer inputs that index something: the size of what they index (a vocabulary, a table of positions).

    Where the symbols have other `sizes` than in analysis, smaller ones among them, only the first entry of what
    follows a symbol (the nodes of a graph) is sure to be there. `fixed`: only what holds for every number of an
    input and does not follow a symbol.
    """
    shrunk = _shrunk(model, sizes or {})
    limits: dict[str, int] = {}
    for tensor in model.graph.inputs:
        todo, seen = [tensor], set()
        while todo:
            t = todo.pop()
            for node in t.outputs:
                for size, dynamic in _indexed(model, node, t):
                    if not (dynamic and fixed):
                        most = 1 if dynamic and shrunk else size
                        limits[tensor.name] = min(most, limits.get(tensor.name, most))
                if id(node) not in seen and _moves(node, t) and not (fixed and node.op in SELECTING):
                    seen.add(id(node))
                    todo += node.outputs
    return limits


def _shrunk(model: Model, sizes: Mapping[str, int]) -> bool:
    bound = model.shapes.sizes if model.shapes is not None else {}
    return any(size < bound[name][0] for name, size in sizes.items() if name in bound)


def _moves(node: gs.Node, t: gs.Tensor) -> bool:
    """Does this node give the ids of `t` on?"""
    slots = MOVING.get(node.op, ())
    return any(x is t for k, x in enumerate(node.inputs) if slots is None or k in slots)


def _indexed(model: Model, node: gs.Node, index: gs.Tensor) -> Iterator[tuple[int, bool]]:
    """How long the axes are that `index` points into, where this node looks something up; do they follow a symbol?"""
    known = model.shapes
    for slot, table in LOOKUPS.get(node.op, ()):
        if max(slot, table) >= len(node.inputs) or node.inputs[slot] is not index:
            continue
        name = node.inputs[table].name
        shape = (known.shape if known is not None else {}).get(name) or node.inputs[table].shape or ()
        dynamic = (known.dynamic if known is not None else {}).get(name) or (False,) * len(shape)
        for axis in _pointed(model, node, index):
            if axis < len(shape) and isinstance(shape[axis], int):
                yield shape[axis], dynamic[axis]


def _pointed(model: Model, node: gs.Node, index: gs.Tensor) -> range:
    """The axes of the table that one entry of `index` points into."""
    if node.op in ("GatherND", "ScatterND"):
        shape = (model.shapes.shape if model.shapes is not None else {}).get(index.name) or index.shape
        first = int(node.attrs.get("batch_dims", 0))
        return range(first, first + shape[-1]) if shape and isinstance(shape[-1], int) else range(0)
    axis = int(node.attrs.get("axis", 0))
    return range(axis, axis + 1)


def random_inputs(
    model: Model,
    sizes: dict[str, int],
    rng: np.random.Generator,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Array]:
    """Inputs of the right types and shapes: floats standard normal or uniform in their range, ids below their limit.

    An input with a default gets another value where it is one of floats; of integers and flags no other is sure to be
    valid, so that these are left out.
    """
    out: dict[str, Array] = {}
    limits = index_limits(model, sizes)
    for name, t in input_types(model, sizes).items():
        bounds = (ranges or {}).get(name)
        if bounds is None:
            out[name] = random_array(t, rng, limits.get(name, WHOLE))
        else:
            drawn = rng.uniform(*bounds, [d.dim_value for d in t.tensor_type.shape.dim])
            out[name] = drawn.astype(onnx.helper.tensor_dtype_to_np_dtype(t.tensor_type.elem_type))
    for name in model.defaults:
        value = model.default_array(name)
        if value.dtype.kind == "f":
            out[name] = _another(value, rng)
    return out


def _another(value: Array, rng: np.random.Generator) -> Array:
    """What a run may give in place of a default: other numbers near it and of its signs, so that they are valid."""
    other = np.where(value == 0, 0.5, value) * rng.uniform(0.5, 1.5, value.shape)
    return np.asarray(other, value.dtype)


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
