"""Operators that look something up by numbers: which input holds the numbers, and what they point into.

    find_lookups(node, ids, (1, 16))      # of Gather: the table, and its axis 0
    moves_ids(node, ids)                  # of Reshape: True

Where the numbers come from is followed in `execution.index_limits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx_graphsurgeon as gs

MOVING = dict.fromkeys(
    "Cast Expand Flatten Gather GatherND Identity Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split(), (0,)
) | {"Concat": None, "Where": (1, 2)}
"""Operators that pass ids on, and the inputs that they pass on; None: all of them."""
SELECTING = {"Gather", "GatherND", "Slice", "Split", "Where"}
"""Pass on some of them only."""
LOOKUPS = dict.fromkeys("Gather GatherElements GatherND Scatter ScatterElements ScatterND".split(), ((1, 0),)) | {
    "EmbedLayerNormalization": ((0, 2), (1, 4))
}
"""Operators that look something up: pairs of the input that holds ids and the input that they point into."""
BY_ROWS = ("GatherND", "ScatterND")
"""Those of them whose ids are rows, an entry for each axis."""
LENGTHS = dict.fromkeys(("GRU", "LSTM", "RNN"), (4, "layout")) | {"ReverseSequence": (1, "time_axis")}
"""Operators that are told how much of each sequence counts: that input, and the attribute that names the axis."""
COUNTS = {"TopK": 1}
"""Operators that are told how many entries of an axis to take: that input."""


def moves_ids(node: gs.Node, t: gs.Tensor) -> bool:
    """Does this node give the ids of `t` on?"""
    slots = MOVING.get(node.op, ())
    return any(x is t for k, x in enumerate(node.inputs) if slots is None or k in slots)


def is_count(node: gs.Node, t: gs.Tensor) -> bool:
    """Does `t` say how many entries of an axis of the first input this node takes?"""
    slot = COUNTS.get(node.op, len(node.inputs))
    return slot < len(node.inputs) and node.inputs[slot] is t


def find_lookups(node: gs.Node, ids: gs.Tensor, shape: Sequence[Any] | None) -> Iterator[tuple[gs.Tensor, range]]:
    """What `ids`, of this shape, point into where this node looks something up: the table, and its axes."""
    for slot, table in LOOKUPS.get(node.op, ()):
        if max(slot, table) < len(node.inputs) and node.inputs[slot] is ids:
            yield node.inputs[table], _pointed_axes(node, shape)


def _pointed_axes(node: gs.Node, shape: Sequence[Any] | None) -> range:
    """The axes of the table that one entry of the ids points into."""
    if node.op in BY_ROWS:
        first = int(node.attrs.get("batch_dims", 0))
        return range(first, first + shape[-1]) if shape and isinstance(shape[-1], int) else range(0)
    axis = int(node.attrs.get("axis", 0))
    return range(axis, axis + 1)


def find_lengths(node: gs.Node, t: gs.Tensor) -> Iterator[int]:
    """The axis of the first input of which `t` tells how much counts."""
    slot, attribute = LENGTHS.get(node.op, (0, ""))
    if attribute and slot < len(node.inputs) and node.inputs[slot] is t:
        yield int(node.attrs.get(attribute, 0))
