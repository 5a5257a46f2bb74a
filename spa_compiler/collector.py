"""Python's cyclic garbage collector, out of the way while many small objects are made that all stay.

It walks everything that lives each time the number of objects has grown by a quarter: in the analysis of deep models
that was a third of the time, and the part that grew faster than the number of nodes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """The collector does not run inside; afterwards it does as before."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
