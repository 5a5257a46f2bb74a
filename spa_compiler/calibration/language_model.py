"""Token ids that a language model itself finds likely: drawn by Zipf's law, then again from its own outputs.

    told = find_language(model, inputs)                 # None: no output gives logits over the vocabulary of an input
    ids = told.draw_ids(inputs, rng, sweeps=8)

What a model says next tells how frequent ids are and which follow one another, better than their order in the
vocabulary. Whether it is causal is measured: do its outputs depend on later ids? A sweep draws every id from what the
model says after the ones before, all at once and with the same noise in each sweep, so that k sweeps give what drawing
one by one gives for the first k ids, and more where ids do not depend on all of their past.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from spa_compiler.algebra.sizes import find_size_symbols
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.execution.index_limits import find_index_limits
from spa_compiler.execution.input_ranges import inspect_inputs
from spa_compiler.execution.inputs import draw_random_inputs
from spa_compiler.execution.parallel import map_parallel
from spa_compiler.execution.session import open_session, run_session
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import apply_ties, find_input_axes, find_only_batch, substitute

Array = NDArray[Any]
Ids = NDArray[np.int64]
LENGTH_ELEMENTS = 1 << 15
"""Token ids that are drawn in all: several times as many as positions are sampled (`covariance`)."""
TRIED_ROWS = 2
"""Rows on which a model is tried."""
CAUSAL_TOLERANCE = 1e-3
"""Outputs that differ by less than this part of their deviation do not depend on what was changed."""
POSITION_NAME = "position"
"""Part of the name of an input that counts ids."""
MOST_LOGITS = 1 << 23
"""Logits that are held at once."""


@dataclass(frozen=True)
class Language:
    """A model with logits (rows, ids, vocabulary) for the input `name`."""

    model: Model
    session: ort.InferenceSession
    name: str
    output: int
    vocabulary: int
    causal: bool

    def logits(self, feed: Mapping[str, Array]) -> Array:
        """(rows, ids, vocabulary) float32"""
        return np.asarray(run_session(self.session, feed)[self.output], np.float32)

    def draw_ids(self, inputs: Mapping[str, Array], rng: np.random.Generator, sweeps: int) -> Ids:
        """Ids in place of those of `inputs`, as a causal model draws them."""
        ids = np.array(inputs[self.name])
        by = find_only_batch(self.model) or max(1, min(64, MOST_LOGITS // (ids.shape[1] * self.vocabulary)))
        starts = range(0, len(ids) - len(ids) % (find_only_batch(self.model) or 1), by)
        seeds = rng.integers(0, 1 << 31, len(starts))

        def draw_set(k: int) -> Array:
            feed = {n: a[starts[k] : starts[k] + by] for n, a in {**inputs, self.name: ids}.items()}
            return draw_classes(self.logits(feed), np.random.default_rng(seeds[k]))

        for sweep in range(sweeps):
            new = np.concatenate(list(map_parallel(draw_set, range(len(starts)))))
            ids = ids[: len(new)].copy()
            ids[:, 1:] = new[:, :-1]
            if not sweep:
                ids[:, 0] = rng.permutation(new.ravel())[: len(ids)]
        return ids


def draw_classes(logits: Array, rng: np.random.Generator) -> Ids:
    """One draw from every distribution along the last axis, by the race of exponential clocks (Gumbel's trick).

    The same noise gives the same draw as long as the distribution changes little.
    """
    clocks = rng.standard_exponential(logits.shape, np.float32)
    return np.asarray((logits - np.log(np.maximum(clocks, 1e-30))).argmax(-1), np.int64)


def find_language(model: Model, inputs: Mapping[str, Array], rng: np.random.Generator) -> Language | None:
    """The language that a model speaks; None where no output has a number for every id that an input can be."""
    session = open_session(model.proto(), model.folder, level=3, threads=1)
    few = {n: a[: find_only_batch(model) or TRIED_ROWS] for n, a in inputs.items()}
    outputs = run_session(session, few)
    for name, size in find_index_limits(model).items():
        ids = few[name]
        if ids.ndim != 2 or ids.shape[1] < 2:
            continue
        for k, y in enumerate(outputs):
            if getattr(y, "shape", ()) != (*ids.shape, size) or y.dtype.kind != "f":
                continue
            half = ids.shape[1] // 2
            later = ids.copy()
            later[:, half:] = rng.integers(0, size, later[:, half:].shape)
            told = np.asarray(run_session(session, {**few, name: later})[k], np.float32)[:, :half]
            change = np.abs(told - np.asarray(y, np.float32)[:, :half]).max()
            causal = bool(change < CAUSAL_TOLERANCE * max(float(np.std(told)), 1e-12))
            return Language(model, session, name, k, size, causal)
    return None


def choose_lengths(model: Model, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes of symbols with one of the usual lengths for the number of token ids, where that is free and shorter."""
    limits, axes = find_index_limits(model), find_input_axes(model)
    lengths = [axes[name][1] for name in limits if len(axes.get(name, ())) == 2]
    ties = model.shapes.ties if model.shapes is not None else {}
    short = {
        n
        for size in lengths
        for n in find_size_symbols(substitute(size, ties))
        if sizes[n] < CALIBRATION.text_lengths[0]
    }
    if not short:
        return dict(sizes)
    session = open_session(model.proto(), model.folder, threads=1)
    most = min((n for name, n in limits.items() if POSITION_NAME in name.lower()), default=CALIBRATION.text_lengths[0])
    for length in (n for n in CALIBRATION.text_lengths if n <= most):
        longer = apply_ties({**sizes, **{n: max(length, sizes[n]) for n in short}}, ties)
        try:
            session.run(None, draw_random_inputs(model, longer, np.random.default_rng(0)))
        except Exception:  # a table of positions is shorter
            continue
        return longer
    return dict(sizes)


def find_companions(model: Model, names: Iterable[str]) -> dict[str, str]:
    """Inputs that stand beside others: which are a mask, as the graph says, a position or a type of token by name."""
    limits, told_of = find_index_limits(model), inspect_inputs(model)
    types = {vi.name: vi.type.tensor_type for vi in model.header.graph.input}
    texts = [n for n in names if n in limits]
    found = {n: "mask" for n in names if n not in limits and told_of[n].mask and types[n].shape.dim}
    for name in texts:
        told = next((t for t in (POSITION_NAME, "type") if t in name.lower()), "")
        whole = onnx.helper.tensor_dtype_to_np_dtype(types[name].elem_type).kind in "iub"
        if told and whole and len(types[name].shape.dim) == 2:
            found[name] = told
    alone = all(n in found for n in texts)  # ids of which none is a text: names say nothing
    return {n: told for n, told in found.items() if told == "mask" or not alone}


def fill_companions(model: Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs beside others as they come with whole ones: masks hide nothing, positions count, one type of token."""
    limits, told_of, out = find_index_limits(model), inspect_inputs(model), dict(inputs)
    for name, told in find_companions(model, inputs).items():
        a = inputs[name]
        if told == POSITION_NAME:
            counted = np.broadcast_to(np.arange(a.shape[1], dtype=a.dtype), a.shape)
            out[name] = np.array(counted) if a.shape[1] <= limits[name] else a
        else:
            out[name] = np.full_like(a, told_of[name].open if told == "mask" else 0)
    return out
