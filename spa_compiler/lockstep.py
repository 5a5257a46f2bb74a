"""Running a model node by node on many inputs, and two models side by side.

    for step in Walk(model).run(feeds):            # one step per node, in the graph's order
        x = step.inputs[0]                          # chunks: one array per feed

Values are lists of chunks, one for each feed, and are dropped after their last use, so that memory is that of the
widest place of the graph. Calibration may replace what a node gives (`Adjust`), which never reaches the output model:
synthetic inputs normalise every BatchNormalization by the statistics of the batch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from spa_compiler.inside import Inside, Record, Span, either
from spa_compiler.model import Model
from spa_compiler.recurrent import with_steps
from spa_compiler.shapes import quiet_session
from spa_compiler.subgraphs import free_names, subgraphs
from spa_compiler.threads import each

Array = NDArray[Any]
Chunks = list[Array]
Feed = Mapping[str, Array]
ROOM = 1 << 27
"""Bytes that may be recorded inside one control node."""
SMALL = 64
"""Elements up to which a constant may be an operator's setting, which some kernels want to know before they run."""


@dataclass(frozen=True)
class Affine:
    """y -> scale * y + shift per channel of axis 1; what calibration does to a value, in both models alike."""

    scale: Array  # (channels,) float32
    shift: Array

    def apply(self, y: Array) -> Array:
        """The mapped value, in its own dtype."""
        shape = (1, -1, *(1,) * (y.ndim - 2))
        out = np.multiply(y, self.scale.reshape(shape), dtype=np.float32)
        out += self.shift.reshape(shape)
        return out.astype(y.dtype, copy=False)


@dataclass
class Step:
    """One node that is about to run: its inputs are known, `Walk.execute` or `Walk.give` fill `outputs`."""

    index: int
    node: onnx.NodeProto
    inputs: list[Chunks | None]  # None: absent, or not computable
    outputs: list[Chunks | None] = field(default_factory=list)


class Walk:
    """A model as nodes that can be run one at a time; constants may be replaced between runs."""

    def __init__(self, model: Model) -> None:
        self.model, proto = model, model.proto()
        self.inside = Inside(model)
        nodes = self.inside.nodes
        self.nodes = [n if i in self.inside.around else with_steps(n) for i, n in enumerate(nodes)]
        self.opsets, self.version = list(proto.opset_import), proto.ir_version
        self.constants: dict[str, Array] = {n: model.array(t) for n, t in model.constants().items()}
        for name, tensor in model.captured.items():
            if tensor is not None and name not in self.constants:
                self.constants[name] = onnx.numpy_helper.to_array(tensor)
        self.inputs = [i.name for i in proto.graph.input if i.name not in self.constants]
        self.reads = [self._reads(n) for n in self.nodes]
        around = self.inside.around  # what a body reads may be asked for again until its control node is done
        self.last = {n: around[i].end if i in around else i for i, names in enumerate(self.reads) for n in names}
        self.done: dict[int, list[str]] = {}
        for name, i in self.last.items():
            self.done.setdefault(i, []).append(name)
        self.readers = self._readers()
        self.readers_of = {n: [i for i, r in enumerate(self.reads) if n in r] for n in self.readers}
        self.values: dict[str, Chunks] = {}
        self.records: dict[int, Record] = {}
        self.added: dict[str, Array] = {}
        self.most = 0  # runs to record inside control nodes; 0: as many as there is room for
        self.failed: dict[int, str] = {}  # nodes that onnxruntime does not run alone, and what it says

    @staticmethod
    def _reads(node: onnx.NodeProto) -> list[str]:
        captured = [n for body in subgraphs(node) for n in sorted(free_names(body))]
        return list(dict.fromkeys([*(n for n in node.input if n), *captured]))

    def _readers(self) -> dict[str, list[str]]:
        """Operators that read each value; a graph output is read by ''."""
        out: dict[str, list[str]] = {}
        for node, names in zip(self.nodes, self.reads, strict=True):
            for n in names:
                out.setdefault(n, []).append(node.op_type)
        for t in self.model.graph.outputs:
            out.setdefault(t.name, []).append("")
        return out

    def start(self, feeds: Sequence[Feed]) -> None:
        """Forget all values and take these inputs."""
        self.chunks = len(feeds)
        self.values = {n: [np.asarray(f[n]) for f in feeds] for n in self.inputs if all(n in f for f in feeds)}

    def run(self, feeds: Sequence[Feed]) -> Iterator[Step]:
        """Every node in order; one that the caller has not run by the next step is run then, as it is."""
        self.start(feeds)
        for index in range(len(self.nodes)):
            step = self.step(index)
            yield step
            if not step.outputs:
                self.execute(step)
            self.forget(index)

    def step(self, index: int) -> Step:
        """The node at `index` with its inputs."""
        node = self.nodes[index]
        step = Step(index, node, [self.chunks_of(n) if n else None for n in node.input])
        for slot, chunks in self.records[index].inputs.items() if index in self.records else ():
            step.inputs[slot] = chunks
        return step

    def execute(self, step: Step) -> None:
        """Run a node; what onnxruntime cannot run on its own leaves its outputs unknown."""
        if (span := self.inside.around.get(step.index)) is not None:
            return self._recorded(step, span)
        sources = {n: self.chunks_of(n) for n in self.reads[step.index]}
        step.outputs = [None] * len(step.node.output)
        if any(c is None for c in sources.values()):
            return None
        fixed = bool(sources) and all(n in self.constants for n in sources)  # weights that are reshaped at run time
        rows = [{n: c[k] for n, c in sources.items() if c is not None} for k in range(1 if fixed else self.chunks)]
        try:
            got = self._execute(step.node, rows, [n for n in step.node.output if n])
        except Exception as e:  # an operator that wants its context: what follows from it is not calibrated
            self.failed[step.index] = " ".join(str(e).split())[:200]
            return None
        if fixed:
            self.constants |= {n: a for n, a in zip(step.node.output, got[0], strict=True) if n}
            step.outputs = [self.chunks_of(n) if n else None for n in step.node.output]
            return None
        for k, name in enumerate(step.node.output):
            if name:
                self.give(step, [row[k] for row in got], k)
        return None

    def _recorded(self, step: Step, span: Span) -> None:
        """Outputs of a node inside a body: a control node runs where its first body begins."""
        if step.index == span.start:
            self.enter(span)
        known = self.records.get(step.index)
        outputs = [self.values.get(n) for n in step.node.output] if step.index == span.end else []
        step.outputs = [known.output] if known else outputs
        step.outputs += [None] * (len(step.node.output) - len(step.outputs))

    def enter(self, span: Span) -> None:
        """Run a control node and record what the contractions in its bodies read and give."""
        node, taps = self.inside.node(span, self.added)
        sources = {n: self.chunks_of(n) for n in self._reads(node)}
        self.records = {}
        if any(c is None for c in sources.values()):
            return
        rows = [{n: c[k] for n, c in sources.items() if c is not None} for k in range(self.chunks)]
        plain = list(node.output)[: len(node.output) - len(taps)]
        got: list[list[Array]] = []
        given: list[list[Array]] = []  # what follows sees the branches that are taken, not those that are looked into
        for some in (either(node, rows), rows):
            try:
                got = self._tapped(node, some, plain)
                given = got if some is rows else self._execute(node, rows, [n for n in plain if n])
                break
            except Exception:  # as above; a branch may be for other sizes than these
                continue
        for k, name in enumerate(plain):
            if name and given:
                self.values[name] = [row[k] for row in given]
        for tap, k in zip(taps, range(len(plain), len(node.output)), strict=True):
            record = self.records.setdefault(tap.index, Record())
            for run, row in enumerate(got):
                if row[k] is not None:
                    record.put(tap, run, row[k])
        self.records = {i: r for i, r in self.records.items() if r.output}

    def _tapped(self, node: onnx.NodeProto, rows: list[dict[str, Array]], plain: list[str]) -> list[list[Array]]:
        """Run a control node; taps are None where there is no more room for them."""
        every = [n for n in node.output if n]
        got = self._execute(node, rows[:1], every)
        room = self.most or max(1, ROOM // max(1, sum(a.nbytes for a in got[0][len(plain) :])))
        rest = rows[room:]
        return [*got, *self._execute(node, rows[1:room], every), *self._execute(node, rest, [n for n in plain if n])]

    def amend(self, index: int, name: str, bias: Array) -> None:
        """Add to what a node inside a body gives, and run the control node around it again."""
        self.added[name] = bias
        self.enter(self.inside.around[index])

    def why(self, step: Step) -> str:
        """What keeps a node's values from being known, or ''."""
        if step.index in self.failed:
            return f"it does not run alone: {self.failed[step.index]}"
        unknown = [n for n in self.reads[step.index] if n not in self.constants and n not in self.values]
        return f"its input '{unknown[0]}' is not known: what it comes from does not run alone" if unknown else ""

    def give(self, step: Step, chunks: Chunks, slot: int = 0) -> None:
        """Set an output of a node."""
        step.outputs = step.outputs or [None] * len(step.node.output)
        step.outputs[slot] = self.values[step.node.output[slot]] = chunks

    def chunks_of(self, name: str) -> Chunks | None:
        """A value or a constant as chunks; None when it could not be computed."""
        if name in self.values:
            return self.values[name]
        return [self.constants[name]] * self.chunks if name in self.constants else None

    def forget(self, index: int) -> None:
        """Drop what no later node reads."""
        for name in self.done.get(index, ()):
            self.values.pop(name, None)
        if index in self.inside.around and self.inside.around[index].end == index:
            self.records = {}
        for name in self.nodes[index].output:
            if name not in self.last:
                self.values.pop(name, None)

    def _execute(self, node: onnx.NodeProto, rows: list[dict[str, Array]], order: list[str]) -> list[list[Array]]:
        if not rows:
            return []
        session = self._session(node, rows[0])  # not kept: its arena would outlive the only run
        wanted = [i.name for i in session.get_inputs()]

        def one(row: dict[str, Array]) -> list[Array]:
            got = dict(zip(order, session.run(order, {n: row[n] for n in wanted}), strict=True))
            return [got.get(n) for n in node.output]  # type: ignore[misc]

        large = sum(a.size for a in rows[0].values()) > 1 << 12
        return list(each(one, rows) if large else map(one, rows))

    def _session(self, node: onnx.NodeProto, row: dict[str, Array]) -> ort.InferenceSession:
        held_back = {n: a for n, a in row.items() if n in self.constants and n not in self.values}
        fixed = {n: a for n, a in held_back.items() if a.size <= SMALL or a.dtype.kind != "f"}
        inputs = [_info(n, a) for n, a in row.items() if n not in fixed]
        outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
        held = [onnx.numpy_helper.from_array(np.asarray(a, order="C"), n) for n, a in fixed.items()]
        graph = helper.make_graph([node], "node", inputs, outputs, held)
        proto = helper.make_model(graph, opset_imports=self.opsets, ir_version=max(self.version, 4))
        return quiet_session(proto.SerializeToString(), level=1, threads=1)

    def slot(self, index: int, slot: int) -> str:
        """The name of an input, which is made up where there is none."""
        node = self.nodes[index]
        node.input.extend([""] * (slot + 1 - len(node.input)))
        if not node.input[slot]:
            node.input[slot] = f"{next(n for n in node.output if n)}.{slot}"
            self.reads[index].append(node.input[slot])
            self.last[node.input[slot]] = index
        return str(node.input[slot])

    def replace(self, name: str, values: Array) -> None:
        """Another value for a constant, from now on."""
        self.constants[name] = values


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)


@dataclass(frozen=True)
class Adjust:
    """What calibration on synthetic inputs does to the dense model's values, as one affine map per node.

    `batch_norm`: every BatchNormalization normalises by the statistics of the batch, so that its output has mean beta
    and deviation |gamma|, as on the training data (docs: data-free inputs). `shrink`: where BatchNormalization was
    folded, the log deviations of a convolution that feeds a ReLU are pulled towards their mean over the live channels.
    """

    batch_norm: bool = False
    shrink: float = 0.0

    def of(self, walk: Walk, step: Step) -> Affine | None:
        """The map for the first output of this node, which is run where its output is what the map depends on."""
        x = step.inputs[0] if step.inputs else None
        if step.index in walk.inside.around:
            return None
        if step.node.op_type == "BatchNormalization" and self.batch_norm and x is not None and _wide(x):
            gamma, beta = (np.asarray(c[0], np.float64) for c in step.inputs[1:3] if c is not None)
            epsilon = next((a.f for a in step.node.attribute if a.name == "epsilon"), 1e-5)
            mean, variance = statistics(x)
            scale = gamma / np.sqrt(variance + epsilon)
            return Affine(scale.astype(np.float32), (beta - scale * mean).astype(np.float32))
        if step.node.op_type == "Conv" and self.shrink > 0 and rectified(walk, step.node.output[0]):
            walk.execute(step)
            y = step.outputs[0]
            return None if y is None else shrunk(*statistics(y), self.shrink)
        return None


def advance(walk: Walk, step: Step, affine: Affine | None) -> None:
    """Run a node, with the map that calibration puts in place of BatchNormalization or behind a convolution."""
    normalised = affine is not None and step.node.op_type == "BatchNormalization"
    if not normalised and not step.outputs:
        walk.execute(step)
    source = step.inputs[0] if normalised else step.outputs[0]
    if affine is not None and source is not None:
        walk.give(step, mapped(affine.apply, source, in_place=not normalised))


def mapped(change: Callable[[Array], Array], chunks: Chunks, in_place: bool) -> Chunks:
    """The chunks changed; `in_place` lets go of every old one as soon as its new one is there."""
    out = chunks if in_place else list(chunks)
    for k, c in enumerate(chunks):
        out[k] = change(c)
    return out


def rectified(walk: Walk, name: str) -> bool:
    """Is a value read by nothing but a Relu, or a Clip from zero upwards (Relu6)?"""
    if walk.readers.get(name) == ["Relu"]:
        return True
    if walk.readers.get(name) != ["Clip"]:
        return False
    node = walk.nodes[walk.readers_of[name][0]]
    low = [a.f for a in node.attribute if a.name == "min"]
    low += [float(np.max(walk.constants[n])) for n in node.input[1:2] if n in walk.constants]
    return low == [0.0]


def _wide(x: Chunks) -> bool:
    """More than one position per channel: there are statistics to take."""
    return x[0].ndim >= 2 and sum(a.size for a in x) > 8 * x[0].shape[1]


def statistics(x: Chunks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance per channel (axis 1) over all chunks."""
    total = np.zeros((2, x[0].shape[1]))
    count = 0
    for a in x:
        flat = a.reshape(len(a) * a.shape[1], -1).astype(np.float32, copy=False)
        total[0] += flat.sum(1).reshape(-1, a.shape[1]).sum(0, dtype=np.float64)
        total[1] += np.einsum("ip,ip->i", flat, flat).reshape(-1, a.shape[1]).sum(0, dtype=np.float64)
        count += a.size // a.shape[1]
    mean = total[0] / count
    return mean, np.maximum(total[1] / count - mean**2, 0)


def shrunk(mean: Array, variance: Array, strength: float) -> Affine:
    """Log s <- (1 - strength) log s + strength * mean over the live channels; the means stay."""
    deviation = np.sqrt(variance)
    live = deviation > 0.1 * np.median(deviation)
    scale = np.ones_like(deviation)
    if live.any():
        log = np.log(deviation[live])
        scale[live] = np.exp(strength * (log.mean() - log))
    return Affine(scale.astype(np.float32), (mean - scale * mean).astype(np.float32))
