"""The signature of a compiled file is the dense one's: names, types and shapes of inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxruntime as ort

from spa_compiler.errors import VerificationError


def check_signature(
    dense: ort.InferenceSession, compiled: ort.InferenceSession, only: Mapping[str, int] | None = None
) -> None:
    """Same names, types and shapes of inputs and outputs. Raises VerificationError that names the first difference.

    What the dense file leaves open in an output, without it being a size of an input, may become a number: shape
    inference tells more once shape arithmetic is folded. So may a symbol in `only` (`only_sizes`), its size there.
    """
    free = {size for v in dense.get_inputs() for size in v.shape} - {None}
    for what in ("get_inputs", "get_outputs"):
        a = [(v.name, v.type, v.shape) for v in getattr(dense, what)()]
        b = [(v.name, v.type, v.shape) for v in getattr(compiled, what)()]
        pairs = list(zip([*a, None], [*b, None], strict=False))
        told = (free, only or {}) if what == "get_outputs" else (None, {})
        differing = next(((x, y) for x, y in pairs if not _is_alike(x, y, *told)), None)
        if differing is not None:
            raise VerificationError(f"the signature changed: {differing[0]} became {differing[1]}")


def _is_alike(a: Any, b: Any, free: set[Any] | None, only: Mapping[str, int]) -> bool:
    """Do two inputs, or two outputs (`free`: sizes of inputs), have the same name, type and shape?"""
    if a is None or b is None or a[:2] != b[:2]:
        return a is b
    if free is not None and not a[2] and not a[1].startswith("tensor"):  # no shape is told of what is inside
        return True
    if len(a[2]) != len(b[2]):
        return False
    known = [free is not None and not isinstance(x, int) and x not in free for x in a[2]]
    sizes = zip(a[2], b[2], known, strict=True)
    return all(x == y or only.get(x) == y or (may and (x is None or isinstance(y, int))) for x, y, may in sizes)
