"""Milliseconds of the dense and the compiled file, in turns in one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from spa_compiler.execution.session import run_session
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import list_symbols
from spa_compiler.verification.feeds import Feed, Ranges, draw_inputs
from spa_compiler.verification.sizes import list_analysis_sizes

LEAST_SLOWER = 0.03
"""From which share on a difference of minima is one."""
MOST_SPREAD = 0.1
"""How far a median may lie above the minimum, as a share of it, before it is noise of other processes."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run, dense and compiled interleaved in one process.

    `dense_ms` and `compiled_ms` are medians; minima where the medians are noise (`statistic`), which other processes
    cannot make smaller; `predicted` are times of another machine, which follow from those of its kernels. Minimum and
    90th percentile show the spread.
    """

    dense_ms: float
    dense_min_ms: float
    dense_p90_ms: float
    compiled_ms: float
    compiled_min_ms: float
    compiled_p90_ms: float
    statistic: str
    threads: int
    runs: int
    sizes: dict[str, list[int]]

    @property
    def is_slower(self) -> bool:
        """Is the compiled model slower than the dense one, by more than what two equal models differ?"""
        return self.compiled_min_ms > (1 + LEAST_SLOWER) * self.dense_min_ms

    def document(self) -> dict[str, Any]:
        """As a dictionary for the report."""
        return asdict(self) | {"slower": self.is_slower}


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
    """Both sessions in turns, after warm-up, for about `seconds`; `threads` is what they were opened with.

    Raises ModelError where one does not run.
    """
    sessions = (dense, compiled)
    times: tuple[list[float], list[float]] = ([], [])
    for session, what in zip(sessions, ("the dense model", "the compiled model"), strict=True):
        for _ in range(2):
            run_session(session, feed, what)
    stop = time.perf_counter() + seconds
    while len(times[0]) < 5 or (time.perf_counter() < stop and len(times[0]) < 200):
        for session, row in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            row.append((time.perf_counter() - start) * 1e3)
    shapes = {n: list(v.shape) for n, v in feed.items()}
    return summarize_times(times[0], times[1], threads, shapes)


def summarize_times(
    dense: Sequence[float], compiled: Sequence[float], threads: int, sizes: dict[str, list[int]]
) -> Latency:
    """The figures of times that were taken in turns.

    >>> quiet = summarize_times([4.0, 4.1, 4.2], [2.0, 2.1, 2.2], 1, {})
    >>> quiet.statistic, quiet.dense_ms, quiet.compiled_ms
    ('median', 4.1, 2.1)
    >>> busy = summarize_times([4.0, 4.1, 4.2], [2.0, 5.1, 9.2], 1, {})
    >>> busy.statistic, busy.dense_ms, busy.compiled_ms
    ('minimum', 4.0, 2.0)
    """
    rows = [[float(v) for v in np.percentile(t, [0, 50, 90])] for t in (dense, compiled)]
    noisy = any(median > (1 + MOST_SPREAD) * least for least, median, _ in rows)
    a, b = rows
    statistic, at = ("minimum", 0) if noisy else ("median", 1)
    return Latency(a[at], a[0], a[2], b[at], b[0], b[2], statistic, threads, len(dense), sizes)
