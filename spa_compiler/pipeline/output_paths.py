"""Checks of output paths: not a file that is read, not one file twice, and only where there is space and permission.

    check_place(report)                                       # before anything else: can a file be written there?
    check_apart({source: "the model"}, [("--report", report)])  # before any work: is every one a file of its own?

Files are compared, not their names: a link to a file is the file. Devices and pipes hold nothing that could be lost.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import chain, combinations
from pathlib import Path

from spa_compiler.datasets.folders import list_files
from spa_compiler.errors import PlaceError
from spa_compiler.output import DATA_NAME
from spa_compiler.pipeline.passes import Pipeline, iterate_deep

MOST_COMPARED = 1024
"""Files of a folder of inputs that are compared before and after: reading all of a large one would take longer than
a compile."""
TRIAL_BYTES = 1 << 18
"""Bytes that are written and removed again to see whether there is room: as many as a long report has."""


def check_place(file: Path) -> None:
    """Raise PlaceError for a place where no file can be, or where this user cannot write one."""
    if file.is_dir() or not file.parent.is_dir():
        raise PlaceError(f"{file}: not a file in a folder that exists")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise PlaceError(f"{file}: cannot write: no permission {'for it' if file.exists() else 'in this folder'}")
    if file.exists() and not file.is_file():
        return  # what a device or a pipe is given cannot be taken back
    try:
        if file.exists():
            file.open("ab").close()
        if not file.exists() or os.access(file.resolve().parent, os.W_OK):
            _write_and_remove(file.resolve().parent)
    except OSError as e:
        raise PlaceError(f"{file}: cannot write: {e.strerror or e}") from e


def check_output(output: Path, dry_run: bool) -> None:
    """Raise PlaceError for a place where the compiled model cannot be.

    What is there is not written to but replaced: that takes a folder that may be written, and a file.
    """
    if output.is_dir() or not output.parent.is_dir():
        raise PlaceError(f"{output}: not a file in a folder that exists")
    if dry_run:
        return
    if output.exists() and not output.is_file():
        raise PlaceError(f"{output}: not a plain file: the model would take its place (--dry-run writes none)")
    if not os.access(output.parent, os.W_OK):
        raise PlaceError(f"{output}: cannot write: no permission in this folder")
    try:
        _write_and_remove(output.parent)
    except OSError as e:
        raise PlaceError(f"{output}: cannot write: {e.strerror or e}") from e


def _write_and_remove(folder: Path) -> None:
    """Write a file without a name that others see, and remove it. Raises OSError where the disk is full."""
    with tempfile.TemporaryFile(dir=folder, prefix=".spa-compile-") as file:
        file.write(b"\0" * TRIAL_BYTES)
        file.flush()
        os.fsync(file.fileno())


def check_apart(read: Mapping[Path, str], written: Sequence[tuple[str, Path]]) -> None:
    """Raise PlaceError where a file that is written is one that is read, or another one that is written.

    `read` says what each file is, `written` has files with the option that names each.
    """
    for option, file in written:
        for other, what in read.items():
            if _is_same(file, other):
                raise PlaceError(f"{option} {file}: this file is {what}, which is never changed; give another one")
    for (option, file), (second, other) in combinations(written, 2):
        if _is_same(file, other) or _is_data_of(other, file) or _is_data_of(file, other):
            raise PlaceError(f"{second} {other}: {option} is written to the same file; give each a file of its own")


def _is_data_of(file: Path, model: Path) -> bool:
    """Could the file be external data of a compiled model, of which some goes when that is replaced?"""
    found = DATA_NAME.fullmatch(file.name)
    return found is not None and found["model"] == model.name and _is_same(file.parent, model.parent)


def _is_same(a: Path, b: Path) -> bool:
    """Do two paths lead to one file, whether it is there or not yet? Not so for devices and pipes."""
    try:
        if a.exists() and b.exists():
            return (a.is_file() or a.is_dir()) and a.samefile(b)
        return a.resolve() == b.resolve()
    except OSError:  # nothing can be read or written there; who tries says so
        return False


def pass_files(steps: Pipeline) -> dict[Path, str]:
    """Files that options of passes name: plans, scores, calibration inputs (of a folder, its files), scripts."""
    named = ((p.name, value) for p in iterate_deep(steps.iterate_flat()) for value in _list_texts(p))
    return {file: f"what the pass '{name}' reads" for name, value in named for file in list_named_files(value)}


def _list_texts(step: object) -> Iterator[str]:
    """Options of a pass that are text and were given."""
    for f in fields(step):  # type: ignore[arg-type]  # every pass is a dataclass
        value = getattr(step, f.name)
        if isinstance(value, str | Path) and value != f.default:
            yield str(value)


def list_named_files(text: str) -> Iterator[Path]:
    """The files that a text stands for, if it is a path: FILE, DIR (its first files) or FILE.py:function."""
    script = text[: text.rfind(".py:") + 3] if ".py:" in text else ""
    for place in (Path(t) for t in (text, script) if t):
        try:
            yield from chain([place] * place.is_file(), list_files(place)[:MOST_COMPARED] if place.is_dir() else ())
        except (OSError, ValueError):  # no path at all: too long, a NUL
            continue
