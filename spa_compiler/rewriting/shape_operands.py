"""Integer operands of a plan's rewrite: sizes, bounds, repeats.

Every use gets its own copy of a constant, in the constant's own type, and entries that do not change keep what they
were (0 and -1 included). A shape that is computed at run time is changed where its constants are put together, or else
patched by a node between it and its readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra.masks import Masks, count_kept, is_cut
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.written_sizes import Writing
from spa_compiler.errors import VerificationError
from spa_compiler.ir.editing import drop_dead, drop_repeats, find_index
from spa_compiler.ir.model import Model, find_element_type, make_constant
from spa_compiler.operators import build
from spa_compiler.operators.build import has_input, new_node
from spa_compiler.operators.site import Operand, Site

Array = NDArray[Any]
Edit = Callable[[], None]
"""A step that changes the graph; nothing has changed before it is called."""
Entry = int | tuple[int, int] | None
"""An entry becomes another number, the fraction of it that stays, or is left alone (None)."""


@dataclass(frozen=True, eq=False)
class Wish:
    """The wish of one node for a shape that is computed at run time; `path`: the body that it lies in."""

    node: gs.Node
    slot: int
    entries: tuple[Entry, ...]
    path: str


@dataclass(eq=False)
class OperandWriter:
    """Writes the integer operands of a model's nodes; shapes that are computed at run time all together at the end."""

    graph: DependencyGraph
    model: Model
    masks: Masks
    waiting: dict[str, list[Wish]] = field(default_factory=dict)

    def write(self, node: gs.Node, site: Site, operand: Operand) -> None:
        """Write the entries of an operand that the plan changes."""
        new = operand.values(lambda e: count_kept(e, self.masks))
        base = operand.values(lambda e: count_kept(e, {}))
        entries: list[Entry] = [n if n != b else None for n, b in zip(new, base, strict=True)]
        if operand.axes is not None:
            entries = self._choose_entries(site, operand, entries, new)
        if all(e is None for e in entries):
            return
        given = site.inputs[operand.slot] if operand.slot < len(site.inputs) else None
        if given is not None and site.ints(operand.slot, operand.attr) is None:
            wish = Wish(node, operand.slot, tuple(entries), site.path)
            self.waiting.setdefault(given.name, []).append(wish)
            return
        self._write_constant(node, site, operand, [n if e is None else e for n, e in zip(new, entries, strict=True)])

    def _choose_entries(self, site: Site, operand: Operand, entries: list[Entry], new: list[int]) -> list[Entry]:
        """An axis that multiplies a symbol and a pruned digit (N*h) has no constant size: -1, or a share of the old.

        What is read off an axis that the plan cuts is written even where its own axis stays as it is.
        """
        writer = self.graph.size_writer
        writings = writer.find_writings(site, operand)
        axes = operand.axes or ()
        dynamic = [site.y.dynamic[i] for i in axes]
        moved = [any(is_cut(a, self.masks) for a in read) for read in writer.find_axes_read(site, operand)]
        entries = [n if m else e for e, m, n in zip(entries, moved, new, strict=True)]
        entries = [None if w is Writing.STAYS else e for e, w in zip(entries, writings, strict=True)]
        mixed = [k for k, e in enumerate(entries) if e is not None and dynamic[k]]
        stuck = [k for k in mixed if writings[k] is Writing.WORKED_OUT]
        room = self.graph.size_writer.has_room(site, operand)
        if len(stuck) > room:
            raise VerificationError(f"{site.op} '{site.name}': several axes mix symbols with pruned channels")
        one = (stuck or mixed)[0] if room and mixed else None
        for k in mixed:
            axis = site.y.axes[axes[k]]
            kept, size = count_kept(axis, self.masks), axis.size
            share = kept // math.gcd(kept, size), size // math.gcd(kept, size)
            entries[k] = -1 if k == one else 1 if writings[k] is Writing.ONE else share
        return entries

    def _write_constant(self, node: gs.Node, site: Site, operand: Operand, new: list[Any]) -> None:
        if operand.parts is not None:
            if site.y.dynamic[operand.parts] and site.ints(operand.slot, operand.attr) is None:
                return  # equal parts stay equal
            node.attrs.pop("num_outputs", None)
        elif (old := site.ints(operand.slot, operand.attr)) is not None:
            base = operand.values(lambda e: count_kept(e, {}))
            changed = [
                n != b and not (operand.infers and self._is_still_right(site, i, old[i], n))
                for i, (n, b) in enumerate(zip(new, base, strict=True))
            ]
            new = [n if c else o for n, o, c in zip(new, old, changed, strict=True)]
        if operand.attr and not has_input(site.op, site.opset):
            node.attrs[operand.attr] = new
            return
        while len(node.inputs) <= operand.slot:
            node.inputs.append(gs.Variable.empty())
        given = node.inputs[operand.slot]
        values = np.array(new, _find_integer_type(self.model, given))
        own = find_own_name(self.model, given)
        wanted = f"{node.outputs[0].name}.{operand.attr or 'shape'}"
        node.inputs[operand.slot] = make_constant(own, values) if own else self.model.new_constant(wanted, values)

    def _is_still_right(self, site: Site, i: int, old: int, new: int) -> bool:
        """-1 works itself out, and 0 copies an input axis that may have changed in the same way."""
        copies = old == 0 and i < len(site.x().axes) and count_kept(site.x().axes[i], self.masks) == new
        return old == -1 or copies

    # shapes that are computed at run time --------------------------------------------------------------------------

    def finish(self) -> None:
        """Change the shapes that are computed at run time."""
        for wishes in self.waiting.values():
            shape = wishes[0].node.inputs[wishes[0].slot]
            alike = len({w.entries for w in wishes}) == 1 and self._count_reads(shape) == len(wishes)
            steps = self._plan_in_place(shape, wishes[0].entries) if alike else None
            for step in steps or ():
                step()
            if steps is not None:
                continue
            patched: dict[tuple[str, tuple[Entry, ...]], gs.Tensor] = {}
            for wish in wishes:
                key = wish.path, wish.entries
                if key not in patched:
                    patched[key] = self._patch(shape, wish)
                wish.node.inputs[wish.slot] = patched[key]
        if self.waiting:
            drop_dead(self.model)

    def _count_reads(self, value: gs.Tensor) -> float:
        """How often nodes read a value; more than any number where something else does."""
        others = value.name in self.model.captured or any(t is value for t in self.model.graph.outputs)
        return math.inf if others else sum(t is value for n in drop_repeats(list(value.outputs)) for t in n.inputs)

    def _plan_in_place(self, shape: gs.Tensor, entries: tuple[Entry, ...]) -> list[Edit] | None:
        """Edits of the constants that a shape is put together of; None where another node is needed."""
        node = shape.inputs[0] if shape.inputs else None
        if node is None:
            return None
        if _is_patch(self.model, node, len(entries)):
            return self._plan_patch(node, entries)
        return self._plan_parts(node, entries) if build.is_concat(node) else None

    def _plan_parts(self, node: gs.Node, entries: tuple[Entry, ...]) -> list[Edit] | None:
        """Edits of the parts of a Concat, all or none of them."""
        edits: list[Edit] = []
        at = 0
        for k, part in enumerate(node.inputs):
            length = self._get_length(part)
            if length is None:
                return None
            mine = entries[at : at + length]
            at += length
            if any(e is not None for e in mine):
                edit = self._plan_part(node, k, part, mine)
                if edit is None:
                    return None
                edits.append(edit)
        return edits if at == len(entries) else None

    def _get_length(self, part: gs.Tensor) -> int | None:
        value = self.graph.values.get(part.name)
        shape = value.shape if value is not None else tuple(part.shape) if isinstance(part, gs.Constant) else None
        return math.prod(shape) if shape is not None else None

    def _plan_part(self, node: gs.Node, k: int, part: gs.Tensor, mine: tuple[Entry, ...]) -> Edit | None:
        """How one part of a Concat is changed; None where it cannot be without another node."""
        if not isinstance(part, gs.Constant):
            (entry,) = mine if len(mine) == 1 else (None,)
            if isinstance(entry, tuple):
                return self._plan_scaling(part, entry)
            if entry is None:
                return None
            number = np.array([entry], np.int64)
            return lambda: node.inputs.__setitem__(k, self.model.new_constant(f"{node.outputs[0].name}.{k}", number))
        if any(isinstance(e, tuple) for e in mine):
            return None
        old = self.model.array(part)
        values = np.array([o if e is None else e for o, e in zip(old.ravel().tolist(), mine, strict=True)], old.dtype)
        own = find_own_name(self.model, part)

        def put() -> None:
            new = make_constant(own, values) if own else self.model.new_constant(f"{node.outputs[0].name}.{k}", values)
            node.inputs[k] = new

        return put

    def _plan_scaling(self, value: gs.Tensor, share: tuple[int, int]) -> Edit | None:
        """Follow a size to the constant factor that it was multiplied by, where nothing else reads it on the way."""
        while self._count_reads(value) == 1 and value.inputs:
            node = value.inputs[0]
            if build.is_size_movement(node):
                value = node.inputs[0]
                continue
            factors = [t for t in node.inputs if isinstance(t, gs.Constant)]
            if not build.is_product(node) or len(factors) != 1:
                return None
            old = self.model.array(factors[0])
            if old.size != 1 or int(old.ravel()[0]) * share[0] % share[1]:
                return None
            slot = next(i for i, t in enumerate(node.inputs) if t is factors[0])
            new = np.full(old.shape, int(old.ravel()[0]) * share[0] // share[1], old.dtype)
            own = find_own_name(self.model, factors[0])
            wanted = f"{node.outputs[0].name}.factor"
            return lambda: node.inputs.__setitem__(
                slot, make_constant(own, new) if own else self.model.new_constant(wanted, new)
            )
        return None

    def _plan_patch(self, node: gs.Node, entries: tuple[Entry, ...]) -> list[Edit] | None:
        """Edits of the constants of a patch that was written when the file was compiled before."""
        if any(isinstance(e, tuple) for e in entries):
            return None
        mask, numbers = (self.model.array(t) for t in node.inputs[:2])
        changed = np.array([e is not None for e in entries])
        new = np.array([0 if e is None else e for e in entries], numbers.dtype)

        def put() -> None:
            for k, values in enumerate((mask | changed, np.where(changed, new, numbers))):
                node.inputs[k] = make_constant(node.inputs[k].name, values)

        return [put]

    def _patch(self, shape: gs.Tensor, wish: Wish) -> gs.Tensor:
        """Nodes behind a shape that is computed at run time: new numbers, shares of the old ones, and what stays."""
        first, entries = wish.node, wish.entries
        stem = f"{first.outputs[0].name}.{wish.slot}"
        dtype = _find_integer_type(self.model, shape)
        shares = [e if isinstance(e, tuple) else (1, 1) for e in entries]
        for k, make in enumerate((build.multiply, build.divide)):
            factors = np.array([s[k] for s in shares], dtype)
            if (factors != 1).any():
                shape = self._insert(first, make(shape, self._name(f"{stem}.{'by' if k else 'times'}", factors)), stem)
        changed = np.array([isinstance(e, int) for e in entries])
        if changed.any():
            numbers = np.array([e if isinstance(e, int) else 0 for e in entries], dtype)
            patch = build.choose(self._name(f"{stem}.changed", changed), self._name(f"{stem}.new", numbers), shape)
            shape = self._insert(first, patch, stem)
        return shape

    def _name(self, wanted: str, values: Array) -> gs.Constant:
        return self.model.new_constant(wanted, values)

    def _insert(self, before: gs.Node, call: build.Call[gs.Tensor], stem: str) -> gs.Tensor:
        out = self.model.new_value(f"{stem}.sizes", np.int64)
        node = new_node(self.model, call, f"{stem}.patch", [out])
        self.model.graph.nodes.insert(find_index(self.model.graph, before), node)
        return out


def find_own_name(model: Model, operand: gs.Tensor) -> str:
    """The name of a constant that nothing but one node reads: what takes its place there keeps it. Else ''."""
    alone = isinstance(operand, gs.Constant) and len(operand.outputs) == 1 and operand.name not in model.captured
    return str(operand.name) if alone else ""


def _find_integer_type(model: Model, operand: gs.Tensor) -> Any:
    """The element type of an integer operand; int64 where there was none."""
    if isinstance(operand, gs.Constant):
        kind = find_element_type(operand)
    else:
        kind = model.shapes.kind.get(operand.name, 0) if model.shapes is not None else 0
    return np.int32 if kind == onnx.TensorProto.INT32 else np.int64


def _is_patch(model: Model, node: gs.Node, entries: int) -> bool:
    """Is this a Where by constants of its own, for one reader? So a file that was compiled before is patched again."""
    if not build.is_choice(node) or len(node.outputs[0].outputs) > 1:
        return False
    used = {*model.captured, *(t.name for t in model.graph.outputs)}
    own = [find_own_name(model, t) != "" and tuple(t.shape) == (entries,) for t in node.inputs[:2]]
    return all(own) and node.outputs[0].name not in used
