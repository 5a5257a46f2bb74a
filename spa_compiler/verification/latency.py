"""Milliseconds of the dense and the compiled file, in turns in one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import list_symbols
from spa_compiler.verification.feeds import Feed, Ranges, draw_inputs
from spa_compiler.verification.sizes import list_analysis_sizes


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


def draw_sample(
    model: Model, sessions: Sequence[ort.InferenceSession], ranges: Ranges | None = None, seed: int = 0
) -> Feed:
    """One sample to time: symbolic batch axes are 1 where every session runs so, else as bound by the analysis."""
    bound = list_analysis_sizes(model)[0]
    single = bound | {s.name: 1 for s in list_symbols(model) if s.batch}
    feed = draw_inputs(model, single, seed, ranges)
    try:
        for session in sessions:
            session.run(None, feed)
    except Exception:  # an exporter wrote another batch size into the graph
        return draw_inputs(model, bound, seed, ranges)
    return feed


def measure_latency(
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
