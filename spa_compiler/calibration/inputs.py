"""Calibration inputs that are drawn by a prior that the graph suggests; those that are given: `user_inputs`.

    calibration = draw_calibration(graph, seed=0)
    moments = collect(graph, calibration.feeds, calibration.adjust)

The kind of an input is read from its type, rank and sizes (photographs, spectra, waveforms, handwriting, tables, token
ids), its scale from the graph's first operators or from what the model does with it (`pixel_scale`), and of a pool
those inputs are kept that the dense model itself calls confidently, equally many per predicted class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.bn_matching import draw_matched
from spa_compiler.calibration.class_probabilities import compute_probabilities
from spa_compiler.calibration.front_end_choice import choose_front_end, is_read_as_waveform
from spa_compiler.calibration.language_model import (
    LENGTH_ELEMENTS,
    choose_lengths,
    fill_companions,
    find_companions,
    find_language,
)
from spa_compiler.calibration.picture_choice import choose_balanced, choose_crops
from spa_compiler.calibration.pixel_scale import count_at_once, rescale_source, split_chunks
from spa_compiler.calibration.priors.front_ends import Spoken
from spa_compiler.calibration.priors.kinds import Scale, Synthetic
from spa_compiler.calibration.sample_budget import SampleBudget, count_affordable, count_inputs, plan_samples
from spa_compiler.calibration.sentences import explain_unused_tokenizer, write_sentences
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.errors import UsageError
from spa_compiler.execution.index_ranges import IdRange, find_index_ranges
from spa_compiler.execution.input_ranges import POSITIVE, inspect_inputs
from spa_compiler.execution.inputs import WHOLE_LIMIT, draw_random_array
from spa_compiler.execution.session import open_session
from spa_compiler.interpreter.activation_maps import Adjust, is_rectified
from spa_compiler.interpreter.deferred_inputs import Late
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import find_only_batch, has_common_batch, make_array_types
from spa_compiler.operators.facts import HOLDS_STATISTICS, is_convolution
from spa_compiler.operators.movement import is_regrouping

Array = NDArray[Any]
Feed = dict[str, Array]
SEPARATE_RUNS = 32
"""Sets of inputs that are drawn where inputs share no first axis."""
CROPS_PER_INPUT, CHOICE_MACS = 12, 3e11
"""Crops of photographs that are run for every one that is kept, and multiply-accumulates that choosing may take."""
UNKNOWN_KIND = "features"
"""The kind of inputs that the graph says nothing about: what such columns have in common cannot be guessed. Where it
was tried (anomalies in flattened spectra) importance by such moments lost to magnitude, compensation gained."""
PICTURE_KINDS = ("photographs", "scenes", "objects", "leaves", "pink")
"""Kinds of which deep errors are doubted (`rank_correction`)."""
POPULATION_KINDS, MOST_LEFT = {"features", "series"}, 512
"""Kinds whose correlations are drawn once for all inputs of a draw: those apart are of the pool, so many at most."""
PICTURE_SIDE = 6
"""Pixels of the shorter side from which on an array is a picture or a spectrum at all."""
MOST_CLIPS = 6144
"""Clips of words that are drawn to choose from: one takes a millisecond or more to make."""


@dataclass(frozen=True)
class Calibration:
    """Inputs in chunks, the sentence for the report, and what to do to the dense model's values on them."""

    feeds: list[Feed]
    source: str
    adjust: Adjust = field(default_factory=Adjust)
    synthetic: bool = False
    is_guessed: bool = False  # nothing in the graph says what the inputs are
    has_low_rank: bool = False  # pictures that are drawn or few, which hide some of what deep channels do
    late: Late | None = None
    apart: Callable[[int], list[Feed]] | None = None
    """Gives up to so many more inputs of the same source, which the moments did not see and no confidence chose."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """Given inputs, for the report (`datasets.summary`)."""
    notes: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """Number of inputs."""
        return count_inputs(self.feeds)


def draw_calibration(
    graph: DependencyGraph,
    seed: int = 0,
    samples: int = 0,
    memory: int = 1 << 30,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    kind: str = "",
    effort: float = 1.0,
) -> Calibration:
    """Inputs without data. `samples` 0: as many as memory (bytes) and time allow.

    `ranges` gives an input's lowest and highest value, `kind` overrides what the graph says, `effort` is the work of
    matching pictures to stored statistics, in times of the usual.
    """
    model = graph.model
    sizes = {n: pair[0] for n, pair in (model.shapes.sizes if model.shapes else {}).items()}
    sizes, bound = choose_lengths(model, sizes), sizes
    longer = max((sizes[n] / bound[n] for n in sizes), default=1.0)
    rng = np.random.default_rng(seed)
    types, bounds = make_array_types(model, sizes), ranges or {}
    read = inspect_inputs(model)
    drawn = {n: choose_source(graph, n, t, bounds.get(n), kind, read[n].positive) for n, t in types.items()}
    if kind:
        _check_kind(kind, {n: s for n, s in drawn.items() if types[n].tensor_type.shape.dim})
    found = {n: s if kind else choose_front_end(graph, n, s) for n, s in drawn.items()}
    ids = max((math.prod(s.shape) for s in found.values() if s.kind == "tokens"), default=0)
    most = max(CALIBRATION.least_inputs, LENGTH_ELEMENTS // ids) if ids else CALIBRATION.table_inputs
    planned, pool = plan_samples(graph, samples, memory, longer, most)
    adjust, batch = choose_adjustment(graph), find_only_batch(model)
    if any(isinstance(s, Spoken) for s in found.values()) and not samples:
        pool = min(pool, MOST_CLIPS)
        planned = planned.limit(pool // CALIBRATION.chosen_one_of)
    if not has_common_batch(model):
        sets = _draw_separately(model, types, found, min(samples or planned.start, SEPARATE_RUNS), rng)
        said = f"{len(sets)} synthetic sets of inputs"
        return Calibration(
            sets,
            said,
            adjust,
            True,
            apart=lambda n: _draw_separately(model, types, found, n, make_apart_generator(seed)),
        )
    named = find_companions(model, found)
    names = ", ".join(sorted({s.kind for n, s in found.items() if n not in named}))
    drawing = _Drawing(
        graph, found, names, planned, max(planned.kept, batch), max(pool, batch), batch, samples, memory, seed, rng
    )
    spoken = None if kind else drawing.draw_language(count_affordable(graph, longer))
    if spoken is not None:
        return spoken
    pictures = any(s.kind in PICTURE_KINDS for s in found.values())
    close = drawing.draw_matched(effort) if pictures else ""
    if isinstance(close, Calibration):
        return close
    made = drawing.draw_chosen()
    guessed = not kind and is_guessed(found, named)
    source = made.source + _list_shortcomings(graph, close, [] if kind else list_unknown(found, named))
    return replace(made, source=source, adjust=adjust, is_guessed=guessed, has_low_rank=pictures)


@dataclass(frozen=True)
class _Drawing:
    """Inputs for a model whose inputs share their first axis: what they are, and `count` of a `pool`."""

    graph: DependencyGraph
    found: Mapping[str, Synthetic | Spoken]
    names: str
    planned: SampleBudget
    count: int
    pool: int
    batch: int
    samples: int
    memory: int
    seed: int
    rng: np.random.Generator

    def make_calibration(self, kept: Feed, names: str, told: str, left: Feed | None = None) -> Calibration:
        """These inputs; those kept apart are `left`, or else drawn anew."""
        feeds, late = self.planned.split_feeds(kept, self.batch)
        source = f"{len(next(iter(kept.values())))} synthetic inputs ({names}; seed {self.seed}){told}"

        def take_left(n: int) -> list[Feed]:
            return split_chunks(
                {k: a[: max(n, self.batch)] for k, a in (left or {}).items()},
                self.batch,
                count_at_once(self.graph.model),
            )

        return Calibration(feeds, source, synthetic=True, late=late, apart=take_left if left else self.draw_apart)

    def draw_apart(self, n: int) -> list[Feed]:
        """About n further inputs of the same kind, as they come."""
        rng, n = make_apart_generator(self.seed), max(n, self.batch)
        n += -n % (self.batch or 1)
        inputs = fill_companions(self.graph.model, {k: s.draw(n, rng) for k, s in self.found.items()})
        return split_chunks(
            write_sentences(self.graph.model, inputs, rng) or inputs, self.batch, count_at_once(self.graph.model)
        )

    def draw_language(self, affordable: int) -> Calibration | None:
        """Inputs with token ids, likely ones where the model says what is likely; None where there are none."""
        model = self.graph.model
        spoken = _draw_language(model, self.found, self.count, affordable, self.rng)
        if spoken is None:
            return None
        kept, likely = spoken
        names = ", ".join(likely if name == "tokens" else name for name in self.names.split(", "))

        if likely.startswith("sentences"):
            return replace(self.make_calibration(kept, names, ""), adjust=choose_adjustment(self.graph))

        def speak(n: int) -> list[Feed]:
            more = _draw_language(model, self.found, max(n, self.batch), affordable, make_apart_generator(self.seed))
            return split_chunks(more[0], self.batch, count_at_once(model)) if more is not None else []

        unused = explain_unused_tokenizer(model)
        made = self.make_calibration(kept, names, f"; {unused}" if unused else "")
        return replace(made, adjust=choose_adjustment(self.graph), apart=speak)

    def draw_pictures(self, count: int) -> tuple[Feed, str]:
        """`count` pictures, of photographs the crops whose outputs differ most; and how they were chosen."""
        bank = _find_bank_input(self.found)
        source = self.found.get(bank)
        if not isinstance(source, Synthetic):
            return {n: s.draw(count, self.rng) for n, s in self.found.items()}, ""
        crops = min(CROPS_PER_INPUT * count, count_affordable(self.graph, work=CHOICE_MACS))
        x, how = choose_crops(self.graph.model, bank, source, count, max(self.samples, crops), self.batch, self.rng)
        return {bank: x}, f", {how}"

    def draw_matched(self, effort: float) -> Calibration | str:
        """Pictures matched to stored statistics, or why there are none."""
        close = draw_matched(
            self.graph, self.found, self.count, self.memory, self.draw_pictures, self.rng, self.samples > 0, effort
        )
        if isinstance(close, str):
            return close
        return replace(self.make_calibration(close[0], self.names, close[1]), has_low_rank=True)

    def draw_chosen(self) -> Calibration:
        """Inputs chosen by what the dense model says to them."""
        if _find_bank_input(self.found):
            kept, told = self.draw_pictures(self.count)
            return self.make_calibration(kept, self.names, told)
        model, pool = self.graph.model, self.pool
        inputs = fill_companions(model, {n: s.draw(pool, self.rng) for n, s in self.found.items()})
        is_whole = pool <= self.count
        rows = np.arange(pool) if is_whole else choose_confident(model, inputs, self.count, self.batch, self.rng)
        left: Feed = {}
        if POPULATION_KINDS & {s.kind for s in self.found.values()}:
            rest = make_apart_generator(self.seed).permutation(np.setdiff1d(np.arange(pool), rows))[:MOST_LEFT]
            left = {n: a[rest] for n, a in inputs.items() if len(rest)}
        return self.make_calibration({n: a[rows] for n, a in inputs.items()}, self.names, f" of {pool} drawn", left)


def make_apart_generator(seed: int) -> np.random.Generator:
    """The generator of inputs that are kept apart from those of the same seed."""
    return np.random.default_rng([seed, 1])


def _find_bank_input(found: Mapping[str, Synthetic | Spoken]) -> str:
    """The model's only input where that takes photographs, else ''."""
    return next(iter(found)) if len(found) == 1 and all(s.kind == "photographs" for s in found.values()) else ""


def draw_unselected(
    graph: DependencyGraph, seed: int = 0, ranges: Mapping[str, tuple[float, float]] | None = None
) -> Calibration:
    """Inputs as `draw_calibration` draws them before any are chosen, none yet: `apart` gives them."""
    model, bounds = graph.model, ranges or {}
    sizes = {n: pair[0] for n, pair in (model.shapes.sizes if model.shapes else {}).items()}
    types, read = make_array_types(model, choose_lengths(model, sizes)), inspect_inputs(model)
    sources = {n: choose_source(graph, n, t, bounds.get(n), "", read[n].positive) for n, t in types.items()}
    found = {n: choose_front_end(graph, n, s) for n, s in sources.items()}
    guessed = is_guessed(found, find_companions(model, found))

    def draw(count: int) -> list[Feed]:
        rng, batch = make_apart_generator(seed), find_only_batch(model)
        if not has_common_batch(model):
            return _draw_separately(model, types, found, min(count, SEPARATE_RUNS), rng)
        inputs = fill_companions(model, {n: s.draw(max(count, batch), rng) for n, s in found.items()})
        return split_chunks(write_sentences(model, inputs, rng) or inputs, batch, count_at_once(model))

    return Calibration([], "", choose_adjustment(graph), True, guessed, apart=draw)


def list_unknown(found: Mapping[str, Synthetic | Spoken], named: Mapping[str, str]) -> list[str]:
    """Inputs that the graph says nothing about; `named` are those that stand beside others and are not drawn."""
    return [n for n, s in found.items() if n not in named and s.kind == UNKNOWN_KIND]


def is_guessed(found: Mapping[str, Synthetic | Spoken], named: Mapping[str, str]) -> bool:
    """Are the inputs as a whole a guess? They are where most numbers of a sample, ids counted as such, are."""
    sizes = {n: math.prod(s.shape) for n, s in found.items() if n not in named}
    return 2 * sum(sizes[n] for n in list_unknown(found, named)) > sum(sizes.values())


def _list_shortcomings(graph: DependencyGraph, unmatched: str, unknown: Sequence[str]) -> str:
    """Ways to better inputs, to stand behind the sentence that says what they are."""
    told = [f"not matched to the statistics that BatchNormalization holds: {unmatched}"] if unmatched else []
    if has_folded_norms(graph):
        told.append("no BatchNormalization: if the exporter folded it, keep it for a better result (docs: data-free)")
    if unused := explain_unused_tokenizer(graph.model):
        told.append(unused)
    if unknown:
        inputs = (
            "its inputs are" if len(unknown) == len(graph.model.graph.inputs) else "'" + "', '".join(unknown) + "' is"
        )
        told.append(f"the graph does not say what {inputs}, --calib would do better")
    return "".join(f"; {t}" for t in told)


def _check_kind(kind: str, found: Mapping[str, Synthetic]) -> None:
    """Raise UsageError where a kind that was asked for does not fit an input, or there is none that it is for."""
    for name, s in found.items():
        try:
            s.draw(1, np.random.default_rng(0))
        except UsageError as e:
            raise UsageError(f"--calib {kind}: not for the input '{name}' of shape {['N', *s.shape]}") from e
    if kind != "tokens" and found and all(s.kind == "tokens" for s in found.values()):
        raise UsageError(f"--calib {kind}: it would change nothing, all inputs are ids; tokens are drawn for them")


def _draw_language(
    model: Model, found: Mapping[str, Synthetic | Spoken], count: int, most: int, rng: np.random.Generator
) -> tuple[Feed, str] | None:
    """Inputs with token ids that the model finds likely, and what they are called; None if it speaks no language.

    `most` is how many inputs may be run.
    """
    if not any(s.kind == "tokens" for s in found.values()):
        return None
    count -= count % (find_only_batch(model) or 1)
    inputs = fill_companions(model, {n: s.draw(count, rng) for n, s in found.items()})
    written, told = write_sentences(model, inputs, rng), find_language(model, inputs, rng)
    if written is not None and (told is None or not told.causal):
        return written, "sentences"
    if told is None:
        return None
    if not told.causal:
        return inputs, "tokens"
    sweeps = max(1, min(CALIBRATION.sweeps, most // count))
    ids = told.draw_ids(inputs, rng, sweeps)
    if written is None:
        return {**inputs, told.name: ids}, f"likely token ids, {sweeps} sweeps"
    ids[::2] = written[told.name][: len(ids) : 2]
    return {**inputs, told.name: ids}, f"sentences and likely token ids, {sweeps} sweeps"


def has_folded_norms(graph: DependencyGraph) -> bool:
    """Are there convolutions that feed a Relu or Relu6, and no BatchNormalization?"""
    walk = Walk(graph.model)
    feeding = (n.output[0] for n in walk.nodes if is_convolution(n.op_type))
    return not any(s.op in HOLDS_STATISTICS for s in graph.sites) and any(is_rectified(walk, y) for y in feeding)


def choose_adjustment(graph: DependencyGraph) -> Adjust:
    """The maps that synthetic inputs need: the batch's own statistics, or shrunk deviations where folded."""
    normed = any(s.op in HOLDS_STATISTICS for s in graph.sites)
    return Adjust(batch_norm=normed, shrink=CALIBRATION.pull if has_folded_norms(graph) else 0.0)


def _draw_separately(
    model: Model,
    types: Mapping[str, onnx.TypeProto],
    found: Mapping[str, Synthetic | Spoken],
    count: int,
    rng: np.random.Generator,
) -> list[Feed]:
    """Inputs whose first axes differ (a state, a table) are drawn whole, one set for each run."""
    feeds = []
    for _ in range(count):
        feed = {}
        for name, t in types.items():
            dims = [d.dim_value for d in t.tensor_type.shape.dim]
            feed[name] = found[name].draw(dims[0], rng) if dims else draw_random_array(t, rng)
        feeds.append(fill_companions(model, feed))
    return feeds


def choose_source(
    graph: DependencyGraph, name: str, t: onnx.TypeProto,
    bounds: tuple[float, float] | None, kind: str, positive: bool = False,
) -> Synthetic:  # fmt: skip
    """The prior for one input: kind, grid and scale; of a `positive` one the size of what would be drawn."""
    shape = tuple(d.dim_value for d in t.tensor_type.shape.dim)[1:]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(t.tensor_type.elem_type)
    if dtype.kind in "iu" and name in (limits := find_index_ranges(graph.model)):
        return Synthetic("tokens", shape, dtype=str(dtype), options=_limit_ids(limits[name], bounds))
    grid = find_first_grid(graph, name, shape)
    is_heard = is_read_as_waveform(graph, name, shape)
    what = kind or ("waveforms" if is_heard else guess_kind(grid))
    if dtype in (np.int32, np.int64) and what not in PICTURE_KINDS:
        bounds = bounds or (int(positive), WHOLE_LIMIT - 1)
    scale = Scale(*bounds) if bounds else None
    least = POSITIVE[0] if positive and dtype.kind == "f" and not bounds else 0.0
    if what == "white" and len(grid) not in (2, 3):  # no image: noise has no shape of its own
        return Synthetic("fields", shape, scale=scale, dtype=str(dtype), options={"slope": 0.0}, least=least)
    source = Synthetic(what, shape, grid=grid if grid != shape else (), scale=scale, dtype=str(dtype), least=least)
    if scale is None and what in ("photographs", "scenes", "objects", "strokes", "white"):
        return rescale_source(graph, name, source)
    return source


def _limit_ids(ids: IdRange, bounds: tuple[float, float] | None) -> dict[str, float]:
    """Options of tokens: ids in their range and, where the caller gave bounds, between those."""
    least, limit = ids
    if bounds is None:
        return {"vocabulary": limit, "reserved": least} if least else {"vocabulary": limit}
    vocabulary = max(1, min(limit, math.floor(bounds[1]) + 1))
    return {"vocabulary": vocabulary, "reserved": min(max(math.ceil(bounds[0]), 0), vocabulary - 1)}


def guess_kind(shape: tuple[int, ...]) -> str:
    """The most likely kind of inputs of this shape (without the batch)."""
    small, size = sorted(shape)[:1], math.prod(shape)
    is_flat = max(shape, default=0) == size
    if len(shape) == 3 and small[0] in (1, 3) and not is_flat:
        low, high = sorted(shape)[1:]
        if low < PICTURE_SIDE:
            return UNKNOWN_KIND
        if small[0] == 1 and high > CALIBRATION.spectrum_ratio * low:
            return "mfcc" if low <= CALIBRATION.most_coefficients else "log_mel"
        return "strokes" if small[0] == 1 and high <= CALIBRATION.largest_strokes else guess_picture_kind(low)
    if len(shape) == 2 and 1 not in shape:
        return "series"
    coloured = math.isqrt(size // 3)
    is_picture = coloured**2 * 3 == size
    if size >= CALIBRATION.least_waveform and is_flat and not is_picture:
        return "waveforms" if len(shape) > 1 else UNKNOWN_KIND
    if is_flat and size in (64, 784, 1024):
        return "strokes"
    if is_flat and size >= 3 * 16 * 16 and is_picture:
        return guess_picture_kind(coloured)
    return UNKNOWN_KIND if len(shape) <= 2 or is_flat else "fields"


def guess_picture_kind(side: int) -> str:
    """Crops of photographs, or drawn scenes where pictures are small: `side` is the shorter one."""
    return "photographs" if side >= CALIBRATION.photograph_side else "scenes"


def find_first_grid(graph: DependencyGraph, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a flat input is given by a Reshape at the start, where there is one."""
    for site in graph.readers.get(name, []):
        y = site.outputs[0] if site.outputs else None
        if not is_regrouping(site) or len(shape) != 1 or y is None or len(y.shape) not in (3, 4):
            continue
        grid = y.shape[1:]
        if len(y.shape) == 3 and y.shape[1] == 1:  # one sample as a sequence, time first
            grid = (1, y.shape[0], y.shape[2])
        if math.prod(grid) == math.prod(shape):
            return grid if grid[0] in (1, 3) or grid[-1] in (1, 3) else shape
    return shape


def choose_confident(
    model: Model, inputs: Mapping[str, Array], count: int, batch: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Of a pool the rows that the dense model calls with confidence, equally many per predicted class; else any."""
    n = len(next(iter(inputs.values())))
    session = open_session(model.proto(), model.folder, level=3, threads=1)
    found = compute_probabilities(session, split_chunks(inputs, batch, count_at_once(model)), n)
    if found is None:
        return rng.permutation(n)[:count]
    return choose_balanced(found, count, rng)


__all__ = ["Calibration", "draw_calibration"]
