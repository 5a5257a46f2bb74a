"""Formulas for the output sizes of a node, where onnx's own inference gives none because they are no numbers.

    found = FORMULAS["Concat"](Operands(node, [("N", "T", 8), ("N", "P", 8)], tables, 3))     # ("N", T + P, 8)

Each formula gives one size (or None: not followed) per axis of the first output. Those of inference come first; what
neither tells is a size of its own (`sizes.make_unknown_size`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.algebra import sizes
from spa_compiler.algebra.sizes import Size
from spa_compiler.operators.size_tables import find_attribute

AxisSizes = Sequence[Size]
Found = Sequence[Size | None]


@dataclass(frozen=True)
class Operands:
    """A node, the sizes of its inputs (None: not known), what is known of small inputs, and its opset."""

    node: onnx.NodeProto
    axes: Sequence[AxisSizes | None]
    tables: Sequence[NDArray[Any] | None]
    rank: int  # of the first output
    opset: int
    demands: list[tuple[Size, Size]]  # sizes that have to be equal for the node to run; formulas add theirs

    def attribute(self, name: str, default: Any) -> Any:
        return find_attribute(self.node, name, default)

    def x(self, slot: int = 0) -> AxisSizes:
        """Sizes of an input. Raises LookupError where they are not known."""
        found = self.axes[slot] if slot < len(self.axes) else None
        if found is None:
            raise LookupError(f"input {slot} has no known rank")
        return found

    def is_given(self, slot: int) -> bool:
        return slot < len(self.node.input) and bool(self.node.input[slot])

    def entries(self, slot: int, attribute: str = "") -> list[Any] | None:
        """Integers of an operand, or of the attribute that held them in older opsets; None where there are none.

        Raises LookupError for an operand of which nothing is known.
        """
        if self.is_given(slot):
            table = self.tables[slot]
            if table is None:
                raise LookupError(f"input {slot} is not known")
            return [e.item() if isinstance(e, np.generic) else e for e in table.ravel()]
        found = self.attribute(attribute, None) if attribute else None
        return None if found is None else [int(v) for v in found]


def _to_size(entry: Any) -> Size | None:
    """An entry of a table as a size of an axis."""
    if isinstance(entry, bool) or not sizes.is_size(entry):
        return None
    known: Size = entry
    return known


def broadcast(operands: Operands) -> Found:
    """The sizes that all operands are broadcast to."""
    rows = [a for a in operands.axes if a is not None]
    if len(rows) < sum(map(bool, operands.node.input)):
        raise LookupError("an input has no known rank")
    return _broadcast(rows, operands.demands)


def _broadcast(rows: Sequence[AxisSizes], demands: list[tuple[Size, Size]]) -> Found:
    rank = max(map(len, rows), default=0)
    return [_broadcast_sizes([r[k - rank] for r in rows if len(r) >= rank - k], demands) for k in range(rank)]


def _broadcast_sizes(found: Sequence[Size], demands: list[tuple[Size, Size]]) -> Size | None:
    """The broadcast of sizes: numbers above 1 win, equal ones stay; two that may differ are not followed."""
    different = [s for s in dict.fromkeys(found) if s != 1]
    if not different:
        return 1
    demands += [(different[0], other) for other in different[1:]]
    numbers = [s for s in different if isinstance(s, int)]
    return numbers[0] if numbers else different[0] if len(different) == 1 else None


def convolution(operands: Operands) -> Found:
    """Convolutions and pooling: the positions of a window along each axis."""
    x = operands.x()
    weight = {"QLinearConv": 3}.get(operands.node.op_type, 1)
    kernel = operands.attribute("kernel_shape", None)
    pooled = operands.node.op_type.endswith("Pool")
    if kernel is None:
        kernel = operands.x(weight)[2:]
    first = [x[0], x[1] if pooled else operands.x(weight)[0]]
    return [*first, *(_count_windows(operands, x[k + 2], kernel[k], k, len(kernel)) for k in range(len(kernel)))]


def _count_windows(operands: Operands, size: Size, kernel: Size, k: int, rank: int) -> Size | None:
    stride = (operands.attribute("strides", None) or [1] * rank)[k]
    dilation = (operands.attribute("dilations", None) or [1] * rank)[k]
    pads = operands.attribute("pads", None) or [0] * (2 * rank)
    auto = operands.attribute("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        if dilation != 1 and operands.node.op_type in POOLS:
            return None  # onnxruntime pads as if the window were not dilated
        return sizes.floor_divide(sizes.add(size, stride - 1), stride)
    before, after = (0, 0) if auto == b"VALID" else (pads[k], pads[k + rank])
    if not isinstance(kernel, int):
        return None
    room = sizes.add(size, int(before) + int(after) - ((kernel - 1) * int(dilation) + 1))
    if operands.attribute("ceil_mode", 0) and stride != 1:
        return None  # the last window may not begin in the padding: no simple expression
    # onnxruntime rounds toward 0: a window that is larger than what it slides over has one position
    return sizes.add(sizes.truncate_divide(room, stride) if stride != 1 else room, 1)


def transposed_convolution(operands: Operands) -> Found:
    """ConvTranspose: every position spreads over a window."""
    x, w = operands.x(), operands.x(1)
    rank = len(x) - 2
    group = operands.attribute("group", 1)
    given = operands.attribute("output_shape", None)
    first = [x[0], sizes.multiply(w[1], group)]
    if given:
        return [*first, *given[-rank:]]
    kernel = operands.attribute("kernel_shape", None) or w[2:]
    strides = operands.attribute("strides", None) or [1] * rank
    dilations = operands.attribute("dilations", None) or [1] * rank
    more = operands.attribute("output_padding", None) or [0] * rank
    pads = operands.attribute("pads", None) or [0] * (2 * rank)
    auto = operands.attribute("auto_pad", b"NOTSET")
    out: list[Size | None] = []
    for k in range(rank):
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            out.append(sizes.multiply(x[k + 2], strides[k]))
            continue
        cut, window = 0 if auto == b"VALID" else pads[k] + pads[k + rank], kernel[k]
        if not isinstance(window, int):
            raise LookupError("the kernel has no fixed size")
        reach = (window - 1) * dilations[k] + 1 + more[k] - cut - strides[k]
        out.append(sizes.add(sizes.multiply(x[k + 2], strides[k]), reach))
    return [*first, *out]


def concat(operands: Operands) -> Found:
    """The sum along the axis; the others are those of any input."""
    rows = [operands.x(k) for k in range(len(operands.node.input))]
    axis = operands.attribute("axis", 1) % len(rows[0])
    columns = list(zip(*rows, strict=True))
    out: list[Size | None] = [next((s for s in column if isinstance(s, int)), column[0]) for column in columns]
    for k, column in enumerate(columns):
        operands.demands.extend((column[0], s) for s in column[1:] if k != axis and s != column[0])
    out[axis] = functools.reduce(sizes.add, (r[axis] for r in rows))
    return out


def slice_(operands: Operands) -> Found:
    """Bounds that are counted from the end, and cut off at both ends."""
    x = list(operands.x())
    out: list[Size | None] = list(x)
    axes = operands.entries(3, "axes")
    starts = _try_look(lambda: operands.entries(1, "starts"))
    ends = _try_look(lambda: operands.entries(2, "ends"))
    steps = _try_look(lambda: operands.entries(4)) if operands.is_given(4) else None
    many = len(axes) if axes is not None else len(starts or ends or x)
    for k, axis in enumerate(axes if axes is not None else range(many)):
        if not isinstance(axis, int) or (operands.is_given(4) and steps is None):
            return [None] * len(x)
        entries = [row[k] if row is not None else None for row in (starts, ends)]
        out[axis % len(x)] = _count_range(x[axis % len(x)], entries[0], entries[1], steps[k] if steps else 1)
    return out


def _try_look(look: Callable[[], list[Any] | None]) -> list[Any] | None:
    try:
        return look()
    except LookupError:
        return None


def _count_range(size: Size, start: Any, end: Any, step: Any) -> Size | None:
    """How many positions start:end:step takes of an axis."""
    if _to_size(start) is None or _to_size(end) is None or not isinstance(step, int) or step == 0:
        return None
    if isinstance(size, int) and all(isinstance(v, int) for v in (start, end)):
        return len(range(size)[start:end:step])
    if step < 0:
        return sizes.floor_divide(sizes.add(size, -step - 1), -step) if _is_whole_backwards(start, end) else None
    first, last = _clip_bound(size, start), _clip_bound(size, end)
    length = sizes.maximum(sizes.subtract(last, first), 0)
    return length if step == 1 else sizes.floor_divide(sizes.add(length, step - 1), step)


def _is_whole_backwards(start: Any, end: Any) -> bool:
    """From the last position to before the first?"""
    if not isinstance(start, int) or not isinstance(end, int):
        return False
    return (start == -1 or start >= sizes.INFINITY) and end <= -sizes.INFINITY


def _clip_bound(size: Size, value: Size) -> Size:
    """A bound of a Slice as a position from 0 to the size."""
    if isinstance(value, int):
        if value >= sizes.INFINITY:
            return size
        if value <= -sizes.INFINITY:
            return 0
        value = sizes.add(size, value) if value < 0 else value
    else:
        low, high = sizes.find_bounds(value)
        if high < 0:
            value = sizes.add(size, value)
        elif low < 0:  # from which end it counts is not known
            return sizes.make_atom("slice_bound", (size, value), (0, math.inf))
    return sizes.minimum(sizes.maximum(value, 0), size)


def reshape(operands: Operands) -> Found:
    """Entries of the target; 0 copies, -1 is what is left."""
    x, target = operands.x(), operands.entries(1, "shape")
    if target is None:
        raise LookupError("no target")
    copied = not operands.attribute("allowzero", 0)
    out: list[Size | None] = []
    for k, e in enumerate(target):
        size = x[k] if e == 0 and copied and k < len(x) else _to_size(e)
        computed = size is not None and not isinstance(size, int)
        out.append(
            None if computed and sizes.find_bounds(size)[0] < 1 else size
        )  # a 0 or a -1 would mean something else
    if -1 in out:
        others = [s for s in out if s != -1]
        known = [s for s in others if s is not None]
        left = None
        if len(known) == len(others):
            total, taken = sizes.multiply_all(x), sizes.multiply_all(known)
            left = None if taken == 0 else sizes.floor_divide(total, taken)
        out[out.index(-1)] = left
    return out


def flatten(operands: Operands) -> Found:
    """Two products."""
    x, axis = operands.x(), operands.attribute("axis", 1)
    axis += len(x) if axis < 0 else 0
    return [sizes.multiply_all(x[:axis]), sizes.multiply_all(x[axis:])]


def expand(operands: Operands) -> Found:
    """The input broadcast with the entries of the target."""
    target = operands.entries(1) or []
    if any(_to_size(e) is None for e in target):
        raise LookupError("an entry is not known")
    return _broadcast([operands.x(), target], operands.demands)


def tile(operands: Operands) -> Found:
    """Every axis as often as is said."""
    pairs = zip(operands.x(), operands.entries(1) or (), strict=True)
    return [None if _to_size(times) is None else sizes.multiply(size, times) for size, times in pairs]


def pad(operands: Operands) -> Found:
    """The padding before and behind an axis is added."""
    x = operands.x()
    out: list[Size | None] = list(x)
    axes = operands.entries(3) if operands.is_given(3) else list(range(len(x)))
    pads = operands.entries(1, "pads")
    if axes is None or pads is None or any(not isinstance(a, int) for a in axes):
        raise LookupError("no pads")
    for k, a in enumerate(axes):
        both = [_to_size(pads[k]), _to_size(pads[k + len(axes)])]
        known = [b for b in both if b is not None]
        out[a % len(x)] = functools.reduce(sizes.add, known, x[a % len(x)]) if len(known) == 2 else None
    return out


def resize(operands: Operands) -> Found:
    """Sizes that are given, or scaled ones, rounded down."""
    x, old = operands.x(), operands.node.op_type == "Upsample"
    axes = [a % len(x) for a in operands.attribute("axes", None) or range(len(x))]
    out: list[Size | None] = list(x)
    if not old and operands.is_given(3):
        if operands.attribute("keep_aspect_ratio_policy", b"stretch") != b"stretch":
            return [None if k in axes else s for k, s in enumerate(x)]
        for a, e in zip(axes, operands.entries(3) or (), strict=True):
            out[a] = _to_size(e)
        return out
    slot = 1 if old or operands.opset < 11 else 2
    scales = operands.entries(slot) if operands.is_given(slot) else operands.attribute("scales", None)
    for a, e in zip(axes, scales or (), strict=True):
        out[a] = _scale_size(x[a], e)
    return out


def _scale_size(size: Size, scale: Any) -> Size | None:
    """The size times a float, rounded down; only what floats compute exactly."""
    if isinstance(scale, float | Fraction | int) and not isinstance(scale, bool):
        exact = Fraction(scale)
        if exact.denominator & (exact.denominator - 1) == 0 and max(exact.denominator, exact.numerator) <= 1 << 10:
            return sizes.floor_divide(sizes.multiply(size, exact.numerator), exact.denominator)
        return sizes.make_atom("scaled", (size, exact), (0, math.inf))
    return None


def range_(operands: Operands) -> Found:
    """Steps from start to limit."""
    start, limit, delta = (e[0] if (e := operands.entries(k)) else None for k in range(3))
    if _to_size(start) is None or _to_size(limit) is None or not isinstance(delta, int) or delta == 0:
        return [None]
    if delta < 0:
        start, limit, delta = limit, start, -delta
    length = sizes.floor_divide(sizes.add(sizes.subtract(limit, start), delta - 1), delta)
    return [sizes.maximum(length, 0)]


def constant_of_shape(operands: Operands) -> Found:
    """The entries of the operand."""
    return [_to_size(e) for e in operands.entries(0) or ()]


def split(operands: Operands) -> Found:
    """The first part; the others follow from `split_parts`."""
    return split_parts(operands)[0]


def split_parts(operands: Operands) -> list[Found]:
    """Sizes of every part: as given, or equal ones of which the last is smaller."""
    x = operands.x()
    axis, many = operands.attribute("axis", 0) % len(x), len(operands.node.output)
    given = operands.entries(1, "split")
    if given is None:
        if many == 1:
            given = list(x[axis : axis + 1])
        else:
            part = sizes.floor_divide(sizes.add(x[axis], many - 1), many)
            given = [*[part] * (many - 1), sizes.subtract(x[axis], sizes.multiply(part, many - 1))]
    return [[_to_size(g) if k == axis else s for k, s in enumerate(x)] for g in given]


def squeeze(operands: Operands) -> Found:
    """Without axes, those that are 1 for every binding go."""
    x, axes = operands.x(), operands.entries(1, "axes")
    if axes is None:
        left = [s for s in x if s != 1]
        if len(left) != operands.rank:
            raise LookupError("which sizes are 1 is not known")
        return left
    return [s for k, s in enumerate(x) if k not in {a % len(x) for a in axes}]


def top_k(operands: Operands) -> Found:
    """As many as are asked for along the axis."""
    x = operands.x()
    out: list[Size | None] = list(x)
    given = operands.entries(1) if operands.opset >= 10 else [operands.attribute("k", None)]
    out[operands.attribute("axis", -1) % len(x)] = _to_size(given[0]) if given else None
    return out


def one_hot(operands: Operands) -> Found:
    """A new axis as long as an operand says."""
    out: list[Size | None] = list(operands.x())
    axis, depth = operands.attribute("axis", -1), operands.entries(1)
    out.insert(axis if axis >= 0 else len(out) + 1 + axis, _to_size(depth[0]) if depth else None)
    return out


def matmul(operands: Operands) -> Found:
    """The axes in front are broadcast."""
    a, b = operands.x(0), operands.x(1)
    if len(a) < 2 or len(b) < 2:
        return [None] * operands.rank
    demands = operands.demands
    demands += [(a[-1], b[-2])] if a[-1] != b[-2] else []
    return [*_broadcast([a[:-2], b[:-2]], demands), a[-2], b[-1]]


def depth_to_space(operands: Operands) -> Found:
    """Channels become positions."""
    n, c, h, w = operands.x()
    block = operands.attribute("blocksize", 1)
    return [n, sizes.floor_divide(c, block * block), sizes.multiply(h, block), sizes.multiply(w, block)]


def space_to_depth(operands: Operands) -> Found:
    """Positions become channels."""
    n, c, h, w = operands.x()
    block = operands.attribute("blocksize", 1)
    return [n, sizes.multiply(c, block * block), sizes.floor_divide(h, block), sizes.floor_divide(w, block)]


def copy_axes(operands: Operands) -> Found:
    """As the first input."""
    return list(operands.x())


POOLS = ("AveragePool", "LpPool", "MaxPool")
BROADCASTING = """Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Clip Div Equal Greater GreaterOrEqual Less
LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor""".split()
FORMULAS: Mapping[str, Callable[[Operands], Found]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv", *POOLS), convolution),
    "ConvTranspose": transposed_convolution,
    **dict.fromkeys(BROADCASTING, broadcast),
    "Concat": concat, "Slice": slice_, "Reshape": reshape, "Flatten": flatten, "Expand": expand, "Tile": tile,
    "Pad": pad, "Resize": resize, "Upsample": resize, "Range": range_, "ConstantOfShape": constant_of_shape,
    "Split": split, "Squeeze": squeeze, "TopK": top_k, "OneHot": one_hot, "MatMul": matmul,
    "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth,
    **dict.fromkeys(("CumSum", "CumProd", "Trilu", "ScatterND", "ScatterElements", "ReverseSequence"), copy_axes),
}  # fmt: skip


def has_formula(op: str) -> bool:
    """Does an operator of ONNX have a formula here?"""
    return op in FORMULAS


def find_sizes(operands: Operands) -> list[Found]:
    """Sizes of the first outputs of a node that has a formula. Raises LookupError where too little is known."""
    op = operands.node.op_type
    return split_parts(operands) if op == "Split" else [FORMULAS[op](operands)]


__all__ = ["Operands", "find_sizes", "has_formula"]
