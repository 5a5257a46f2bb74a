"""Measure the derivative of a graph as a graph: own rows (`reverse_mode`, `derivatives`) against libraries of PyPI.

    pip install onnx-ad
    python -m tools.measure.derivatives [--data FOLDER]        # writes docs/derivatives.md

A library that is not installed is left out, and the table says so. Every model gives one question: the product of a
random vector with the Jacobian of one float output by one float input. A library's answer is a model, which onnxruntime
runs in float32; it is right where its products with random directions are central differences of the model in float64
(onnx's reference evaluator; in float32 by onnxruntime, with a wider tolerance, where that cannot run the model).
Seconds are of the processor, one thread, the least of several runs. Two columns are onnx-ad: as it is, and after two
rewrites of what it does not know or gets wrong (`rewrite_for_onnx_ad`); a third gives it the file in place of the
normalised model at fixed sizes. `--data`: a folder with the further models of TIMED.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy.special import erf

from spa_compiler.autodiff.reverse_mode import OPSET, Tape, Unknown
from spa_compiler.calibration.bn_matching import OLDEST_OPSET
from spa_compiler.cli.inspection import analyze_file
from spa_compiler.execution.inputs import draw_finite_inputs
from spa_compiler.execution.session import open_session
from spa_compiler.ir.model import Model
from spa_compiler.ir.subgraphs import list_subgraphs
from spa_compiler.ir.symbols import make_input_types
from spa_compiler.operators.derivatives import DERIVATIVES, NUMBERS_READ
from spa_compiler.shape_inference.evaluator import evaluate

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
PAGE, FIRST = ROOT / "docs" / "derivatives.md", "## Libraries"
"""The document, and the heading from which on it is measured; what stands before is written by hand."""
Array = NDArray[Any]
Feed = dict[str, Array]
DIRECTIONS, STEP, COARSE_STEP = 6, 1e-6, 3e-4
"""Random directions in which differences are taken, and the steps in float64 and in float32."""
CLOSE, COARSE = 1e-3, 5e-2
"""Largest error, relative to the root mean square of the differences, of a right answer against either."""
SAME = 1e-3
"""Relative difference up to which the float64 model counts as the same function as the float32 one."""
LIMIT = 90
"""Seconds after which building or checking one model is given up."""
PATIENCE = 10
"""Seconds that one evaluation in float64 may take; differences are in float32 where it takes longer."""
NARROW = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
"""Element types of quantised activations: such a model is a staircase, whose derivative is zero."""
TIMED = {"digits_resnet": 48, "digits_vit": 48, "akamaster_resnet20_bn": 48, "imagenet_mobilenet_v2_1.0_224_dq": 8}
"""Models whose derivative is timed, and how many inputs at once."""
OUR_NAME = "own rows"
ABSENT = {"onnx-ad": "onnx_ad", "onnax": "onnax"}
"""Libraries on PyPI, and the modules that they install."""
PROBES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "convolution, stride 2, pads all round": (
        "(float[1,3,8,8] x) => (float[1,4,4,4] y) { y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) }",
        {"w": (4, 3, 3, 3)}, "x", 18),
    "convolution, stride 2, pads at the end only (TensorFlow)": (
        "(float[1,3,8,8] x) => (float[1,4,4,4] y) { y = Conv<strides=[2,2], pads=[0,0,1,1]>(x, w) }",
        {"w": (4, 3, 3, 3)}, "x", 18),
    "convolution 1x1, stride 2 (shortcut of a ResNet)": (
        "(float[1,3,8,8] x) => (float[1,4,4,4] y) { y = Conv<strides=[2,2]>(x, w) }", {"w": (4, 3, 1, 1)}, "x", 18),
    "convolution, auto_pad": (
        '(float[1,3,8,8] x) => (float[1,4,8,8] y) { y = Conv<auto_pad="SAME_UPPER">(x, w) }',
        {"w": (4, 3, 3, 3)}, "x", 18),
    "depthwise convolution by its input": (
        "(float[1,4,8,8] x) => (float[1,4,6,6] y) { y = Conv<group=4>(x, w) }", {"w": (4, 1, 3, 3)}, "x", 18),
    "convolution by its weight": (
        "(float[1,3,8,8] x, float[4,3,3,3] w) => (float[1,4,6,6] y) { y = Conv(x, w) }", {}, "w", 18),
    "depthwise convolution by its weight": (
        "(float[1,4,8,8] x, float[4,1,3,3] w) => (float[1,4,6,6] y) { y = Conv<group=4>(x, w) }", {}, "w", 18),
    "linear map by its weight": (
        "(float[2,5] x, float[5,6] w) => (float[2,6] y) { y = MatMul(x, w) }", {}, "w", 18),
    "gate on the channels of a convolution": (
        "(float[1,3,8,8] x, float[1,4,1,1] gate) => (float[1,2,6,6] y)"
        " { a = Conv(x, v)  b = Relu(a)  c = Mul(b, gate)  y = Conv(c, w) }",
        {"v": (4, 3, 3, 3), "w": (2, 4, 1, 1)}, "gate", 18),
    "quotient of two activations": ("(float[2,4] x) => (float[2,4] y) { a = Sigmoid(x)  y = Div(x, a) }", {}, "x", 18),
    "softmax": ("(float[2,4] x) => (float[2,4] y) { y = Softmax(x) }", {}, "x", 18),
    "attention": (
        "(float[2,4,5] x) => (float[2,4,5] y)"
        " { t = Transpose<perm=[0,2,1]>(x)  a = MatMul(x, t)  b = Softmax(a)  y = MatMul(b, x) }", {}, "x", 18),
    "layer norm": (
        "(float[2,4,6] x) => (float[2,4,6] y) { y = LayerNormalization(x, s, t) }", {"s": (6,), "t": (6,)}, "x", 18),
    "layer norm of the contrib domain": (
        "(float[2,4,6] x) => (float[2,4,6] y) { y = com.microsoft.SkipLayerNormalization(x, x, s, t) }",
        {"s": (6,), "t": (6,)}, "x", 18),
    "LSTM": (
        "(float[5,2,3] x) => (float[5,1,2,4] y) { y = LSTM<hidden_size=4>(x, w, r) }",
        {"w": (1, 16, 3), "r": (1, 16, 4)}, "x", 18),
    "Scan": (
        "(float[4,3] x, float[3] s) => (float[3] f, float[4,3] y) { f, y = Scan<num_scan_inputs=1, body = b"
        " (float[3] u, float[3] v) => (float[3] n, float[3] o) { n = Mul(u, v)  o = Tanh(n) }>(s, x) }", {}, "x", 18),
    "If that reads the input, beside a direct path": (
        "(bool c, float[2,4] x) => (float[2,4] y) { b = If(c) <then_branch = t () => (float[2,4] p) { p = Tanh(x) },"
        " else_branch = e () => (float[2,4] q) { q = Mul(x, x) }>  y = Add(x, b) }", {}, "x", 18),
    "an element taken twice": (
        "(float[2,4] x) => (float[2,3] y) { y = Gather<axis=1>(x, i) }", {"i": [2, 2, 0]}, "x", 18),
    "average pool with pads that do not count": (
        "(float[1,3,8,8] x) => (float[1,3,8,8] y)"
        " { y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) }", {}, "x", 18),
    "resize": (
        '(float[1,3,4,4] x) => (float[1,3,8,8] y) { y = Resize<mode="linear">(x, , f) }',
        {"f": np.array([1, 1, 2, 2], np.float32)}, "x", 18),
    "slice with a step (shortcut of a CIFAR ResNet)": (
        "(float[1,3,8,8] x) => (float[1,3,4,8] y) { y = Slice(x, a, e, k, t) }",
        {"a": [0], "e": [8], "k": [2], "t": [2]}, "x", 18),
    "bounds of Clip as attributes (opset 10)": (
        "(float[2,40] x) => (float[2,40] y) { y = Clip<min=-0.5, max=0.5>(x) }", {}, "x", 10),
    "operator of another domain that has the name of ONNX's": (
        "(float[2,40] x) => (float[2,40] y) { a = Tanh(x)  y = com.microsoft.Gelu(a) }", {}, "x", 18),
    "opset 12": ("(float[2,4] x) => (float[2,4] y) { y = Tanh(x) }", {}, "x", 12),
    "opset 9": ("(float[2,4] x) => (float[2,4] y) { y = Tanh(x) }", {}, "x", 9),
}  # fmt: skip
"""Small models of what is known to be missing somewhere: text, initializers, by which input, opset."""


class SlowError(Exception):
    """It took longer than LIMIT."""


class Erf(OpRun):  # type: ignore[misc]
    """The evaluator's own rounds to float32."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (erf(x),)


@dataclass
class Subject:
    """One question: the derivative of the float output `target` by the float input `source`."""

    name: str
    file: onnx.ModelProto
    model: Model
    proto: onnx.ModelProto  # the normalised model at fixed sizes, with the shape of every value
    shapes: dict[str, list[int]]
    source: str
    target: str
    feed: Feed
    rows: int = 0  # inputs at once; 0: as many as the analysis chose


@dataclass
class Answer:
    """A model that gives the derivative: the names of its seed and of its result, and a trailing axis of 1 or none."""

    proto: onnx.ModelProto
    seed: str
    result: str
    trailing: bool = False


@dataclass
class Reference:
    """Central differences: of which function, and the largest error of a right answer."""

    weights: Array
    directions: list[Array]
    differences: list[float]
    tolerance: float

    @property
    def size(self) -> float:
        return float(np.sqrt(np.mean(np.square(self.differences))))


Library = Callable[[Subject], Answer]


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises SlowError in the main thread after so many seconds."""

    def stop(*_: object) -> None:
        raise SlowError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fix_sizes(model: Model, rows: int = 0) -> tuple[onnx.ModelProto, dict[str, list[int]], Model]:
    """The model at the sizes of its analysis (`rows`: of the first axis of inputs), and the shape of each value."""
    sizes = {n: pair[0] for n, pair in model.shapes.sizes.items()} if model.shapes else {}
    types = make_input_types(model, sizes)
    header = onnx.ModelProto()
    header.CopyFrom(model.header)
    for value in header.graph.input:
        if value.name in types:
            value.type.CopyFrom(types[value.name])
            if rows:
                value.type.tensor_type.shape.dim[0].Clear()
                value.type.tensor_type.shape.dim[0].dim_value = rows
    del header.graph.value_info[:]
    fixed = replace(model, header=header)
    facts = evaluate(fixed, sizes)
    shapes = {n: list(s) for n in facts.types if (s := facts.shape(n)) is not None}
    proto = fixed.proto()
    for value in proto.graph.output:
        if value.name in shapes:
            value.type.CopyFrom(facts.types[value.name])
    made = {n for node in proto.graph.node for n in node.output} - {v.name for v in proto.graph.output}
    proto.graph.value_info.extend(
        onnx.ValueInfoProto(name=n, type=facts.types[n]) for n in shapes if n in made
    )  # fmt: skip
    return proto, shapes, fixed


def question(model: Model, proto: onnx.ModelProto, wanted: str = "") -> tuple[str, str]:
    """The first float input, and the first float output that depends on it. Raises LookupError where there is none."""
    narrow = {v.name for v in proto.graph.value_info if v.type.tensor_type.elem_type in NARROW}
    floats = [i.name for i in proto.graph.input if is_float(i) and i.name not in model.defaults]
    for source in [wanted] if wanted else floats:
        live = {source}
        for node in model.flat():
            if not live.isdisjoint(node.input[: NUMBERS_READ.get(node.op_type)]):
                live |= {n for n in node.output if n}
        if not narrow.isdisjoint(live):
            raise LookupError("its activations are quantised")
        for value in proto.graph.output:
            if value.name in live and is_float(value):
                return source, value.name
    raise LookupError("no float output depends on a float input")


def is_float(value: onnx.ValueInfoProto) -> bool:
    """Is this a tensor of float32?"""
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def subject_of(name: str, path: Path, rows: int = 0, source: str = "") -> Subject:
    """Load, normalise, choose the question and draw inputs."""
    model = analyze_file(path).model
    proto, shapes, fixed = fix_sizes(model, rows)
    source, target = question(model, proto, source)
    names = [v.name for v in proto.graph.output]
    session = open_session(proto, model.folder, 1, 1)
    sizes = {n: pair[0] for n, pair in model.shapes.sizes.items()} if model.shapes else {}

    def execute(feed: Feed) -> dict[str, Any]:
        return dict(zip(names, session.run(names, feed), strict=True))

    feed = draw_finite_inputs(execute, fixed, sizes, np.random.default_rng(0)).feed
    return Subject(name, onnx.load(path), model, proto, shapes, source, target, feed, rows)


def differentiate_own(subject: Subject) -> Answer:
    """By the rows of `derivatives`."""
    opset = subject.model.opset.get("", 0)
    if opset < OLDEST_OPSET:
        raise Unknown(f"opset older than {OLDEST_OPSET}")
    _, shapes, _ = fix_sizes(subject.model, subject.rows)  # a library infers shapes, too: its time counts
    out = onnx.ModelProto()
    out.CopyFrom(subject.proto)
    constants = {n: subject.model.array(t) for n, t in subject.model.constants().items()}
    tape = Tape(out.graph.node, constants, shapes, subject.source, max(OPSET, opset), subject.model.names)
    seed = tape.names.value("seed")
    tape.add(subject.target, seed)
    result = tape.run_backward(DERIVATIVES)
    out.graph.node.extend(tape.made)
    out.graph.initializer.extend(tape.tables)
    out.graph.input.append(helper.make_tensor_value_info(seed, TensorProto.FLOAT, subject.shapes[subject.target]))
    for entry in out.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(OPSET, opset)
    out.ir_version = max(out.ir_version, 8)
    return Answer(trim(out, result), seed, result)


def differentiate_onnx_ad(proto: onnx.ModelProto, subject: Subject) -> Answer:
    """By onnx-ad, its seeds along a trailing axis of 1."""
    from onnx_ad import reverse

    out = reverse(proto, inputs=[subject.source], outputs=[subject.target], prefix="adj_", layout="onnx")
    seed, result = f"adj_{subject.target}", f"adj_{subject.source}"
    return Answer(trim(out, result), seed, result, True)


def rewrite_for_onnx_ad(subject: Subject) -> onnx.ModelProto:
    """Rewrite what onnx-ad 0.3 cannot differentiate, or not rightly, as operators that it knows.

    Uneven pads of a strided convolution become a Pad, and a Slice with steps becomes Gathers.
    """
    out = onnx.ModelProto()
    out.CopyFrom(subject.proto)
    constants = {t.name: numpy_helper.to_array(t) for t in out.graph.initializer if len(t.dims) <= 1}
    nodes: list[onnx.NodeProto] = []
    for k, node in enumerate(subject.proto.graph.node):
        made, tables = [node], []
        if node.op_type == "Conv":
            made, tables = explicit_pad(node, f"rewritten.{k}")
        elif node.op_type == "Slice" and node.input[0] in subject.shapes and {*node.input[1:], ""} <= {*constants, ""}:
            bounds = [constants[n].tolist() if n else None for n in node.input[1:]]
            made, tables = gathers(node, bounds, subject.shapes[node.input[0]], f"rewritten.{k}")
        nodes += made
        out.graph.initializer.extend(tables)
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out


def explicit_pad(node: onnx.NodeProto, name: str) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """A strided convolution whose pads differ at the two ends: a Pad, and one without."""
    a = {x.name: helper.get_attribute_value(x) for x in node.attribute}
    pads, strides = list(a.get("pads", [])), list(a.get("strides", []))
    rank = len(pads) // 2
    if pads[:rank] == pads[rank:] or max(strides, default=1) == 1:
        return [node], []
    table = numpy_helper.from_array(np.array([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64), f"{name}.pads")
    inner = helper.make_node("Conv", [f"{name}.x", *node.input[1:]], node.output, **a | {"pads": [0] * 2 * rank})
    return [helper.make_node("Pad", [node.input[0], table.name], [f"{name}.x"]), inner], [table]


def gathers(
    node: onnx.NodeProto, bounds: list[Any], shape: Sequence[int], name: str
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """A Slice with steps: one Gather an axis."""
    starts, ends, axes, steps = (*bounds, None, None, None, None)[:4]
    if not steps or set(steps) == {1}:
        return [node], []
    made, tables, x = [], [], node.input[0]
    for k, (start, end, axis, step) in enumerate(zip(starts, ends, axes or range(len(starts)), steps, strict=True)):
        places = np.arange(shape[axis])[slice(start, end if abs(end) < shape[axis] or step > 0 else None, step)]
        tables.append(numpy_helper.from_array(places.astype(np.int64), f"{name}.places{k}"))
        y = node.output[0] if k == len(starts) - 1 else f"{name}.y{k}"
        made.append(helper.make_node("Gather", [x, tables[-1].name], [y], axis=axis))
        x = y
    return made, tables


def libraries() -> dict[str, Library]:
    """The installed libraries: name -> the derivative of a subject."""
    out: dict[str, Library] = {OUR_NAME: differentiate_own}
    if not explain_missing("onnx-ad"):
        out["onnx-ad"] = lambda s: differentiate_onnx_ad(s.proto, s)
        out["onnx-ad, rewritten"] = lambda s: differentiate_onnx_ad(rewrite_for_onnx_ad(s), s)
        out["onnx-ad, the file itself"] = lambda s: differentiate_onnx_ad(s.file, s)
    return out


def explain_missing(package: str) -> str:
    """Why a library is not measured, or ''."""
    try:
        version(package)
    except PackageNotFoundError:
        return "is not installed"
    return "" if package == "onnx-ad" else "is installed, but this script does not call it"


def reads(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, its bodies included (and what they make: too many do no harm)."""
    return set(node.input) | {n for body in list_subgraphs(node) for inner in body.node for n in reads(inner)} | {
        v.name for body in list_subgraphs(node) for v in body.output
    }  # fmt: skip


def trim(proto: onnx.ModelProto, result: str) -> onnx.ModelProto:
    """Only what one value needs: neither library shall pay for outputs that nobody asked for."""
    wanted, kept = {result}, []
    for node in reversed(proto.graph.node):
        if not wanted.isdisjoint(node.output):
            wanted |= reads(node)
            kept.append(node)
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    del out.graph.node[:], out.graph.output[:], out.graph.value_info[:], out.graph.initializer[:]
    out.graph.node.extend(kept[::-1])
    out.graph.output.append(onnx.ValueInfoProto(name=result))
    out.graph.initializer.extend(t for t in proto.graph.initializer if t.name in wanted)
    return out


def as_double(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in float64."""
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    widen(out.graph)
    return out


def widen(graph: onnx.GraphProto) -> None:
    """float32 becomes float64: weights, declared types, the targets of casts, and in bodies as well."""
    for t in graph.initializer:
        widen_tensor(t)
    for value in (*graph.input, *graph.output):
        if is_float(value):
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del graph.value_info[:]
    for node in graph.node:
        for a in node.attribute:
            if a.name in ("to", "dtype") and a.i == TensorProto.FLOAT:
                a.i = TensorProto.DOUBLE
            elif a.type == onnx.AttributeProto.TENSOR:
                widen_tensor(a.t)
            elif a.type == onnx.AttributeProto.GRAPH:
                widen(a.g)


def widen_tensor(t: TensorProto) -> None:
    """A float32 tensor becomes one of float64."""
    if t.data_type == TensorProto.FLOAT:
        t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float64), t.name))


def functions(subject: Subject, patience: int = PATIENCE) -> Iterator[tuple[Callable[[Array], Array], float, float]]:
    """The output as a function of the input in float64 and in float32, with the step and the tolerance of each."""
    proto = onnx.ModelProto()
    proto.CopyFrom(subject.proto)
    del proto.graph.output[:]
    proto.graph.output.extend(v for v in subject.proto.graph.output if v.name == subject.target)
    session = open_session(proto, subject.model.folder, 1, 1)
    fed = {i.name for i in session.get_inputs()}
    feed = {n: v for n, v in subject.feed.items() if n in fed}

    def single(x: Array) -> Array:
        return np.asarray(session.run(None, feed | {subject.source: x.astype(np.float32)})[0], np.float64)

    expected = single(subject.feed[subject.source])
    try:
        evaluator = ReferenceEvaluator(as_double(proto), new_ops=[Erf])
        wide = {n: v.astype(np.float64) if v.dtype == np.float32 else v for n, v in feed.items()}

        def double(x: Array) -> Array:
            return np.asarray(evaluator.run(None, wide | {subject.source: x.astype(np.float64)})[0], np.float64)

        with time_limit(patience):
            got = double(subject.feed[subject.source])
        same = got.shape == expected.shape and np.abs(got - expected).max() <= SAME * np.abs(expected).max()
        if same and is_exact(double, subject.feed[subject.source]):
            yield double, STEP, CLOSE
    except Exception as e:  # too slow, an operator that the evaluator does not have, or not in float64
        print(f"{subject.name} in float64: {type(e).__name__}: {brief(str(e))}", file=sys.stderr)
    yield single, COARSE_STEP, COARSE


def is_exact(function: Callable[[Array], Array], x: Array) -> bool:
    """Are differences over two very different steps alike? They are not where something rounds to float32."""
    d = np.random.default_rng(3).standard_normal(x.shape)
    fine, wide = ((function(x + s * d) - function(x - s * d)) / (2 * s) for s in (STEP / 100, STEP))
    return bool(np.abs(fine - wide).max() <= CLOSE * np.abs(wide).max())


def central_differences(subject: Subject, patience: int = PATIENCE) -> Reference:
    """Of an output by an input; `patience`: seconds for one evaluation in float64.

    Raises LookupError where the output does not depend on the input, or is not finite.
    """
    function, step, tolerance = next(functions(subject, patience))
    rng = np.random.default_rng(1)
    x = subject.feed[subject.source].astype(np.float64)
    y = function(x)
    if not y.size or not np.isfinite(y).all():
        raise LookupError("its output is empty or not finite")
    weights = rng.standard_normal(y.shape).astype(np.float32)
    directions = [rng.standard_normal(x.shape) for _ in range(DIRECTIONS)]
    ends = [(function(x + step * d), function(x - step * d)) for d in directions]
    found = [float(((a - b) * weights).sum() / (2 * step)) for a, b in ends]
    if not np.isfinite(found).all() or not any(found):
        raise LookupError("differences are zero or not finite")
    rounding = np.finfo(np.float32).eps * float(np.linalg.norm(weights * y)) / step
    if tolerance == COARSE and np.sqrt(np.mean(np.square(found))) < rounding / COARSE:
        raise LookupError("there are no differences in float64, and in float32 they are rounding")
    return Reference(weights, directions, found, tolerance)


def error_of(answer: Answer, subject: Subject, reference: Reference) -> float:
    """The largest difference from central differences, relative to their root mean square."""
    result = run_answer(answer, subject, reference.weights)()
    products = [float((result * d).sum()) for d in reference.directions]
    return float(np.abs(np.subtract(products, reference.differences)).max() / reference.size)


def run_answer(answer: Answer, subject: Subject, weights: Array) -> Callable[[], Array]:
    """A function that runs the derivative model once in onnxruntime."""
    session = open_session(answer.proto, subject.model.folder, 3, 1, "the derivative")
    fed = {i.name for i in session.get_inputs()}
    feed = {n: v for n, v in subject.feed.items() if n in fed}
    if answer.seed in fed:
        feed[answer.seed] = weights[..., None] if answer.trailing else weights
    shape = subject.feed[subject.source].shape

    def call() -> Array:
        return np.asarray(session.run([answer.result], feed)[0], np.float64).reshape(shape)

    return call


def judge(library: Library, subject: Subject, reference: Reference) -> tuple[str, float, str]:
    """'right', 'wrong', 'refused' or 'does not run', the error, and what was said."""
    try:
        with time_limit(LIMIT), redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
            answer = library(subject)
    except Exception as e:  # how it fails is what is reported
        return "refused", np.inf, f"{type(e).__name__}: {e}"
    try:
        with time_limit(LIMIT):
            error = error_of(answer, subject, reference)
    except Exception as e:
        return "does not run", np.inf, str(e)
    return ("right" if error <= reference.tolerance else "wrong"), error, ""


def zoo_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The models of the tests as files."""
    from zoo import CASES, build

    for name, case in CASES.items():
        if case.runs:
            path = folder / f"{name.replace('/', '_')}.onnx"
            onnx.save(build(case), path)
            yield name, path


def probe_files(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """The models of PROBES as files, and by which input."""
    from zoo_base import Case, build

    for k, (name, (text, inits, source, opset)) in enumerate(PROBES.items()):
        path = folder / f"probe{k}.onnx"
        onnx.save(build(Case(text, inits, None, opset=opset)), path)
        yield name, path, source


@dataclass
class Verdicts:
    """The outcomes of the models of one collection."""

    title: str
    models: int
    left_out: Counter[str]
    coarse: int
    rows: list[tuple[str, dict[str, tuple[str, float, str]]]]

    def count(self, library: str, verdict: str) -> int:
        return sum(found[library][0] == verdict for _, found in self.rows)

    def errors(self, library: str, others: Sequence[str]) -> list[float]:
        """Errors where all of these are right."""
        return [f[library][1] for _, f in self.rows if all(f[o][0] == "right" for o in others)]


def measure_all(title: str, files: Iterator[tuple[str, Path]], known: Mapping[str, Library]) -> Verdicts:
    """Judge every library on every model that poses a question."""
    out = Verdicts(title, 0, Counter(), 0, [])
    for name, path in files:
        out.models += 1
        try:
            with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
                with time_limit(LIMIT):
                    subject = subject_of(name, path)
                reference = central_differences(subject)
        except LookupError as e:
            out.left_out[str(e)] += 1
            continue
        except Exception as e:  # a model that cannot be read or run poses no question
            out.left_out[f"cannot be run here ({type(e).__name__})"] += 1
            print(f"{title}: {name}: {e}", file=sys.stderr)
            continue
        out.coarse += reference.tolerance == COARSE
        found = {label: judge(library, subject, reference) for label, library in known.items()}
        out.rows.append((name, found))
        print(f"{title}: {name}: " + " | ".join(f"{v} {e:.1e} {w[:90]}" for v, e, w in found.values()), file=sys.stderr)
    return out


def least_seconds(action: Callable[[], Any], times: int) -> float:
    """Least processor time of several calls."""
    out = []
    for _ in range(times):
        start = time.process_time()
        action()
        out.append(time.process_time() - start)
    return min(out)


def before_softmax(subject: Subject) -> Subject:
    """The same model, of which the derivative is by what a last Softmax reads: most users of one stop there."""
    maker = next(n for n in subject.proto.graph.node if subject.target in n.output)
    if maker.op_type != "Softmax":
        return subject
    target, proto = maker.input[0], onnx.ModelProto()
    proto.CopyFrom(subject.proto)
    proto.graph.output.append(helper.make_tensor_value_info(target, TensorProto.FLOAT, subject.shapes[target]))
    return replace(subject, target=target, proto=proto)


def timing_rows(paths: Sequence[Path], known: Mapping[str, Library]) -> Iterator[list[str]]:
    """Seconds to build and to run, and the error, for the models of TIMED that are there."""
    for name, rows in TIMED.items():
        path = next((p for p in paths if p.stem == name), None)
        if path is None:
            yield [name, str(rows), "the file is not here", *[""] * 6]
            continue
        single = before_softmax(subject_of(name, path))
        reference = central_differences(single, LIMIT)
        subject = before_softmax(subject_of(name, path, rows))
        weights = np.random.default_rng(2).standard_normal(subject.shapes[subject.target]).astype(np.float32)
        forward = open_session(subject.proto, subject.model.folder, 3, 1)
        ahead = least_seconds(lambda s=forward, f=subject.feed: s.run(None, f), 7)  # type: ignore[misc]
        for label, library in known.items():
            if "file" in label:  # at its own sizes
                continue
            yield [name, str(rows), label, *timing(library, subject, single, reference, weights, ahead)]


def timing(
    library: Library, subject: Subject, single: Subject, reference: Reference, weights: Array, ahead: float
) -> list[str]:
    """Build, nodes, run, times a forward run, error."""
    try:
        with time_limit(10 * LIMIT), redirect_stderr(io.StringIO()):
            answer = library(subject)
            build = least_seconds(lambda: library(subject), 3)
            call = run_answer(answer, subject, weights)
            call()
            run = least_seconds(call, 7)
            error = error_of(library(single), single, reference)
    except Exception as e:
        return [f"{type(e).__name__}: {brief(str(e))}", "", "", "", "", ""]
    nodes = len(answer.proto.graph.node)
    against = " (differences in float32)" if reference.tolerance == COARSE else ""
    return [f"{build:.3f}", str(nodes), f"{ahead:.4f}", f"{run:.4f}", f"{run / ahead:.1f}", f"{error:.1e}{against}"]


def brief(text: str) -> str:
    """The first sentence of a message, fit for a table."""
    line = " ".join(text.split())
    return line.replace("|", "/")[:110]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *rows))


def operator_rows(known: Mapping[str, Library]) -> list[list[str]]:
    """How many operators have a derivative, and whence."""
    out = [[OUR_NAME, str(len(DERIVATIVES)), "0", "0", "0"]]
    if "onnx-ad" in known:
        from onnx_ad.lower import LOWERINGS
        from onnx_ad.recurrent import RECURRENT
        from onnx_ad.rules import REVERSE, ZERO_DERIVATIVE

        rules, zero = set(REVERSE) - set(ZERO_DERIVATIVE), set(ZERO_DERIVATIVE)
        lowered = set(LOWERINGS) | set(RECURRENT)
        schemas = {s.name: s for s in onnx.defs.get_all_schemas() if s.domain == ""}
        bodies = {n for n, s in schemas.items() if s.has_function or s.has_context_dependent_function}
        bodies -= rules | zero | lowered
        out.append(["onnx-ad", *(str(len(s)) for s in (rules, zero, lowered, bodies))])
        print("not in onnx-ad:", sorted(set(DERIVATIVES) - rules), "by body:", sorted(bodies), file=sys.stderr)
    return out


def coverage_rows(found: Sequence[Verdicts], known: Mapping[str, Library]) -> list[list[str]]:
    """One row a collection and library."""
    out = []
    for v in found:
        for label in known:
            counts = [str(v.count(label, verdict)) for verdict in ("right", "wrong", "does not run", "refused")]
            out.append([v.title, str(len(v.rows)), label, *counts])
    return out


def reason_rows(found: Sequence[Verdicts], known: Mapping[str, Library]) -> list[list[str]]:
    """The commonest words of each library on what it does not do."""
    out = []
    for label in known:
        said: Counter[str] = Counter()
        for v in found:
            said.update(kind_of(f[label]) for _, f in v.rows if f[label][0] != "right")
        out += [[label, str(n), why] for why, n in said.most_common(8)]
    return out


def kind_of(verdict: tuple[str, float, str]) -> str:
    """A verdict without the names of nodes and values."""
    import re

    kind, _, why = verdict
    why = re.sub(r"'[^']*'|\(node [^)]*\)|;.*", "", why)
    return brief(f"{kind}: {why}" if why else kind)


def probe_rows(folder: Path, known: Mapping[str, Library]) -> Iterator[list[str]]:
    """A verdict of each library on each small model."""
    for name, path, source in probe_files(folder):
        subject = subject_of(name, path, source=source)
        reference = central_differences(subject)
        verdicts = [judge(library, subject, reference) for library in known.values()]
        yield [name, *(v if not why else f"{v}: {brief(why)}" for v, _, why in verdicts)]


def accuracy_rows(found: Sequence[Verdicts], known: Mapping[str, Library]) -> list[list[str]]:
    """Errors where every library is right."""
    out = []
    for v in found:
        for label in known:
            errors = v.errors(label, list(known))
            if errors:
                low, mid, high = np.quantile(errors, [0, 0.5, 1])
                out.append([v.title, str(len(errors)), label, f"{low:.0e}", f"{mid:.0e}", f"{high:.0e}"])
    return out


def main() -> None:
    """Measure everything and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of further models: timed, and with --only judged")
    parser.add_argument("--only", help="part of a model's name: the coverage of such models alone")
    args = parser.parse_args()
    sys.path.insert(0, str(TESTS / "models"))
    known = libraries()
    ours = sorted((ROOT / "models").glob("digits_*.onnx"))
    exports, more = sorted((TESTS / "exports").glob("*.onnx")), sorted(args.data.glob("*.onnx")) if args.data else []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        collections = {
            "tests/models": zoo_files(folder), "tests/exports": ((p.stem, p) for p in exports),
            "models/": ((p.stem, p) for p in ours), "further models": ((p.stem, p) for p in more if args.only),
        }  # fmt: skip
        chosen = {t: (f for f in fs if not args.only or args.only in f[0]) for t, fs in collections.items()}
        found = [measure_all(t, fs, known) for t, fs in chosen.items()]
        found = [v for v in found if v.models]
        probes = list(probe_rows(folder, known))
        timings = list(timing_rows([*ours, *more], known)) if not args.only else []
    text = page(found, probes, timings, known)
    if args.only:
        print(text)
    else:
        before = PAGE.read_text().split(FIRST)[0].rstrip() if PAGE.exists() else "# Derivatives"
        PAGE.write_text(f"{before}\n\n{text}\n")


def page(
    found: Sequence[Verdicts], probes: list[list[str]], timings: list[list[str]], known: Mapping[str, Library]
) -> str:
    """The measured part of the document."""
    parts = [FIRST, *(library_line(p) for p in ABSENT)]
    parts += ["## Operators with a derivative", table(
        ["", "by a rule", "derivative zero", "by lowering", "by the body in ONNX's specification"],
        operator_rows(known))]  # fmt: skip
    parts += [
        "## Models with a derivative from end to end",
        table(
            ["models", "with a question", "", "right", "wrong", "does not run", "refused"], coverage_rows(found, known)
        ),
    ]
    parts += [left_out_line(v) for v in found]
    parts += ["## What stands in the way (times, message)", table(["", "models", "what it says"],
                                                                reason_rows(found, known))]  # fmt: skip
    parts += ["## Small models", table(["", *known], probes)]
    parts += ["## Seconds of the processor", table(
        ["model", "inputs at once", "", "build", "nodes", "forward run", "derivative run", "times forward", "error"],
        timings)]  # fmt: skip
    parts += [
        "## Error in float32 where all are right",
        table(["models", "number", "", "least", "median", "largest"], accuracy_rows(found, known)),
    ]
    return "\n\n".join(parts)


def library_line(package: str) -> str:
    """The version of a library that is installed, and its dependencies."""
    why = explain_missing(package)
    if why:
        return f"`{package}` {why}: it is not in the tables."
    needs = [r for r in requires(package) or [] if "extra" not in r]
    return f"`{package}` {version(package)}, needs {', '.join(needs)}."


def left_out_line(v: Verdicts) -> str:
    """Models that pose no question, and why; how many have a reference in float32 only."""
    why = "; ".join(f"{n} {reason}" for reason, n in v.left_out.most_common())
    return (
        f"{v.title}: {v.models} models, {len(v.rows)} with a question, {v.coarse} of these with differences in "
        f"float32 only. Left out: {why or 'none'}."
    )


if __name__ == "__main__":
    main()
