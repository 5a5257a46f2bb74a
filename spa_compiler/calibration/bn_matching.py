"""Synthetic pictures whose statistics match those stored in BatchNormalization: DeepInversion without a label.

    close = draw_matched(graph, {"x": source}, count, memory, draw, rng)      # a string: why they are not matched
    better, loss = Match(graph, memory).refine(pictures)          # raises Unknown where there is no derivative

The loss is the distance of every BatchNormalization's input from the stored mean and deviation (Yin et al. 2020,
"Dreaming to Distill", eq. 4, in units of the stored deviation) and the total variation of the picture; onnxruntime runs
the graph and its derivative as one model, Adam moves the pictures. A label's cross-entropy is left out: it makes
pictures that the model is sure of, whose values are farther from those of real ones (docs/data-free).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, version_converter

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.autodiff.reverse_mode import OPSET, Tape, Unknown
from spa_compiler.calibration.priors.front_ends import Spoken
from spa_compiler.calibration.priors.kinds import Synthetic
from spa_compiler.calibration.sample_budget import Feed, count_affordable
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.errors import ModelError, SpaError
from spa_compiler.execution.item_counts import count_items
from spa_compiler.execution.parallel import map_parallel
from spa_compiler.execution.session import open_session, run_session
from spa_compiler.ir.external_data import embed_tensor
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import from_proto
from spa_compiler.operators import build
from spa_compiler.operators.derivatives import DERIVATIVES
from spa_compiler.operators.facts import HOLDS_STATISTICS
from spa_compiler.shape_inference import evaluator

Array = NDArray[Any]
OLDEST_OPSET = 13
"""The first opset all of whose operators mean the same in OPSET, as far as they have derivatives."""
COPIES_IN_MEMORY = 4
"""Copies of all values of the graph in memory: 0.8 of them were measured, in four sets side by side at most."""
COPIES_ALONE = 2
"""The same where sets run one after another, because there is no room for several: 2.4 GB were used of 2."""
STEP_WORK, MATCHING_MACS, PHOTOGRAPH_MACS = 3, 5e11, 1e12
"""Times the work of a run that a step of matching takes; multiply-accumulates that all of it may take, for drawn scenes
and for photographs, whose networks are larger."""


def draw_matched(
    graph: DependencyGraph, found: Mapping[str, Synthetic | Spoken], count: int, memory: int,
    draw: Callable[[int], tuple[Feed, str]], rng: np.random.Generator, exactly: bool = False, effort: float = 1.0,
) -> tuple[Feed, str] | str:  # fmt: skip
    """Pictures, most of them matched to the statistics that BatchNormalization holds, and what was done.

    They are `count`, or fewer where matching takes long, unless it says `exactly`. Else why they are not matched, or
    '' where there is nothing to match. `effort`: the work that it may take, in times of the usual.
    """
    (name, source), *others = found.items()
    work, near = MATCHING_MACS, CALIBRATION.matched_loss
    if source.kind == "photographs":
        work, near = PHOTOGRAPH_MACS, CALIBRATION.photograph_loss
    steps = STEP_WORK * CALIBRATION.descent_steps
    affordable = count_affordable(graph, work=work * effort) // steps if effort else 0
    most = min(int(CALIBRATION.matched_share * count), affordable)
    least = max(CALIBRATION.least_matched, count // CALIBRATION.matched_one_of if exactly else 0)
    if others or len(source.shape) != 3 or not any(s.op in HOLDS_STATISTICS for s in graph.sites):
        return ""
    if most < least:
        return explain_few(most, least, affordable, count_affordable(graph, work=work) / steps)
    try:
        match = Match(graph, memory)
        most -= most % match.rows
        inputs, how = draw(count if exactly else min(count, int(most / CALIBRATION.matched_share)))
        drawn = inputs[name]
        moved, loss = match.refine(drawn[:most])
    except (Unknown, ModelError) as e:
        return str(e)
    if loss > near:
        return f"they stay {loss:.2g} away"
    mixed = np.concatenate([moved, drawn[most:]])[rng.permutation(len(drawn))]
    return {name: mixed}, f"{how}, {most} of them matched to the statistics that BatchNormalization holds"


def explain_few(most: int, least: int, affordable: int, usual: float) -> str:
    """Why so few inputs are not matched, and the option that helps; `usual` are affordable by the usual work."""
    if affordable >= least or not usual:
        return f"only {most} inputs could be by their number, {least} are needed: --samples says how many are drawn"
    needed = math.ceil(10 * least / usual) / 10
    return (
        f"the work that matching may take is enough for {affordable} inputs, {least} are needed: --matching {needed:g}"
    )


class Match:
    """The loss of pictures for the input of a graph and its derivative, as a model for `rows` of them at once."""

    def __init__(self, graph: DependencyGraph, memory: int) -> None:
        """As many pictures at once as are matched together, or fewer where memory (bytes) does not allow so many.

        Raises Unknown where there is no such loss, no derivative of it, or no room.
        """
        model = renew_model(graph.model)
        if any(s.path for s in graph.sites) or len(model.header.graph.input) != 1:
            raise Unknown("branches, loops or several inputs")
        held = sum(math.prod(v.shape[1:]) for s in graph.sites for v in s.outputs if v is not None)
        self.rows = min(CALIBRATION.pictures_per_set, memory // (4 * COPIES_IN_MEMORY * max(held, 1)))
        self.is_alone = self.rows < CALIBRATION.least_per_set  # sets run one after another
        if self.is_alone:
            self.rows = min(CALIBRATION.pictures_per_set, memory // (4 * COPIES_ALONE * max(held, 1)))
        if self.rows < CALIBRATION.least_per_set:
            raise Unknown(f"memory for {CALIBRATION.least_per_set} inputs")
        self.name = model.header.graph.input[0].name
        self.session = open_session(differentiate_model(model, self.rows), model.folder, 3, 1, "the derivative")

    def refine(self, x: Array) -> tuple[Array, float]:
        """Pictures (n, ...), each set of `rows` moved on its own, and the mean loss at the last step; the rest stays.

        Values stay between the lowest and the highest. Where a loss is no number, nothing is moved.
        """
        sets = [x[i : i + self.rows] for i in range(0, len(x) - self.rows + 1, self.rows)]
        found = list(count_items((map if self.is_alone else map_parallel)(self._descend, sets), len(sets)))
        left = float(np.mean([loss for _, loss in found])) if found else math.inf
        if not math.isfinite(left):
            return x, math.inf
        return np.concatenate([*(a for a, _ in found), x[len(sets) * self.rows :]]), left

    def _descend(self, x: Array) -> tuple[Array, float]:
        low, high, unit = x.min(), x.max(), max(float(x.std()), 1e-12)
        first, second, loss = np.zeros_like(x), np.zeros_like(x), math.inf
        for t in range(1, CALIBRATION.descent_steps + 1):
            loss, g = run_session(self.session, {self.name: x}, "the derivative")
            if t > CALIBRATION.first_steps and loss > CALIBRATION.hopeless_loss:
                break
            g = g + CALIBRATION.roughness_weight / unit**2 * differentiate_roughness(x)
            first += (1 - CALIBRATION.mean_decay) * (g - first)
            second += (1 - CALIBRATION.square_decay) * (g * g - second)
            size = np.sqrt(second / (1 - CALIBRATION.square_decay**t)) + 1e-12
            x = np.clip(x - CALIBRATION.descent_rate * unit / (1 - CALIBRATION.mean_decay**t) * first / size, low, high)
        return x, float(loss)


def differentiate_roughness(x: Array) -> Array:
    """The derivative of the sum of squared differences of neighbours along the longest two axes of x (n, ...)."""
    out = np.zeros_like(x)
    for axis in sorted(range(1, x.ndim), key=lambda k: x.shape[k])[-2:]:
        d = 2 * np.diff(x, axis=axis)
        out -= np.pad(d, [(0, 1) if k == axis else (0, 0) for k in range(x.ndim)])
        out += np.pad(d, [(1, 0) if k == axis else (0, 0) for k in range(x.ndim)])
    return out


def renew_model(model: Model) -> Model:
    """The model in an opset that has derivatives, by ONNX's converter where its own is older.

    Raises Unknown where it cannot be converted.
    """
    if model.opset.get("", 0) >= OLDEST_OPSET:
        return model
    try:
        proto = model.proto()
        for tensor in proto.graph.initializer:
            embed_tensor(tensor, model.folder)
        return normalize(from_proto(version_converter.convert_version(proto, OLDEST_OPSET), model.path))[0]
    except (SpaError, version_converter.ConvertError, RuntimeError, ValueError) as e:
        told = " ".join(str(e).split())[:200]
        raise Unknown(f"an opset older than {OLDEST_OPSET} that ONNX does not convert ({told})") from e


def differentiate_model(model: Model, rows: int) -> onnx.ModelProto:
    """A model that gives for `rows` inputs the loss and, times the number of values, its derivative by the input.

    Raises Unknown where it has none.
    """
    header = onnx.ModelProto()
    header.CopyFrom(model.header)
    (given,) = header.graph.input
    given.type.tensor_type.shape.dim[0].Clear()
    given.type.tensor_type.shape.dim[0].dim_value = rows
    version = model.opset.get("", 0)
    if given.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise Unknown("inputs that are not float32")
    sizes = {n: pair[0] for n, pair in model.shapes.sizes.items()} if model.shapes else {}
    facts = evaluator.evaluate(replace(model, header=header), sizes)
    proto = model.proto()
    known = {n: s for n in facts.types if (s := facts.shape(n)) is not None}
    opset, constants = max(OPSET, version), {n: model.array(t) for n, t in model.constants().items()}
    tape = Tape(proto.graph.node, constants, known, given.name, opset, model.names)
    loss = _add_losses(tape)
    derivative = tape.run_backward(DERIVATIVES)
    needed = _find_needed_nodes(tape, {n for node in tape.made for n in node.input})
    used = {n for node in (*needed, *tape.made) for n in node.input}
    graph = helper.make_graph(
        [*needed, *tape.made], "derivative", [given],
        [onnx.ValueInfoProto(name=n) for n in (loss, derivative)],
        [*(t for t in proto.graph.initializer if t.name in used), *tape.tables],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _find_needed_nodes(tape: Tape, wanted: set[str]) -> list[onnx.NodeProto]:
    """The forward nodes that these values need, in order."""
    out = []
    for node in reversed(tape.nodes):
        if not wanted.isdisjoint(node.output):
            wanted |= set(node.input)
            out.append(node)
    return out[::-1]


def _add_losses(tape: Tape) -> str:
    """Add the derivative by the input of every BatchNormalization; returns the name of the mean of their losses."""
    found = [n for n in tape.nodes if n.op_type in HOLDS_STATISTICS and n.input[0] in tape.live]
    if any(a.name == "training_mode" and a.i for n in found for a in n.attribute):
        raise Unknown("BatchNormalization in training mode")
    if not found:
        raise Unknown("no BatchNormalization")
    values = math.prod(tape.shape(tape.source))
    parts = [_add_loss(tape, node, values / len(found)) for node in found]
    return tape.put(build.multiply(tape.put(build.add_all(parts)), tape.number(1 / len(found))))


def _add_loss(tape: Tape, node: onnx.NodeProto, factor: float) -> str:
    """Mean over the channels of ((mean - stored)^2 + (deviation - stored)^2) / stored variance."""
    x, shape = node.input[0], tape.shape(node.input[0])
    if len(shape) < 2:
        raise Unknown("BatchNormalization of numbers")
    channels, axes = shape[1], [k for k in range(len(shape)) if k != 1]
    count = math.prod(shape) // channels
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    broad = [channels if k == 1 else 1 for k in range(len(shape))]
    mean, variance = (tape.constant(node.input[k]).astype(np.float64).reshape(broad) for k in (3, 4))
    variance = variance + epsilon
    over, share = tape.number(axes, np.int64), tape.number(1 / count)

    def times(a: str, b: str) -> str:
        return tape.put(build.multiply(a, b))

    def minus(a: str, b: str) -> str:
        return tape.put(build.subtract(a, b))

    def total(v: str) -> str:
        return tape.put(build.reduce_sum(v, over))

    found = times(total(x), share)
    square = times(total(times(x, x)), share)
    spread = tape.put(build.maximum(minus(square, times(found, found)), tape.number(1e-4 * variance)))
    away = minus(found, tape.number(mean))
    ratio = tape.put(build.divide(tape.number(np.sqrt(variance)), tape.put(build.square_root(spread))))
    closed = minus(tape.number(1.0), ratio)
    weight = tape.number(2 * factor / (count * channels * variance))
    slope = times(weight, closed)
    shift = minus(times(weight, away), times(slope, found))
    tape.add(x, tape.put(build.add(times(x, slope), shift)))
    error = tape.put(build.add_all([times(away, away), times(spread, times(closed, closed))]))
    relative = times(error, tape.number(1 / (channels * variance)))
    return tape.put(build.reduce_sum_all(relative))
