"""Folders: which of the files are data, of which kind they are, and that all are of one kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from spa_compiler.datasets.labels import LABEL_FILES
from spa_compiler.errors import UsageError

FILE_KINDS = {
    "pictures": (".jpg", ".jpeg", ".png", ".webp"),
    "sounds": (".wav", ".flac"),
    "texts": (".txt",),
    "arrays": (".npz", ".npy"),
}
BESIDE = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", *LABEL_FILES}
"""Files that lie beside data and are none."""
SYSTEM = {"thumbs.db", "desktop.ini"}
"""Files that systems leave behind, as those that begin with a dot are."""
MOST_FILES = 1 << 20


def find_kind(path: Path) -> str:
    """The kind of data that a file's name says, or ''."""
    return next((kind for kind, ends in FILE_KINDS.items() if path.suffix.lower() in ends), "")


def list_files(folder: Path) -> list[Path]:
    """Files of data of a folder and its sub-folders, in order; links to folders are not followed."""
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in names:
            if not name.startswith(".") and name.lower() not in SYSTEM | BESIDE:
                yield Path(place, name)


def read_folder(folder: Path) -> tuple[str, list[Path]]:
    """The kind of data in a folder and its files. Raises UsageError where there are none, or several kinds.

    Beside arrays other files may lie, as they were made by something; among pictures they are a mistake.
    """
    files = list_files(folder)
    kinds = {f: find_kind(f) for f in files}
    counts = {kind: sum(k == kind for k in kinds.values()) for kind in FILE_KINDS}
    kind = max(counts, key=lambda k: counts[k])
    if not counts[kind]:
        ends = ", ".join(e for group in FILE_KINDS.values() for e in group)
        what = f"{files[0].name} is no data" if files else "it is empty"
        raise UsageError(f"{folder}: no inputs in this folder, {what}: expected files that end in {ends}")
    if kind == "arrays":
        files = [f for f in files if kinds[f]]
    if odd := next((f for f in files if kinds[f] != kind), None):
        raise UsageError(
            f"{odd}: a file of another kind among {counts[kind]} {kind}: take it out, a folder holds inputs of one kind"
        )
    if len(files) > MOST_FILES:
        raise UsageError(f"{folder}: {len(files)} files, at most {MOST_FILES} are read")
    return kind, files
