"""How many threads the linear algebra takes.

OpenBLAS threads wait by spinning: for the many small solves of narrow models a second thread costs up to ten times what
it gives as soon as the machine has anything else to do (measured: 3.6 s with one thread, 19 s with two, on two busy
cores). Wide models have matrices that are worth it.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

from threadpoolctl import threadpool_limits

from spa_compiler.graph import DependencyGraph

WIDE = 2048
"""Columns of the widest contraction from which all threads are used."""


def linear_algebra(graph: DependencyGraph) -> Any:
    """A context in which BLAS runs on one thread, unless the graph has a contraction of WIDE columns or more."""
    shapes = [graph.values[n].shape for n in graph.weights]
    widest = max((min(math.prod(s[1:]), math.prod(s[:-1])) for s in shapes if len(s) > 1), default=0)
    return nullcontext() if widest >= WIDE else threadpool_limits(limits=1, user_api="blas")
