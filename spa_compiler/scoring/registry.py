"""Criteria by name: those of any distribution are found through the entry points `spa_compiler.criteria`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UsageError
from spa_compiler.planning.scores import Scores
from spa_compiler.plugins import found_in

Criterion = Callable[[DependencyGraph, Any, np.random.Generator], Scores]


@functools.cache
def available() -> dict[str, EntryPoint]:
    """Entry points of criteria by name. Raises UsageError when two distributions use one name."""
    return found_in("spa_compiler.criteria", "criterion")


def criterion(name: str) -> Criterion:
    """A criterion by name. Raises UsageError with the names that there are."""
    if name not in available():
        raise UsageError(f"no criterion is called '{name}'; there are {', '.join(sorted(available()))}")
    found: Criterion = available()[name].load()
    return found
