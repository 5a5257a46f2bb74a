"""Running a model node by node on many inputs, and two models side by side.

    for step in Walk(model).run(feeds):            # one step per node, in the graph's order
        x = step.inputs[0]                          # chunks: one array per feed

Values are lists of chunks, one for each feed, and are dropped after their last use (`liveness`), so that memory is that
of the widest place of the graph. Further inputs may join where it is narrower (`deferred_inputs`). Calibration may
replace what a node gives (`activation_maps`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.execution.interrupts import check_stop
from spa_compiler.interpreter.body_recorder import BodyRecorder
from spa_compiler.interpreter.body_taps import BodyIndex
from spa_compiler.interpreter.chunks import Affine, Chunks, Feed, transform_chunks
from spa_compiler.interpreter.deferred_inputs import DeferredInputs, Late
from spa_compiler.interpreter.liveness import Liveness
from spa_compiler.interpreter.node_runner import NodeRunner
from spa_compiler.interpreter.values import Values
from spa_compiler.ir.model import Model
from spa_compiler.operators import tables
from spa_compiler.operators.contraction import drop_activation
from spa_compiler.operators.recurrent_cell import add_step_outputs
from spa_compiler.operators.traits import Traits

Array = NDArray[Any]


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
        self.model, proto, index = model, model.proto(), BodyIndex(model)
        self.names = model.names.copy()
        self.nodes = [n if i in index.around else add_step_outputs(n, self.names) for i, n in enumerate(index.nodes)]
        self.constants: dict[str, Array] = {n: model.array(t) for n, t in model.constants().items()}
        for name, tensor in model.captured.items():
            if tensor is not None and name not in self.constants:
                self.constants[name] = model.numbers(tensor)
        self.inputs = [i.name for i in proto.graph.input if i.name not in self.constants]
        ends = {i: span.end for i, span in index.around.items()}
        self.liveness = Liveness(self.nodes, [t.name for t in model.graph.outputs], ends)
        self.runner = NodeRunner(proto.opset_import, proto.ir_version)
        self.bodies = BodyRecorder(index, self.runner)
        self.deferred = DeferredInputs()
        self.values = Values(self.constants, 0)
        self.failed: dict[int, str] = {}  # nodes that onnxruntime does not run alone, and what it says

    def start(self, feeds: Sequence[Feed], late: Late | None = None) -> None:
        """Forget all values and take these inputs; those that are late wait for `join`."""
        feeds = self.deferred.split(feeds, late)
        self.values = Values(self.constants, len(feeds))
        self.values |= {n: [np.asarray(f[n]) for f in feeds] for n in self.inputs if all(n in f for f in feeds)}
        absent = [n for n in self.model.defaults if n not in self.values]
        self.values |= {n: [self.model.default_array(n)] * len(feeds) for n in absent}

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
        first, changes = self.values, self.deferred.list_changes()
        for feeds in self.deferred.take_batches(first.count):
            self.start(feeds)
            for index, change in changes:
                if not all(n in self.constants for n in self.nodes[index].output if n):  # it may have been replaced
                    self.finish(self.step(index), *change)
                self.forget(index)
            first.append(self.values)  # what runs for all
        self.values = first

    def step(self, index: int) -> Step:
        """The node at `index` with its inputs."""
        node = self.nodes[index]
        step = Step(index, node, [self.values.chunks_of(n) if n else None for n in node.input])
        for slot, chunks in self.bodies.inputs_of(index).items():
            step.inputs[slot] = chunks
        return step

    def finish(self, step: Step, affine: Affine | None = None, bias: Array | None = None) -> None:
        """Run a node, add a bias to what it gives and map it; the map takes the place of a BatchNormalization."""
        self.deferred.note_change(step.index, affine, bias)
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
        if self.bodies.is_inside(step.index):
            step.outputs = self.bodies.execute(step.index, step.node, self.values)
            return
        names = self.liveness.reads[step.index]
        rows = self.values.list_rows(names)
        step.outputs = [None] * len(step.node.output)
        if rows is None:
            return
        is_fixed = bool(names) and all(n in self.constants for n in names)  # weights that are reshaped at run time
        results = [n for n in step.node.output if n]
        try:
            got = self.runner.run(step.node, rows[:1] if is_fixed else rows, self.values.find_constants(names), results)
        except Exception as e:  # an operator that wants its context: what follows from it is not calibrated
            self.failed[step.index] = " ".join(str(e).split())[:200]
            return
        if is_fixed:
            self.constants |= {n: a for n, a in zip(step.node.output, got[0], strict=True) if n}
            step.outputs = [self.values.chunks_of(n) if n else None for n in step.node.output]
            return
        for k, name in enumerate(step.node.output):
            if name:
                self.give(step, [row[k] for row in got], k)

    def before_activation(self, step: Step) -> Chunks | None:
        """The outputs of a node with a fused function without that function; None where it does not run."""
        names = self.liveness.reads[step.index]
        rows = self.values.list_rows(names)
        if rows is None:
            return None
        constants = self.values.find_constants(names)
        try:
            got = self.runner.run(drop_activation(step.node), rows, constants, [step.node.output[0]])
        except Exception:  # as in `execute`
            return None
        return [row[0] for row in got]

    def explain_unknown(self, step: Step) -> str:
        """The reason why a node's values are not known, or ''."""
        if step.index in self.failed:
            return f"onnxruntime does not run it alone: {self.failed[step.index]}"
        unknown = self.values.find_unknown(self.liveness.reads[step.index])
        if unknown is None:
            return ""
        return f"its input '{unknown}' is not known: onnxruntime does not run what it comes from alone"

    def give(self, step: Step, chunks: Chunks, slot: int = 0) -> None:
        """Set an output of a node."""
        step.outputs = step.outputs or [None] * len(step.node.output)
        step.outputs[slot] = self.values[step.node.output[slot]] = chunks

    def amend(self, index: int, name: str, bias: Array) -> None:
        """Add to what a node inside a body gives, and run the control node around it again."""
        self.bodies.amend(index, name, bias, self.values)

    def forget(self, index: int) -> None:
        """Drop what no later node reads."""
        for name in self.liveness.list_dead(index):
            self.values.pop(name, None)
        self.bodies.forget(index)

    def find_producer(self, name: str) -> onnx.NodeProto | None:
        """The node that gives a value; None for inputs and stored constants."""
        return self._producers.get(name)

    @functools.cached_property
    def _producers(self) -> dict[str, onnx.NodeProto]:
        return {n: node for node in self.nodes for n in node.output if n}

    def name_slot(self, index: int, slot: int) -> str:
        """The name of an input, which is made up where there is none."""
        node = self.nodes[index]
        node.input.extend([""] * (slot + 1 - len(node.input)))
        if not node.input[slot]:
            node.input[slot] = self.names.value(f"{next(n for n in node.output if n)}.{slot}")
            self.liveness.add_read(index, node.input[slot])
        return str(node.input[slot])

    def replace(self, name: str, values: Array) -> None:
        """Another value for a constant, from now on."""
        self.constants[name] = values
