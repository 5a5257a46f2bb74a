"""Colours on a terminal: what holds is green, what to look at yellow, what is wrong red. None where NO_COLOR is set.

>>> paint("VERIFIED | quality POOR (estimated drop 12 points)", {"NO_COLOR": "1"})
'VERIFIED | quality POOR (estimated drop 12 points)'

`click.echo` takes them out where the output is no terminal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import click

WORD_COLOURS = {
    "VERIFIED": "green", "quality GOOD": "green", "UNPROVEN": "yellow", "UNCHANGED": "yellow", "quality FAIR": "yellow",
    "quality UNKNOWN": "yellow", "GATE_MISSED": "red", "quality POOR": "red", "SLOWER": "red", "error:": "red",
}  # fmt: skip
WORDS = re.compile("|".join(rf"(?<!\w){re.escape(w)}(?!\w)" for w in WORD_COLOURS))


def paint(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A line with its words of judgement in colour. [no-color.org]"""
    if (os.environ if environment is None else environment).get("NO_COLOR"):
        return text
    return WORDS.sub(lambda found: click.style(found[0], fg=WORD_COLOURS[found[0]], bold=True), text)


__all__ = ["paint"]
