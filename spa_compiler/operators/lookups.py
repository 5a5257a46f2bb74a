"""Operators that look something up by numbers: the input with the numbers, and the table they point into.

    find_lookups(node, ids, (1, 16))      # of Gather: the table, and its axis 0
    is_moving_ids(node, ids)                  # of Reshape: True

Where the numbers come from is followed in `execution.index_limits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx_graphsurgeon as gs

MOVING_OPERATORS = dict.fromkeys(
    "Cast Expand Flatten Gather GatherND Identity Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split(), (0,)
) | {"Concat": None, "Where": (1, 2)}
"""Operators that pass ids on, and the inputs that they pass on; None: all of them."""
SELECTING_OPERATORS = {"Gather", "GatherND", "Slice", "Split", "Where"}
"""Pass on some of them only."""
LOOKUP_OPERATORS = dict.fromkeys(
    "Gather GatherElements GatherND Scatter ScatterElements ScatterND".split(), ((1, 0),)
) | {"EmbedLayerNormalization": ((0, 2), (1, 4))}
"""Operators that look something up: pairs of the input that holds ids and the input that they point into."""
BY_ROWS = ("GatherND", "ScatterND")
"""Those of them whose ids are rows, an entry for each axis."""
LENGTH_INPUTS = dict.fromkeys(("GRU", "LSTM", "RNN"), (4, "layout")) | {"ReverseSequence": (1, "time_axis")}
"""Operators that are told how much of each sequence counts: that input, and the attribute that names the axis."""
COUNT_INPUTS = {"TopK": 1}
"""Operators that are told how many entries of an axis to take: that input."""


def is_moving_ids(node: gs.Node, t: gs.Tensor) -> bool:
    """Does this node give the ids of `t` on?"""
    slots = MOVING_OPERATORS.get(node.op, ())
    return any(x is t for k, x in enumerate(node.inputs) if slots is None or k in slots)


def is_count(node: gs.Node, t: gs.Tensor) -> bool:
    """Does `t` say how many entries of an axis of the first input this node takes?"""
    slot = COUNT_INPUTS.get(node.op, len(node.inputs))
    return slot < len(node.inputs) and node.inputs[slot] is t


def find_lookups(node: gs.Node, ids: gs.Tensor, shape: Sequence[Any] | None) -> Iterator[tuple[gs.Tensor, range]]:
    """The table that `ids`, of this shape, point into where this node looks something up, and its axes."""
    for slot, table in LOOKUP_OPERATORS.get(node.op, ()):
        if max(slot, table) < len(node.inputs) and node.inputs[slot] is ids:
            yield node.inputs[table], _find_pointed_axes(node, shape)


def _find_pointed_axes(node: gs.Node, shape: Sequence[Any] | None) -> range:
    """The axes of the table that one entry of the ids points into."""
    if node.op in BY_ROWS:
        first = int(node.attrs.get("batch_dims", 0))
        return range(first, first + shape[-1]) if shape and isinstance(shape[-1], int) else range(0)
    axis = int(node.attrs.get("axis", 0))
    return range(axis, axis + 1)


def find_lengths(node: gs.Node, t: gs.Tensor) -> Iterator[int]:
    """The axis of the first input of which `t` tells how much counts."""
    slot, attribute = LENGTH_INPUTS.get(node.op, (0, ""))
    if attribute and slot < len(node.inputs) and node.inputs[slot] is t:
        yield int(node.attrs.get(attribute, 0))
