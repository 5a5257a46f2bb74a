"""Facts about every value under one binding of the symbols: types, sizes, and the numbers of small values.

    facts.record_type("y", kind); facts.record_value("n", np.array([3]))
    facts.take_node(proto, names)      # what the node gave in `base`, where it reads the very same

A second binding, and the graph after a rewrite, have most of their nodes in common with what was evaluated before.
What a value is there is taken over as the same object; a node all of whose operands are the same objects gives the
same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass
class Facts:
    """`base` is what was found before, where something was; it is forgotten by `release`."""

    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    declared: dict[str, onnx.TypeProto] = field(default_factory=dict)  # what the file says of values without a schema
    why: dict[str, str] = field(default_factory=dict)  # reasons for values without a shape
    warnings: list[str] = field(default_factory=list)  # errors in bodies that may never run, and empty values
    base: Facts | None = None
    stored: dict[str, object] = field(default_factory=dict)  # constant -> what holds its numbers
    observed: set[str] = field(default_factory=set)  # values whose shape was seen in runs: it may follow what is fed
    stable_nodes: dict[str, onnx.NodeProto] = field(
        default_factory=dict
    )  # first output -> the node that can be repeated
    _shapes: dict[str, tuple[onnx.TypeProto, Shape | None]] = field(default_factory=dict)

    def shape(self, name: str) -> Shape | None:
        """Static shape of a value, or None."""
        t = self.types.get(name)
        if t is None:
            return None
        known = self._shapes.get(name)
        if known is None or known[0] is not t:
            known = self._shapes[name] = t, find_static_shape(t)
        return known[1]

    def record_type(self, name: str, kind: onnx.TypeProto) -> None:
        """Record a type: the object that `base` has for it, where it is equal."""
        before = self.base.types.get(name) if self.base is not None else None
        self.types[name] = before if before is not None and before == kind else kind

    def record_value(self, name: str, value: Array, largest: int) -> None:
        """Record the type of a value and, up to `largest` elements, its numbers."""
        before = self.base.values.get(name) if self.base is not None else None
        if before is not None and before.dtype == value.dtype and before.shape == value.shape:
            value = before if before is value or before.tobytes() == value.tobytes() else value
        self.record_type(name, helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))
        if value.size <= largest:
            self.values[name] = value

    def take_constant(self, name: str, store: object) -> bool:
        """Take over what `base` knows of a constant whose numbers lie in the same object."""
        self.stored[name] = store
        base = self.base
        if base is None or base.stored.get(name) is not store or name not in base.types:
            return False
        self.types[name] = base.types[name]
        if name in base.values:
            self.values[name] = base.values[name]
        return True

    def take_node(self, proto: onnx.NodeProto, names: Sequence[str]) -> bool:
        """Take over what this node gave in `base`; False where it, or what it reads, is not the same."""
        base, outputs = self.base, proto.output
        if base is None or not outputs or base.stable_nodes.get(outputs[0]) is not proto:
            return False
        types, values = self.types.get, self.values.get
        if not all(types(n) is base.types.get(n) and values(n) is base.values.get(n) for n in names):
            return False
        if not all(o in base.types for o in outputs if o):
            return False
        for o in outputs:
            if o:
                self.types[o] = base.types[o]
                self.observed |= {o} & base.observed
                if o in base.values:
                    self.values[o] = base.values[o]
        self.stable_nodes[outputs[0]] = proto
        return True

    def release(self) -> Facts:
        """These facts without `base`."""
        self.base = None
        return self


def find_static_shape(t: onnx.TypeProto) -> Shape | None:
    """Sizes of a tensor type all of whose sizes are known, or None."""
    if not t.HasField("tensor_type") or not t.tensor_type.HasField("shape"):
        return None
    dims = t.tensor_type.shape.dim
    return tuple([d.dim_value for d in dims]) if all(d.HasField("dim_value") for d in dims) else None


__all__ = ["Facts", "find_static_shape"]
