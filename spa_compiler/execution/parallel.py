"""Threads for linear algebra: independent work runs in parallel, with one BLAS thread each.

OpenBLAS threads wait by spinning: for the many small solves of narrow models a second thread costs up to ten times what
it gives as soon as the machine has anything else to do (measured: 3.6 s with one thread, 19 s with two, on two busy
cores). So chunks of inputs and groups of channels are worked on at once instead, by Python threads (BLAS and
onnxruntime let go of the interpreter). Only where one matrix is so large that two would not fit, BLAS has all threads.
"""

from __future__ import annotations

import contextvars
import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Protocol, TypeVar

from threadpoolctl import threadpool_limits

from spa_compiler.execution.interrupts import check_stop

HUGE_COLUMNS = 6144
"""Columns of the widest contraction from which BLAS takes all threads, and nothing runs beside it."""
PROCESSORS = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
"""Cores that this process may use: threads of onnxruntime beyond them only wait for each other."""
CORES = min(4, PROCESSORS)
T = TypeVar("T")
R = TypeVar("R")


def bound_threads(threads: int) -> int:
    """Threads of a session: 0 for one per core, and no more than there are cores."""
    return min(max(threads, 0), PROCESSORS)


class Weighted(Protocol):
    """A graph with weights: their names, and of every value its shape."""

    @property
    def weights(self) -> Collection[str]: ...

    @property
    def values(self) -> Mapping[str, Any]: ...


def is_huge(graph: Weighted) -> bool:
    """Has the graph a contraction of HUGE columns or more?"""
    shapes = [graph.values[n].shape for n in graph.weights]
    return max((min(math.prod(s[1:]), math.prod(s[:-1])) for s in shapes if len(s) > 1), default=0) >= HUGE_COLUMNS


def limit_threads(graph: Weighted) -> Any:
    """A context in which BLAS runs on one thread, unless the graph is huge."""
    return nullcontext() if is_huge(graph) else threadpool_limits(limits=1, user_api="blas")


def map_parallel(work: Callable[[T], R], items: Iterable[T], graph: Weighted | None = None) -> Iterator[R]:
    """Results in order, CORES at work at once and no more of them waiting (one after another for huge graphs).

    Work sees the context of the caller (numpy's error state). Raises KeyboardInterrupt between items where the command
    was told to stop.
    """
    if CORES == 1 or (graph is not None and is_huge(graph)):
        for item in items:
            check_stop()
            yield work(item)
        return
    with ThreadPoolExecutor(CORES) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            check_stop()
            if len(waiting) > CORES:
                yield waiting.popleft().result()
            waiting.append(pool.submit(contextvars.copy_context().run, work, item))
        while waiting:
            yield waiting.popleft().result()
