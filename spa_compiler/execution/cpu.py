"""The number of channels that onnxruntime's convolutions on this machine work on at once.

MLAS keeps activations in blocks of 16 channels with AVX-512 and of 8 with AVX2 (onnxruntime/core/mlas/lib/snchwc.cpp).
A width that fills no whole block costs as much as one that does; `tools/measure/staircase.py` measures it.
"""

from __future__ import annotations

import functools

import numpy as np


@functools.cache
def convolution_block() -> int:
    """16 with AVX-512, else 8; numpy tells what the processor has."""
    core = getattr(np, "_core", None) or np.core  # numpy 2 moved it
    features: dict[str, bool] = getattr(core._multiarray_umath, "__cpu_features__", {})
    return 16 if features.get("AVX512F") else 8
