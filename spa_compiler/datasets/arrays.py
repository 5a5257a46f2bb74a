"""Arrays in files: .npz and .npy, never with pickled objects."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.errors import UsageError

Array = NDArray[Any]


def load_npz(path: Path) -> dict[str, Array]:
    """The arrays of an .npz. Raises UsageError for anything that is not one."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {n: archive[n] for n in archive.files}
    except FileNotFoundError as e:
        raise UsageError(f"{path}: no such file") from e
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as e:
        raise UsageError(f"{path}: not an .npz of arrays ({e})") from e


def load_npy(path: Path) -> Array:
    """The array of an .npy; rows are read from the file when they are asked for."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as e:
        raise UsageError(f"{path}: no such file") from e
    except (OSError, ValueError, EOFError, TypeError) as e:
        raise UsageError(f"{path}: not an .npy of numbers ({e})") from e
    if not isinstance(found, np.ndarray) or not found.ndim:
        raise UsageError(f"{path}: not an .npy of rows")
    return found
