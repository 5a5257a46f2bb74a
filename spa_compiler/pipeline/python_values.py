"""Option values as Python has them: a pattern, a list or a dictionary of them, paths; checked as on the command line.

>>> from spa_compiler.pipeline.options import find_declared
>>> read_value(find_declared()["group_ratio"], {"layer1*": 0.2})
('layer1*=0.2',)
>>> read_value(find_declared()["input_shape"], {"x": (1, 3, 8, 8)})
('x:1,3,8,8',)
"""

from __future__ import annotations

import math
import os
import typing
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any

from spa_compiler.errors import UsageError
from spa_compiler.pipeline.fields import DeclaredOption


def read_value(own: DeclaredOption, value: Any) -> Any:
    """The value of an option as its field has it. Raises UsageError for one that the option cannot have."""
    kinds = list_kinds(own.kind)
    if own.shown.switch and (value is None or isinstance(value, bool)):
        return own.default if value is None else own.shown.switch[0 if value else 1]
    if value is None and type(None) in kinds:
        return None
    if tuple in kinds:
        return tuple(_list_entries(own, value))
    if isinstance(value, Mapping) and (own.shown.metavar or "").count("="):
        return ",".join(_list_entries(own, value))
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    _check_kind(own, kinds, value)
    _check_range(own, value)
    return value


def split_entries(own: DeclaredOption, value: Any) -> dict[str, Any]:
    """The value of an option, and what of it another one takes: entries PATTERN=R, as text or as a dictionary.

    Raises UsageError where the option itself has two values.
    """
    if not own.shown.entries or not isinstance(value, str | Mapping | list | tuple):
        return {own.name: value}
    parts = [value] if isinstance(value, str | Mapping) else list(value)
    plain = [p for p in parts if not isinstance(p, Mapping) and not (isinstance(p, str) and "=" in p)]
    entries = [e for p in parts if p not in plain for e in _list_entries(own, p)]
    if len(set(plain)) > 1:
        raise UsageError(f"{own.flag}: {' and '.join(map(str, plain))} contradict each other: give one of them")
    return {own.name: plain[0] if plain else own.default, **({own.shown.entries: entries} if entries else {})}


def list_kinds(kind: Any) -> list[Any]:
    """The plain types that a field may have: `float | None` is float and NoneType, `tuple[str, ...]` is tuple."""
    parts = typing.get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return [typing.get_origin(part) or part for part in parts]


def _list_entries(own: DeclaredOption, value: Any) -> Iterable[str]:
    """Texts of patterns; keys and values of a dictionary are joined as the command line writes them."""
    if isinstance(value, str):
        return [value]
    sign = ":" if ":" in (own.shown.metavar or "") else "="
    if isinstance(value, Mapping):
        return [f"{name}{sign}{_join(inner)}" for name, inner in value.items()]
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        found = list(value)
        if all(isinstance(v, str) for v in found):
            return found
    raise UsageError(f"{own.name}={value!r}: expected a text, a list of texts or a dictionary")


def _join(value: Any) -> str:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value)
    return ",".join(map(str, value))


def _check_kind(own: DeclaredOption, kinds: list[Any], value: Any) -> None:
    right = tuple(kinds)
    if not isinstance(value, right) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(NAMES.get(k, k.__name__) for k in kinds)
        raise UsageError(f"{own.name}={value!r}: expected {names}")


def _check_range(own: DeclaredOption, value: Any) -> None:
    shown = own.shown
    if value == own.default:
        return
    choices = list(shown.choices() if callable(shown.choices) else shown.choices)
    if choices and value not in choices and (isinstance(value, str) or float not in list_kinds(own.kind)):
        number = ["a number"] if float in list_kinds(own.kind) else []
        raise UsageError(f"{own.name}={value!r}: expected one of {', '.join([*number, *map(repr, choices)])}")
    least = 1 if shown.word else shown.least
    if isinstance(value, float) and not math.isfinite(value):  # NaN is between all bounds
        raise UsageError(f"{own.name}={value!r}: expected a finite number")
    if (least is not None and value < least) or (shown.most is not None and value > shown.most):
        bounds = f"at least {least:g}" + (f" and at most {shown.most:g}" if shown.most is not None else "")
        raise UsageError(f"{own.name}={value!r}: expected {bounds}")


NAMES = {float: "a number", int: "a whole number", str: "a text", bool: "True or False", type(None): "None"}
"""Types in a user's words."""
