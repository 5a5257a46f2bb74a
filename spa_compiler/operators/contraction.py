"""Contractions of an activation with a constant, all in one form: Y = X W^T per block.

    form = find_form(node, arrays)                  # None: not a contraction with a constant
    form.weights(w)                            # (blocks, m, d)
    form.design(x, rows)                       # (rows, blocks, d): im2col at these output positions
    form.target(y, rows)                       # (rows, blocks, m)

so that moments, importance and compensation know nothing of operators. Padding is part of the design (zeros), grouped
and depthwise convolutions have a block per group, ConvTranspose is the convolution of its zero-stuffed input.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import helper

from spa_compiler.errors import Conflict
from spa_compiler.operators import tables
from spa_compiler.operators.rule import parse_rule
from spa_compiler.operators.site import Rule, Site, Value
from spa_compiler.operators.traits import EVERY_NAME, Traits

Array = NDArray[Any]
Rows = NDArray[np.int64]
OUTER_LETTERS = "9876543210"  # letters for the axes that an ellipsis stands for, the last one for the last


def read_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


@dataclass(frozen=True)
class Form(ABC):
    """Where a node's activation, weight and bias are.

    Columns of W are the entries of `axes` of the activation, row-major; its rows, block by block, those of `out`.
    """

    data: int
    weight: int
    bias: int | None  # input slot, None: the operator has none
    axes: tuple[int, ...]  # of the activation
    out: tuple[int, ...]  # of the output
    blocks: int

    @property
    @abstractmethod
    def reading_key(self) -> tuple[Any, ...]:
        """A key of all that the design depends on besides the activation: equal for nodes that read it alike."""

    @abstractmethod
    def weights(self, w: Array) -> Array:
        """(blocks, m, d)"""

    @abstractmethod
    def restore(self, canonical: Array, like: Array) -> Array:
        """The operator's own shape of canonical weights."""

    @abstractmethod
    def channels(self, w: Array) -> Rows:
        """(blocks, d): the entry of the activation's `axes` that each column reads."""

    @abstractmethod
    def spread(self, bias: Array, w: Array) -> Array:
        """One number for each row of W, (blocks * m,), shaped so that it broadcasts to the output."""

    @abstractmethod
    def design(self, x: Array, y: Array, rows: Rows) -> Array:
        """(rows, blocks, d) float32"""

    @abstractmethod
    def target(self, y: Array, rows: Rows) -> Array:
        """(rows, blocks, m) float32"""

    def size(self, y: Array) -> int:
        """Rows that an output of this shape gives."""
        return int(y.size // max(math.prod(y.shape[k] for k in self.out), 1))


@dataclass(frozen=True)
class Contraction(Form):
    """A product of matrices or an Einsum, told by one letter for each axis of activation, weight and output.

    A letter of all three is a block, each with weights of its own (an expert); one of activation and weight is summed
    over: columns; one of weight and output gives rows; one of activation and output counts positions. What the
    activation alone has is summed before, and so is an axis of size 1 that is broadcast. `alpha`, `beta` are Gemm's.
    """

    terms: tuple[str, str, str] = ("", "", "")
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def reading_key(self) -> tuple[Any, ...]:
        parts = self._place_letters, self._batch_letters, self._column_letters
        return tuple(next(((k, p.index(c)) for k, p in enumerate(parts) if c in p), ()) for c in self.terms[0])

    def weights(self, w: Array) -> Array:
        array = _arrange_axes(
            np.asarray(w, np.float64), self.terms[1], self._batch_letters + self._row_letters + self._column_letters
        )
        d = math.prod(array.shape[len(self._batch_letters + self._row_letters) :])
        return np.asarray(self.alpha * array.reshape(self.blocks, -1, d))

    def restore(self, canonical: Array, like: Array) -> Array:
        sizes, order = (
            dict(zip(self.terms[1], like.shape, strict=True)),
            self._batch_letters + self._row_letters + self._column_letters,
        )
        w = _arrange_axes(
            (canonical / self.alpha).reshape([sizes[c] for c in order]), order, _select_letters(self.terms[1], order)
        )
        return np.ascontiguousarray(w.reshape(like.shape)).astype(like.dtype)

    def channels(self, w: Array) -> Rows:
        return np.arange(w.size // self._count(self._row_letters, w)).reshape(self.blocks, -1)

    def spread(self, bias: Array, w: Array) -> Array:
        sizes, order, y = (
            dict(zip(self.terms[1], w.shape, strict=True)),
            self._batch_letters + self._row_letters,
            self.terms[2],
        )
        array = _arrange_axes(bias.reshape([sizes[c] for c in order]), order, _select_letters(y, order))
        first = min(self.out, default=len(y))
        return array.reshape([sizes[c] if c in order else 1 for c in y[first:]])

    def design(self, x: Array, y: Array, rows: Rows) -> Array:
        array = _arrange_axes(x, self.terms[0], self._place_letters + self._batch_letters + self._column_letters)
        return self._flat(array)[rows].astype(np.float32)

    def target(self, y: Array, rows: Rows) -> Array:
        return self._flat(
            _arrange_axes(y, self.terms[2], self._place_letters + self._batch_letters + self._row_letters)
        )[rows].astype(np.float32)

    def _flat(self, array: Array) -> Array:
        """(positions, blocks, the rest)"""
        at = len(self._place_letters), len(self._place_letters + self._batch_letters)
        return array.reshape(math.prod(array.shape[: at[0]]), self.blocks, math.prod(array.shape[at[1] :]))

    def _count(self, letters: str, w: Array) -> int:
        return math.prod(n for c, n in zip(self.terms[1], w.shape, strict=True) if c in letters)

    @property
    def _batch_letters(self) -> str:
        x, w, y = self.terms
        return _select_letters(_select_letters(x, w), y)

    @property
    def _column_letters(self) -> str:
        x, w, y = self.terms
        return "".join(c for c in _select_letters(x, w) if c not in y)

    @property
    def _row_letters(self) -> str:
        x, w, y = self.terms
        return "".join(c for c in _select_letters(y, w) if c not in x)

    @property
    def _place_letters(self) -> str:
        return "".join(c for c in self.terms[2] if c not in self.terms[1])


def _select_letters(term: str, letters: str) -> str:
    """The letters of a term that are among these, in the order of the term."""
    return "".join(c for c in term if c in letters)


def _arrange_axes(array: Array, term: str, wanted: str) -> Array:
    """An array with axes called by `term` with the wanted ones only, in their order; it is summed over the others."""
    idle = tuple(k for k, c in enumerate(term) if c not in wanted)
    if idle:
        array = array.sum(axis=idle) if any(array.shape[k] > 1 for k in idle) else array.squeeze(idle)
    left = _select_letters(term, wanted)
    return array.transpose([left.index(c) for c in wanted])


@dataclass(frozen=True)
class Convolution(Form):
    """Conv: windows of the padded input."""

    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto: str = "NOTSET"
    kernel: tuple[int, ...] = ()

    @property
    def reading_key(self) -> tuple[Any, ...]:
        return type(self), self.blocks, self.strides, self.dilations, self.pads, self.auto, self.kernel

    def weights(self, w: Array) -> Array:
        return np.asarray(w, np.float64).reshape(self.blocks, w.shape[0] // self.blocks, -1)

    def restore(self, canonical: Array, like: Array) -> Array:
        return np.ascontiguousarray(canonical.reshape(like.shape)).astype(like.dtype)

    def spread(self, bias: Array, w: Array) -> Array:
        return bias.reshape(-1, *(1,) * len(self.kernel))

    def target(self, y: Array, rows: Rows) -> Array:
        flat = np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])
        return flat[rows].reshape(len(rows), self.blocks, -1).astype(np.float32)

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
        return _extract_windows(padded, y.shape, rows, self.kernel, self.strides, self.dilations, self.blocks)


@dataclass(frozen=True)
class TransposedConvolution(Convolution):
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
        before = [self.dilations[k] * (self.kernel[k] - 1) - self._count_cropped(x, y, k) for k in range(rank)]
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
        return _extract_windows(stuffed, y.shape, rows, self.kernel, (1,) * rank, self.dilations, self.blocks)

    def _count_cropped(self, x: Array, y: Array, k: int) -> int:
        """Entries cut off before the output (the operator's `pads`)."""
        if not self.auto.startswith("SAME"):
            return 0 if self.auto == "VALID" else self.pads[k]
        reach = (x.shape[2 + k] - 1) * self.strides[k] + self.dilations[k] * (self.kernel[k] - 1) + 1
        total = max(0, reach - y.shape[2 + k])
        return int(total // 2 if self.auto == "SAME_UPPER" else total - total // 2)


def _extract_windows(
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


def drop_activation(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node with the identity in the place of the function that is fused with its product."""
    slope = tables.find_traits(node).activation
    out = onnx.NodeProto()
    out.CopyFrom(node)
    del out.attribute[:]
    out.attribute.extend(a for a in node.attribute if not a.name.startswith("activation"))
    out.attribute.append(helper.make_attribute("activation", "LeakyRelu"))
    out.attribute.append(helper.make_attribute(slope, [1.0] if slope == "activation_params" else 1.0))
    return out


def find_form(node: onnx.NodeProto, shapes: Sequence[tuple[int, ...] | None], constant: Sequence[bool]) -> Form | None:
    """The form of a node whose inputs have these shapes; None where it is not a contraction with a constant."""
    if len(shapes) < 2 or shapes[0] is None or shapes[1] is None or constant[0] == constant[1]:
        return None
    attrs, traits = read_attributes(node), tables.find_traits(node)
    if traits.macs != EVERY_NAME or traits.is_quantized:
        return None
    if traits.is_convolution:
        summed = any(node.input[traits.bias + 1 :])  # a fused addition is no part of the product
        return _make_convolution(traits, shapes[1], attrs) if constant[1] and not summed else None
    data = int(constant[0])
    terms = _find_terms(node, shapes, data)
    if terms is None:
        return None
    x, w, y = terms[data], terms[1 - data], terms[2]
    both = dict(zip(w, shapes[1 - data] or (), strict=True))
    lost = any(c not in x and c not in y and n != 1 for c, n in both.items())  # weights would not be unique
    if lost or any(len(set(t)) < len(t) for t in terms) or set(y) - set(x + w):
        return None
    if traits.bias and (data or not _is_row(shapes[traits.bias] if len(shapes) > traits.bias else None)):
        return None
    alpha, beta = (float(attrs.get(n, 1.0)) for n in ("alpha", "beta"))
    plain = Contraction(data, 1 - data, traits.bias or None, (), (), 1, (x, w, y), alpha, beta)
    axes = tuple(x.index(c) for c in plain._batch_letters + plain._column_letters)
    out = tuple(y.index(c) for c in plain._batch_letters + plain._row_letters)
    return replace(plain, axes=axes, out=out, blocks=math.prod(both[c] for c in plain._batch_letters))


def _find_terms(
    node: onnx.NodeProto, shapes: Sequence[tuple[int, ...] | None], data: int
) -> tuple[str, str, str] | None:
    """Letters of the axes of both operands and of the output; None where a node is no product of two operands."""
    a, b = shapes[0] or (), shapes[1] or ()
    named = _find_names(node, (a, b))
    if named is None:
        return None
    letters: dict[str, str] = {}
    *operands, right = (
        "".join("..." if n.endswith("...") else letters.setdefault(n, chr(ord("a") + len(letters))) for n in row)
        for row in named
    )
    sizes = [len(s) - len(t.replace("...", "")) if "..." in t else 0 for s, t in zip((a, b), operands, strict=True)]
    wide = [OUTER_LETTERS[len(OUTER_LETTERS) - n :] for n in (*sizes, max(sizes))]
    terms = [t.replace("...", w) for t, w in zip((*operands, right), wide, strict=True)]
    other = dict(zip(terms[1], b, strict=False))  # letters of the equation that are broadcast have no form here
    told = all(c in OUTER_LETTERS or other.get(c, n) == n for c, n in zip(terms[0], a, strict=False))
    fits = told and len(a) == len(terms[0]) and len(b) == len(terms[1])
    return _separate_letters(terms, (a, b), data) if fits else None


def _find_names(node: onnx.NodeProto, shapes: tuple[tuple[int, ...], ...]) -> list[list[str]] | None:
    """The names that a node's rule gives the axes of two operands and of their product; None where it says more."""
    row = tables.find_rule(node.domain, node.op_type)
    plain = onnx.NodeProto(op_type=node.op_type, attribute=node.attribute)
    if row is None:
        return None
    return _names_of(row.rule, plain.SerializeToString(), shapes, tuple(sorted(row.defaults.items())))


@functools.lru_cache(maxsize=1024)
def _names_of(
    rule: Rule, node: bytes, shapes: tuple[tuple[int, ...], ...], defaults: tuple[tuple[str, int], ...]
) -> list[list[str]] | None:
    plain = onnx.NodeProto.FromString(node)
    told: dict[str, Any] = dict(defaults)
    told |= {n: v.decode() if isinstance(v, bytes) else v for n, v in read_attributes(plain).items()}
    inputs = [Value(f"operand {k}", shape) for k, shape in enumerate(shapes)]
    site = Site(plain.op_type, "", 1, inputs, [], told, {})
    try:
        rule(site)
    except Conflict:
        return None
    left, right = parse_rule(site.scopes[0].spec) if site.scopes else ([], [])
    named = [[p for p in t if isinstance(p, str) and p[0] != "_"] for t in (*left, *right[:1])]
    whole = len(left) == 2 and all(len(n) == len(t) for n, t in zip(named, (*left, *right), strict=False))
    return named if whole else None


def _separate_letters(terms: list[str], shapes: Sequence[tuple[int, ...]], data: int) -> tuple[str, str, str]:
    """The terms with a letter of its own for an outer axis of size 1: the constant's, else one that is broadcast."""
    for k in (1 - data, data):
        for c, n in zip(terms[k], shapes[k], strict=True):
            if c in OUTER_LETTERS and n == 1 and c in terms[1 - k]:
                terms[k] = terms[k].replace(c, chr(ord(c) + 256))
    return terms[0], terms[1], terms[2]


def _is_row(shape: tuple[int, ...] | None) -> bool:
    """Is Gemm's C absent, a number or one row? A bias per output row cannot be put into any other."""
    return shape is None or len(shape) < 2 or shape[0] == 1


def _make_convolution(traits: Traits, w: tuple[int, ...], attrs: dict[str, Any]) -> Form:
    rank = len(w) - 2
    kind = TransposedConvolution if traits.kernel == "transposed" else Convolution
    auto = attrs.get("auto_pad", b"NOTSET")
    return kind(
        0, 1, traits.bias, (1,), (1,), int(attrs.get("group", 1)),
        tuple(attrs.get("strides", [1] * rank)),
        tuple(attrs.get("dilations", [1] * rank)),
        tuple(attrs.get("pads", [0] * 2 * rank)),
        auto.decode() if isinstance(auto, bytes) else str(auto),
        tuple(w[2:]),
    )  # fmt: skip
