"""The scale of a picture input: normalised, 0..1, -1..1 or 0..255.

The graph's first operators say it where they map the input to a customary interval. Else the model does: an input of
0..1 in place of 0..255 shows in outputs that hardly depend on it, the opposite in predictions that are all certain.
Between the narrow scales, which differ by a factor of four at most, the response of the first contraction decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.class_probabilities import Feed, compute_probabilities, measure_information
from spa_compiler.calibration.priors.kinds import NORMALISED, Scale, Synthetic
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.execution.parallel import CORES
from spa_compiler.execution.session import open_session
from spa_compiler.interpreter.activation_maps import measure_statistics
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import find_only_batch, make_array_types
from spa_compiler.operators.facts import FIRST_CONTRACTIONS, HOLDS_STATISTICS, KEEPS_NUMBERS, find_affine

Array = NDArray[Any]
CHUNK_ELEMENTS = 200_000
"""Elements of an input that run at once."""
MOST_AT_ONCE, ALIVE_VALUES = 64, 4
"""Inputs that run at once at most, and values as large as the largest that are alive in a run."""
TRIED_PICTURES = 32
"""Inputs on which a scale is tried."""
CUSTOMARY_INTERVALS = ((0.0, 1.0), (-1.0, 1.0), (-2.1, 2.6), (0.0, 255.0), (-128.0, 127.0))
"""Intervals that preprocessing maps pictures to."""


def rescale_source(graph: DependencyGraph, name: str, source: Synthetic) -> Synthetic:
    """The source at the scale that fits the model's input `name`."""
    narrow, wide = list_scales(source)
    walk = Walk(graph.model)
    lead = find_leading_affine(walk, name)
    if lead is not None:
        return replace(source, scale=min((*narrow, *wide), key=lambda s: _measure_distance(s, *lead)))
    best, loudness = _choose_by_response(graph, name, source, narrow)
    if loudness < CALIBRATION.usual_response[0]:
        best, loudness = _choose_by_response(graph, name, source, [narrow[0], *wide])
    if loudness > CALIBRATION.loud_response or len(walk.inputs) > 1 or best.scale in wide:
        return best
    session = open_session(graph.model.proto(), graph.model.folder)
    told, _, classes = _measure_information(graph.model, session, name, best)
    if told >= CALIBRATION.silent_share * math.log(max(classes, 2)):
        return best
    for scale in wide:
        louder = replace(source, scale=scale)
        more, certain, _ = _measure_information(graph.model, session, name, louder)
        if more > CALIBRATION.loud_factor * told and certain < CALIBRATION.certain_share:
            return louder
    return best


def list_scales(source: Synthetic) -> tuple[list[Scale], list[Scale]]:
    """Customary scales, the likelier first: narrow ones, and those of pixel values."""
    if source.kind == "strokes":
        return [Scale(0, 1)], [Scale(0, 255)]
    coloured = 3 in source.shape[:1] + source.shape[-1:]
    normalised = NORMALISED if coloured else Scale(0, 1, (0.449,), (0.226,))
    centred = Scale(0, 255, mean=tuple(255 * m for m in NORMALISED.mean) if coloured else (114.0,))
    # Channels come last in TensorFlow's models, which take pixel values as they are, or scaled and no more; PyTorch's
    # are normalised, Caffe's take off the mean.
    if source.shape[-1:] == (3,):
        return [Scale(0, 1), Scale(-1, 1), normalised], [Scale(0, 255), centred]
    return [normalised, Scale(-1, 1), Scale(0, 1)], [centred, Scale(0, 255)]


def find_leading_affine(walk: Walk, name: str) -> tuple[float, float] | None:
    """Factor and shift (means over the channels) that the graph applies to an input first; None where it does not."""
    factor, shift, found = 1.0, 0.0, False
    while len(walk.liveness.readers_of.get(name, ())) == 1:
        node = walk.nodes[walk.liveness.readers_of[name][0]]
        constants = [float(np.mean(walk.constants[n])) for n in node.input if n in walk.constants]
        first = node.input[0] == name
        affine = find_affine(node.op_type, constants[0], first) if len(constants) == 1 else None
        if affine is not None:
            factor, shift, found = factor * affine[0], shift * affine[0] + affine[1], True
        elif node.op_type not in KEEPS_NUMBERS:
            break
        name = node.output[0]
    return (factor, shift) if found else None


def _measure_distance(scale: Scale, factor: float, shift: float) -> float:
    """How far a scale, mapped by the graph, is from the nearest customary interval, in lengths of that."""
    mean, std = (float(np.mean(given or (default,))) for given, default in ((scale.mean, 0.0), (scale.std, 1.0)))
    low, high = sorted(factor * (v - mean) / std + shift for v in (scale.low, scale.high))
    return min((abs(low - a) + abs(high - b)) / (b - a) for a, b in CUSTOMARY_INTERVALS)


def _choose_by_response(
    graph: DependencyGraph, name: str, source: Synthetic, scales: Sequence[Scale]
) -> tuple[Synthetic, float]:
    """The first scale with a usual response, else the one with the best; and its response."""
    made = [replace(source, scale=s) for s in scales]
    found = [_measure_response(graph, name, s) for s in made]
    least, most = CALIBRATION.usual_response
    usual = [i for i, r in enumerate(found) if least <= r <= most]
    if not usual or usual[0] == 0:
        return made[0], found[0]
    away = {i: abs(math.log(found[i] / CALIBRATION.best_response)) for i in usual}
    at = next(i for i in usual if away[i] <= min(away.values()) + math.log(CALIBRATION.close_ratio))
    return made[at], found[at]


def _measure_information(
    model: Model, session: ort.InferenceSession, name: str, source: Synthetic
) -> tuple[float, float, int]:
    """Mutual information of predictions and inputs (in nats), the share of certain predictions, and the classes.

    Infinite where the model is no classifier: it gives nothing to choose a scale by.
    """
    batch = find_only_batch(model)
    n = -(-TRIED_PICTURES // batch) * batch if batch else TRIED_PICTURES
    p = compute_probabilities(
        session, split_chunks({name: source.draw(n, np.random.default_rng(0))}, batch, count_at_once(model)), n
    )
    if p is None:
        return math.inf, 0.0, 0
    certain = p.max(1) > CALIBRATION.certain_probability
    return measure_information(p), float(certain.mean()), p.shape[1]


def _measure_response(graph: DependencyGraph, name: str, source: Synthetic) -> float:
    """Median deviation per channel behind the first contraction (and its normalisation) for a few inputs."""
    model = graph.model
    sizes = {n: pair[0] for n, pair in (model.shapes.sizes if model.shapes else {}).items()}
    batch = find_only_batch(model) or 8
    rng = np.random.default_rng(0)
    feed: Feed = {}
    for n, t in make_array_types(model, sizes).items():
        shape = [d.dim_value for d in t.tensor_type.shape.dim]
        feed[n] = source.draw(batch, rng) if n == name else np.zeros(shape, np.float32)
    for step in (walk := Walk(model)).run([feed]):
        if step.node.op_type in FIRST_CONTRACTIONS:
            walk.execute(step)
            y = step.outputs[0]
            if y is None:
                return 1.0
            follows = walk.liveness.readers.get(step.node.output[0], [])
            if len(follows) == 1 and follows[0] in HOLDS_STATISTICS:
                continue
            return _measure_deviation(y)
        if step.node.op_type in HOLDS_STATISTICS:
            walk.execute(step)
            return _measure_deviation(step.outputs[0] or [np.ones((2, 2), np.float32)])
    return 1.0


def _measure_deviation(y: Sequence[Array]) -> float:
    flat = [a if a.ndim > 2 else a.reshape(1, 1, -1) for a in y]
    return float(np.median(np.sqrt(measure_statistics(flat)[1])))


def count_at_once(model: Model) -> int:
    """Inputs of one run that leave room for its values: the largest counts for all that are alive beside it."""
    if model.shapes is None:
        return MOST_AT_ONCE
    first = next((model.shapes.shape.get(t.name) for t in model.graph.inputs), None) or (1,)
    made = (model.shapes.shape.get(t.name) for node in model.graph.nodes for t in node.outputs)
    largest = max((math.prod(s) for s in made if s is not None), default=1) // max(first[0], 1)
    return max(1, min(MOST_AT_ONCE, model.memory // (4 * ALIVE_VALUES * CORES * max(largest, 1))))


def split_chunks(inputs: Mapping[str, Array], batch: int, most: int = MOST_AT_ONCE) -> list[Feed]:
    """Inputs in chunks: of the model's fixed batch, else of about CHUNK elements and `most` or 64 inputs at most."""
    n = len(next(iter(inputs.values())))
    largest = max(a.size for a in inputs.values()) // max(n, 1)
    by = batch or max(1, min(most, MOST_AT_ONCE, CHUNK_ELEMENTS // max(largest, 1)))
    stop = n - n % batch if batch else n
    return [{k: np.ascontiguousarray(a[i : i + by]) for k, a in inputs.items()} for i in range(0, stop, by)]
