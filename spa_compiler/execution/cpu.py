"""The processor of this machine: its name, and the sets of instructions that it has, as numpy tells it."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import numpy as np


@functools.cache
def has_feature(name: str) -> bool:
    """Has the processor a set of instructions, such as AVX512F?"""
    core = getattr(np, "_core", None) or np.core  # numpy 2 moved it
    features: dict[str, bool] = getattr(core._multiarray_umath, "__cpu_features__", {})
    return bool(features.get(name))


def name_processor() -> str:
    """Its name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not on Linux, or not on this processor
        return platform.processor() or platform.machine()
