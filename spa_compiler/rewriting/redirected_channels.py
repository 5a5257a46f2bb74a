"""Readers of a channel that is a multiple of another one, or one number everywhere, read it from there.

    found = redirect_channels(graph, graph.groups)      # found.model, or None where there is nothing to redirect

The weights that contract channel j get what it would have brought in the column of its root (W[:, root] += s W[:, j])
or in the bias, and zeros in its own: nothing reads it any more, and it can be erased. Numbers go into a bias where no
padding makes zeros of them at the edge, else into the column of one channel that holds a number, too. A sum leaves out
terms that are zero everywhere, and what made them is dead. Nothing is changed of a channel that cannot go for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, iterate_dims
from spa_compiler.algebra.masks import find_coordinates
from spa_compiler.analysis.channel_multiples import ONE, Facts, Multiples, find_multiples
from spa_compiler.analysis.channel_rows import EXACT_TYPES, is_covering, is_unpadded
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.ir.editing import drop_dead
from spa_compiler.ir.model import Model, find_element_type, make_constant
from spa_compiler.operators import build
from spa_compiler.operators.site import Site, Value

Array = NDArray[Any]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Redirected:
    """The edited copy of a model, how many channels are not read any more, and how many terms of sums were left out."""

    model: Model
    channels: int
    terms: int


def redirect_channels(
    graph: DependencyGraph, groups: Iterable[Group], terms: bool = True, facts: Facts | None = None
) -> Redirected | None:
    """A copy of the analysed model in which channels that hold nothing of their own, and zero terms, are not read.

    Channels of these groups only; None where nothing is to be edited. `facts`: those that hold exactly, if not given.
    """
    facts = find_multiples(graph) if facts is None else facts
    if not facts:
        return None
    edit = _Edit(graph, facts)
    for group in groups:
        if not group.stat and group.block is None:
            for d in group.dims:
                edit.redirect(d)
    if terms:
        edit.leave_out_zeros()
    if not edit.channels and not edit.terms:
        return None
    drop_dead(edit.model)
    return Redirected(edit.model, edit.channels, edit.terms)


@dataclass(frozen=True)
class Reader:
    """A contraction over a dim: its weight, the axis of the weight, and what is known of the operand that it meets."""

    site: Site
    weight: Value
    axis: int
    facts: Multiples


class _Edit:
    """The copy of the model, as far as it has been edited."""

    def __init__(self, graph: DependencyGraph, facts: Facts) -> None:
        self.graph, self.facts = graph, facts
        self.model = graph.model.copy()
        self.constants = self.model.constants()
        self.nodes = dict(zip(map(id, graph.sites), list(self.model.graph.nodes), strict=True))
        self.channels = self.terms = 0

    def redirect(self, d: Dim) -> None:
        """Redirect what can be redirected wherever it is read."""
        readers = self.find_readers(d)
        if not readers:
            return
        unread = [self.find_unread(r, d) for r in readers]
        in_bias = all(self.can_add_number(r) for r in readers)
        chosen = dict[int, int]()
        numbers = [
            j for j in range(d.size)
            if all(u[j] or r.facts.root[j] == ONE for r, u in zip(readers, unread, strict=True))
            and not all(u[j] for u in unread)
        ]  # fmt: skip
        kept = next((j for j in numbers if not in_bias and all(r.facts.factor[j] != 0 for r in readers)), None)
        for j in range(d.size):
            roots = {int(r.facts.root[j]) for r, u in zip(readers, unread, strict=True) if not u[j]}
            if j in numbers:
                zero = all(u[j] or r.facts.factor[j] == 0 for r, u in zip(readers, unread, strict=True))
                if zero or in_bias or (kept is not None and j != kept):
                    chosen[j] = ONE
            elif len(roots) == 1 and j not in roots and ONE not in roots:
                chosen[j] = roots.pop()
        chosen = {j: k for j, k in chosen.items() if k == ONE or k not in chosen}
        if chosen:
            for r, u in zip(readers, unread, strict=True):
                self.move(r, d, {j: k for j, k in chosen.items() if not u[j]}, in_bias, kept)
            self.channels += len(chosen)

    def find_readers(self, d: Dim) -> list[Reader]:
        """Every contraction over a dim; none where one of them is not of a weight of its own."""
        out = list[Reader]()
        for site, scope, name in self.graph.contractions.get(d, ()):
            held = [v for v, output, row in scope.tensors if not output and any(name in n for n in row)]
            found = self.make_reader(site, held, d)
            if found is None:
                return []
            out.append(found)
        return out

    def make_reader(self, site: Site, held: list[Value], d: Dim) -> Reader | None:
        """The reader that a contraction of these operands is, if its weight may be changed."""
        if len(held) != 2 or not site.traits.is_linear or site.path or held[0].constant == held[1].constant:
            return None
        weight, other = sorted(held, key=lambda v: not v.constant)
        tensor = self.constants.get(weight.name)
        at = [i for i, a in enumerate(weight.axes) if d in set(iterate_dims(a))]
        if tensor is None or find_element_type(tensor) not in EXACT_TYPES or len(at) != 1:
            return None
        if len(self.graph.readers.get(weight.name, ())) != 1 or len(tensor.outputs) != 1:
            return None
        if self.is_read_elsewhere(weight.name):
            return None
        return Reader(site, weight, at[0], self.facts.get((other.name, d)) or Multiples.of_nothing(d.size))

    def is_read_elsewhere(self, name: str) -> bool:
        """Is a constant an output of the model, or read by a body?"""
        return name in self.model.captured or any(t.name == name for t in self.model.graph.outputs)

    def find_positions(self, r: Reader, d: Dim, j: int) -> NDArray[np.int64]:
        """Where on its axis a weight holds a channel."""
        return np.flatnonzero(find_coordinates(r.weight.axes[r.axis], (d,))[d] == j)

    def read(self, name: str) -> Array:
        """The numbers of a constant, as edited so far."""
        return np.asarray(self.model.array(self.constants[name]))

    def find_unread(self, r: Reader, d: Dim) -> Bools:
        """Channels whose entries of the weight are all zero."""
        array = np.moveaxis(self.read(r.weight.name), r.axis, 0)
        filled = (array != 0).reshape(len(array), -1).any(axis=1)
        place = find_coordinates(r.weight.axes[r.axis], (d,))[d]
        hit = place >= 0
        found: Bools = np.bincount(place[hit], filled[hit].astype(float), d.size) == 0
        return found

    def can_add_number(self, r: Reader) -> bool:
        """Is there a bias, or room for one, to which a number times the weight can be added?"""
        slot = r.site.traits.bias
        if not slot or r.site.traits.kernel == "transposed" or not is_unpadded(r.site) or self.has_groups(r):
            return False
        bias = r.site.inputs[slot] if slot < len(r.site.inputs) else None
        if bias is None:
            return r.site.traits.is_convolution
        tensor = self.constants.get(bias.name)
        is_own = tensor is not None and len(tensor.outputs) == 1 and not self.is_read_elsewhere(bias.name)
        plain = all(float(r.site.attrs.get(n, 1.0)) == 1 for n in ("alpha", "beta"))
        return is_own and plain and len(bias.shape) == 1 and bias.shape[0] == r.weight.shape[self.find_rows(r)]

    def has_groups(self, r: Reader) -> bool:
        """Is it a convolution of groups of channels?"""
        return int(r.site.attrs.get("group", 1)) != 1

    def find_rows(self, r: Reader) -> int:
        """The axis of the weight that the output carries."""
        return 0 if r.site.traits.is_convolution else 1 - r.axis

    def move(self, r: Reader, d: Dim, chosen: dict[int, int], in_bias: bool, kept: int | None) -> None:
        """Give the entries of these channels to those of their roots, or to the bias, and make them zero."""
        array = self.read(r.weight.name).copy()
        lines = np.moveaxis(array, r.axis, 0)
        wide = lines.astype(np.float64)
        rows = self.find_rows(r) if in_bias else 0
        more = np.zeros(array.shape[rows])
        for j, root in chosen.items():
            at, factor = self.find_positions(r, d, j), float(r.facts.factor[j])
            if root != ONE:
                wide[self.find_positions(r, d, root)] += factor * wide[at]
            elif in_bias:
                brought = np.moveaxis(wide, 0, r.axis)
                taken = np.take(brought, at, axis=r.axis)
                more += factor * taken.sum(axis=tuple(i for i in range(array.ndim) if i != rows))
            elif factor:
                wide[self.find_positions(r, d, int(kept or 0))] += factor / float(r.facts.factor[kept]) * wide[at]
            wide[at] = 0
        lines[...] = wide
        self.write(r.weight.name, array)
        if more.any():
            self.add_to_bias(r, more)

    def add_to_bias(self, r: Reader, more: Array) -> None:
        """Add numbers to the bias of a node, which gets one where it has none."""
        slot, node = r.site.traits.bias, self.nodes[id(r.site)]
        dtype = self.read(r.weight.name).dtype
        if slot < len(node.inputs) and node.inputs[slot].name:
            name = node.inputs[slot].name
            self.write(name, (self.read(name).astype(np.float64) + more).astype(dtype))
            return
        made = self.model.new_constant(f"{r.weight.name}.bias", more.astype(dtype))
        node.inputs = [*node.inputs[:slot], *[gs.Variable.empty()] * (slot - len(node.inputs)), made]

    def write(self, name: str, array: Array) -> None:
        """Other numbers for a constant."""
        self.constants[name]._values = make_constant(name, array)._values

    def leave_out_zeros(self) -> None:
        """Take a sum's other operand where one is zero everywhere, and the other as large as the sum."""
        for site in self.graph.sites:
            if not site.traits.sums or site.path or len(site.inputs) != 2:
                continue
            for zero, k in self.find_zero_terms(site):
                other = site.inputs[k]
                y = site.first_output
                if other is None or y is None or zero is other or len(other.shape) != len(y.shape):
                    continue
                if all(other.size(i) == y.size(i) for i in range(len(y.shape))):
                    node = self.nodes[id(site)]
                    build.replace_node(node, build.identity(node.inputs[k]))
                    self.terms += 1
                    break

    def find_zero_terms(self, site: Site) -> Iterator[tuple[Value, int]]:
        """Operands that are zero everywhere, each with the place of the other one."""
        places = ((0, 1), (1, 0)) if site.traits.sums == "plus" else ((1, 0),)
        for k, other in places:
            v = site.inputs[k]
            if v is not None and not v.constant and self.is_zero(v):
                yield v, other

    def is_zero(self, v: Value) -> bool:
        """Are all channels of one of its dims zero everywhere?"""
        dims = {d for a in v.axes for d in iterate_dims(a)}
        known = [self.facts[v.name, d] for d in dims if (v.name, d) in self.facts and is_covering(v, d)]
        return any(bool((m.find_numbers() & (m.factor == 0)).all()) for m in known)


__all__ = ["Redirected", "redirect_channels"]
