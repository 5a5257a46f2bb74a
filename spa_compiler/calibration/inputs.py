"""Calibration inputs: drawn by a prior that the graph suggests, or `--calib FILE.npz|DIR|script.py:function`.

    calibration = draw_calibration(graph, seed=0)
    moments = collect(graph, calibration.feeds, calibration.adjust)

The kind of an input is read from its type, rank and sizes (photographs, spectra, waveforms, handwriting, tables, token
ids), its scale from the graph's first operators or from what the model does with it (`pixel_scale`), and of a pool
those inputs are kept that the dense model itself calls confidently, equally many per predicted class.
"""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.algebra.sizes import find_size_symbols
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.bn_matching import draw_matched
from spa_compiler.calibration.front_end_choice import choose_front_end
from spa_compiler.calibration.language_model import (
    LENGTH_ELEMENTS,
    choose_lengths,
    fill_companions,
    find_companions,
    find_language,
)
from spa_compiler.calibration.pixel_scale import compute_probabilities, rescale_source, split_chunks
from spa_compiler.calibration.priors.front_ends import Spoken
from spa_compiler.calibration.priors.kinds import Scale, Synthetic
from spa_compiler.calibration.sample_budget import (
    CHOSEN_ONE_OF,
    LEAST_SAMPLES,
    TABLE_SAMPLES,
    count_affordable,
    plan_given_samples,
    plan_samples,
)
from spa_compiler.calibration.sentences import explain_unused_tokenizer, write_sentences
from spa_compiler.errors import UsageError
from spa_compiler.execution.index_limits import find_index_limits
from spa_compiler.execution.input_ranges import POSITIVE, inspect_inputs
from spa_compiler.execution.inputs import WHOLE_LIMIT, draw_random_array
from spa_compiler.execution.session import open_session
from spa_compiler.interpreter.activation_maps import Adjust, is_rectified
from spa_compiler.interpreter.interpreter import Late, Walk
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import find_input_axes, find_only_batch, make_input_types
from spa_compiler.operators.facts import HOLDS_STATISTICS, is_convolution
from spa_compiler.operators.movement import is_regrouping
from spa_compiler.verification.dataset import load_data, make_data

Array = NDArray[Any]
Feed = dict[str, Array]
SEPARATE_RUNS = 32
"""Sets of inputs that are drawn where inputs share no first axis."""
UNKNOWN_KIND = "features"
"""The kind of inputs that the graph says nothing about: what such columns have in common cannot be guessed. Where it
was tried (anomalies in flattened spectra) importance by such moments lost to magnitude, compensation gained."""
PICTURE_KINDS = ("photographs", "objects", "leaves", "pink")
"""Kinds of which deep errors are doubted (`rank_correction`)."""
FEW_CLASSES = 128
"""So many given pictures are believed: 64 hide of MobileNetV2 what drawn ones do."""
CONFIDENCE_RANGE = (0.5, 0.95)
"""Between these the dense model's confidence in a synthetic input is neither a guess nor an artefact."""
SWEEPS = 8
"""Times that token ids are drawn again from what a language model says."""
MOST_CLIPS = 6144
"""Clips of words that are drawn to choose from: one takes a millisecond or more to make."""
SHRINK = 0.3
"""Pull on the log deviations of folded convolutions that feed a ReLU (measured: ResNet-20, -32 and -56 on CIFAR-10)."""


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
    apart: Callable[[int], list[Feed]] | None = None  # further inputs of the same source that nothing was chosen by

    @property
    def samples(self) -> int:
        """Number of inputs."""
        return sum(max((len(a) for a in f.values() if a.ndim), default=1) for f in self.feeds)


def draw_calibration(
    graph: DependencyGraph,
    seed: int = 0,
    samples: int = 0,
    memory: int = 1 << 30,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    kind: str = "",
) -> Calibration:
    """Inputs without data. `samples` 0: as many as memory (bytes) and time allow.

    `ranges` gives an input's lowest and highest value, `kind` overrides what the graph says.
    """
    model = graph.model
    sizes = {n: pair[0] for n, pair in (model.shapes.sizes if model.shapes else {}).items()}
    sizes, bound = choose_lengths(model, sizes), sizes
    longer = max((sizes[n] / bound[n] for n in sizes), default=1.0)
    rng = np.random.default_rng(seed)
    types, bounds = make_input_types(model, sizes), ranges or {}
    read = inspect_inputs(model)
    drawn = {n: choose_source(graph, n, t, bounds.get(n), kind, read[n].positive) for n, t in types.items()}
    if kind:
        _check_kind(kind, {n: s for n, s in drawn.items() if types[n].tensor_type.shape.dim})
    found = {n: s if kind else choose_front_end(graph, n, s) for n, s in drawn.items()}
    ids = max((math.prod(s.shape) for s in found.values() if s.kind == "tokens"), default=0)
    most = max(LEAST_SAMPLES, LENGTH_ELEMENTS // ids) if ids else TABLE_SAMPLES
    planned, pool = plan_samples(graph, samples, memory, longer, most)
    if any(isinstance(s, Spoken) for s in found.values()) and not samples:
        pool = min(pool, MOST_CLIPS)
        planned = planned.limit(pool // CHOSEN_ONE_OF)
    count, pool = (max(n, find_only_batch(model)) for n in (planned.kept, pool))
    if not _has_common_batch(model):
        return _draw_separately(
            model, types, found, min(samples or planned.start, SEPARATE_RUNS), rng, choose_adjustment(graph)
        )
    batch, named = find_only_batch(model), find_companions(model, found)
    names = sorted({s.kind for n, s in found.items() if n not in named})
    if not kind and (spoken := _draw_language(model, found, count, count_affordable(graph, longer), rng)) is not None:
        kept, likely = spoken
        said = ", ".join(likely if name == "tokens" else name for name in names)
        source = f"{len(next(iter(kept.values())))} synthetic inputs ({said}; seed {seed})"
        if unused := explain_unused_tokenizer(model):
            source += f"; {unused}"
        feeds, late = planned.split_feeds(kept, batch)
        apart = _keep_apart(model, found, seed) if likely.startswith("sentences") else None
        return Calibration(feeds, source, choose_adjustment(graph), True, late=late, apart=apart)
    pictures = any(s.kind in PICTURE_KINDS for s in found.values())
    close = draw_matched(graph, found, count, memory, rng, samples > 0) if pictures else ""
    if not isinstance(close, str):
        kept, told = close
        feeds, late = planned.split_feeds(kept, batch)
        source = f"{len(next(iter(kept.values())))} synthetic inputs ({', '.join(names)}; seed {seed}), {told}"
        return Calibration(feeds, source, synthetic=True, has_low_rank=True, late=late)
    inputs = fill_companions(model, {n: s.draw(pool, rng) for n, s in found.items()})
    rows = np.arange(pool) if pool <= count else choose_confident(model, inputs, count, batch, rng)
    kept = {n: a[rows] for n, a in inputs.items()}
    source = f"{len(rows)} synthetic inputs ({', '.join(names)}; seed {seed}) of {pool} drawn"
    guessed = not kind and UNKNOWN_KIND in names
    source += _list_shortcomings(graph, close, guessed)
    feeds, late = planned.split_feeds(kept, batch)
    apart = _keep_apart(model, found, seed) if any(isinstance(s, Spoken) for s in found.values()) else None
    return Calibration(feeds, source, choose_adjustment(graph), True, guessed, pictures, late, apart)


def _list_shortcomings(graph: DependencyGraph, unmatched: str, guessed: bool) -> str:
    """Ways to better inputs, to stand behind the sentence that says what they are."""
    told = [f"not matched to the statistics that BatchNormalization holds: {unmatched}"] if unmatched else []
    if has_folded_norms(graph):
        told.append("no BatchNormalization: if the exporter folded it, keep it for a better result (docs: data-free)")
    if unused := explain_unused_tokenizer(graph.model):
        told.append(unused)
    if guessed:
        told.append("the graph does not say what its inputs are, --calib would do better")
    return "".join(f"; {t}" for t in told)


def _keep_apart(model: Model, found: Mapping[str, Synthetic | Spoken], seed: int) -> Callable[[int], list[Feed]]:
    """Further words or sentences, drawn by other numbers than those that calibrate."""

    def draw(n: int) -> list[Feed]:
        rng, batch = np.random.default_rng([seed, 1]), find_only_batch(model)
        rows = -(-n // batch) * batch if batch else n
        inputs = fill_companions(model, {name: s.draw(rows, rng) for name, s in found.items()})
        return split_chunks(write_sentences(model, inputs, rng) or inputs, batch)

    return draw


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
    sweeps = max(1, min(SWEEPS, most // count))
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
    return Adjust(batch_norm=normed, shrink=SHRINK if has_folded_norms(graph) else 0.0)


def _has_common_batch(model: Model) -> bool:
    """Do all inputs have the same first axis, so that one row of each makes a sample?

    A size that other axes have too is none of samples: the nodes of a graph, whose adjacency has as many columns.
    """
    axes = list(find_input_axes(model).values())
    first = {a[0] if a else None for a in axes}
    others = {s for a in axes for size in a[1:] for s in find_size_symbols(size)}
    return len(first) <= 1 and None not in first and others.isdisjoint(f for f in first if isinstance(f, str))


def _draw_separately(
    model: Model,
    types: Mapping[str, onnx.TypeProto],
    found: Mapping[str, Synthetic | Spoken],
    count: int,
    rng: np.random.Generator,
    adjust: Adjust,
) -> Calibration:
    """Inputs whose first axes differ (a state, a table) are drawn whole, one set for each run."""
    feeds = []
    for _ in range(count):
        feed = {}
        for name, t in types.items():
            dims = [d.dim_value for d in t.tensor_type.shape.dim]
            feed[name] = found[name].draw(dims[0], rng) if dims else draw_random_array(t, rng)
        feeds.append(fill_companions(model, feed))
    return Calibration(feeds, f"{count} synthetic sets of inputs", adjust, True)


def choose_source(
    graph: DependencyGraph, name: str, t: onnx.TypeProto,
    bounds: tuple[float, float] | None, kind: str, positive: bool = False,
) -> Synthetic:  # fmt: skip
    """The prior for one input: kind, grid and scale; of a `positive` one the size of what would be drawn."""
    shape = tuple(d.dim_value for d in t.tensor_type.shape.dim)[1:]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(t.tensor_type.elem_type)
    if dtype.kind in "iu" and name in (limits := find_index_limits(graph.model)):
        return Synthetic("tokens", shape, dtype=str(dtype), options=_limit_ids(limits[name], bounds))
    grid = find_first_grid(graph, name, shape)
    what = kind or guess_kind(grid)
    if dtype in (np.int32, np.int64) and what not in PICTURE_KINDS:
        bounds = bounds or (int(positive), WHOLE_LIMIT - 1)
    scale = Scale(*bounds) if bounds else None
    least = POSITIVE[0] if positive and dtype.kind == "f" and not bounds else 0.0
    if what == "white" and len(grid) not in (2, 3):  # no image: noise has no shape of its own
        return Synthetic("fields", shape, scale=scale, dtype=str(dtype), options={"slope": 0.0}, least=least)
    source = Synthetic(what, shape, grid=grid if grid != shape else (), scale=scale, dtype=str(dtype), least=least)
    if scale is None and what in ("photographs", "objects", "strokes", "white"):
        return rescale_source(graph, name, source)
    return source


def _limit_ids(limit: int, bounds: tuple[float, float] | None) -> dict[str, float]:
    """Options of tokens: ids below `limit` and, where the caller gave bounds, between those."""
    if bounds is None:
        return {"vocabulary": limit}
    vocabulary = max(1, min(limit, math.floor(bounds[1]) + 1))
    return {"vocabulary": vocabulary, "reserved": min(max(math.ceil(bounds[0]), 0), vocabulary - 1)}


def guess_kind(shape: tuple[int, ...]) -> str:
    """The most likely kind of inputs of this shape (without the batch)."""
    small, size = sorted(shape)[:1], math.prod(shape)
    if len(shape) == 3 and small[0] in (1, 3):
        rest = sorted(shape)[1:] if small[0] == 3 else sorted(s for s in shape if s != 1) or [1, 1]
        low, high = rest[0], rest[-1]
        if small[0] == 1 and high > 1.5 * low:
            return "mfcc" if low <= 20 else "log_mel"
        return "strokes" if small[0] == 1 and high <= 32 else "photographs"
    if len(shape) == 2 and 1 not in shape:
        return "series"
    if size >= 4000 and max(shape, default=0) == size and math.isqrt(size // 3) ** 2 * 3 != size:
        return "waveforms" if len(shape) == 2 else "features"
    if max(shape, default=0) == size and size in (64, 784, 1024):
        return "strokes"
    if max(shape, default=0) == size and size >= 3 * 16 * 16 and math.isqrt(size // 3) ** 2 * 3 == size:
        return "photographs"
    return "features" if len(shape) <= 2 else "fields"


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
    found = compute_probabilities(session, split_chunks(inputs, batch), n)
    if found is None:
        return rng.permutation(n)[:count]
    label, confidence = found.argmax(1), found.max(1)
    fit = (confidence >= CONFIDENCE_RANGE[0]) & (confidence <= CONFIDENCE_RANGE[1])
    order = np.lexsort((-confidence, ~fit))
    rank = np.empty(n, np.int64)  # place of each row among those of its class
    for c in np.unique(label):
        mine = order[label[order] == c]
        rank[mine] = np.arange(len(mine))
    cap = math.ceil(count / len(np.unique(label)))
    ranked = np.lexsort((rank, ~fit, rank >= cap))[:count]
    return np.asarray(rng.permutation(ranked), np.int64)


def load_calibration(graph: DependencyGraph, spec: str, samples: int = 0, memory: int = 1 << 30) -> Calibration:
    """Inputs that the caller gives: FILE.npz, a folder of them, or script.py:function that gives arrays by input name.

    Raises UsageError for what does not fit the model's inputs.
    """
    model = graph.model
    arrays = _call_script(spec, model) if ".py:" in spec else _load_files(Path(spec), model)
    batch, given = find_only_batch(model), len(next(iter(arrays.values())))
    planned = plan_given_samples(graph, given, samples, memory)
    kept = {n: a[: max(planned.kept, batch)] for n, a in arrays.items()}
    n = len(next(iter(kept.values())))
    if n < batch:
        raise UsageError(f"{spec}: the model runs {batch} inputs at a time, there are {n}")
    n -= n % batch if batch else 0
    feeds, late = planned.split_feeds(kept, batch)
    few = n < FEW_CLASSES and any(
        guess_kind(find_first_grid(graph, name, a.shape[1:])) in PICTURE_KINDS for name, a in kept.items()
    )
    return Calibration(feeds, f"{n} inputs from {Path(spec.split(':')[0]).name}", has_low_rank=few, late=late)


def _load_files(path: Path, model: Model) -> dict[str, Array]:
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path}: no .npz files in this folder")
    parts = [load_data(f, model).inputs for f in files]
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}


def _call_script(spec: str, model: Model) -> dict[str, Array]:
    file, name = spec.rsplit(":", 1)
    if not Path(file).is_file():
        raise UsageError(f"{file}: no such script")
    function = runpy.run_path(file).get(name)
    if not callable(function):
        raise UsageError(f"{file}: it defines no function '{name}'")
    try:
        got = function()
    except Exception as e:
        raise UsageError(f"{file}: {name}() ends with {type(e).__name__}: {e}") from e
    arrays = got if isinstance(got, Mapping) else {model.header.graph.input[0].name: got}
    return make_data(Path(file), {n: np.asarray(a) for n, a in arrays.items()}, model).inputs


__all__ = ["Calibration", "draw_calibration", "load_calibration"]
