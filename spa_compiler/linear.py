"""Contractions of an activation with a constant, all in one form: Y = X W^T per block.

    form = find(node, arrays)                  # None: not a contraction with a constant
    form.weights(w)                            # (blocks, m, d)
    form.design(x, rows)                       # (rows, blocks, d): im2col at these output positions
    form.target(y, rows)                       # (rows, blocks, m)

so that moments, importance and compensation know nothing of operators. Padding is part of the design (zeros), grouped
and depthwise convolutions have a block per group, ConvTranspose is the convolution of its zero-stuffed input.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]
Rows = NDArray[np.int64]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


@dataclass(frozen=True)
class Form(ABC):
    """Where a node's activation, weight and bias are; `axis` is the contracted axis of the activation."""

    data: int
    weight: int
    bias: int | None  # input slot, None: the operator has none
    axis: int  # of the activation, from the end where negative
    out: int  # the axis of the output that carries the rows of W
    blocks: int

    @property
    @abstractmethod
    def reading(self) -> tuple[Any, ...]:
        """What the design depends on besides the activation: equal for nodes that read it in the same way."""

    @abstractmethod
    def weights(self, w: Array) -> Array:
        """(blocks, m, d)"""

    @abstractmethod
    def restore(self, canonical: Array, like: Array) -> Array:
        """The operator's own shape of canonical weights."""

    @abstractmethod
    def channels(self, w: Array) -> Rows:
        """(blocks, d): the position on the activation's contracted axis that each column reads."""

    def size(self, y: Array) -> int:
        """Rows that an output of this shape gives."""
        return int(y.size // y.shape[self.out])

    @abstractmethod
    def design(self, x: Array, y: Array, rows: Rows) -> Array:
        """(rows, blocks, d) float32"""

    def target(self, y: Array, rows: Rows) -> Array:
        """(rows, blocks, m) float32"""
        flat = np.moveaxis(y, self.out, -1).reshape(-1, y.shape[self.out])
        return flat[rows].reshape(len(rows), self.blocks, -1).astype(np.float32)


@dataclass(frozen=True)
class Product(Form):
    """MatMul and Gemm: `turned` where the weight is stored (m, d); `alpha`, `beta` of Gemm."""

    turned: bool = False
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def reading(self) -> tuple[Any, ...]:
        return (self.axis,)

    def weights(self, w: Array) -> Array:
        return (self.alpha * np.asarray(w if self.turned else w.T, np.float64))[None]

    def restore(self, canonical: Array, like: Array) -> Array:
        w = canonical[0] / self.alpha
        return np.ascontiguousarray(w if self.turned else w.T).astype(like.dtype)

    def channels(self, w: Array) -> Rows:
        return np.arange(w.shape[1] if self.turned else w.shape[0])[None]

    def design(self, x: Array, y: Array, rows: Rows) -> Array:
        flat = np.moveaxis(x, self.axis, -1).reshape(-1, x.shape[self.axis])
        return flat[rows][:, None].astype(np.float32)


@dataclass(frozen=True)
class Convolution(Form):
    """Conv: windows of the padded input."""

    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto: str = "NOTSET"
    kernel: tuple[int, ...] = ()

    @property
    def reading(self) -> tuple[Any, ...]:
        return type(self), self.blocks, self.strides, self.dilations, self.pads, self.auto, self.kernel

    def weights(self, w: Array) -> Array:
        return np.asarray(w, np.float64).reshape(self.blocks, w.shape[0] // self.blocks, -1)

    def restore(self, canonical: Array, like: Array) -> Array:
        return np.ascontiguousarray(canonical.reshape(like.shape)).astype(like.dtype)

    def channels(self, w: Array) -> Rows:
        per = w.shape[1]
        column = np.repeat(np.arange(per), math.prod(self.kernel))
        return np.asarray(np.arange(self.blocks)[:, None] * per + column)

    def padding(self, x: Array, y: Array) -> list[tuple[int, int]]:
        """Zeros before and behind every spatial axis."""
        rank, out = len(self.kernel), []
        for k in range(rank):
            reach = (self.kernel[k] - 1) * self.dilations[k] + 1
            total = max(0, (y.shape[2 + k] - 1) * self.strides[k] + reach - x.shape[2 + k])
            if self.auto.startswith("SAME"):
                before = total // 2 if self.auto == "SAME_UPPER" else total - total // 2
            else:
                before = 0 if self.auto == "VALID" else self.pads[k]
            out.append((before, max(0, total - before)))
        return out

    def design(self, x: Array, y: Array, rows: Rows) -> Array:
        padded = np.pad(x.astype(np.float32, copy=False), [(0, 0), (0, 0), *self.padding(x, y)])
        return _windows(padded, y.shape, rows, self.kernel, self.strides, self.dilations, self.blocks)


@dataclass(frozen=True)
class Transposed(Convolution):
    """ConvTranspose: the convolution of the input with stride - 1 zeros between its entries by the mirrored kernel."""

    def weights(self, w: Array) -> Array:
        g = self.blocks
        split = np.asarray(w, np.float64).reshape(g, w.shape[0] // g, w.shape[1], -1)[..., ::-1]
        return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).reshape(g, w.shape[1], -1)

    def restore(self, canonical: Array, like: Array) -> Array:
        g = self.blocks
        split = canonical.reshape(g, like.shape[1], like.shape[0] // g, -1).transpose(0, 2, 1, 3)[..., ::-1]
        return np.ascontiguousarray(split.reshape(like.shape)).astype(like.dtype)

    def channels(self, w: Array) -> Rows:
        per = w.shape[0] // self.blocks
        column = np.repeat(np.arange(per), math.prod(self.kernel))
        return np.asarray(np.arange(self.blocks)[:, None] * per + column)

    def design(self, x: Array, y: Array, rows: Rows) -> Array:
        rank = len(self.kernel)
        before = [self.dilations[k] * (self.kernel[k] - 1) - self._cropped(x, y, k) for k in range(rank)]
        shape = [y.shape[2 + k] + self.dilations[k] * (self.kernel[k] - 1) for k in range(rank)]
        stuffed = np.zeros((*x.shape[:2], *shape), np.float32)
        source, target = [slice(None)] * 2, [slice(None)] * 2
        for k in range(rank):
            first = max(0, math.ceil(-before[k] / self.strides[k]))
            last = min(x.shape[2 + k], (shape[k] - 1 - before[k]) // self.strides[k] + 1)
            source.append(slice(first, last))
            start = before[k] + first * self.strides[k]
            target.append(slice(start, start + (last - first - 1) * self.strides[k] + 1, self.strides[k]))
        stuffed[tuple(target)] = x[tuple(source)]
        return _windows(stuffed, y.shape, rows, self.kernel, (1,) * rank, self.dilations, self.blocks)

    def _cropped(self, x: Array, y: Array, k: int) -> int:
        """Entries cut off before the output (the operator's `pads`)."""
        if not self.auto.startswith("SAME"):
            return 0 if self.auto == "VALID" else self.pads[k]
        reach = (x.shape[2 + k] - 1) * self.strides[k] + self.dilations[k] * (self.kernel[k] - 1) + 1
        total = max(0, reach - y.shape[2 + k])
        return int(total // 2 if self.auto == "SAME_UPPER" else total - total // 2)


def _windows(
    padded: Array, y: Sequence[int], rows: Rows, kernel: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int], blocks: int,
) -> Array:  # fmt: skip
    """Patches (rows, blocks, d) at flat output positions `rows` of (sample, *space); d is (channel, *kernel)."""
    space = tuple(y[2:])
    sample, *place = np.unravel_index(rows, (y[0], *space))
    at: tuple[Any, ...] = tuple(p * s for p, s in zip(place, strides, strict=True))
    if math.prod(kernel) == 1:
        return padded[(sample, slice(None), *at)].reshape(len(rows), blocks, -1)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    view = sliding_window_view(padded, reach, axis=tuple(range(2, padded.ndim)))
    inner = tuple(slice(None, None, d) for d in dilations)
    picked = view[(slice(None),) * (2 + len(space)) + inner][(sample, slice(None), *at)]
    return np.ascontiguousarray(picked).reshape(len(rows), blocks, -1)


def find(node: onnx.NodeProto, shapes: Sequence[tuple[int, ...] | None], constant: Sequence[bool]) -> Form | None:
    """The form of a node whose inputs have these shapes; None where it is not a contraction with a constant."""
    if len(shapes) < 2 or shapes[0] is None or shapes[1] is None or constant[0] == constant[1]:
        return None
    attrs = attributes(node)
    if node.op_type in ("Conv", "ConvTranspose") and constant[1]:
        return _convolution(node, shapes[1], attrs)
    data = int(constant[0])
    if node.op_type == "MatMul" and len(shapes[1 - data] or ()) == 2 and len(shapes[data] or ()) >= 2:
        left = data == 1  # the constant stands on the left: its columns meet axis -2 of the activation
        return Product(data, 1 - data, None, -2 if left else -1, -2 if left else -1, 1, turned=left)
    if node.op_type == "Gemm" and data == 0 and _is_row(shapes[2] if len(shapes) > 2 else None):
        turned, alpha = bool(attrs.get("transB", 0)), float(attrs.get("alpha", 1.0))
        axis = 0 if attrs.get("transA", 0) else 1
        return Product(0, 1, 2, axis, 1, 1, turned=turned, alpha=alpha, beta=float(attrs.get("beta", 1.0)))
    return None


def _is_row(shape: tuple[int, ...] | None) -> bool:
    """Is Gemm's C absent, a number or one row? A bias per output row cannot be put into any other."""
    return shape is None or len(shape) < 2 or shape[0] == 1


def _convolution(node: onnx.NodeProto, w: tuple[int, ...], attrs: dict[str, Any]) -> Form:
    rank = len(w) - 2
    kind = Convolution if node.op_type == "Conv" else Transposed
    auto = attrs.get("auto_pad", b"NOTSET")
    return kind(
        0, 1, 2, 1, 1, int(attrs.get("group", 1)),
        tuple(attrs.get("strides", [1] * rank)),
        tuple(attrs.get("dilations", [1] * rank)),
        tuple(attrs.get("pads", [0] * 2 * rank)),
        auto.decode() if isinstance(auto, bytes) else str(auto),
        tuple(w[2:]),
    )  # fmt: skip
