"""Types and known values that enter and leave bodies, while the nodes of a flat graph are visited in order.

    flow = Flow(types, values, why)
    for node in graph.nodes:
        if not flow.step(node): ...      # a node like any other; `flow.tentative` says that it may never run

A branch gives what its If gives; where the condition is known, only the branch that is taken does. A Scan or a Loop is
visited once: its states must keep their shapes, otherwise nothing in its body has a shape, and `why` says so. States of
which nothing is known (sequences that are filled) tell nothing of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from spa_compiler.ir.control_flow import find_scan_axes, is_control, is_marker

Array = NDArray[Any]
BOOL, INT64 = onnx.TensorProto.BOOL, onnx.TensorProto.INT64


@dataclass
class _OpenBody:
    """A body that is being visited."""

    marker: gs.Node
    tentative: bool  # may it never run?
    dead: bool  # is it known to?
    names: list[str] = field(default_factory=list)


class Flow:
    """`types`, `values` and `why` (reasons for values without a shape) are the caller's, and grow."""

    def __init__(self, types: dict[str, onnx.TypeProto], values: dict[str, Array], why: dict[str, str]) -> None:
        self.types, self.values, self.why = types, values, why
        self.open: list[_OpenBody] = []

    def resume(self, markers: Sequence[gs.Node]) -> None:
        """Go on inside the bodies that begin at these markers, the outermost first; they run."""
        self.open = [_OpenBody(m, False, False) for m in markers]

    @property
    def is_tentative(self) -> bool:
        """May the node that is visited never run? Then what does not fit there is no error of the model."""
        return any(o.tentative for o in self.open)

    @property
    def is_possible(self) -> bool:
        """May it run?"""
        return not any(o.dead for o in self.open)

    def step(self, node: gs.Node) -> bool:
        """Visit a marker or a control node; False for any other."""
        if is_marker(node):
            self._enter(node)
        elif is_control(node):
            self._leave(node)
        for o in self.open:
            o.names += [t.name for t in node.outputs if t.name]
        return is_marker(node) or is_control(node)

    def _enter(self, marker: gs.Node) -> None:
        kind, given = marker.attrs["kind"], [t.name for t in marker.inputs]
        token, *formals = [t.name for t in marker.outputs]
        if marker.attrs["branch"]:
            self.open.pop()
        self.types[token] = helper.make_tensor_type_proto(BOOL, [])
        tentative, dead = kind == "Loop", False
        if kind == "If":
            cond = find_condition(self.values, given[0])
            tentative = cond is not (marker.attrs["branch"] == 0)
            dead = tentative and cond is not None
            given = []
        elif kind == "Loop":
            for name, element, rank in zip(formals[:2], (INT64, BOOL), marker.attrs["ranks"], strict=False):
                self.types[name] = helper.make_tensor_type_proto(element, [1] * min(rank, 1))
            self.values[formals[1]] = np.ones([1] * min(marker.attrs["ranks"][1], 1), bool)  # or it would not run
            given, formals = given[2:], formals[2:]
        scanned = find_scan_axes(len(given), marker.attrs) if kind == "Scan" else {}
        for k, (source, name) in enumerate(zip(given, formals, strict=True)):
            t = self.types.get(source)
            if t is not None:
                self.types[name] = drop_axis(t, scanned[k]) if k in scanned else t
        self.open.append(_OpenBody(marker, tentative, dead))

    def _leave(self, node: gs.Node) -> None:
        found = self.open.pop()
        if node.op == "If":
            return self._choose(node)
        states = int(node.attrs["states"])
        names = [t.name for t in node.inputs]
        before, after = names[:states], names[states + (node.op == "Loop") :]
        count = count_trips(self.values, node, found.marker)
        sides = [[_read_sizes(self.types.get(n)) for n in (before[k], after[k])] for k in range(states)]
        sized = [k for k in range(states) if _is_sized(self.types.get(before[k]))]
        moved = next((k for k in sized if sides[k][0] is None or sides[k][0] != sides[k][1]), None)
        if moved is not None and count != 1:
            a, b = sides[moved]
            shown = "a shape that is not known" if a is None or b is None else f"{a}, then {b}"
            text = f"the state '{before[moved]}' of {node.op} '{found.marker.attrs['path']}' has {shown}"
            for name in (*found.names, *(t.name for t in found.marker.outputs)):
                self.types.pop(name, None)
                self.values.pop(name, None)
                self.why[name] = text
        length: int | str | None = count
        axes = dict.fromkeys(range(states, len(after)), 0)
        if node.op == "Scan":
            slot, axis = next(iter(find_scan_axes(len(found.marker.inputs), found.marker.attrs).items()), (0, 0))
            sizes = _read_sizes(self.types.get(found.marker.inputs[slot].name))
            length = sizes[axis] if sizes and -len(sizes) <= axis < len(sizes) else None
            given = node.attrs.get("scan_output_axes") or [0] * (len(after) - states)
            axes = {states + k: int(a) for k, a in enumerate(given)}
        for k, (name, t) in enumerate(zip(after, node.outputs, strict=True)):
            kind = self.types.get(name)
            if t.name and kind is not None:
                self.types[t.name] = kind if k not in axes else add_axis(kind, axes[k], length)
        return None

    def _choose(self, node: gs.Node) -> None:
        """The outputs of an If: those of the branch that is taken, or what both agree on."""
        cond, *rest = [t.name for t in node.inputs]
        taken, count = find_condition(self.values, cond), len(node.outputs)
        for t, a, b in zip(node.outputs, rest[:count], rest[count:], strict=True):
            if not t.name:
                continue
            sides = [a, b] if taken is None else [a if taken else b]
            kinds = [self.types.get(n) for n in sides]
            values = [self.values.get(n) for n in sides]
            if kinds[0] is not None:
                same = all(k == kinds[0] for k in kinds)
                bare = helper.make_tensor_type_proto(kinds[0].tensor_type.elem_type, None)
                self.types[t.name] = kinds[0] if same else bare
            if values[0] is not None and all(v is not None and np.array_equal(v, values[0]) for v in values):
                self.values[t.name] = values[0]


def count_trips(values: Mapping[str, Array], node: gs.Node, marker: gs.Node) -> int | None:
    """How often a Loop runs, where its count is known and its condition stays true."""
    if node.op != "Loop":
        return None
    count, cond = (t.name for t in marker.inputs[:2])
    again = node.inputs[int(node.attrs["states"])].name
    stays = (not cond or find_condition(values, cond) is True) and find_condition(values, again) is True
    number = values.get(count) if count else None
    return int(number.ravel()[0]) if stays and number is not None and number.size == 1 else None


def find_condition(values: Mapping[str, Array], name: str) -> bool | None:
    """A condition, where it is known."""
    value = values.get(name)
    return None if value is None or value.size != 1 else bool(value.ravel()[0])


def _is_sized(t: onnx.TypeProto | None) -> bool:
    """Does a type say anything of sizes? That of an empty sequence says nothing of its members."""
    if t is not None and t.HasField("sequence_type"):
        t = t.sequence_type.elem_type
    return t is not None and (not t.HasField("tensor_type") or t.tensor_type.HasField("shape"))


def _read_sizes(t: onnx.TypeProto | None) -> list[int | str] | None:
    """Sizes of a type whose axes all have one: a number, or the name of what follows a symbol (`every_binding`)."""
    if t is None or not t.HasField("tensor_type") or not t.tensor_type.HasField("shape"):
        return None
    dims = t.tensor_type.shape.dim
    found = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]
    return None if "" in found else found


def drop_axis(t: onnx.TypeProto, axis: int) -> onnx.TypeProto:
    """The type of a slice along an axis."""
    sizes = _read_sizes(t)
    if sizes is None or not -len(sizes) <= axis < len(sizes):
        return helper.make_tensor_type_proto(t.tensor_type.elem_type, None)
    del sizes[axis]
    return helper.make_tensor_type_proto(t.tensor_type.elem_type, sizes)


def add_axis(t: onnx.TypeProto, axis: int, length: int | str | None) -> onnx.TypeProto:
    """The type of slices that are stacked along a new axis; where their number is not known, the rank still is."""
    sizes = _read_sizes(t)
    if sizes is None or not -len(sizes) - 1 <= axis <= len(sizes):
        return helper.make_tensor_type_proto(t.tensor_type.elem_type, None)
    at = axis % (len(sizes) + 1)
    return helper.make_tensor_type_proto(t.tensor_type.elem_type, [*sizes[:at], length, *sizes[at:]])
