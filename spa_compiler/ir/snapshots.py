"""States of files when work began: a file that changes while it is read is an error, not a mixture of both.

    before = Snapshot.of([model], whole=True)
    ...
    before.check()             # raises ModelError that names the file

Size and time of change are compared for every file, a checksum where it is cheap: for files up to `HASHED_SIZE` bytes,
and where the whole file is asked for. Only plain files are looked at: to read a pipe is to empty it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from spa_compiler.errors import ModelError

HASHED_SIZE = 64 << 20
"""Bytes that are hashed in well under a second; larger files are known by size and time alone."""


@dataclass(frozen=True)
class FileState:
    """A file at one moment; `digest` is '' where it was not taken."""

    size: int
    modified: int  # nanoseconds
    digest: str


@dataclass(frozen=True)
class Snapshot:
    """Files and their states."""

    states: dict[Path, FileState] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Iterable[Path], whole: bool = False) -> Snapshot:
        """The plain files among these as they are now. `whole`: with a checksum, whatever their size."""
        return cls({p: _read_state(p, whole) for p in paths if p.is_file()})

    def join(self, other: Snapshot) -> Snapshot:
        """Both in one."""
        return Snapshot({**self.states, **other.states})

    def digest(self, path: Path) -> str:
        """The SHA-256 of a file when the snapshot was made, now where that was not taken."""
        known = self.states.get(path)
        return known.digest if known is not None and known.digest else hash_file(path)

    def check(self) -> None:
        """Raise ModelError for the first file that is no longer what it was."""
        for path, before in self.states.items():
            if (change := _describe_change(path, before)) is not None:
                raise ModelError(f"{path}: {change} while it was read; run again when nothing writes to it")


def _read_state(path: Path, whole: bool) -> FileState:
    try:
        found = path.stat()
        return FileState(
            found.st_size, found.st_mtime_ns, hash_file(path) if whole or found.st_size <= HASHED_SIZE else ""
        )
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror or e}") from e


def _describe_change(path: Path, before: FileState) -> str | None:
    """How a file differs from what it was, or None."""
    try:
        now = path.stat()
        if now.st_size != before.size:
            return f"its size changed from {before.size} to {now.st_size} bytes"
        if now.st_mtime_ns != before.modified:
            return "it was written to"
        return "its content changed" if before.digest and hash_file(path) != before.digest else None
    except OSError as e:
        return f"it disappeared ({e.strerror or e})"


def hash_file(path: Path) -> str:
    """Hash of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
