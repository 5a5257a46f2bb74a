"""Milliseconds of two models on this machine, for budgets that state them."""

from __future__ import annotations

from spa_compiler.execution.session import open_session
from spa_compiler.ir.model import Model
from spa_compiler.verification.latency import draw_sample, measure_latency

SECONDS = 0.6


def measure_milliseconds(dense: Model, small: Model, threads: int) -> tuple[float, float]:
    """Least milliseconds of one run on one sample on this machine, in turns: nothing makes a run shorter."""
    sessions = [open_session(m.proto(), m.folder, 3, threads) for m in (dense, small)]
    feed = draw_sample(dense, sessions)
    found = measure_latency(sessions[0], sessions[1], feed, threads, seconds=SECONDS)
    return found.dense_min_ms, found.compiled_min_ms
