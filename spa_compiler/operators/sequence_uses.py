"""Operators of sequences, by what they do with one.

use_of(node)        # SequenceUse.PICK
"""

from __future__ import annotations

from enum import Enum, auto

import onnx_graphsurgeon as gs


class SequenceUse(Enum):
    """What a node does with a sequence of tensors."""

    START = auto()  # makes an empty one
    COLLECT = auto()  # makes one of its inputs
    INSERT = auto()  # puts its second input in, at the position that its third gives
    PICK = auto()  # gives the member at the position that its second input gives
    JOIN = auto()  # gives the members as one tensor
    SPLIT = auto()  # makes one of the parts of a tensor
    COPY = auto()  # gives the sequence itself


USES = {
    "SequenceEmpty": SequenceUse.START,
    "SequenceConstruct": SequenceUse.COLLECT,
    "SequenceInsert": SequenceUse.INSERT,
    "SequenceAt": SequenceUse.PICK,
    "ConcatFromSequence": SequenceUse.JOIN,
    "SplitToSequence": SequenceUse.SPLIT,
    "Identity": SequenceUse.COPY,
}


def use_of(node: gs.Node) -> SequenceUse | None:
    """What a node does with a sequence; None for any other operator."""
    return USES.get(node.op)
