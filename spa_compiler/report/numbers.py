"""Numbers that JSON has no words for: NaN and infinities become null, and a note says where.

>>> replace_unfinite({"a": [1.0, float("nan")], "notes": ["first"]})
{'a': [1.0, None], 'notes': ['first', '1 number is not finite and null here: a.1']}
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

MOST_NAMED = 4
"""Places that a note names."""


def replace_unfinite(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without NaN and infinities; where there are some, a note more among its `notes`."""
    places = list(_iterate_places(document, ()))
    if not places:
        return dict(document)
    out: dict[str, Any] = _replace(document)
    few = ", ".join(".".join(map(str, p)) for p in places[:MOST_NAMED]) + ", ..." * (len(places) > MOST_NAMED)
    number = "1 number is" if len(places) == 1 else f"{len(places)} numbers are"
    return {**out, "notes": [*out.get("notes", []), f"{number} not finite and null here: {few}"]}


def write_json(document: Mapping[str, Any]) -> str:
    """A document as JSON that every reader takes."""
    return json.dumps(replace_unfinite(document), indent=2, allow_nan=False)


def _is_unfinite(value: Any) -> bool:
    return isinstance(value, float | np.floating) and not math.isfinite(value)


def _iterate_places(value: Any, at: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Keys and positions that lead to a number that is not finite."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _iterate_places(part, (*at, str(key)))
    elif isinstance(value, list | tuple):
        for k, part in enumerate(value):
            yield from _iterate_places(part, (*at, k))
    elif _is_unfinite(value):
        yield at


def _replace(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _replace(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(part) for part in value]
    return None if _is_unfinite(value) else value
