"""Sessions of onnxruntime: a model in memory or in a file is opened, run, and asked for values inside of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from google.protobuf.message import EncodeError
from numpy.typing import NDArray

from spa_compiler.errors import ModelError, TimeLimitError
from spa_compiler.execution.parallel import bound_threads
from spa_compiler.execution.time_limit import watch_run
from spa_compiler.ir.external_data import PROTOBUF_LIMIT
from spa_compiler.ir.model import Model, find_element_type
from spa_compiler.ir.reader import read_proto
from spa_compiler.ir.subgraphs import list_subgraphs
from spa_compiler.ir.writer import write
from spa_compiler.operators.facts import CONTRACTS_INTEGERS, DRAWS, RANDOM_OPERATORS

Array = NDArray[Any]
LEVELS = (
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
)


class _Session(ort.InferenceSession):  # type: ignore[misc]
    """A session whose runs end when the time is over (`time_limit`)."""

    def run(self, names: Any, feed: Any, run_options: ort.RunOptions | None = None) -> Any:
        """As onnxruntime's. Raises TimeLimitError."""
        run_options = run_options or ort.RunOptions()
        with watch_run(run_options):
            return super().run(names, feed, run_options)


def open_quiet_session(
    source: bytes | str, level: int = 1, threads: int = 1, folder: str = "", exact: bool = False,
    weights: Mapping[str, Array] | None = None, profile: str = "",
) -> ort.InferenceSession:  # fmt: skip
    """A CPU session that prints nothing; `level` 0 to 3 is how much onnxruntime may optimise.

    `exact`: products of integers do not overflow, which those of signed weights do on some processors (from level 2).
    `weights`: values of initializers that are external in `source`; no file is read for them. `profile`: how the file
    begins that onnxruntime writes times of nodes to, at `end_profiling`.
    """
    options = ort.SessionOptions()
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = bound_threads(threads)
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[level]
    if folder:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    weights = weights or {}
    if weights:
        values = [ort.OrtValue.ortvalue_from_numpy(a) for a in weights.values()]
        options.add_external_initializers(list(weights), values)
    session = _Session(source, options, providers=["CPUExecutionProvider"])
    session.weights = weights  # onnxruntime reads the memory of these arrays as long as it lives
    return session


def open_session(
    proto: onnx.ModelProto, folder: Path, level: int = 1, threads: int = 0, what: str = "the model",
    exact: bool = False,
) -> ort.InferenceSession:  # fmt: skip
    """A CPU session for a model in memory whose external data, if any, lies in `folder`.

    Raises ModelError with onnxruntime's message.
    """
    try:
        with _fix_seeds(proto), _lift_weights(proto) as weights:
            data = _serialize(proto)
        if data is not None:
            return open_quiet_session(data, level, threads, str(folder.resolve()), exact, weights)
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / "model.onnx"
            write(proto, folder, target)
            return open_quiet_session(str(target), level, threads, exact=exact)
    except Exception as e:
        raise ModelError(f"onnxruntime cannot load {what}: {_find_first_line(e)}") from e


def check_loads(model: Model) -> None:
    """Raise ModelError where onnxruntime cannot load the file of a model. No node of it is computed."""
    try:
        open_quiet_session(str(model.path), level=0)
    except Exception as e:
        raise ModelError(f"{model.path}: onnxruntime cannot load it: {_find_first_line(e)}") from e
    if ended := find_deadly_signal(model, model.path):
        raise ModelError(f"{model.path}: onnxruntime ends the process ({ended}) when it loads this file")


OPEN_IN_CHILD = (
    "import sys, onnxruntime as ort; o = ort.SessionOptions(); o.log_severity_level = 4; "
    "ort.InferenceSession(sys.argv[1], o, providers=['CPUExecutionProvider'])"
)


def find_deadly_signal(model: Model, path: Path) -> str:
    """The signal by which onnxruntime ends the process where it loads a file, '' where it does not.

    Its optimisations do so with some models of half floats (with bodies, recurrent cells, norms put together from
    pieces): only files of such a `model` are tried, in a process of their own.
    """
    if not any(find_element_type(t) == onnx.TensorProto.FLOAT16 for t in model.constants().values()):
        return ""
    code = subprocess.run([sys.executable, "-c", OPEN_IN_CHILD, str(path)], capture_output=True).returncode
    return signal.Signals(-code).name if code < 0 else ""


def open_file_session(path: Path, nodes: Iterable[gs.Node], level: int, threads: int) -> ort.InferenceSession:
    """A CPU session of the file of a model with these nodes; what it draws at random is the same in every session."""
    if any(node.op in DRAWS for node in nodes):
        return open_session(read_proto(path), path.parent, level, threads, str(path))
    return open_quiet_session(str(path), level, threads)


def has_chance(graph: onnx.GraphProto) -> bool:
    """Does a node draw random numbers?"""
    return any(True for _ in _iterate_drawing(graph))


def _iterate_drawing(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes that draw random numbers, those in bodies among them."""
    for node in graph.node:
        for body in list_subgraphs(node):
            yield from _iterate_drawing(body)
        is_drawing = node.op_type in RANDOM_OPERATORS or (node.op_type in DRAWS and len(node.input) > 2)
        if is_drawing and node.domain in ("", "ai.onnx"):
            yield node


@contextmanager
def _fix_seeds(proto: onnx.ModelProto) -> Iterator[None]:
    """Meanwhile nodes that draw random numbers have a seed by the name of what they give.

    Onnxruntime takes the place of a node for its seed: with a node more in front of it, the numbers are others.
    """
    seeded = [n for n in _iterate_drawing(proto.graph) if all(a.name != "seed" for a in n.attribute)]
    for node in seeded:
        seed = zlib.crc32(node.output[0].encode()) % MOST_SEEDS
        value = float(seed) if node.op_type in RANDOM_OPERATORS else seed
        node.attribute.append(onnx.helper.make_attribute("seed", value))
    try:
        yield
    finally:
        for node in seeded:
            del node.attribute[-1]


MOST_SEEDS = 1 << 20
"""Seeds are numbers that float32 holds exactly."""
LARGE_WEIGHT = 1 << 16
"""Bytes from which a weight is handed to onnxruntime as an array: a model of 100 MB is written and read for nothing."""
LIFTED_TYPES = {onnx.helper.np_dtype_to_tensor_dtype(np.dtype(t)): t for t in "efdbBil"}
"""Element types that arrays have as well."""


@contextmanager
def _lift_weights(proto: onnx.ModelProto) -> Iterator[dict[str, Array]]:
    """The large weights of a model as arrays; meanwhile they are external in it, and in no file."""
    inputs = {i.name for i in proto.graph.input}
    taken = [t for t in proto.graph.initializer if t.data_type in LIFTED_TYPES and t.name not in inputs]
    taken = [t for t in taken if t.HasField("raw_data") and len(t.raw_data) >= LARGE_WEIGHT]
    raw = [t.raw_data for t in taken]
    for t in taken:
        t.ClearField("raw_data")
        t.data_location = onnx.TensorProto.EXTERNAL
        t.external_data.add(key="location", value="in memory")
    try:
        yield {
            t.name: np.frombuffer(b, LIFTED_TYPES[t.data_type]).reshape(t.dims) for t, b in zip(taken, raw, strict=True)
        }
    finally:
        for t, data in zip(taken, raw, strict=True):
            t.ClearField("external_data")
            t.ClearField("data_location")
            t.raw_data = data


def open_exact_session(
    proto: onnx.ModelProto, folder: Path, level: int = 1, threads: int = 0, what: str = "the model"
) -> ort.InferenceSession:
    """A session in which products of integers are exact: some processors let those of signed weights overflow.

    Where onnxruntime has no kernel for other weights it is one like any other. Raises ModelError as `open_session`.
    """
    if any(n.op_type in CONTRACTS_INTEGERS for n in proto.graph.node):
        try:
            return open_session(proto, folder, max(level, 2), threads, what, exact=True)
        except ModelError:
            pass
    return open_session(proto, folder, level, threads, what)


def _serialize(proto: onnx.ModelProto) -> bytes | None:
    """The model as bytes, or None where that is more than protobuf takes. To ask for its size costs as much."""
    try:
        data = proto.SerializeToString()
    except (EncodeError, ValueError):
        return None
    return data if len(data) < PROTOBUF_LIMIT else None


def _find_first_line(e: Exception) -> str:
    return " ".join(str(e).split())[:400]


def run_session(session: ort.InferenceSession, feed: Mapping[str, Array], what: str = "the model") -> list[Any]:
    """All outputs of one run. Raises ModelError with onnxruntime's message."""
    try:
        return list(session.run(None, dict(feed)))
    except TimeLimitError:
        raise
    except Exception as e:
        raise ModelError(describe_failed_run(session, e, what)) from e


OUT_OF_TABLE = ("out of data bounds", "out of bounds", "out of range", "indices element")
"""Words of onnxruntime for an index that is in no table."""


def describe_failed_run(session: ort.InferenceSession, e: Exception, what: str) -> str:
    """Onnxruntime's message, and the option that helps where a whole number of an input may have been too large."""
    text = f"onnxruntime cannot run {what}: {_find_first_line(e)}"
    whole = [i.name for i in session.get_inputs() if i.type in ("tensor(int64)", "tensor(int32)")]
    if not whole or not any(words in str(e) for words in OUT_OF_TABLE):
        return text
    names = ", ".join(f"'{n}'" for n in whole)
    return f"{text}; say what whole numbers {names} can be: --input-range {whole[0]}:LOW,HIGH"


def add_outputs(proto: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The same model that also gives these values. The proto is changed in place."""
    have = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in have)
    return proto


def list_outputs(session: ort.InferenceSession) -> list[str]:
    """Names of the outputs of a model."""
    return [v.name for v in session.get_outputs()]
