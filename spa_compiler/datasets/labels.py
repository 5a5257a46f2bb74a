"""Labels of files: the sub-folder that a file lies in names its class, and a rule says which number a class has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.datasets.texts import read_text
from spa_compiler.errors import UsageError

Array = NDArray[Any]
LABEL_FILES = ("labels.txt", "classes.txt")


def find_labels(folder: Path, files: Sequence[Path]) -> tuple[Array | None, str]:
    """A number for each file and the rule in a report's words; None where sub-folders name no classes.

    Raises UsageError for a class that the list of names does not have, and for files beside sub-folders of classes.
    """
    parts = [f.relative_to(folder).parts for f in files]
    names = sorted({p[0] for p in parts if len(p) > 1})
    if not names:
        return None, "no labels: the folder has no sub-folders of classes"
    if beside := next((f for f, p in zip(files, parts, strict=True) if len(p) == 1), None):
        raise UsageError(f"{beside}: it lies beside sub-folders of classes: move it into one of them, or take it out")
    listed = next((folder / n for n in LABEL_FILES if (folder / n).is_file()), None)
    if listed is None and len(names) == 1 and not names[0].isdecimal():
        return None, f"no labels: the one sub-folder '{names[0]}' tells no classes apart"
    numbers, rule = number_classes(names, listed)
    return np.asarray([numbers[p[0]] for p in parts], np.int64), rule


def number_classes(names: Sequence[str], listed: Path | None = None) -> tuple[dict[str, int], str]:
    """The number of each class: its line in a list, else the number that it is called, else its place in order."""
    if listed is not None:
        return _read_numbers(names, listed), f"sub-folders by their lines in {listed.name}"
    if all(n.isdecimal() for n in names):
        return {n: int(n) for n in names}, "sub-folders are called by the number of the class"
    shown = ", ".join(f"{n}={k}" for k, n in enumerate(names[:3])) + ", ..." * (len(names) > 3)
    return {n: k for k, n in enumerate(names)}, f"sub-folders in sorted order ({shown}); labels.txt would say another"


def _read_numbers(names: Sequence[str], listed: Path) -> dict[str, int]:
    """Numbers of lines; a line is the name, or begins with it."""
    lines = [line.strip() for line in read_text(listed).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    known = {line.split()[0].rstrip(",:;"): k for k, line in reversed(list(enumerate(lines))) if line}
    known |= {line: k for k, line in reversed(list(enumerate(lines))) if line}
    if missing := next((n for n in names if n not in known), None):
        raise UsageError(f"{listed}: no line names the sub-folder '{missing}': add it, or take the sub-folder out")
    return {n: known[n] for n in names}


def check_labels(where: str, labels: Array | None, classes: int) -> None:
    """Raise UsageError for labels that a model with so many classes (0: not known) cannot give."""
    if labels is None or classes < 2 or labels.dtype.kind not in "iu" or not labels.size:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise UsageError(
            f"{where}: a label is {wrong}, and the model has the classes 0 to {classes - 1}: correct the labels"
        )
