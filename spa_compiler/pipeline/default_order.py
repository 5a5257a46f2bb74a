"""The order of a default run: each pass says if it takes part (`from_options`) and what it goes after (`after`)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from spa_compiler.errors import UsageError
from spa_compiler.pipeline.fields import find_text
from spa_compiler.pipeline.passes import find_pass_type


@functools.cache
def find_default_passes(names: tuple[str, ...]) -> tuple[type[Any], ...]:
    """Passes that say when they are part of the pipeline (`from_options`), each behind those that it goes after."""
    return tuple(sort_by_place(k for k in map(_load_pass, names) if hasattr(k, "from_options")))


def _load_pass(name: str) -> type[Any] | None:
    """A pass; None where it cannot be loaded: only who asks for it by name has to know."""
    try:
        return find_pass_type(name)
    except Exception:  # a distribution that has nothing to do with this run
        return None


def sort_by_place(steps: Iterable[Any]) -> list[Any]:
    """Passes in order: each behind those that it goes after; of several, one that reads a file first, then by name."""
    rest, out = sorted(steps, key=lambda s: (not _is_reading_file(s), s.name)), list[Any]()
    while rest:
        names = {s.name for s in rest}
        free = [s for s in rest if not names.intersection(find_earlier(s))]
        if not free:
            raise UsageError(f"the passes {', '.join(sorted(names))} go after each other: no order is right")
        out.append(free[0])
        rest.remove(free[0])
    return out


def find_earlier(step: Any) -> tuple[str, ...]:
    """Names of the passes that a pass, or its class, goes after."""
    found = getattr(step, "after", ())
    return found if isinstance(found, tuple) else ()


def _is_reading_file(step: Any) -> bool:
    """Does one of the options that were given name a file? Then what is wrong with it shows before any work."""
    shown = ((f, find_text(f)) for f in fields(step))
    return not isinstance(step, type) and any(s and s.file and getattr(step, f.name) != f.default for f, s in shown)
