"""Sets of instructions that the processor of this machine has, as numpy tells it."""

from __future__ import annotations

import functools

import numpy as np


@functools.cache
def has_feature(name: str) -> bool:
    """Has the processor a set of instructions, such as AVX512F?"""
    core = getattr(np, "_core", None) or np.core  # numpy 2 moved it
    features: dict[str, bool] = getattr(core._multiarray_umath, "__cpu_features__", {})
    return bool(features.get(name))
