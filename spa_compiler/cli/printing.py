"""Printing and writing that commands share: JSON that stands alone, a file of which nothing is left where it fails.

print_json(report)
why = write_or_tell(Path("run.json"), lambda file: save_report(report, file))
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from spa_compiler.errors import UnprovenError
from spa_compiler.report import document
from spa_compiler.report.numbers import write_json

PRINTED = "spa_compiler.json"
"""Key in the context of a command that has printed its JSON."""


def print_json(found: Mapping[str, Any]) -> None:
    """Print a document on standard output, where it is the only one."""
    click.echo(write_json(found))
    click.get_current_context().meta[PRINTED] = True


@contextmanager
def describe_unproven_run(rest: str, as_json: bool) -> Iterator[None]:
    """The last line where the proof cannot see some groups."""
    try:
        yield
    except UnprovenError as e:
        if not as_json:
            click.echo(f"{document.format_unproven_status(len(e.silent), e.groups)}{rest}")
        raise


def quote_command() -> str:
    """The command as it was typed, with what a shell needs in quotes."""
    return shlex.join(["spa-compile", *sys.argv[1:]])


def write_or_tell(file: Path, write: Callable[[Path], None]) -> str:
    """Write a file; where that fails nothing of it is left, and the system's reason is returned."""
    was_there = file.exists()
    try:
        write(file)
    except OSError as e:
        if not was_there:
            file.unlink(missing_ok=True)
        return e.strerror or str(e)
    return ""


__all__ = ["PRINTED", "describe_unproven_run", "print_json", "quote_command", "write_or_tell"]
