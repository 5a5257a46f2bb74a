"""The text form of pipelines: `score{criterion=l2},allocate{ratio=0.5}`, there and back."""

from __future__ import annotations

import json
import re
import types
import typing
from typing import Any

from spa_compiler.errors import UsageError

PASS = re.compile(r"\s*([A-Za-z_][\w-]*)\s*(\{)?")
OPTION = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*("(?:[^"\\]|\\.)*"|[^,{}"]*?)\s*([,}])')
PLAIN = re.compile(r"[\w.:/*?\[\]%+|-]+\Z")
ENTRY = re.compile(r"(?:\\.|[^|\\])+", re.DOTALL)


def split_text(text: str) -> list[tuple[str, dict[str, str]]]:
    """Names and options as written. Raises UsageError that shows where it stops making sense."""
    out: list[tuple[str, dict[str, str]]] = []
    at = 0
    while not out or at < len(text):
        found = PASS.match(text, at)
        if found is None:
            raise UsageError(f"pipeline: expected the name of a pass at '{text[at : at + 20]}'")
        options, at = _options(found[1], text, found.end()) if found[2] else ({}, found.end())
        out.append((found[1], options))
        rest = text[at:].lstrip()
        if rest and not rest.startswith(","):
            raise UsageError(f"pipeline: expected ',' before '{rest[:20]}'")
        if rest == ",":
            raise UsageError("pipeline: expected the name of a pass after the last ','")
        at = len(text) - len(rest) + 1 if rest else len(text)
    return out


def _options(name: str, text: str, at: int) -> tuple[dict[str, str], int]:
    """What stands between the braces, and where they end."""
    options: dict[str, str] = {}
    closed = text[at:].lstrip().startswith("}")
    if closed:
        return options, text.index("}", at) + 1
    while not closed:
        option = OPTION.match(text, at)
        if option is None:
            raise UsageError(f"pipeline: expected key=value in {name}{{...}} at '{text[at : at + 20]}'")
        if option[1] in options:
            raise UsageError(f"pipeline: {name}{{...}} says {option[1]} twice")
        options[option[1]] = _unquoted(option[2])
        at, closed = option.end(), option[3] == "}"
    return options, at


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError as e:
        raise UsageError(f"pipeline: {text} is not a JSON string: {e}") from e


def parse_value(where: str, text: str, kind: Any) -> Any:
    """The text of an option as its type. Raises UsageError for anything else."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float, str):
            return kind(text)
        if typing.get_origin(kind) is tuple:
            return tuple(re.sub(r"\\(.)", r"\1", part) for part in ENTRY.findall(text))
    except (KeyError, ValueError) as e:
        raise UsageError(f"pipeline: {where}={text!r} is not a {getattr(kind, '__name__', kind)}") from e
    raise UsageError(f"pipeline: {where} cannot be given as text")
