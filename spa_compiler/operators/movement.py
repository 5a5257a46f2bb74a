"""Operators that move entries and compute nothing, and the movement that a node of them makes.

find_order(node, 3)                 # of Transpose: [0, 2, 1]; None for any other operator
find_pick(model, node, axes)        # of Split, Gather or Slice: runs of positions of one axis
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.algebra.sizes import Size
from spa_compiler.ir.model import Model

PERMUTING = frozenset("Reshape Transpose Flatten Squeeze Unsqueeze Identity".split())
"""Operators that give every entry of their input once: a chain of them is a permutation."""
REGROUPING = frozenset("Squeeze Unsqueeze Reshape Identity".split())
"""Operators that leave entries in their order, whatever the axes are (Flatten counts as a product of its own)."""
KEEPS_ROW = PERMUTING | {"Cast", "Pad"}
"""Operators behind which a row of numbers is still one in the same order, longer perhaps."""
PICKING = frozenset("Gather Split Slice".split())
"""Operators that may pick runs of positions of one axis."""


@dataclass(frozen=True)
class Pick:
    """A node that picks runs of one axis: (start, length) per output; `drop`: the axis disappears."""

    axis: int
    runs: list[tuple[int, int]]
    drop: bool


def is_copy(node: gs.Node) -> bool:
    """Is the output the input, under another name?"""
    return bool(node.op == "Identity")


def is_row_kept(op: str) -> bool:
    """Is a row of numbers behind this operator still one, in the same order?"""
    return op in KEEPS_ROW


def is_slice(node: gs.Node) -> bool:
    """Does this node take from a start to an end of some axes?"""
    return bool(node.op == "Slice")


def is_regrouping(node: gs.Node) -> bool:
    """Does this node give its input a shape that is an operand?"""
    return bool(node.op == "Reshape")


def is_overwriting(node: gs.Node) -> bool:
    """Does this node put updates at positions that are listed as rows, in place of what is there?"""
    return bool(node.op == "ScatterND" and node.attrs.get("reduction", "none") == "none")


def is_transposition(node: gs.Node) -> bool:
    """Does this node put axes into another order?"""
    return is_permuting_axes(node.op)


def is_permuting_axes(op: str) -> bool:
    """Does this operator put axes into another order?"""
    return op == "Transpose"


def is_moving_axes(node: gs.Node) -> bool:
    """Does this node put axes into another order, or axes of size 1 in or out?"""
    return node.op in ("Transpose", "Unsqueeze", "Squeeze")


def find_order(node: gs.Node, rank: int) -> list[int] | None:
    """Which axis of its input each axis of the output is, for a node that reorders `rank` axes; None for any other."""
    if not is_transposition(node):
        return None
    return [int(p) for p in node.attrs.get("perm") or range(rank)[::-1]]


def find_new_axes(model: Model, node: gs.Node, rank: int) -> list[int] | None:
    """Axes of size 1 that a node puts into its input of `rank` axes, as places of its output; None for any other."""
    return _find_axes(model, node, rank, 1) if node.op == "Unsqueeze" else None


def find_lost_axes(model: Model, node: gs.Node, rank: int) -> list[int] | None:
    """Axes of size 1 that a node takes out of its input; None for any other, and where it does not say which."""
    return _find_axes(model, node, rank, 0) if node.op == "Squeeze" else None


def _find_axes(model: Model, node: gs.Node, rank: int, grows: int) -> list[int] | None:
    operand = node.inputs[1] if len(node.inputs) > 1 else None
    if isinstance(operand, gs.Constant):
        axes = [int(a) for a in np.ravel(model.array(operand))]
    elif "axes" in node.attrs:
        axes = [int(a) for a in node.attrs["axes"]]
    else:
        return None
    whole = rank + grows * len(axes)
    return sorted(a % whole for a in axes)


def find_gathered_axis(node: gs.Node) -> int | None:
    """The axis whose positions an operand names; None for any other operator."""
    return int(node.attrs.get("axis", 0)) if node.op == "Gather" else None


def find_joined_axis(node: gs.Node) -> int | None:
    """The axis along which all inputs stand one after the other, as it is written; None for any other operator."""
    return int(node.attrs.get("axis", 1)) if node.op == "Concat" else None  # 1: opsets in which it may be left out


def find_pick(model: Model, node: gs.Node, axes: Mapping[str, tuple[Size, ...]]) -> Pick | None:
    """The runs that a node picks of an axis of fixed size; None for any other. `axes`: the sizes of values' axes."""
    if node.op not in PICKING:
        return None
    small = {i: t for i, t in enumerate(node.inputs) if isinstance(t, gs.Constant) and math.prod(t.shape) < 64}
    known = {i: model.array(t).ravel() for i, t in small.items()}
    x = axes.get(node.inputs[0].name) if node.inputs else None
    if x is None or any(t.name not in axes for t in node.outputs):
        return None
    given = [i for i in range(1, len(node.inputs)) if node.inputs[i].name]
    single = node.op == "Slice" and len(node.inputs) > 3 and all(i in known for i in given) and known[1].size == 1
    if not single and node.op == "Slice":
        return None
    axis = int(known[3][0] if node.op == "Slice" else node.attrs.get("axis", 0)) % len(x)
    size = x[axis]
    if not isinstance(size, int):
        return None
    if node.op == "Gather":
        one = 1 in known and known[1].size == 1
        return Pick(axis, [(int(known[1][0]) % size, 1)], len(node.inputs[1].shape) == 0) if one else None
    lengths = [s for s in (axes[t.name][axis] for t in node.outputs) if isinstance(s, int)]
    if node.op == "Split" and len(lengths) == len(node.outputs):
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        return Pick(axis, list(zip(starts, lengths, strict=True)), False)
    if node.op == "Slice" and lengths and (4 not in known or known[4][0] == 1):
        start = min(max(int(known[1][0]) + (size if known[1][0] < 0 else 0), 0), size)
        return Pick(axis, [(start, lengths[0])], False)
    return None
