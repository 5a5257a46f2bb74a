"""Proof and price of a compiled model: prune equals mask, the same signature, fidelity, latency.

    structural(graph, masks, small, seeds=(0, 1))      # raises VerificationError and names the culprit
    fidelity(dense, compiled, feeds); latency(dense, compiled, feed)

Outputs that end in a Sigmoid or Softmax are compared before it: after saturation a relative error says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from spa_compiler.axes import Bools
from spa_compiler.decisions import compared, decided, replayed
from spa_compiler.dims import Dim
from spa_compiler.errors import ModelError, VerificationError
from spa_compiler.forcing import Choice, choices, forced, reached, repeated
from spa_compiler.graph import DependencyGraph
from spa_compiler.model import Model, element_type
from spa_compiler.reference import reference
from spa_compiler.rewrite import rewrite, sliced
from spa_compiler.runtime import exact_session, random_inputs, run, with_outputs
from spa_compiler.shapes import symbols
from spa_compiler.threads import each

Array = NDArray[Any]
Feed = dict[str, Array]
Ranges = Mapping[str, tuple[float, float]]
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-3
POWERLESS = 1e-6


@dataclass(frozen=True)
class Structural:
    """Largest |pruned - masked| over the masked output's scale; `effect` is what the plan changes, on that scale."""

    error: float
    tolerance: float
    effect: float
    checks: int
    sizes: list[dict[str, int]]
    branches: int = 0  # choices of branches under which it was checked as well
    unproven: tuple[str, ...] = ()  # branches that the dense model cannot run on these inputs
    replayed: tuple[str, ...] = ()  # all decisions, where rounding turned one: what follows took the masked model's

    @property
    def powerless(self) -> bool:
        """The plan does not change the outputs, so the check proves nothing."""
        return self.effect < POWERLESS

    def document(self) -> dict[str, Any]:
        lists = {"unproven": list(self.unproven), "replayed": list(self.replayed)}
        return {**asdict(self), **lists, "powerless": self.powerless}


def bindings(model: Model) -> list[dict[str, int]]:
    """The sizes of the symbols to check at: both bindings of the analysis."""
    assert model.shapes is not None
    sides = [{n: pair[k] for n, pair in model.shapes.sizes.items()} for k in (0, 1)]
    return sides if sides[0] != sides[1] else sides[:1]


def outputs(
    model: Model, names: list[str], feeds: list[Feed], what: str, level: int = 1, given: list[Feed] | None = None
) -> list[list[Any]]:
    """These values of a model for every feed; its session lives only here. `level`: how much may be optimised.

    `given` are, per feed, decisions that the model takes as inputs (`replayed`).
    """
    threads = 1 if len(feeds) > 1 else 0  # several feeds at once
    proto = with_outputs(model.proto(), names)
    if given:
        proto = replayed(proto, given[0])
        feeds = [feed | decisions for feed, decisions in zip(feeds, given, strict=True)]
    session = exact_session(proto, model.folder, level, threads, what)
    order = [o.name for o in session.get_outputs()]

    def one(feed: Feed) -> list[Any]:
        got = dict(zip(order, run(session, feed, what), strict=True))
        return [got[n] for n in names]

    return list(each(one, feeds))


def tolerance(graph: DependencyGraph) -> float:
    """1e-4 of the output's scale; 1e-3 where weights have half precision."""
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    constants = graph.model.constants()
    return HALF_TOLERANCE if any(element_type(constants[n]) in halves for n in graph.weights) else TOLERANCE


def structural(
    graph: DependencyGraph, masks: Mapping[Dim, Bools], small: Model, seed: int = 0, ranges: Ranges | None = None
) -> Structural:
    """Prune equals mask, on random inputs of two seeds, at every binding of the symbols, and in every branch.

    Raises VerificationError when it does not hold; the message names the group found by bisection.
    """
    sizes = bindings(graph.model)
    rounds = sizes if len(sizes) > 1 else sizes * 2
    feeds = [random_inputs(graph.model, b, np.random.default_rng(seed + k), ranges) for k, b in enumerate(rounds)]
    dense = outputs(graph.model, compared(graph), feeds, "the dense model")
    limit = tolerance(graph)
    branches, unproven = _branches(graph, feeds)
    error = effect = 0.0
    again: tuple[str, ...] = ()
    wrong = ""
    for choice, expected in [({}, dense), *branches]:
        try:
            found = _compare(graph, masks, small, feeds, expected, choice, limit)
            error, effect, again = max(error, found[0]), max(effect, found[1]), again or found[2]
            wrong = wrong or ("" if found[0] <= limit else f"error {found[0]:.1e}, tolerance {limit:.0e}")
        except ModelError as e:
            wrong = wrong or str(e)
        if wrong:
            culprit = _culprit(graph, masks, feeds[:1], expected[:1], limit, choice)
            raise VerificationError(f"prune does not equal mask: {wrong}; {culprit}")
    return Structural(error, limit, effect, len(feeds), sizes, len(branches), unproven, again)


def _branches(
    graph: DependencyGraph, feeds: list[Feed]
) -> tuple[list[tuple[Choice, list[list[Any]]]], tuple[str, ...]]:
    """Choices of branches with the dense outputs; branches that the dense model cannot run there."""
    out: list[tuple[Choice, list[list[Any]]]] = []
    left: set[str] = set()
    model = graph.model
    for choice in choices(model):
        try:
            out.append((choice, outputs(forced(model, choice), compared(graph), feeds, "the dense model")))
        except ModelError:  # a branch for other sizes than these
            left |= reached(model, choice)
    unproven = left.difference(*(reached(model, choice) for choice, _ in out)) | repeated(model)
    return out, tuple(sorted(unproven))


def _compare(
    graph: DependencyGraph, masks: Mapping[Dim, Bools], small: Model, feeds: list[Feed], dense: list[list[Any]],
    choice: Choice, limit: float,
) -> tuple[float, float, tuple[str, ...]]:  # fmt: skip
    """(prune against mask, mask against dense, decisions replayed).

    Where they differ after decisions that rounding may turn, the pruned model is given those of the masked one. Raises
    ModelError when the rewritten model does not load or run.
    """
    names, masked_model = compared(graph), forced(reference(graph, masks), choice)
    masked = outputs(masked_model, names, feeds, "the masked model")
    effect = max((_relative(d, m) for d, m in _pairs(dense, masked)), default=0.0)
    pruned = outputs(forced(small, choice), names, feeds, "the pruned model")
    error = max((_relative(p, m) for p, m in _pairs(pruned, masked)), default=0.0)
    made = decided(graph) if not error <= limit else []
    if made:
        names = compared(graph, later=True)
        every = [*names, *made]
        rows = [_cut(graph, every, row, masks) for row in outputs(masked_model, every, feeds, "the masked model")]
        masked = [row[: len(names)] for row in rows]
        given = [dict(zip(made, row[len(names) :], strict=True)) for row in rows]
        pruned = outputs(forced(small, choice), names, feeds, "the pruned model", given=given)
        error = max((_relative(p, m, replay=True) for p, m in _pairs(pruned, masked)), default=0.0)
    return error, effect, tuple(made)


def _cut(graph: DependencyGraph, names: list[str], row: list[Any], masks: Mapping[Dim, Bools]) -> list[Any]:
    """Of values of the masked model what the pruned one has."""
    known = [graph.values.get(n) for n in names]
    return [a if v is None else sliced(graph, v, a, masks) for v, a in zip(known, row, strict=True)]


def _pairs(a: list[list[Any]], b: list[list[Any]]) -> Iterator[tuple[Array, Array]]:
    for row, other in zip(a, b, strict=True):
        for x, y in zip(row, other, strict=True):
            if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.dtype.kind in "fiub":
                yield x, y


def _relative(x: Array, reference: Array, replay: bool = False) -> float:
    """Largest difference over the reference's largest magnitude; infinite when shapes, NaNs or infinities disagree.

    `replay`: what decisions are made from must agree by itself, so that what was put in place of invalid scores (-1e9)
    may not make up the scale: a hundred times the median of all values that are there counts at most.
    """
    if x.shape != reference.shape:
        return float("inf")
    if x.size == 0:
        return 0.0
    a, b = x.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(b)
    if not (np.array_equal(np.isfinite(a), finite) and np.array_equal(a[~finite], b[~finite], equal_nan=True)):
        return float("inf")
    a, b = np.where(finite, a, 0), np.where(finite, b, 0)
    scale = np.abs(b).max()
    if replay and (sizes := np.unique(np.abs(b[b != 0]))).size:
        scale = min(scale, 100 * np.median(sizes))
    return float(np.abs(a - b).max() / (scale + 1e-30))


def _culprit(
    graph: DependencyGraph, masks: Mapping[Dim, Bools], feeds: list[Feed], dense: list[list[Any]], limit: float,
    choice: Choice,
) -> str:  # fmt: skip
    """Halve the plan until one group is left that breaks the check on its own."""
    groups = [g for g in graph.groups if any(d in masks for d in g.dims)]

    def breaks(some: list[Any]) -> bool:
        part = {d: masks[d] for g in some for d in g.dims if d in masks}
        try:
            return not _compare(graph, part, rewrite(graph, part), feeds, dense, choice, limit)[0] <= limit
        except Exception:  # a model that does not load or run is broken, too
            return True

    while len(groups) > 1:
        half = len(groups) // 2
        if breaks(groups[:half]):
            groups = groups[:half]
        elif breaks(groups[half:]):
            groups = groups[half:]
        else:
            return f"the groups {[g.label for g in groups][:4]} break it together"
    return f"the culprit is the group '{groups[0].label}'" if groups else "no group is cut: the rewrite itself is wrong"


def signature(
    dense: ort.InferenceSession, compiled: ort.InferenceSession, only: Mapping[str, int] | None = None
) -> None:
    """Same names, types and shapes of inputs and outputs. Raises VerificationError that names the first difference.

    What the dense file leaves open in an output, without it being a size of an input, may become a number: shape
    inference tells more once shape arithmetic is folded. So may a symbol in `only` (`only_sizes`), its size there.
    """
    free = {size for v in dense.get_inputs() for size in v.shape} - {None}
    for what in ("get_inputs", "get_outputs"):
        a = [(v.name, v.type, v.shape) for v in getattr(dense, what)()]
        b = [(v.name, v.type, v.shape) for v in getattr(compiled, what)()]
        pairs = list(zip([*a, None], [*b, None], strict=False))
        told = (free, only or {}) if what == "get_outputs" else (None, {})
        differing = next(((x, y) for x, y in pairs if not _alike(x, y, *told)), None)
        if differing is not None:
            raise VerificationError(f"the signature changed: {differing[0]} became {differing[1]}")


def _alike(a: Any, b: Any, free: set[Any] | None, only: Mapping[str, int]) -> bool:
    """Do two inputs, or two outputs (`free`: sizes of inputs), have the same name, type and shape?"""
    if a is None or b is None or a[:2] != b[:2] or len(a[2]) != len(b[2]):
        return a is b
    known = [free is not None and not isinstance(x, int) and x not in free for x in a[2]]
    sizes = zip(a[2], b[2], known, strict=True)
    return all(x == y or only.get(x) == y or (may and (x is None or isinstance(y, int))) for x, y, may in sizes)


@dataclass(frozen=True)
class Fidelity:
    """How close the outputs are to the dense model's; `top1` where the last axis looks like logits."""

    cosine: float
    snr_db: float
    top1: float | None
    inputs: str

    def document(self) -> dict[str, Any]:
        return asdict(self)


def fidelity(dense: list[list[Any]], compiled: list[list[Any]], inputs: str) -> Fidelity:
    """Cosine and signal-to-noise ratio over all outputs, and the share of rows with the same largest entry."""
    dot = left = right = noise = 0.0
    same = rows = 0
    for x, y in _pairs(dense, compiled):
        a, b = np.nan_to_num(x.astype(np.float64)), np.nan_to_num(y.astype(np.float64))
        left, right = left + float((a**2).sum()), right + float((b**2).sum())
        if a.shape != b.shape:  # another number of detections: nothing agrees
            noise += float((a**2).sum() + (b**2).sum())
            continue
        dot += float((a * b).sum())
        noise += float(((a - b) ** 2).sum())
        if x.dtype.kind == "f" and a.ndim == 2 and a.shape[1] >= 2:
            same, rows = same + int((a.argmax(1) == b.argmax(1)).sum()), rows + len(a)
    cosine = dot / max((left * right) ** 0.5, 1e-30) if left and right else float(left == right)
    snr = 10 * float(np.log10(max(left, 1e-30) / max(noise, 1e-30)))
    return Fidelity(cosine, min(snr, 200.0), same / rows if rows else None, inputs)


def explained(dense: list[list[Any]], compiled: list[list[Any]]) -> float:
    """Share of the dense outputs' variance that the compiled ones explain: 1 is perfect, 0 no better than the mean."""
    error = variance = 0.0
    for column, other in zip(zip(*dense, strict=True), zip(*compiled, strict=True), strict=True):
        if not isinstance(column[0], np.ndarray) or column[0].dtype.kind != "f" or column[0].ndim == 0:
            continue
        if any(x.shape != y.shape for x, y in zip(column, other, strict=True)):  # numbers of detections
            continue
        a, b = (np.nan_to_num(np.concatenate(rows).astype(np.float64)) for rows in (column, other))
        error += float(((a - b) ** 2).sum())
        variance += float(((a - a.mean(0)) ** 2).sum())
    return 1 - error / variance if variance else float(error == 0.0)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run: median and 90th percentile, dense and compiled interleaved in one process."""

    dense_ms: float
    dense_p90_ms: float
    compiled_ms: float
    compiled_p90_ms: float
    threads: int
    runs: int
    sizes: dict[str, list[int]]

    def document(self) -> dict[str, Any]:
        return asdict(self)


def drawn(model: Model, seed: int = 0, ranges: Ranges | None = None) -> list[Feed]:
    """Inputs to measure fidelity on where none are given; others than those of the proof."""
    sizes = bindings(model)[0]
    return [random_inputs(model, sizes, np.random.default_rng(1000 + 4 * seed + k), ranges) for k in range(4)]


def sample(model: Model, sessions: Sequence[ort.InferenceSession], ranges: Ranges | None = None, seed: int = 0) -> Feed:
    """One sample to time: symbolic batch axes are 1 where every session runs so, else as bound by the analysis."""
    bound = bindings(model)[0]
    single = bound | {s.name: 1 for s in symbols(model) if s.batch}
    feed = random_inputs(model, single, np.random.default_rng(seed), ranges)
    try:
        for session in sessions:
            session.run(None, feed)
    except Exception:  # an exporter wrote another batch size into the graph
        return random_inputs(model, bound, np.random.default_rng(seed), ranges)
    return feed


def latency(
    dense: ort.InferenceSession, compiled: ort.InferenceSession, feed: Feed, threads: int, seconds: float = 1.5
) -> Latency:
    """Both sessions in turns, after warm-up, for about `seconds`; `threads` is what they were opened with."""
    sessions = (dense, compiled)
    times: tuple[list[float], list[float]] = ([], [])
    for session in sessions:
        for _ in range(2):
            session.run(None, feed)
    stop = time.perf_counter() + seconds
    while len(times[0]) < 5 or (time.perf_counter() < stop and len(times[0]) < 200):
        for session, row in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            row.append((time.perf_counter() - start) * 1e3)
    a, b = (np.percentile(t, [50, 90]) for t in times)
    shapes = {n: list(v.shape) for n, v in feed.items()}
    return Latency(float(a[0]), float(a[1]), float(b[0]), float(b[1]), threads, len(times[0]), shapes)
