"""Writes the types of all options, for editors and type checkers, from the fields of the passes that declare them.

python -m tools.option_values > spa_compiler/pipeline/option_values.py
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

from spa_compiler.pipeline.fields import DeclaredOption
from spa_compiler.pipeline.options import find_declared
from spa_compiler.pipeline.python_values import list_kinds

HEAD = '''"""Types of all options, made by `python -m tools.option_values` from the passes that declare them.

A pass of a plug-in may declare more: they are given as `**{"name": value}`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Path = str | os.PathLike[str]
Patterns = str | Sequence[str] | Mapping[str, Any]
"""One text as on the command line, a list of such, or a dictionary of what stands before and behind the sign."""


class OptionsBesideRatio(TypedDict, total=False):
    """Values that `compile` takes by name; not given: the default."""
'''
MODULE = Path(__file__).resolve().parents[1] / "spa_compiler" / "pipeline" / "option_values.py"
OBJECTS = ("calib", "data")
"""Inputs that may be objects of Python."""


def write_module() -> Iterator[str]:
    """The lines of the module."""
    declared = find_declared().values()
    yield from HEAD.splitlines()
    yield ""
    for own in (d for d in declared if d.name != "ratio"):
        yield f"    {own.name}: {find_value_type(own)}"
        yield f'    """{own.shown.help}"""' if len(own.shown.help) < 110 else from_long(own.shown.help)
    yield from (
        "",
        "",
        "class OptionValues(OptionsBesideRatio, total=False):",
        '    """Values that `Options` takes."""',
        "",
    )
    yield f"    ratio: {find_value_type(find_declared()['ratio'])}"
    yield from ("", "", "class OptionAttributes:", '    """Attributes of `Options`."""', "")
    yield from (f"    {own.name}: {name_kind(own)}" for own in declared)


def from_long(text: str) -> str:
    """A docstring in lines of at most 120 characters."""
    return '    """' + "\n".join(textwrap.wrap(text, 110, subsequent_indent="    ")) + '\n    """'


def name_kind(own: DeclaredOption) -> str:
    """The type of the attribute."""
    return own.kind.__name__ if isinstance(own.kind, type) and not hasattr(own.kind, "__args__") else str(own.kind)


def find_value_type(own: DeclaredOption) -> str:
    """The type of what may be given."""
    if own.name in OBJECTS:
        return "Any"
    if tuple in list_kinds(own.kind):
        return "Patterns"
    if own.shown.file:
        return "Path"
    if own.shown.switch:
        return f"bool | {name_kind(own)} | None"
    if own.shown.choices and not callable(own.shown.choices):
        words = f"Literal[{', '.join(map(json.dumps, own.shown.choices))}]"
        entries = "Mapping[str, float] | Sequence[float | str] | str | " if own.shown.entries else ""
        return f"float | {entries}{words} | None" if float in list_kinds(own.kind) else words
    return "Patterns" if (own.shown.metavar or "").count("=") else name_kind(own)


if __name__ == "__main__":
    MODULE.write_text("\n".join(write_module()) + "\n", encoding="utf-8")
