"""Calibration on inputs that somebody gives: which rows are taken, which are kept apart, and whether they fit in scale.

    taken = load_calibration(graph, "photographs/")
    taken.feeds, taken.apart, taken.summary, taken.notes

Rows are read in blocks, and only those stay that the plan of samples wants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.class_probabilities import compute_probabilities, measure_information
from spa_compiler.calibration.inputs import PICTURE_KINDS, Calibration, choose_source, find_first_grid, guess_kind
from spa_compiler.calibration.pixel_scale import (
    count_at_once,
    find_leading_affine,
    split_chunks,
)
from spa_compiler.calibration.priors.kinds import Scale
from spa_compiler.calibration.sample_budget import SampleBudget, plan_given_samples
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.datasets.dataset import Dataset, list_spread, open_dataset
from spa_compiler.datasets.fitting import PICTURE_CHANNELS
from spa_compiler.datasets.preprocess import Preprocess, ValueMap
from spa_compiler.datasets.rows import Block, join_blocks, merge_blocks, take_rows
from spa_compiler.datasets.summary import summarize_dataset
from spa_compiler.errors import UsageError
from spa_compiler.execution.input_ranges import inspect_inputs
from spa_compiler.execution.session import open_session
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.ir.symbols import find_only_batch, make_array_types

Array = NDArray[Any]
Feed = dict[str, Array]
Bounds = Mapping[str, tuple[float, float]]
LEAST_MEASURED = 128
"""Rows that moments are taken from before any is kept apart: below, each one tells more there than in an estimate."""
APART_SHARE, MOST_APART = 5, 256
"""Where all rows could be taken, one of five is kept apart; more than 256 make an estimate no better than it can be."""
UNKNOWN_COUNT = 1 << 30
FAR_SPAN = 8.0
"""Values whose span is so many times too wide or too narrow are far from the scale that the model wants: customary
scales are 0..1, -1..1, normalised (each at most 5 times another) and 0..255 (50 times and more)."""
WIDE_SPAN = 20.0
"""Values that span more are those of pixels."""
SAME_ANSWERS = 0.9
"""Share of rows called alike at both scales from which the scale hardly matters: networks without biases."""
PICTURE_SOURCES = (*PICTURE_KINDS, "strokes", "white")
CHECKED_ROWS, ORDER_ROWS = 64, 32
"""Rows on which a scale is checked, and the order of channels is tried."""
COLOURS = 3


@dataclass(frozen=True)
class Choice:
    """Rows that moments are taken from, rows that are kept apart, and how those are read: None where there are none."""

    blocks: list[Block]
    rows: list[int] | None
    read_apart: Callable[[int], list[Block]] | None
    apart: int
    of: int | None


def load_calibration(
    graph: DependencyGraph, given: Any, samples: int = 0, memory: int = 1 << 30,
    preprocess: Preprocess | None = None, ranges: Bounds | None = None, name: str = "",
) -> Calibration:  # fmt: skip
    """Inputs of a path, `script.py:name` or an object. Raises UsageError for what does not fit the model's inputs."""
    data = open_dataset(given, graph.model, preprocess or Preprocess(), name or "the inputs given")
    data = decide_scale(graph, data, ranges)
    data.check()
    batch = 0 if data.is_whole else find_only_batch(graph.model)
    longer = _measure_length(graph, data)

    def plan(count: int) -> SampleBudget:
        budget = plan_given_samples(graph, count, samples, memory, longer)
        return replace(budget, kept=budget.start, at=0) if data.is_whole else budget

    count = data.rows.count
    chosen = (
        _choose_rows(data, count, plan, samples, batch)
        if count is not None
        else _take_first(data, plan, samples, batch)
    )
    n = _count_rows(chosen.blocks)
    if n < max(batch, 1):
        raise UsageError(f"{data.name}: the model runs {batch} inputs at a time, there are {n}")
    n -= n % batch if batch else 0
    blocks, most = take_rows(chosen.blocks, range(n)), count_at_once(graph.model)
    first, late = blocks[0], None
    if len(blocks) == 1 and not data.is_whole:
        feeds, late = plan(n).split_feeds(first.inputs, batch)
    else:
        blocks = take_rows(blocks, range(plan(n).start))
        feeds, n = _make_feeds(blocks, data, batch, most), _count_rows(blocks)
    few = n < CALIBRATION.trusted_pictures and any(
        guess_kind(find_first_grid(graph, name, a.shape[1:])) in PICTURE_KINDS for name, a in first.inputs.items()
    )
    what = "sets of inputs" if data.is_whole else "inputs"
    notes = dict.fromkeys(note for b in blocks for note in b.notes)
    return Calibration(
        feeds, f"{n} {what} from {data.name}", has_low_rank=few, late=late,
        apart=_make_reader(chosen, data, batch, most),
        summary=summarize_dataset(data, blocks, chosen.rows, chosen.apart, chosen.of),
        notes=(*notes, *check_scale(graph, data, first)),
    )  # fmt: skip


def _count_rows(blocks: Sequence[Block]) -> int:
    return sum(b.rows for b in blocks)


def _make_feeds(blocks: Sequence[Block], data: Dataset, batch: int, most: int) -> list[Feed]:
    """The runs that blocks hold, or chunks of their rows, at most so many."""
    if data.is_whole:
        return [run.inputs for b in blocks for run in b.split_runs()]
    return [feed for b in blocks for feed in split_chunks(b.inputs, batch, most)]


def _measure_length(graph: DependencyGraph, data: Dataset) -> float:
    """How many times as much a run takes as at the sizes of the analysis, where rows are whole runs; else 1."""
    if not data.is_whole:
        return 1.0
    block = data.look()
    given = sum(a[0].size for a in block.inputs.values())
    analysed = sum(math.prod(graph.values[n].shape) for n in block.inputs if n in graph.values)
    first = next(iter(block.inputs))
    rows = max(1, graph.values[first].shape[0]) if first in graph.values and graph.values[first].shape else 1
    return float(max(given / max(analysed, 1), 1.0) * rows)


def _make_reader(chosen: Choice, data: Dataset, batch: int, most: int) -> Callable[[int], list[Feed]] | None:
    """Feeds of rows that were kept apart."""
    read = chosen.read_apart
    if read is None or chosen.apart < max(batch, 1):
        return None
    return lambda wanted: _make_feeds(read(wanted), data, batch, most)


def _choose_rows(data: Dataset, count: int, plan: Callable[[int], SampleBudget], samples: int, batch: int) -> Choice:
    """Of rows whose number is known. Of files evenly spread ones are taken, of arrays the first."""
    wanted = max(plan(count).kept, batch)
    spread = bool(data.files) or data.kind == "texts"
    if wanted < count:
        taken = list_spread(count, wanted) if spread else list(range(wanted))
        rest = sorted(set(range(count)) - set(taken))
        apart = [rest[k] for k in list_spread(len(rest), MOST_APART)] if spread else rest[:MOST_APART]
    else:
        apart = _keep_share(count) if not samples else []
        taken = sorted(set(range(count)) - set(apart))
    blocks = merge_blocks(data.rows.read_blocks(taken))

    def read(most: int) -> list[Block]:
        return merge_blocks(data.rows.read_blocks([apart[k] for k in list_spread(len(apart), max(most, 1))]))

    return Choice(blocks, taken, read if apart else None, len(apart), count)


def _take_first(data: Dataset, plan: Callable[[int], SampleBudget], samples: int, batch: int) -> Choice:
    """Of a stream: the first rows, and those behind them apart. What comes after these is not read."""
    wanted = max(plan(UNKNOWN_COUNT).kept, batch)
    blocks: list[Block] = []
    rows, ended = 0, True
    for block in data.rows.read_blocks():
        blocks.append(block)
        rows += block.rows
        if rows >= wanted + MOST_APART:
            ended = False
            break
    if not blocks:
        raise UsageError(f"{data.name}: it ends at once: expected arrays, dictionaries of arrays, or feeds")
    whole = merge_blocks(blocks)
    if rows > wanted:
        apart = list(range(wanted, min(rows, wanted + MOST_APART)))
        taken = list(range(wanted))
    else:
        apart = _keep_share(rows) if not samples else []
        taken = sorted(set(range(rows)) - set(apart))
    rest = take_rows(whole, apart)

    def read(most: int) -> list[Block]:
        return take_rows(rest, list_spread(len(apart), max(most, 1)))

    return Choice(take_rows(whole, taken), taken, read if apart else None, len(apart), rows if ended else None)


def _keep_share(count: int) -> list[int]:
    """Rows that are kept apart where all could be taken, evenly spread; none where each is needed for moments."""
    share = min(count // APART_SHARE, count - LEAST_MEASURED, MOST_APART)
    return list_spread(count, share) if share > 0 else []


def decide_scale(graph: DependencyGraph, data: Dataset, ranges: Bounds | None = None) -> Dataset:
    """Pictures that nobody scales are scaled as the model wants them, by what its graph says or what it answers."""
    if not data.is_unscaled:
        return data
    name = data.specs[0].name
    if name in (ranges or {}):
        low, high = (ranges or {})[name]
        return data.scale_pictures(make_value_map(Scale(low, high)), "--input-range")
    scale = find_scale(graph, name)
    scaled = data.scale_pictures(make_value_map(scale), _name_judge(graph, name))
    is_centred = len(scale.mean) == COLOURS and scale.high - scale.low > 1 and not scale.std
    return _choose_order(graph, scaled, scale) if is_centred and "order" not in data.preprocess.said else scaled


def _choose_order(graph: DependencyGraph, data: Dataset, scale: Scale) -> Dataset:
    """Pixels without their mean are Caffe's, whose networks take blue first, unless the model is surer of red first."""
    turned = replace(make_value_map(replace(scale, mean=scale.mean[::-1])), bgr=True)
    other = data.scale_pictures(turned, f"{data.decided}, blue first as Caffe has it")
    rows = list_spread(data.rows.count or 1, ORDER_ROWS)
    sure = [_measure_confidence(graph, d, rows) for d in (data, other)]
    return other if sure[1] >= sure[0] else data


def _measure_confidence(graph: DependencyGraph, data: Dataset, rows: list[int]) -> float:
    """Mean probability of the class that the model calls; 0 where it is no classifier."""
    name = data.specs[0].name
    p = _predict(graph, name, join_blocks(data.rows.read_blocks(rows)).inputs[name])
    return float(p.max(1).mean()) if p is not None else 0.0


def find_scale(graph: DependencyGraph, name: str) -> Scale:
    """The scale of pictures that an input wants, as far as can be told."""
    model = graph.model
    sizes = {n: pair[0] for n, pair in (model.shapes.sizes if model.shapes else {}).items()}
    t = make_array_types(model, sizes)[name]
    shape = tuple(d.dim_value for d in t.tensor_type.shape.dim)[1:]
    kind = guess_kind(find_first_grid(graph, name, shape))
    kind = "" if kind in PICTURE_SOURCES else "photographs"
    positive = inspect_inputs(model)[name].positive
    return choose_source(graph, name, t, None, kind, positive).scale or Scale()


def _name_judge(graph: DependencyGraph, name: str) -> str:
    """The judge of the scale, in the report's words."""
    return "the graph's first operators" if find_leading_affine(Walk(graph.model), name) else "the model's answers"


def make_value_map(scale: Scale) -> ValueMap:
    """A scale of 0..1 as a map of pixels."""
    return ValueMap(
        (scale.high - scale.low) / 255, tuple(m - scale.low for m in scale.mean or (0.0,)), scale.std, scale.bgr
    )


def check_scale(graph: DependencyGraph, data: Dataset, block: Block) -> tuple[str, ...]:
    """A note where pictures are far from the scale that the model wants and it answers otherwise for that reason."""
    found: list[str] = []
    if data.is_whole:
        return ()
    for spec in data.specs:
        x = block.inputs[spec.name][:CHECKED_ROWS]
        if len(data.specs) > 1 or spec.dtype.kind != "f" or not _is_picture(graph, spec.name, x):
            continue
        if _is_telling(graph, spec.name, x):
            continue
        wanted = make_value_map(find_scale(graph, spec.name))
        low, high = float(x.min()), float(x.max())
        least, most = _find_bounds(wanted)
        if high - low <= 0 or 1 / FAR_SPAN <= (high - low) / (most - least) <= FAR_SPAN:
            continue
        fitting = _map_to(wanted, low, high)
        if _has_same_answers(
            graph, spec.name, x, fitting.apply(x, 3 if x.ndim == 4 and x.shape[3] in PICTURE_CHANNELS else 1)
        ):
            continue
        found.append(
            f"{data.name}: values of '{spec.name}' go from {low:.4g} to {high:.4g}, and the model seems to take "
            f"{least:.3g} to {most:.3g} ({_name_judge(graph, spec.name)}): give {_describe_option(data, fitting)}"
        )
    return tuple(found)


def _describe_option(data: Dataset, fitting: ValueMap) -> str:
    """The option that brings values to the scale."""
    if data.kind == "pictures":
        return "no scale, mean and std in --preprocess, they are found then"
    return f"--preprocess {fitting.describe()}"


def _is_picture(graph: DependencyGraph, name: str, x: Array) -> bool:
    return guess_kind(find_first_grid(graph, name, x.shape[1:])) in PICTURE_SOURCES


def _find_bounds(values: ValueMap) -> tuple[float, float]:
    """The interval that pixels are mapped to, in the mean over the channels."""
    mean, std = float(np.mean(values.mean or 0.0)), float(np.mean(values.std or 1.0))
    return (0.0 - mean) / std, (255 * values.scale - mean) / std


def _map_to(wanted: ValueMap, low: float, high: float) -> ValueMap:
    """The map of values of low..high that would fit: they are taken as pixels of 0..255 or as 0..1, or stretched."""
    if low >= 0 and 1.5 < high <= 255:
        return wanted
    if low >= 0 and high <= 1.5:
        return replace(wanted, scale=wanted.scale * 255)
    least, most = _find_bounds(wanted)
    scale = (most - least) / (high - low)
    return ValueMap(scale, (scale * low - least,))


def _is_telling(graph: DependencyGraph, name: str, x: Array) -> bool:
    """Are values narrow, and do the answers tell much of them? Then their scale need not be looked for."""
    if float(x.max()) - float(x.min()) >= WIDE_SPAN or find_leading_affine(Walk(graph.model), name):
        return False
    seen = _predict(graph, name, x)
    return seen is not None and _measure_told(seen) >= CALIBRATION.silent_share


def _measure_told(p: Array) -> float:
    """Mutual information of inputs and predictions, as a share of the most that so many classes allow."""
    return measure_information(p) / math.log(max(p.shape[1], 2))


def _has_same_answers(graph: DependencyGraph, name: str, x: Array, other: Array) -> bool:
    """Does the model call nearly all rows alike as they are and as it would seem to want them?"""
    seen, mapped = _predict(graph, name, x), _predict(graph, name, other.astype(x.dtype))
    if seen is None or mapped is None:
        return False
    return float((seen.argmax(1) == mapped.argmax(1)).mean()) >= SAME_ANSWERS


def _predict(graph: DependencyGraph, name: str, x: Array) -> Array | None:
    """Class probabilities of some rows; None where the model is no classifier."""
    model = graph.model
    session = open_session(model.proto(), model.folder, level=3, threads=1)
    feeds = split_chunks({name: x}, find_only_batch(model), count_at_once(model))
    return compute_probabilities(session, feeds, sum(len(f[name]) for f in feeds)) if feeds else None


__all__ = ["check_scale", "decide_scale", "load_calibration"]
