"""Numbers that are not finite: detected where they arise, computed with without warnings, and reported by name.

    with ignore_overflow():
        covariance = x.T @ x                      # may overflow: no warning, the result is checked
    if not is_finite(covariance):
        reason = f"'{name}' {describe_flaw(chunks)}"      # 'exp_3' is NaN or infinite on 12 of 64 inputs

Values of a model overflow where its inputs are not what it was trained on, or where it was trained badly. Statistics of
such values say nothing: whoever reads them has to ask first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TEXT_KINDS = "OSU"
"""Numpy's kinds of arrays that hold text."""
USUAL_MAGNITUDES = 2.0**-20, 2.0**20
"""Largest sizes between which sums of squares neither overflow nor vanish."""


def ignore_overflow() -> np.errstate:
    """A context without warnings of overflow and invalid values: for code that checks what comes out."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")


def is_finite(*arrays: Any) -> bool:
    """Is every number of these arrays neither NaN nor infinite? Text holds none."""
    return all(bool(np.isfinite(_to_numpy_float(a)).all()) for a in arrays)


def _to_numpy_float(a: Any) -> Array:
    """As numpy's own floats, which formats of eight bits and bfloat16 are not; nothing of an array of text."""
    array = np.asarray(a)
    if array.dtype.kind in TEXT_KINDS:
        return np.zeros(0)
    return array if array.dtype.kind in "fiub" else array.astype(np.float32)


def describe_flaw(chunks: Iterable[Array]) -> str:
    """The reason why statistics of values (chunks of inputs first) are not finite."""
    every = [np.asarray(c, np.float64) for c in chunks]
    bad = [not is_finite(row) for c in every for row in (c if c.ndim else c[None])]
    if any(bad):
        return f"is NaN or infinite on {sum(bad)} of {len(bad)} inputs"
    largest = max((float(np.abs(c).max()) for c in every if c.size), default=0.0)
    return f"is up to {largest:.0e}, which overflows when it is squared"


def has_overflow(chunks: Iterable[Array]) -> bool:
    """Are some of these values not finite, or do their squares overflow single precision?"""
    return any(not is_finite(c) or bool(np.square(c, dtype=np.float32).max(initial=0.0) == np.inf) for c in chunks)


def find_exponent(largest: float) -> int:
    """Of the power of two that numbers up to this size are to be divided by before they are squared and summed.

    0 for usual sizes: nothing changes.
    """
    return int(np.frexp(largest)[1]) if largest and not USUAL_MAGNITUDES[0] <= largest <= USUAL_MAGNITUDES[1] else 0


def divide_by_power(values: Array) -> Array:
    """Finite float64 values divided by that power of two for the largest of them: nothing is rounded.

    What becomes smaller than the smallest float is zero.
    """
    by = find_exponent(float(np.abs(values).max(initial=0.0)))
    return np.ldexp(values, -by) if by else values
