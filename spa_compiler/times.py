"""Kernel times of a model's contractions at candidate widths, on the machine that this runs on.

    spa times IN.onnx -o t.json              # here
    spa times --script times.py              # a copy of this file, which runs alone on the target:
    python times.py IN.onnx -o t.json        # needs numpy, onnx and onnxruntime, and nothing of spa-compile

Each convolution, matrix product and recurrent cell is run by itself at several widths of what it reads and of what it
gives, all of them in turns in one session, and onnxruntime's profiler says what its kernel took. The whole model is
timed, too, and the times of its other kernels are listed by operator. Times of a contraction are remembered on disk.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

TIMES_FORMAT, TIMES_VERSION = "spa-compile times", 1
USUAL_SECONDS = 30.0
"""Time that is spent where nobody says how much."""
WIDTH_SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)
"""Widths that are measured, as shares of the dense one; fewer where the time is short."""
FEWEST_RUNS, MOST_RUNS = 6, 40
"""Runs of every width."""
DENSE_RUNS, DENSE_SECONDS = 100, 1.0
"""Most runs of the whole model, and seconds for them."""
LARGEST_SESSION = 1 << 28
"""Bytes of weights that are in one session."""
EVENT = re.compile(r"p(\d+)(?:_.*)?_kernel_time")
MOVING = ("ReorderInput", "ReorderOutput")
"""Kernels that bring a single contraction into a layout and back; in a model neighbours share it."""
BODIES = ("If", "Loop", "Scan")
Shape = tuple[int, ...]
Attributes = Mapping[str, Any]


class TimesError(Exception):
    """A model that cannot be timed, or an option that makes no sense (`is_usage`)."""

    def __init__(self, text: str, is_usage: bool = False) -> None:
        super().__init__(text)
        self.is_usage = is_usage


@dataclass(frozen=True)
class Coordinate:
    """A width that a contraction may have: its name, its dense size, and the axes that follow.

    An axis (input slot, axis, factor) has the size times the factor; so has an attribute.
    """

    name: str
    size: int
    axes: tuple[tuple[int, int, int], ...]
    attribute: str = ""

    def list_sizes(self, levels: Sequence[float]) -> list[int]:
        """Sizes from large to small that fill kernels as far as the dense size allows."""
        step = next((s for s in (16, 8, 4, 2) if self.size >= 4 * s), 1)
        rounded = [self.size, *(max(step, round(self.size * v / step) * step) for v in levels[1:])]
        return sorted({n for n in rounded if n <= self.size}, reverse=True)


@dataclass
class Contraction:
    """A node that multiplies: what it reads (shapes and types by slot, None for nothing) and where it may be cut."""

    node: onnx.NodeProto
    shapes: list[Shape | None]
    types: list[np.dtype[Any] | None]
    constant: list[bool]
    coordinates: list[Coordinate] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """All that its time depends on, but the machine."""
        plain = onnx.NodeProto(op_type=self.node.op_type, domain=self.node.domain, attribute=self.node.attribute)
        return {
            "node": plain.SerializeToString(deterministic=True).hex(),
            "inputs": [
                None if s is None else [list(s), str(t), c]
                for s, t, c in zip(self.shapes, self.types, self.constant, strict=True)
            ],
        }

    def resize(self, sizes: Mapping[str, int]) -> tuple[onnx.NodeProto, list[Shape | None]]:
        """The node and the shapes of what it reads at other widths."""
        shapes = [None if s is None else list(s) for s in self.shapes]
        node = onnx.NodeProto(op_type=self.node.op_type, domain=self.node.domain, attribute=self.node.attribute)
        for c in self.coordinates:
            for slot, axis, factor in c.axes:
                if slot < len(shapes) and (shape := shapes[slot]) is not None:
                    shape[axis] = sizes[c.name] * factor
            if c.attribute:
                kept = [a for a in node.attribute if a.name != c.attribute]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute(c.attribute, sizes[c.name])])
        return node, [None if s is None else tuple(s) for s in shapes]


def list_coordinates(
    node: onnx.NodeProto, shapes: Sequence[Shape | None], constant: Sequence[bool]
) -> list[Coordinate]:
    """The widths of a contraction; none for an operator that is not known here."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    finder = FINDERS.get(node.op_type)
    try:
        found = finder(attributes, list(shapes), list(constant)) if finder else []
    except (IndexError, TypeError, ZeroDivisionError):  # an input that the operator requires is missing
        return []
    return [c for c in found if c.size > 1]


def _find_convolution(
    attributes: Attributes, shapes: list[Any], constant: list[bool], weight: int = 1, beside: Sequence[int] = (2,)
) -> list[Coordinate]:
    """Channels read and given, per group; of a depthwise one both at once."""
    x, w, groups = shapes[0], shapes[weight], int(attributes.get("group", 1))
    along = [k for k in beside if k < len(shapes) and shapes[k] is not None and shapes[k] == (w[0],)]
    if groups == x[1] and w[1] == 1 and groups > 1:
        many = w[0] // groups
        axes = ((0, 1, 1), (weight, 0, many), *((k, 0, many) for k in along))
        return [Coordinate("groups", groups, axes, "group")]
    given = ((weight, 0, groups), *((k, 0, groups) for k in along))
    return [Coordinate("in", w[1], ((0, 1, groups), (weight, 1, 1))), Coordinate("out", w[0] // groups, given)]


def _find_quantized_convolution(attributes: Attributes, shapes: list[Any], constant: list[bool]) -> list[Coordinate]:
    return _find_convolution(attributes, shapes, constant, 3, (4, 5, 8))


def _find_transposed(attributes: Attributes, shapes: list[Any], constant: list[bool]) -> list[Coordinate]:
    w, groups = shapes[1], int(attributes.get("group", 1))
    given = ((1, 1, 1), *((2, 0, groups) for _ in shapes[2:3] if shapes[2] is not None))
    return [Coordinate("in", w[0] // groups, ((0, 1, groups), (1, 0, groups))), Coordinate("out", w[1], given)]


def _find_gemm(attributes: Attributes, shapes: list[Any], constant: list[bool]) -> list[Coordinate]:
    a, b = int(attributes.get("transA", 0)), int(attributes.get("transB", 0))
    columns, size = 0 if b else 1, shapes[1][0 if b else 1]
    given = [(1, columns, 1)]
    if len(shapes) > 2 and shapes[2] and shapes[2][-1] == size:
        given.append((2, len(shapes[2]) - 1, 1))
    return [
        Coordinate("in", shapes[0][0 if a else 1], ((0, 0 if a else 1, 1), (1, 1 - columns, 1))),
        Coordinate("out", size, tuple(given)),
    ]


def _find_product(attributes: Attributes, shapes: list[Any], constant: list[bool]) -> list[Coordinate]:
    """Columns read and given; of two activations the matrices of a stack as well (heads)."""
    a, b = shapes[0], shapes[1]
    if len(a) < 2 or len(b) < 2 or attributes.get("transA") or attributes.get("transBatchA"):
        return []
    turned = bool(attributes.get("transB"))
    k, n = (len(b) - 1, len(b) - 2) if turned else (len(b) - 2, len(b) - 1)
    found = [Coordinate("in", a[-1], ((0, len(a) - 1, 1), (1, k, 1))), Coordinate("out", b[n], ((1, n, 1),))]
    if not constant[1] and len(a) > 2 and len(b) > 2 and a[-3] == b[-3]:
        found.append(Coordinate("stack", a[-3], ((0, len(a) - 3, 1), (1, len(b) - 3, 1))))
    return found


def _find_cell(attributes: Attributes, shapes: list[Any], constant: list[bool]) -> list[Coordinate]:
    x, w, r = shapes[:3]
    gates = w[1] // r[2]
    hidden = ((2, 2, 1), (1, 1, gates), (2, 1, gates), (3, 1, 2 * gates), (5, 2, 1), (6, 2, 1), (7, 1, 3))
    return [Coordinate("in", x[2], ((0, 2, 1), (1, 2, 1))), Coordinate("hidden", r[2], hidden, "hidden_size")]


FINDERS: dict[str, Callable[[Attributes, list[Any], list[bool]], list[Coordinate]]] = {
    "Conv": _find_convolution, "FusedConv": _find_convolution, "ConvInteger": _find_convolution,
    "QLinearConv": _find_quantized_convolution, "ConvTranspose": _find_transposed, "Gemm": _find_gemm,
    "FusedGemm": _find_gemm, "MatMul": _find_product, "FusedMatMul": _find_product, "MatMulInteger": _find_product,
    "LSTM": _find_cell, "GRU": _find_cell, "RNN": _find_cell,
}  # fmt: skip
"""How the widths of an operator are found; the times of others are taken to follow their multiply-accumulates."""


def make_feed(model: onnx.ModelProto, given: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Inputs of a model: numbers between 0 and 1, ids of 0, symbolic axes of 1 unless a shape is given."""
    held = {t.name for t in model.graph.initializer}
    out, rng = dict[str, Any](), np.random.default_rng(0)
    inputs = [i for i in model.graph.input if i.name not in held]
    if unknown := sorted(set(given) - {i.name for i in inputs}):
        raise TimesError(f"--input-shape: no input is called {', '.join(unknown)}", is_usage=True)
    for i in inputs:
        kind = helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type)
        shape = given.get(i.name) or [d.dim_value or 1 for d in i.type.tensor_type.shape.dim]
        out[i.name] = np.asarray(rng.random(shape) if np.dtype(kind).kind == "f" else np.zeros(shape), kind)
    return out


def open_session(model: onnx.ModelProto, threads: int, optimized: bool = True, profiled: bool = False) -> Any:
    """A session on the processor. Raises TimesError with onnxruntime's message."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    if profiled:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(tempfile.mkdtemp(prefix="spa-times-")) / "p")
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as e:
        raise TimesError(f"onnxruntime cannot load the model: {' '.join(str(e).split())[:300]}") from e


def read_profile(session: Any) -> list[dict[str, Any]]:
    """The kernels that a session has run, in order; its file is removed."""
    file = Path(session.end_profiling())
    events = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    file.parent.rmdir()
    return [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]


def average_low(values: Sequence[float]) -> float:
    """The mean of the lower half: what else runs makes times longer, never shorter, and they are whole microseconds.

    >>> average_low([4, 3, 90, 3])
    3.0
    """
    return float(np.mean(sorted(values)[: (len(values) + 1) // 2]))


def find_contractions(model: onnx.ModelProto, feed: Mapping[str, Any], threads: int) -> list[Contraction]:
    """Nodes of the graph that multiply, with what they read in one run; those in bodies are not among them."""
    arrays = {t.name: t for t in model.graph.initializer}
    steady = set(arrays)
    for n in model.graph.node:
        if n.op_type == "Constant" or (n.input and all(i in steady for i in n.input if i) and not _has_body(n)):
            steady.update(n.output)
    nodes = [n for n in model.graph.node if n.op_type in FINDERS]
    wanted = list(dict.fromkeys(i for n in nodes for i in n.input if i and i not in arrays and i not in feed))
    more = onnx.ModelProto()
    more.CopyFrom(model)
    have = {o.name for o in more.graph.output}
    more.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in have)
    session = open_session(more, threads, optimized=False)
    values = dict(zip(wanted, session.run(wanted, dict(feed)), strict=True)) if wanted else {}
    seen: dict[str, tuple[Shape, np.dtype[Any]]] = {n: (np.shape(v), np.asarray(v).dtype) for n, v in values.items()}
    seen |= {n: (np.shape(v), np.asarray(v).dtype) for n, v in feed.items()}
    seen |= {n: (tuple(t.dims), np.dtype(helper.tensor_dtype_to_np_dtype(t.data_type))) for n, t in arrays.items()}
    out = []
    for n in nodes:
        read = [seen[i] if i else (None, None) for i in n.input]
        found = Contraction(n, [r[0] for r in read], [r[1] for r in read], [i in steady for i in n.input])
        found.coordinates = list_coordinates(n, found.shapes, found.constant)
        out += [found] if found.coordinates else []
    return out


def _has_body(node: onnx.NodeProto) -> bool:
    return any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)


def measure_points(
    made: Contraction, points: Sequence[Shape], imports: Sequence[onnx.OperatorSetIdProto], threads: int, seconds: float
) -> list[float]:
    """Milliseconds of the kernel at every point (sizes of the coordinates), in turns; none where it cannot be run."""
    try:
        return list(_measure_in_turns(made, points, imports, threads, seconds))
    except Exception:  # a kernel that a single node does not have
        return []


def _measure_in_turns(
    made: Contraction, points: Sequence[Shape], imports: Sequence[onnx.OperatorSetIdProto], threads: int, seconds: float
) -> Iterator[float]:
    rng = np.random.default_rng(0)
    nodes, inputs, held, outputs, feed = [], [], [], [], dict[str, Any]()
    for k, sizes in enumerate(points):
        node, shapes = made.resize({c.name: n for c, n in zip(made.coordinates, sizes, strict=True)})
        node.name = f"p{k}"
        for slot, (shape, kind, constant) in enumerate(zip(shapes, made.types, made.constant, strict=True)):
            if shape is None or kind is None:
                node.input.append("")
                continue
            name, value = f"v{k}_{slot}", _draw(rng, shape, kind)
            node.input.append(name)
            if constant:
                held.append(numpy_helper.from_array(value, name))
            else:
                inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), shape))
                feed[name] = value
        node.output.extend(f"p{k}_{j}" if o else "" for j, o in enumerate(made.node.output))
        outputs += [onnx.ValueInfoProto(name=f"p{k}_{j}") for j, o in enumerate(made.node.output) if o][:1]
        nodes.append(node)
    graph = helper.make_graph(nodes, "times", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=list(imports))
    model.ir_version = 8
    session = open_session(model, threads, profiled=True)
    runs, stop = 0, time.perf_counter() + seconds
    while runs < FEWEST_RUNS or (runs < MOST_RUNS and time.perf_counter() < stop):
        session.run(None, feed)
        runs += 1
    times: dict[int, list[float]] = {k: [0.0] * runs for k in range(len(points))}
    counts = dict.fromkeys(times, 0)
    for event in read_profile(session):
        found = EVENT.fullmatch(event["name"])
        if found and event["args"].get("op_name") not in MOVING:
            k = int(found[1])
            times[k][min(counts[k], runs - 1)] = event["dur"] / 1e3
            counts[k] += 1
    if any(count != runs for count in counts.values()):
        raise TimesError("the profile does not have every kernel")
    yield from (average_low(times[k][1:]) for k in range(len(points)))


def _draw(rng: np.random.Generator, shape: Shape, kind: np.dtype[Any]) -> Any:
    """Numbers that overflow nowhere; scales are positive."""
    if kind.kind == "f":
        return np.asarray(0.01 + 0.1 * rng.random(shape), kind)
    return np.asarray(np.ones(shape), kind)


def list_points(made: Contraction, levels: Sequence[float]) -> tuple[list[list[int]], list[Shape]]:
    """The sizes of every coordinate, and all their combinations; fewer sizes where there are many coordinates."""
    many = levels if len(made.coordinates) < 3 else levels[::2]
    sizes = [c.list_sizes(many) for c in made.coordinates]
    return sizes, list(itertools.product(*sizes))


def find_cpu() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def list_features() -> list[str]:
    """Sets of instructions that the processor has, as numpy tells them."""
    core = getattr(np, "_core", None) or np.core  # numpy 2 moved it
    found: dict[str, bool] = getattr(core._multiarray_umath, "__cpu_features__", {})
    return sorted(name for name, there in found.items() if there)


def find_device() -> str:
    """The name that spa-compile has for such a machine (`--device`); an empty text for another one."""
    machine = platform.machine().lower()
    if machine in ("arm64", "aarch64"):
        return "arm64"
    is_x86 = machine in ("x86_64", "amd64", "i386", "i686")
    return ("avx512" if "AVX512F" in list_features() else "avx2") if is_x86 else ""


def find_cache() -> Path:
    """The folder in which times of contractions are remembered."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "spa-compile" / "times"


class Cache:
    """Times of contractions on disk, by all that they depend on; a file that is broken is none."""

    def __init__(self, folder: Path | None, machine: Mapping[str, Any]) -> None:
        self.folder, self.machine = folder, dict(machine)

    def _find_file(self, made: Contraction, points: Sequence[Shape]) -> Path | None:
        if self.folder is None:
            return None
        kernel, sizes = made.describe(), [list(p) for p in points]
        key = {"version": TIMES_VERSION, "machine": self.machine, "kernel": kernel, "points": sizes}
        return self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.json"

    def read(self, made: Contraction, points: Sequence[Shape]) -> list[float] | None:
        """Times of every point, or None."""
        file = self._find_file(made, points)
        if file is None:
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        good = isinstance(found, list) and len(found) == len(points)
        return [float(v) for v in found] if good and all(is_time(v) for v in found) else None

    def write(self, made: Contraction, points: Sequence[Shape], times: Sequence[float]) -> None:
        """Put times where the next run finds them, whole or not at all; nothing where no file can be."""
        file = self._find_file(made, points)
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                save_whole(file, json.dumps(list(times)))
            except OSError:
                pass


def is_time(value: Any) -> bool:
    """Is it a positive number of milliseconds?"""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def save_whole(file: Path, text: str) -> None:
    """Write a file so that nobody ever sees a part of it."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".times-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(text)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def measure_whole(model: onnx.ModelProto, feed: Mapping[str, Any], threads: int) -> tuple[float, dict[str, float]]:
    """Least milliseconds of the whole model, and those of its kernels by operator."""
    session = open_session(model, threads)
    try:
        for _ in range(2):
            session.run(None, dict(feed))
    except Exception as e:
        raise TimesError(
            f"onnxruntime cannot run the model: {' '.join(str(e).split())[:300]}; sizes of symbolic axes are 1 unless "
            "--input-shape NAME:2x3 says others"
        ) from e
    times, stop = list[float](), time.perf_counter() + DENSE_SECONDS
    while len(times) < 5 or (len(times) < DENSE_RUNS and time.perf_counter() < stop):
        start = time.perf_counter()
        session.run(None, dict(feed))
        times.append((time.perf_counter() - start) * 1e3)
    session = open_session(model, threads, profiled=True)
    runs = min(len(times), 20)
    for _ in range(runs):
        session.run(None, dict(feed))
    by_name: dict[tuple[str, str], list[float]] = {}
    for event in read_profile(session):
        by_name.setdefault((event["name"], event["args"].get("op_name", "")), []).append(event["dur"] / 1e3)
    kernels: dict[str, float] = {}
    for (_, kind), values in by_name.items():
        if kind in BODIES:  # the nodes in them are listed, too
            continue
        kernels[kind] = kernels.get(kind, 0.0) + average_low(values) * len(values) / runs
    return min(times), kernels


def choose_levels(costs: Sequence[tuple[Contraction, float]], seconds: float) -> Sequence[float]:
    """As many widths as fit into the time: `costs` are contractions with the milliseconds of one run."""
    for levels in (WIDTH_SHARES, WIDTH_SHARES[::2]):
        spent = sum(ms / 1e3 * sum(levels) ** min(len(c.coordinates), 2) * FEWEST_RUNS for c, ms in costs)
        if 2 * spent < seconds:
            return levels
    return WIDTH_SHARES[:3:2]


def measure_times(
    model: onnx.ModelProto, feed: Mapping[str, Any], threads: int = 0, seconds: float = USUAL_SECONDS,
    cache: Path | None = None, digest: str = "",
) -> dict[str, Any]:  # fmt: skip
    """The document of a times file. `digest` is the SHA-256 of the model's file. Raises TimesError.

    `seconds` bounds what is spent on contractions, the slowest first; what is left out is not in the file.
    """
    start = time.perf_counter()
    threads = threads or _count_cores()
    machine = {"cpu": find_cpu(), "features": list_features(), "onnxruntime": ort.__version__, "threads": threads}
    dense, kernels = measure_whole(model, feed, threads)
    memory = Cache(cache, machine)
    by_key: dict[str, list[Contraction]] = {}
    for c in find_contractions(model, feed, threads):
        by_key.setdefault(json.dumps(c.describe()), []).append(c)
    # the dense widths first: how long each takes decides how many widths there is time for
    firsts = [(rows, [tuple(c.size for c in rows[0].coordinates)]) for rows in by_key.values()]
    dense_times = []
    for rows, points in firsts:
        found = _recall_or_measure(rows[0], points, model.opset_import, threads, 0.0, memory)
        dense_times.append((rows, found[0] if found else 0.0))
    dense_times.sort(key=lambda pair: -pair[1] * len(pair[0]))
    levels = choose_levels([(rows[0], ms) for rows, ms in dense_times], seconds)
    whole = sum(ms * len(rows) for rows, ms in dense_times) or 1.0
    tables = list[dict[str, Any]]()
    for rows, ms in dense_times:
        left = seconds - (time.perf_counter() - start)
        if not ms or left <= 0:
            continue
        sizes, points = list_points(rows[0], levels)
        times = _recall_or_measure(rows[0], points, model.opset_import, threads, left * ms * len(rows) / whole, memory)
        if times:
            tables.append(_make_table(rows, sizes, times))
        whole -= ms * len(rows)
        whole = max(whole, ms)
    return {
        "format": TIMES_FORMAT, "version": TIMES_VERSION, "model": digest, "cpu": machine["cpu"],
        "device": find_device(), "machine": platform.machine(), "system": platform.system(), "threads": threads,
        "versions": {"onnxruntime": ort.__version__, "numpy": np.__version__, "onnx": onnx.__version__},
        "inputs": {n: list(v.shape) for n, v in feed.items()}, "dense_ms": dense, "kernels": kernels,
        "contractions": tables, "seconds": time.perf_counter() - start,
    }  # fmt: skip


def _make_table(rows: Sequence[Contraction], sizes: Sequence[Sequence[int]], times: Sequence[float]) -> dict[str, Any]:
    """The entry of contractions that are alike: by which axis of which input a width is told, and the times."""
    first, coordinates = rows[0], []
    for c, own in zip(rows[0].coordinates, sizes, strict=True):
        slot = c.axes[0][0] if c.name == "stack" else max(slot for slot, _, _ in c.axes[:2])
        axis = next(a for k, a, _ in c.axes if k == slot)
        shape = first.shapes[slot]
        whole = shape[axis] if shape is not None else c.size
        scaled = [n * whole // c.size for n in own]
        coordinates.append({"name": c.name, "slot": slot, "axis": axis, "size": whole, "sizes": scaled})
    weights = [[n for n, held in zip(c.node.input, c.constant, strict=True) if held and n] for c in rows]
    return {
        "op": first.node.op_type, "outputs": [c.node.output[0] for c in rows], "weights": weights,
        "coordinates": coordinates, "ms": list(times),
    }  # fmt: skip


def _recall_or_measure(
    made: Contraction, points: list[Shape], imports: Sequence[onnx.OperatorSetIdProto], threads: int, seconds: float,
    memory: Cache,
) -> list[float]:  # fmt: skip
    found = memory.read(made, points)
    if found is not None:
        return found
    out = list[float]()
    for part in _split_by_memory(made, points):
        times = measure_points(made, part, imports, threads, seconds * len(part) / len(points))
        if len(times) != len(part):
            return []
        out += [max(t, 1e-4) for t in times]
    memory.write(made, points, out)
    return out


def _split_by_memory(made: Contraction, points: Iterable[Shape]) -> Iterator[list[Shape]]:
    """Points in sessions of bounded memory."""
    part, held = list[Shape](), 0
    for p in points:
        _, shapes = made.resize({c.name: n for c, n in zip(made.coordinates, p, strict=True)})
        size = sum(math.prod(s) * t.itemsize for s, t in zip(shapes, made.types, strict=True) if s is not None and t)
        if part and held + size > LARGEST_SESSION:
            yield part
            part, held = [], 0
        part.append(p)
        held += size
    yield part


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_shape(text: str) -> tuple[str, list[int]]:
    """`NAME:1x3x224x224`."""
    name, _, sizes = text.rpartition(":")
    if not name or not re.fullmatch(r"[1-9]\d*([x,][1-9]\d*)*", sizes):
        raise TimesError(f"--input-shape {text}: expected NAME:1x3x224x224", is_usage=True)
    return name, [int(n) for n in re.split("[x,]", sizes)]


def time_file(
    source: Path, output: Path, threads: int = 0, seconds: float = USUAL_SECONDS, shapes: Sequence[str] = (),
    remember: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Measure a file and write its times. Raises TimesError."""
    given = dict(map(parse_shape, shapes))
    try:
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        model = onnx.load(source)
    except Exception as e:
        raise TimesError(f"{source}: cannot be read as a model: {' '.join(str(e).split())[:200]}") from e
    if output.exists() and output.samefile(source):
        raise TimesError(f"-o {output}: this file is the model, which is never changed", is_usage=True)
    found = measure_times(model, make_feed(model, given), threads, seconds, find_cache() if remember else None, digest)
    try:
        save_whole(output, json.dumps(found, indent=1) + "\n")
    except OSError as e:
        raise TimesError(f"-o {output}: cannot write: {e.strerror or e}", is_usage=True) from e
    return found


def describe_times(found: Mapping[str, Any], output: Path) -> str:
    """A line about what was measured."""
    kernels = sum(len(t["outputs"]) for t in found["contractions"])
    points = sum(len(t["ms"]) for t in found["contractions"])
    return (
        f"{found['dense_ms']:.3g} ms a run with {found['threads']} threads on {found['cpu']}; {kernels} contractions, "
        f"{points} times in {found['seconds']:.1f} s; wrote {output}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command of this file; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", metavar="IN.onnx", type=Path)
    parser.add_argument("-o", "--output", metavar="T.json", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0, help="threads of onnxruntime; 0: one per core")
    parser.add_argument("--seconds", type=float, default=USUAL_SECONDS, help="time to spend on contractions")
    parser.add_argument("--input-shape", action="append", default=[], metavar="NAME:1x3x224x224")
    parser.add_argument("--no-cache", action="store_true", help="measure again what is remembered")
    given = parser.parse_args(arguments)
    try:
        found = time_file(
            given.source, given.output, given.threads, given.seconds, given.input_shape, not given.no_cache
        )
    except TimesError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2 if e.is_usage else 3
    print(describe_times(found, given.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
