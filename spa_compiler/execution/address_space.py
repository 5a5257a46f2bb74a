"""Little memory at the start: numpy's BLAS takes memory for every core, and waits forever where there is none.

    with import_in_little_memory():
        import numpy

A limit of the address space (`ulimit -v`) is told by the system; where it is small, BLAS gets one thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

LEAST_BYTES = 256 << 20
"""Address space below which the libraries cannot be loaded: measured with one thread, 230 MB."""
AMPLE_BYTES = 4 << 30
"""Address space from which BLAS may take its buffers for any number of cores."""
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def import_in_little_memory() -> Iterator[None]:
    """Libraries imported inside take one thread where memory is limited.

    Raises MemoryError with the limit where they do not fit.
    """
    limit = find_limit()
    if limit is None or limit >= AMPLE_BYTES:
        yield
        return
    if limit < LEAST_BYTES:
        raise MemoryError(describe_limit(limit))
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")
    try:
        yield
    except (ImportError, MemoryError, OSError) as e:
        raise MemoryError(f"{describe_limit(limit)} ({' '.join(str(e).split())[:200]})") from e


def find_limit() -> int | None:
    """The limit of this process's address space; None where there is none, or the system has no such thing."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def describe_limit(limit: int) -> str:
    """The limit, and how much is needed, in a user's words."""
    return (
        f"spa-compile cannot start: its address space is limited to {limit >> 20} MB (ulimit -v), "
        f"and its libraries alone need {LEAST_BYTES >> 20} MB"
    )
