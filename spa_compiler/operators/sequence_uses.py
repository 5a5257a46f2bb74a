"""Operators of sequences, by what they do with one.

find_use(node)        # SequenceUse.PICK
"""

from __future__ import annotations

from enum import Enum, auto

import onnx_graphsurgeon as gs


class SequenceUse(Enum):
    """The ways in which a node uses a sequence of tensors."""

    START = auto()  # makes an empty one
    COLLECT = auto()  # makes one of its inputs
    INSERT = auto()  # puts its second input in, at the position that its third gives
    PICK = auto()  # gives the member at the position that its second input gives
    JOIN = auto()  # gives the members as one tensor
    SPLIT = auto()  # makes one of the parts of a tensor
    COPY = auto()  # gives the sequence itself


SEQUENCE_USES = {
    "SequenceEmpty": SequenceUse.START,
    "SequenceConstruct": SequenceUse.COLLECT,
    "SequenceInsert": SequenceUse.INSERT,
    "SequenceAt": SequenceUse.PICK,
    "ConcatFromSequence": SequenceUse.JOIN,
    "SplitToSequence": SequenceUse.SPLIT,
    "Identity": SequenceUse.COPY,
}


def find_use(node: gs.Node) -> SequenceUse | None:
    """The way in which a node uses a sequence; None for any other operator."""
    return SEQUENCE_USES.get(node.op)
