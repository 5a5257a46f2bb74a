"""Uses of the sizes that a Shape node gives: those that only end in shapes which the rewrite writes are harmless."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.algebra.expr import is_frozen
from spa_compiler.ir.model import Model
from spa_compiler.operators.facts import SHAPED_BY_VALUE
from spa_compiler.operators.site import Value

OVERRIDABLE = {("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0), ("Resize", 3)}
IN_ORDER = {"Unsqueeze", "Squeeze", "Cast", "Identity", "Reshape"}
"""Those that give the entries of their first input in the order in which it has them."""
ENTRY_BY_ENTRY = {"Mul", "Add", "Sub", "Div", "Mod", "Max", "Min", "Where", "Equal", "Floor", "Ceil"}
SHAPE_ARITHMETIC = IN_ORDER | ENTRY_BY_ENTRY | {"Gather", "Slice", "Concat", "Split", "Range"}


def find_shape_reads(model: Model, node: gs.Node, outputs: set[str], length: int) -> frozenset[int]:
    """Which of the sizes that a Shape gives are used for more than shapes that the rewrite writes itself."""
    return _find_reads(model, node.outputs[0], outputs, list(range(length)))


def _find_reads(model: Model, value: gs.Tensor, outputs: set[str], held: list[int]) -> frozenset[int]:
    """Which of the sizes that `value` holds, one an entry, are read for more."""
    reads: set[int] = set(held) if value.name in outputs else set()
    for user in value.outputs:
        places = _find_taken(model, user, value, len(held))
        if places is not None:  # what it does not take is not read, whatever becomes of the rest
            reads |= _find_reads(model, user.outputs[0], outputs, [held[p] for p in places])
        elif not _is_harmless(user, value, outputs):
            reads |= set(held)
    return frozenset(reads)


def _find_taken(model: Model, user: gs.Node, value: gs.Tensor, length: int) -> list[int] | None:
    """The entries of a row that a node takes, in order; None for one that does anything else with them."""
    if not user.inputs or user.inputs[0] is not value or not length:
        return None
    if user.op in ("Cast", "Identity", "Squeeze") and (user.op != "Squeeze" or length == 1):
        return list(range(length))
    operands = [_read_small_ints(model, t) if t.name else None for t in user.inputs[1:]]
    if user.op == "Gather" and operands and operands[0] is not None:
        return [p % length for p in operands[0]]
    if user.op == "Slice" and len(operands) >= 2 and all(len(o) == 1 if o is not None else False for o in operands):
        starts, ends, _, steps = [o[0] for o in operands if o is not None] + [0, 1][len(operands) - 2 :]
        return list(range(length))[starts:ends:steps]
    return None


def _read_small_ints(model: Model, t: gs.Tensor | None) -> list[int] | None:
    if not isinstance(t, gs.Constant) or int(np.prod(t.shape, dtype=np.int64)) > 64:
        return None
    return [int(v) for v in np.ravel(model.array(t))]


def _is_harmless(user: gs.Node, value: gs.Tensor, outputs: set[str]) -> bool:
    """True when everything that comes of `value` in `user` ends in shapes that the rewrite writes itself."""
    todo, seen = [(user, value)], set()
    while todo:
        node, tensor = todo.pop()
        slot = next(i for i, t in enumerate(node.inputs) if t is tensor)
        if (node.op, slot) in OVERRIDABLE or id(node) in seen:
            continue
        if node.op not in SHAPE_ARITHMETIC or any(t.name in outputs for t in node.outputs):
            return False
        seen.add(id(node))
        todo += [(u, t) for t in node.outputs for u in t.outputs]
    return True


@dataclass(frozen=True)
class SizeSource:
    """Where one entry of a shape comes from: the axes that can lose channels whose sizes it reads, as (value, axis).

    `plain`: it is the size of that one axis, and follows it.
    """

    reads: frozenset[tuple[str, int]] = frozenset()
    plain: bool = False


NO_SOURCE = SizeSource()


def trace_sizes(model: Model, values: Mapping[str, Value]) -> dict[str, list[SizeSource]]:
    """Where every entry of the results of shape arithmetic comes from, by value; those that are absent read nothing.

    Entries are in row-major order; a value whose shape is not known has one, for all of it. Sizes that go into any
    other operator are frozen (`find_shape_reads`).
    """
    out: dict[str, list[SizeSource]] = {}
    for node in model.graph.nodes:
        if node.op == "Shape":
            found = _list_shape_sources(node, values)
        elif node.op in SHAPE_ARITHMETIC and any(t.name in out for t in node.inputs):
            found = _pass_sources(model, node, values, out)
        else:
            continue
        if any(s.reads for s in found):
            out |= {t.name: found for t in node.outputs[:1]}
            out |= {t.name: _join_sources(found, values.get(t.name)) for t in node.outputs[1:]}
    return out


def _join_sources(found: list[SizeSource], y: Value | None) -> list[SizeSource]:
    """For each entry of y all that any of these reads."""
    return [_join(found)] * (math.prod(y.shape) if y is not None else 1)


def _join(found: Iterable[SizeSource]) -> SizeSource:
    return SizeSource(frozenset[tuple[str, int]]().union(*(s.reads for s in found)))


def _list_shape_sources(node: gs.Node, values: Mapping[str, Value]) -> list[SizeSource]:
    x = values.get(node.inputs[0].name)
    end = node.attrs.get("end")
    axes = range(len(x.axes))[int(node.attrs.get("start", 0)) : None if end is None else int(end)] if x else ()
    return [
        SizeSource(frozenset([(x.name, i)]), True) if x is not None and not is_frozen(x.axes[i]) else NO_SOURCE
        for i in axes
    ]


def _pass_sources(
    model: Model, node: gs.Node, values: Mapping[str, Value], known: Mapping[str, list[SizeSource]]
) -> list[SizeSource]:
    """The sources of what a node of shape arithmetic gives."""
    y = values.get(node.outputs[0].name)

    def find(t: gs.Tensor) -> list[SizeSource]:
        value = values.get(t.name)
        return known.get(t.name) or [NO_SOURCE] * (math.prod(value.shape) if value is not None else 1)

    def is_row(t: gs.Tensor) -> bool:
        value = values.get(t.name)
        return value is not None and len(value.shape) <= 1

    row = find(node.inputs[0])
    places = _find_taken(model, node, node.inputs[0], len(row)) if is_row(node.inputs[0]) else None
    found: list[SizeSource] | None = None
    if node.op in IN_ORDER:
        found = row
    elif node.op == "Concat" and all(map(is_row, node.inputs)):
        found = [s for t in node.inputs for s in find(t)]
    elif node.op in ENTRY_BY_ENTRY and all(map(is_row, node.inputs)):
        rows = [find(t) for t in node.inputs]
        length = max(map(len, rows))
        found = [_join([r[k % len(r)] for r in rows if r]) for k in range(length)]
    elif places is not None:
        found = [row[p] for p in places]
    if found is not None and y is not None and len(found) == math.prod(y.shape):
        return found
    return _join_sources([s for t in node.inputs if t.name for s in find(t)], y)


def find_fed_values(model: Model) -> frozenset[str]:
    """Values that follow from the numbers of graph inputs, not only from their sizes."""
    found = {t.name for t in model.graph.inputs} | model.defaults.keys()
    for node in model.graph.nodes:
        if node.op not in ("Shape", "Size") and any(t.name in found for t in node.inputs):
            found.update(t.name for t in node.outputs)
    return frozenset(found)


def find_shaping_defaults(model: Model) -> frozenset[str]:
    """Graph inputs with a default whose numbers say how large a value is: other numbers may fit no node behind it."""
    if not model.defaults:
        return frozenset()
    todo = [t for n in model.graph.nodes for k, t in enumerate(n.inputs) if k in _find_shaping_slots(n)]
    found, seen = set(), set()
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        found |= {value.name} & model.defaults.keys()
        todo += [t for n in value.inputs if n.op not in ("Shape", "Size") for t in n.inputs]
    return frozenset(found)


def _find_shaping_slots(node: gs.Node) -> tuple[int, ...]:
    scales = (1,) if node.op == "Resize" else ()  # in its first version
    return SHAPED_BY_VALUE.get(node.op, ()) + scales
