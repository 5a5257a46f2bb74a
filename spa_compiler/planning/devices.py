"""The devices of this distribution, one object each; `pyproject.toml` registers them under `spa_compiler.devices`.

MLAS, the kernels of onnxruntime, keeps activations of convolutions in blocks of 16 channels with AVX-512 and on 64-bit
ARM, of 8 on other x86 (`NchwcBlockSize` in onnxruntime/core/mlas/lib/platform.cpp). A width that fills no whole block
costs as much as one that does; `tools/measure/staircase.py` measures it. Matrix products of MLAS have no staircase.
"""

from __future__ import annotations

import platform

from spa_compiler.execution.cpu import has_feature
from spa_compiler.planning.device import Device

MLAS = "NchwcBlockSize of onnxruntime's MLAS"


def is_arm64() -> bool:
    """Is this machine a 64-bit ARM?"""
    return platform.machine().lower() in ("arm64", "aarch64")


def is_avx512() -> bool:
    """Has this machine AVX-512?"""
    return has_feature("AVX512F")


def is_other_x86() -> bool:
    """Is this machine an x86 without AVX-512?"""
    return platform.machine().lower() in ("x86_64", "amd64", "i386", "i686") and not is_avx512()


avx512 = Device(title="x86 with AVX-512", convolution=16, source=MLAS, rank=0, is_here=is_avx512)
avx2 = Device(title="x86 with AVX2", convolution=8, source=MLAS, rank=1, is_here=is_other_x86)
arm64 = Device(title="64-bit ARM", convolution=16, source=MLAS, rank=2, is_here=is_arm64)
tensorrt = Device(
    title="NVIDIA GPU with TensorRT", convolution=8, matrix=8, integers=32, finest=32, rank=3,
    source="alignment for tensor cores, float16 and int8: NVIDIA TensorRT documentation, Optimizing for Tensor Cores",
)  # fmt: skip
