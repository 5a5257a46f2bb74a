"""Threads for linear algebra: independent work runs in parallel, with one BLAS thread each.

OpenBLAS threads wait by spinning: for the many small solves of narrow models a second thread costs up to ten times what
it gives as soon as the machine has anything else to do (measured: 3.6 s with one thread, 19 s with two, on two busy
cores). So chunks of inputs and groups of channels are worked on at once instead, by Python threads (BLAS and
onnxruntime let go of the interpreter). No matrix is so large that two would not fit: see `statistics.wide_columns`.
"""

from __future__ import annotations

import contextvars
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from spa_compiler.execution.interrupts import check_stop

PROCESSORS = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
"""Cores that this process may use: threads of onnxruntime beyond them only wait for each other."""
CORES = min(4, PROCESSORS)
T = TypeVar("T")
R = TypeVar("R")


def bound_threads(threads: int) -> int:
    """Threads of a session: 0 for one per core, and no more than there are cores."""
    return min(max(threads, 0), PROCESSORS)


def limit_threads() -> Any:
    """A context in which BLAS runs on one thread."""
    return threadpool_limits(limits=1, user_api="blas")


def map_parallel(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results in order, CORES at work at once and no more of them waiting.

    Work sees the context of the caller (numpy's error state). Raises KeyboardInterrupt between items where the command
    was told to stop.
    """
    if CORES == 1:
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
