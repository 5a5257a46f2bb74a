"""A folder of photographs from the sample pictures of scikit-learn and SciPy: `make_photographs_folder.py DIR [N]`.

Each is a crop of its own size (96 pixels to the whole), some turned left to right, saved as JPEG. The same numbers give
the same crops. SciPy's picture is taken where it lies in the cache of `scipy.datasets` already: nothing is downloaded.
Needs pillow and scikit-learn.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NUMBER, SEED = 64, 0
LEAST_SIDE = 96


def load_pictures() -> list[NDArray[np.uint8]]:
    """The sample pictures that are installed."""
    from sklearn.datasets import load_sample_images

    found: list[NDArray[np.uint8]] = list(load_sample_images().images)
    if importlib.util.find_spec("pooch") is not None:
        found += _load_face()
    return found


def _load_face() -> list[NDArray[np.uint8]]:
    """SciPy's face of a raccoon, if it was downloaded before."""
    import pooch
    from scipy import datasets

    if not (Path(pooch.os_cache("scipy-data")) / "face.dat").is_file():
        return []
    return [np.asarray(datasets.face(), np.uint8)]


def cut_pictures(pictures: list[NDArray[np.uint8]], number: int, seed: int = SEED) -> Iterator[NDArray[Any]]:
    """Crops of the pictures in turn."""
    rng = np.random.default_rng(seed)
    for k in range(number):
        whole = pictures[k % len(pictures)]
        height, width = (int(rng.integers(min(LEAST_SIDE, n), n + 1)) for n in whole.shape[:2])
        top, left = (int(rng.integers(0, n - s + 1)) for n, s in zip(whole.shape[:2], (height, width), strict=True))
        crop = whole[top : top + height, left : left + width]
        yield crop[:, ::-1] if rng.random() < 0.5 else crop


def make_folder(folder: Path, number: int = NUMBER) -> None:
    """Write the photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, crop in enumerate(cut_pictures(load_pictures(), number)):
        Image.fromarray(np.ascontiguousarray(crop)).save(folder / f"{k:03}.jpg", quality=92)


if __name__ == "__main__":
    make_folder(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else NUMBER)
