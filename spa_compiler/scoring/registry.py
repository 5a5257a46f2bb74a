"""Criteria by name: those of any distribution are found through the entry points `spa_compiler.criteria`."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint

from spa_compiler.errors import UsageError
from spa_compiler.plugins import find_entry_points
from spa_compiler.scoring.blend import is_blend, make_blend
from spa_compiler.scoring.criterion import Criterion


@functools.cache
def find_criteria() -> dict[str, EntryPoint]:
    """Entry points of criteria by name. Raises UsageError when two distributions use one name."""
    return find_entry_points("spa_compiler.criteria", "criterion")


def find_criterion(name: str) -> Criterion:
    """A criterion by name, or a blend (`0.5*l2+obspa`); a plain function needs weights only.

    Raises UsageError with the names that there are.
    """
    if name not in find_criteria() and is_blend(name):
        return make_blend(name, find_criterion)
    if name not in find_criteria():
        raise UsageError(f"no criterion is called '{name}'; there are {', '.join(sorted(find_criteria()))}")
    found = find_criteria()[name].load()
    return found if isinstance(found, Criterion) else Criterion(found)
