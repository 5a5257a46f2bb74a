"""Values as chunks, one array for each feed, and arithmetic on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spa_compiler.execution.parallel import map_parallel

Array = NDArray[Any]
T = TypeVar("T")
Chunks = list[Array]
Feed = Mapping[str, Array]
LARGE_ARRAY = 1 << 16
"""Elements of a chunk from which arithmetic on it is worth a thread."""


@dataclass(frozen=True)
class Affine:
    """y -> scale * y + shift per channel of axis 1; what calibration does to a value, in both models alike."""

    scale: Array  # (channels,) float32
    shift: Array

    def apply(self, y: Array) -> Array:
        """The mapped value, in its own dtype."""
        shape = (1, -1, *(1,) * (y.ndim - 2))
        out = np.multiply(y, self.scale.reshape(shape), dtype=np.float32)
        out += self.shift.reshape(shape)
        return out.astype(y.dtype, copy=False)


def transform_chunks(change: Callable[[Array], Array], chunks: Chunks, in_place: bool) -> Chunks:
    """The chunks changed; `in_place` lets go of every old one as soon as its new one is there."""
    out = chunks if in_place else list(chunks)
    for k, new in enumerate(map_chunks(change, chunks)):
        out[k] = new
    return out


def map_chunks(work: Callable[[Array], T], chunks: Chunks) -> Iterator[T]:
    """The results of `work` on every chunk, several at once where they are large."""
    return map_parallel(work, chunks) if chunks and chunks[0].size > LARGE_ARRAY else map(work, chunks)
