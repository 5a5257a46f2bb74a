"""The text form of pipelines, `score{criterion=l2},protect(allocate{ratio=0.5},remove)`: parse it and write it."""

from __future__ import annotations

import json
import re
import types
import typing
from typing import Any, NamedTuple

from spa_compiler.errors import UsageError

PASS_PATTERN = re.compile(r"\s*([A-Za-z_][\w-]*)\s*(\{)?")
OPTION_PATTERN = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*("(?:[^"\\]|\\.)*"|[^,{}"]*?)\s*([,}])')
PLAIN_PATTERN = re.compile(r"[\w.:/*?\[\]%+|-]+\Z")
ENTRY_PATTERN = re.compile(r"(?:\\.|[^|\\])+", re.DOTALL)


class WrittenPass(NamedTuple):
    """A pass as it is written; `inner` are the passes in its parentheses, None where it has none."""

    name: str
    options: dict[str, str]
    inner: list[WrittenPass] | None


def split_text(text: str) -> list[WrittenPass]:
    """Names, options and inner passes as written. Raises UsageError that shows where it stops making sense."""
    out, at = _split(text, 0)
    if at < len(text):
        raise UsageError(f"pipeline: ')' without '(' at '{text[at : at + 20]}'")
    return out


def _split(text: str, at: int) -> tuple[list[WrittenPass], int]:
    """Passes up to the end of the text or a ')' that ends them, and where that is."""
    out: list[WrittenPass] = []
    while not out or (at < len(text) and text[at] != ")"):
        found = PASS_PATTERN.match(text, at)
        if found is None:
            raise UsageError(f"pipeline: expected the name of a pass at '{text[at : at + 20]}'")
        options, at = _split_options(found[1], text, found.end()) if found[2] else ({}, found.end())
        inner, at = _split_inner(found[1], text, at)
        out.append(WrittenPass(found[1], options, inner))
        rest = text[at:].lstrip()
        if rest and rest[0] not in ",)":
            raise UsageError(f"pipeline: expected ',' before '{rest[:20]}'")
        if rest == "," or rest.startswith(",)"):
            raise UsageError("pipeline: expected the name of a pass after the last ','")
        at = len(text) - len(rest) + rest.startswith(",")
    return out, at


def _split_inner(name: str, text: str, at: int) -> tuple[list[WrittenPass] | None, int]:
    """The passes in parentheses, and where they end."""
    rest = text[at:].lstrip()
    if not rest.startswith("("):
        return None, at
    inner, at = _split(text, len(text) - len(rest) + 1)
    if at == len(text):
        raise UsageError(f"pipeline: expected ')' after the passes of {name}(...)")
    return inner, at + 1


def _split_options(name: str, text: str, at: int) -> tuple[dict[str, str], int]:
    """The options between the braces, and the position behind them."""
    options: dict[str, str] = {}
    closed = text[at:].lstrip().startswith("}")
    if closed:
        return options, text.index("}", at) + 1
    while not closed:
        option = OPTION_PATTERN.match(text, at)
        if option is None:
            raise UsageError(f"pipeline: expected key=value in {name}{{...}} at '{text[at : at + 20]}'")
        if option[1] in options:
            raise UsageError(f"pipeline: {name}{{...}} says {option[1]} twice")
        options[option[1]] = _unquote(option[2])
        at, closed = option.end(), option[3] == "}"
    return options, at


def _unquote(text: str) -> str:
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
            return tuple(re.sub(r"\\(.)", r"\1", part) for part in ENTRY_PATTERN.findall(text))
    except (KeyError, ValueError) as e:
        raise UsageError(f"pipeline: {where}={text!r} is not a {getattr(kind, '__name__', kind)}") from e
    raise UsageError(f"pipeline: {where} cannot be given as text")
