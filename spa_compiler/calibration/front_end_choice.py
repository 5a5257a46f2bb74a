"""The front end that a model of sound was trained behind, found by what it says of words.

    source = choose_front_end(graph, "input", drawn)                     # Spoken, or `drawn` where it hears no words

A few words are spoken several times, by different voices in different rooms, and go through every customary front end
(`priors.front_ends`). A model that hears them through its own says the same of the same word. What is compared is the
share of all that its predictions tell of inputs (mutual information) that they tell of words: of predictions alone, too
wide a scale tells more, since all of them are certain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.class_probabilities import (
    compute_probabilities,
    measure_entropy,
    measure_information,
)
from spa_compiler.calibration.pixel_scale import count_at_once, split_chunks
from spa_compiler.calibration.priors.front_ends import Spoken, is_customary, list_front_ends
from spa_compiler.calibration.priors.kinds import Synthetic
from spa_compiler.calibration.priors.sound_bank import draw_clips, load_words
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.execution.session import open_session
from spa_compiler.ir.symbols import find_input_axes, find_only_batch
from spa_compiler.operators.movement import is_row_kept

Array = NDArray[Any]
SOUNDS = ("mfcc", "log_mel", "waveforms")
"""Kinds that are sound for sure."""
SPOKEN_BY = 4
"""Words that so many voices speak are tried."""
TRIALS = 6
"""Times that each of them is tried."""
INPUTS_PER_CLASS = 4
"""A model with more outputs than a part of its inputs is no classifier: it may give its input again."""
LARGEST_CEPSTRA = 40
"""Columns up to which they may be cepstra."""


def choose_front_end(graph: DependencyGraph, name: str, drawn: Synthetic) -> Spoken | Synthetic:
    """Words behind the front end that fits the input `name` best; `drawn` where it does not look like sound."""
    sure = drawn.kind in SOUNDS
    tried = list(list_candidates(drawn, sure))
    if not tried:
        return drawn
    if len(find_input_axes(graph.model)) > 1:
        return tried[0] if drawn.kind == "waveforms" else drawn
    best, share = choose_by_words(graph, name, tried)
    if share is None:
        return tried[0] if sure else drawn
    return best if sure or share >= CALIBRATION.heard_share else drawn


def is_read_as_waveform(graph: DependencyGraph, name: str, shape: Sequence[int]) -> bool:
    """Does a convolution of one channel read this row of numbers first, with long kernels? Then it is a waveform.

    Of a row that is long enough to be one, any kernel will do.
    """
    size = math.prod(shape)
    least = 2 if size >= CALIBRATION.least_waveform else CALIBRATION.waveform_kernel
    if not shape or max(shape) != size:
        return False
    while len(sites := graph.readers.get(name, [])) == 1:
        site = sites[0]
        if site.traits.is_convolution:
            weight = site.inputs[1]
            taps = weight.shape[1:] if weight is not None and weight.constant else ()
            return max(taps, default=0) == math.prod(taps) >= least
        if site.first_output is None or not is_row_kept(site.op):
            return False
        name = site.first_output.name
    return False


def list_candidates(drawn: Synthetic, sure: bool) -> Iterator[Spoken]:
    """Sources of the shape that `drawn` has: grids, orders of axes and front ends."""
    if drawn.scale is not None or drawn.least or np.dtype(drawn.dtype).kind != "f":
        return
    shape = drawn.grid or drawn.shape
    if drawn.kind == "waveforms":
        for samples in list_front_ends(drawn.kind):
            yield Spoken(drawn.kind, drawn.shape, samples, max(shape), 1, "tf", drawn.dtype)
        return
    sides = [s for s in shape if s != 1]
    grids: list[tuple[int, int, str]] = []
    if len(sides) == 2 and (sure or drawn.kind == "series"):
        grids = [(sides[0], sides[1], "tf"), (sides[1], sides[0], "ft")]
        grids = [g for g in grids if (g[0] >= g[1] if sure else is_customary(g[0], g[1]))]
    elif drawn.kind == "features" and len(sides) == 1:
        pairs = [(t, sides[0] // t) for t in range(2, sides[0]) if sides[0] % t == 0]
        grids = [(t, f, order) for t, f in pairs if is_customary(t, f) for order in ("tf", "ft")]
    for frames, columns, order in grids:
        kinds = (
            ["mfcc"] * (columns <= LARGEST_CEPSTRA) + ["log_mel"] * (columns > 20) + ["spectrogram"] * (columns > 100)
        )
        for kind in kinds:
            for front_end in list_front_ends(kind):
                yield Spoken(kind, drawn.shape, front_end, frames, columns, order, drawn.dtype)


def choose_by_words(graph: DependencyGraph, name: str, tried: list[Spoken]) -> tuple[Spoken, float | None]:
    """The source whose words the model tells best, and how well; None where it is no classifier."""
    model = graph.model
    among, groups = _list_trials(find_only_batch(model))
    session = open_session(model.proto(), model.folder, level=3, threads=1)
    clips: dict[int, Array] = {}
    shares: list[float] = []
    for source in tried:
        samples = source.samples
        if samples not in clips:
            clips[samples] = draw_clips(len(among), samples, np.random.default_rng(0), among).samples
        x = source.shape_clips(clips[samples])
        p = compute_probabilities(
            session, split_chunks({name: x}, find_only_batch(model), count_at_once(model)), len(x)
        )
        if p is None or p.shape[1] > x[0].size / INPUTS_PER_CLASS:
            return source, None
        shares.append(measure_word_share(p, groups))
    at = next(i for i, share in enumerate(shares) if share >= CALIBRATION.close_share * max(shares))
    return tried[at], shares[at]


def measure_word_share(p: Array, groups: Array) -> float:
    """Of the information that predictions give of inputs, the share that they give of their groups."""
    told = measure_information(p)
    if told < CALIBRATION.least_information * math.log(p.shape[1]):
        return 0.0
    of_groups = [measure_entropy(p[groups == g].mean(0)) for g in np.unique(groups)]
    return (measure_entropy(p.mean(0)) - float(np.mean(of_groups))) / told


def _list_trials(batch: int) -> tuple[Array, Array]:
    """Recordings that are tried, several of each word, and the words as numbers; as many as batches hold."""
    by_word: dict[str, list[int]] = {}
    for k, recording in enumerate(load_words()):
        by_word.setdefault(recording.word, []).append(k)
    often = [found for found in by_word.values() if len(found) >= SPOKEN_BY]
    among = np.array([found[i % len(found)] for found in often for i in range(TRIALS)])
    groups = np.repeat(np.arange(len(often)), TRIALS)
    n = len(among) - (len(among) % batch if batch else 0)
    return among[:n], groups[:n]
