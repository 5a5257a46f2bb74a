"""Rounding, and how much of it a model makes large: an error is judged by how far they move when its inputs hardly do.

errors = discount_noise(errors, noise, limit)      # errors that are rounding come down to the limit
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
NOISE_SLACK, NOISE_FACTOR = 100.0, 32.0
"""Up to how many times the tolerance an error may be rounding, and how far above that of the reference itself."""


def shake(array: Array, rng: np.random.Generator, shape: tuple[int, ...] | None = None, least: float = 0.0) -> Array:
    """Every number off by an ulp or two, of itself or of `least`; as large as `shape`, which it broadcasts to."""
    off = np.finfo(array.dtype).eps * rng.uniform(-2, 2, shape if shape is not None else array.shape)
    return np.asarray(array + off * np.maximum(np.abs(array), least), array.dtype)


def is_noise_possible(worst: float, limit: float) -> bool:
    """Is an error above the tolerance small enough to be rounding that the model makes larger?"""
    return limit < worst <= NOISE_SLACK * limit


def discount_noise(errors: Mapping[str, float], noise: Mapping[str, float], limit: float) -> dict[str, float]:
    """Errors by value, in units of what rounding does to each: where that is nearly the tolerance, so may they be."""
    return {n: e * limit / max(limit, NOISE_FACTOR * noise.get(n, 0.0)) for n, e in errors.items()}
