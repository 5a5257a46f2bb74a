"""The memory that a value of a model may take: known from its shape, before anything is run.

    check_bytes("Expand 'e' makes 'y'", FLOAT, (1 << 30, 8), memory)      # raises OversizeError
    parse_bytes("--memory", "2GB")                                        # 2_000_000_000

A file of a kilobyte can ask for any number of gigabytes: one constant says how far a value is expanded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import onnx

from spa_compiler.errors import OversizeError, UsageError
from spa_compiler.ir.external_data import BITS

USUAL_MEMORY = "2GB"
"""The memory that a value may take unless --memory says otherwise."""
BYTE_SCALES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
BINARY_SCALES = {"KI": 2**10, "MI": 2**20, "GI": 2**30}
BYTES_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(?:([KMG]I?)B?|B)\s*\Z", re.IGNORECASE)
HELD_VALUES = 8
"""Values of the largest size that a proof holds at once: outputs of two models, and what their sessions keep."""
STRING_BYTES = 16
"""Bytes of an entry of text, at least."""


def parse_bytes(option: str, text: str) -> int:
    """`2GB` in bytes. Raises UsageError for anything else, which names the option."""
    found = BYTES_PATTERN.match(text)
    scale = (BYTE_SCALES | BINARY_SCALES)[(found[2] or "").upper()] if found else 0
    if found is None or not 0 < float(found[1]) * scale < math.inf:
        raise UsageError(f"{option} {text}: expected a size with its unit, like 2GB, 500MB or 512MiB")
    return int(float(found[1]) * scale)


def format_bytes(count: float) -> str:
    """Bytes as --memory takes them.

    >>> format_bytes(8 << 30), format_bytes(2e9), format_bytes(12)
    ('8.59GB', '2GB', '12B')
    """
    unit, scale = next(((u, s) for u, s in reversed(BYTE_SCALES.items()) if count >= s), ("", 1))
    return f"{count / scale:.3g}{unit}B" if count < 1000 * BYTE_SCALES["G"] else f"{count / scale:,.0f}{unit}B"


def count_bytes(kind: int, shape: Sequence[int]) -> int:
    """Bytes of a value of an ONNX element type."""
    if kind == onnx.TensorProto.STRING:
        return STRING_BYTES * math.prod(shape)
    try:
        bits = BITS.get(kind) or 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    except (KeyError, ValueError, TypeError):  # a type that does not exist is refused by whoever reads it
        bits = 8
    return (math.prod(shape) * bits + 7) // 8


def check_bytes(what: str, kind: int, shape: Sequence[int], memory: int) -> None:
    """Raise OversizeError for a value that takes more than `memory` bytes; `what` says which it is."""
    needed = count_bytes(kind, shape)
    if needed > memory:
        raise OversizeError(
            f"{what} of shape {[*shape]}, which takes {format_bytes(needed)}: more than --memory "
            f"{format_bytes(memory)}; give more, or check the model"
        )


USUAL_BYTES = parse_bytes("--memory", USUAL_MEMORY)
