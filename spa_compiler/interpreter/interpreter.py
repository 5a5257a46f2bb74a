"""Running a model node by node on many inputs, and two models side by side.

    for step in Walk(model).run(feeds):            # one step per node, in the graph's order
        x = step.inputs[0]                          # chunks: one array per feed

Values are lists of chunks, one for each feed, and are dropped after their last use, so that memory is that of the
widest place of the graph. Further inputs may join where it is narrower (`Late`). Calibration may replace what a node
gives (`activation_maps`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from spa_compiler.execution.interrupts import check_stop
from spa_compiler.execution.parallel import map_parallel
from spa_compiler.execution.session import open_quiet_session
from spa_compiler.interpreter.body_recorder import BodyIndex, Record, Span, force_both_branches
from spa_compiler.ir.model import Model
from spa_compiler.ir.subgraphs import find_free_names, list_subgraphs
from spa_compiler.operators import tables
from spa_compiler.operators.contraction import drop_activation
from spa_compiler.operators.recurrent_cell import add_step_outputs
from spa_compiler.operators.traits import Traits

Array = NDArray[Any]
T = TypeVar("T")
Chunks = list[Array]
Feed = Mapping[str, Array]
TAP_BYTES = 1 << 27
"""Bytes that may be recorded inside one control node."""
LARGE_ARRAY = 1 << 16
"""Elements of a chunk from which arithmetic on it is worth a thread."""
SMALL_ARRAY = 64
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


@dataclass(frozen=True)
class Late:
    """Inputs that join on the way: there is no room for them where the graph is wide."""

    first: int  # feeds that start
    at: int  # index of the node that all of them reach


@dataclass
class Step:
    """One node that is about to run: its inputs are known, `Walk.execute` or `Walk.give` fill `outputs`."""

    index: int
    node: onnx.NodeProto
    inputs: list[Chunks | None]  # None: absent, or not computable
    outputs: list[Chunks | None] = field(default_factory=list)

    @property
    def traits(self) -> Traits:
        """The traits of the node's operator."""
        return tables.find_traits(self.node)

    @property
    def is_normalised(self) -> bool:
        """Does the node normalise by a mean and a variance that the file holds?"""
        norm = self.traits.norm
        return norm is not None and norm.is_stored


class Walk:
    """A model as nodes that can be run one at a time; constants may be replaced between runs."""

    def __init__(self, model: Model) -> None:
        self.model, proto = model, model.proto()
        self.inside = BodyIndex(model)
        nodes = self.inside.nodes
        self.names = model.names.copy()
        self.nodes = [n if i in self.inside.around else add_step_outputs(n, self.names) for i, n in enumerate(nodes)]
        self.opsets, self.version = list(proto.opset_import), proto.ir_version
        self.constants: dict[str, Array] = {n: model.array(t) for n, t in model.constants().items()}
        for name, tensor in model.captured.items():
            if tensor is not None and name not in self.constants:
                self.constants[name] = model.numbers(tensor)
        self.inputs = [i.name for i in proto.graph.input if i.name not in self.constants]
        self.reads = [self._list_reads(n) for n in self.nodes]
        around = self.inside.around  # what a body reads may be asked for again until its control node is done
        self.last = {n: around[i].end if i in around else i for i, names in enumerate(self.reads) for n in names}
        self.done: dict[int, list[str]] = {}
        for name, i in self.last.items():
            self.done.setdefault(i, []).append(name)
        self.readers = self._readers()
        self.readers_of = {n: [i for i, r in enumerate(self.reads) if n in r] for n in self.readers}
        self.values: dict[str, Chunks] = {}
        self.waiting: Sequence[Feed] = ()
        self.past: dict[int, tuple[Affine | None, Array | None]] = {}  # what `finish` did, for those that join
        self.records: dict[int, Record] = {}
        self.added: dict[str, Array] = {}
        self.most = 0  # runs to record inside control nodes; 0: as many as there is room for
        self.failed: dict[int, str] = {}  # nodes that onnxruntime does not run alone, and what it says

    @staticmethod
    def _list_reads(node: onnx.NodeProto) -> list[str]:
        captured = [n for body in list_subgraphs(node) for n in sorted(find_free_names(body))]
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

    def start(self, feeds: Sequence[Feed], late: Late | None = None) -> None:
        """Forget all values and take these inputs; those that are late wait for `join`."""
        if late is not None:
            feeds, self.waiting = feeds[: late.first], feeds[late.first :]
        self.chunks = len(feeds)
        self.values = {n: [np.asarray(f[n]) for f in feeds] for n in self.inputs if all(n in f for f in feeds)}
        left = [n for n in self.model.defaults if n not in self.values]
        self.values |= {n: [self.model.default_array(n)] * len(feeds) for n in left}

    def run(self, feeds: Sequence[Feed], late: Late | None = None) -> Iterator[Step]:
        """Every node in order; one that the caller has not run by the next step is run then, as it is."""
        self.start(feeds, late)
        for index in range(len(self.nodes)):
            check_stop()
            if late is not None and index == late.at:
                self.join()
            step = self.step(index)
            yield step
            if not step.outputs:
                self.finish(step)
            self.forget(index)

    def join(self) -> None:
        """Bring the inputs that wait to where the first are: what `finish` did to those is done to them."""
        held, waiting, size, self.waiting = self.values, self.waiting, self.chunks, ()
        total, past = size + len(waiting), dict(self.past)
        for k in range(0, len(waiting), size):
            self.start(waiting[k : k + size])
            for index, change in past.items():
                if not all(n in self.constants for n in self.nodes[index].output if n):  # it may have been replaced
                    self.finish(self.step(index), *change)
                self.forget(index)
            held = {n: chunks + self.values[n] for n, chunks in held.items() if n in self.values}  # what runs for all
        self.values, self.chunks = held, total

    def step(self, index: int) -> Step:
        """The node at `index` with its inputs."""
        node = self.nodes[index]
        step = Step(index, node, [self.chunks_of(n) if n else None for n in node.input])
        for slot, chunks in self.records[index].inputs.items() if index in self.records else ():
            step.inputs[slot] = chunks
        return step

    def finish(self, step: Step, affine: Affine | None = None, bias: Array | None = None) -> None:
        """Run a node, add a bias to what it gives and map it; the map takes the place of a BatchNormalization."""
        self.past[step.index] = affine, bias
        normalised = affine is not None and step.is_normalised
        if not normalised and not step.outputs:
            self.execute(step)
        source = step.inputs[0] if normalised else step.outputs[0] if step.outputs else None
        if source is None or (affine is None and bias is None):
            return
        if bias is not None:
            added = bias
            source = transform_chunks(lambda c: c + added.astype(c.dtype), source, in_place=True)
        if affine is not None:
            source = transform_chunks(affine.apply, source, in_place=not normalised)
        self.give(step, source)

    def execute(self, step: Step) -> None:
        """Run a node; what onnxruntime cannot run on its own leaves its outputs unknown."""
        if (span := self.inside.around.get(step.index)) is not None:
            return self._give_recorded(step, span)
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

    def before_activation(self, step: Step) -> Chunks | None:
        """The outputs of a node with a fused function without that function; None where it does not run."""
        sources = {n: self.chunks_of(n) for n in self.reads[step.index]}
        if any(c is None for c in sources.values()):
            return None
        rows = [{n: c[k] for n, c in sources.items() if c is not None} for k in range(self.chunks)]
        try:
            got = self._execute(drop_activation(step.node), rows, [step.node.output[0]])
        except Exception:  # as in `execute`
            return None
        return [row[0] for row in got]

    def _give_recorded(self, step: Step, span: Span) -> None:
        """Outputs of a node inside a body: a control node runs where its first body begins."""
        if step.index == span.start:
            self.run_control(span)
        known = self.records.get(step.index)
        outputs = [self.values.get(n) for n in step.node.output] if step.index == span.end else []
        step.outputs = [known.output] if known else outputs
        step.outputs += [None] * (len(step.node.output) - len(step.outputs))

    def run_control(self, span: Span) -> None:
        """Run a control node and record what the contractions in its bodies read and give."""
        node, taps = self.inside.node(span, self.added)
        sources = {n: self.chunks_of(n) for n in self._list_reads(node)}
        self.records = {}
        if any(c is None for c in sources.values()):
            return
        rows = [{n: c[k] for n, c in sources.items() if c is not None} for k in range(self.chunks)]
        plain = list(node.output)[: len(node.output) - len(taps)]
        got: list[list[Array]] = []
        given: list[list[Array]] = []  # what follows sees the branches that are taken, not those that are looked into
        for some in (force_both_branches(node, rows), rows):
            try:
                got = self._run_tapped(node, some, plain)
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

    def _run_tapped(self, node: onnx.NodeProto, rows: list[dict[str, Array]], plain: list[str]) -> list[list[Array]]:
        """Run a control node; taps are None where there is no more room for them."""
        every = [n for n in node.output if n]
        got = self._execute(node, rows[:1], every)
        room = self.most or max(1, TAP_BYTES // max(1, sum(a.nbytes for a in got[0][len(plain) :])))
        rest = rows[room:]
        return [*got, *self._execute(node, rows[1:room], every), *self._execute(node, rest, [n for n in plain if n])]

    def amend(self, index: int, name: str, bias: Array) -> None:
        """Add to what a node inside a body gives, and run the control node around it again."""
        self.added[name] = bias
        self.run_control(self.inside.around[index])

    def explain_unknown(self, step: Step) -> str:
        """The reason why a node's values are not known, or ''."""
        if step.index in self.failed:
            return f"onnxruntime does not run it alone: {self.failed[step.index]}"
        unknown = [n for n in self.reads[step.index] if n not in self.constants and n not in self.values]
        return (
            f"its input '{unknown[0]}' is not known: onnxruntime does not run what it comes from alone"
            if unknown
            else ""
        )

    def give(self, step: Step, chunks: Chunks, slot: int = 0) -> None:
        """Set an output of a node."""
        step.outputs = step.outputs or [None] * len(step.node.output)
        step.outputs[slot] = self.values[step.node.output[slot]] = chunks

    def chunks_of(self, name: str) -> Chunks | None:
        """A value or a constant as chunks; None when it could not be computed."""
        if name in self.values:
            return self.values[name]
        return [self.constants[name]] * self.chunks if name in self.constants else None

    def keep(self, name: str, by: str) -> None:
        """Drop a value not before another one that is read later."""
        end = max(self.last.get(name, -1), self.last.get(by, -1))
        for names in self.done.values():
            names[:] = [n for n in names if n != name]
        self.last[name] = end
        self.done.setdefault(end, []).append(name)

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
        session = self._session(node, rows)  # not kept: its arena would outlive the only run
        wanted = [i.name for i in session.get_inputs()]

        def one(row: dict[str, Array]) -> list[Array]:
            got = dict(zip(order, session.run(order, {n: row[n] for n in wanted}), strict=True))
            return [got.get(n) for n in node.output]  # type: ignore[misc]

        large = sum(a.size for a in rows[0].values()) > 1 << 12
        return list(map_parallel(one, rows) if large else map(one, rows))

    def _session(self, node: onnx.NodeProto, rows: list[dict[str, Array]]) -> ort.InferenceSession:
        held_back = {n: a for n, a in rows[0].items() if n in self.constants and n not in self.values}
        fixed = {n: a for n, a in held_back.items() if a.size <= SMALL_ARRAY or a.dtype.kind != "f"}
        inputs = [_declare_input(n, [r[n] for r in rows]) for n in rows[0] if n not in fixed]
        outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
        held = [onnx.numpy_helper.from_array(np.asarray(a, order="C"), n) for n, a in fixed.items()]
        graph = helper.make_graph([node], "node", inputs, outputs, held)
        proto = helper.make_model(graph, opset_imports=self.opsets, ir_version=max(self.version, 4))
        return open_quiet_session(proto.SerializeToString(), level=1, threads=1)

    def name_slot(self, index: int, slot: int) -> str:
        """The name of an input, which is made up where there is none."""
        node = self.nodes[index]
        node.input.extend([""] * (slot + 1 - len(node.input)))
        if not node.input[slot]:
            node.input[slot] = self.names.value(f"{next(n for n in node.output if n)}.{slot}")
            self.reads[index].append(node.input[slot])
            self.last[node.input[slot]] = index
        return str(node.input[slot])

    def replace(self, name: str, values: Array) -> None:
        """Another value for a constant, from now on."""
        self.constants[name] = values


def _declare_input(name: str, arrays: list[Array]) -> onnx.ValueInfoProto:
    """An input of any size; of whole numbers (the sizes of a Resize) shape inference asks how many there are."""
    first = arrays[0]
    counted = first.ndim == 1 and first.dtype.kind in "iu" and len({a.size for a in arrays}) == 1
    sizes = list(first.shape) if counted else [None] * first.ndim
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(first.dtype), sizes)


def transform_chunks(change: Callable[[Array], Array], chunks: Chunks, in_place: bool) -> Chunks:
    """The chunks changed; `in_place` lets go of every old one as soon as its new one is there."""
    out = chunks if in_place else list(chunks)
    for k, new in enumerate(map_chunks(change, chunks)):
        out[k] = new
    return out


def map_chunks(work: Callable[[Array], T], chunks: Chunks) -> Iterator[T]:
    """The results of `work` on every chunk, several at once where they are large."""
    return map_parallel(work, chunks) if chunks and chunks[0].size > LARGE_ARRAY else map(work, chunks)
