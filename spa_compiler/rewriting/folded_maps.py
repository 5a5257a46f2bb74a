"""Linear maps with nothing between them are one: factors and expressions of constants go into the weights.

    found = fold_maps(graph)           # found.model, or None where there is nothing to fold

A product by constants, one for all or one a channel, goes into the weights before it (through Relu where none is below
0) or behind it; numbers that are computed of constants alone are written down where the file gets smaller; branches
that are linear maps of one value become one (`folded_branches`). Weights that something else reads, that are tied, or
that are stored as integers stay as they are; so do norms, those that are written as a product and a sum among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.analysis.channel_rows import EXACT_TYPES
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.canonicalize.constant_folding import evaluate_nodes
from spa_compiler.ir.editing import drop_dead, drop_repeats
from spa_compiler.ir.model import Model, find_element_type, make_constant
from spa_compiler.operators.facts import UNFOLDED
from spa_compiler.operators.site import Site
from spa_compiler.rewriting.folded_branches import fold_branches
from spa_compiler.rewriting.own_weights import Array, Edits, WeightEdit, find_axis, is_same_size


@dataclass(frozen=True)
class Folded:
    """The edited copy of a model, and how many factors, expressions and maps are not computed any more."""

    model: Model
    factors: int
    expressions: int
    branches: int


@dataclass(frozen=True)
class Factor:
    """Numbers by which a value is multiplied, along one axis of it; one number where `axis` is None."""

    numbers: Array
    axis: int | None

    def shape_for(self, rank: int, axis: int | None) -> Array:
        """The numbers so that they broadcast along `axis` of an array of this rank."""
        if self.axis is None or axis is None:
            return self.numbers.reshape(())
        return self.numbers.reshape([-1 if i == axis else 1 for i in range(rank)])


def fold_maps(graph: DependencyGraph) -> Folded | None:
    """A copy of the analysed model with what is linear folded; None where nothing is."""
    edit = _Edit(graph)
    edit.fold_expressions()
    edit.fold_factors()
    branches = fold_branches(edit)
    if not edit.factors and not edit.expressions and not branches:
        return None
    drop_dead(edit.model)
    return Folded(edit.model, edit.factors, edit.expressions, branches)


class _Edit(WeightEdit):
    """The copy of the model, as far as it has been edited."""

    def __init__(self, graph: DependencyGraph) -> None:
        super().__init__(graph)
        self.factors = self.expressions = 0

    # expressions of constants

    def fold_expressions(self) -> None:
        """Write down what is computed of constants by products and sums, where the file gets smaller."""
        known: set[str] = set(self.model.constants())
        inner = list[gs.Node]()
        for node in self.model.graph.nodes:
            if node.inputs and self.is_computable(node) and all(not t.name or t.name in known for t in node.inputs):
                known |= {t.name for t in node.outputs}
                inner.append(node)
        within = {id(n) for n in inner}
        ends = [n for n in inner if not all(id(r) in within for r in n.outputs[0].outputs)]
        cones = {n.outputs[0].name: cone for n in ends if (cone := self.find_cone(n))}
        if not cones:
            return
        values = evaluate_nodes(self.model, inner, list(cones))
        for name, cone in cones.items():
            self.write_down(cone, np.asarray(values[name]))

    def is_computable(self, node: gs.Node) -> bool:
        """Does a node make one value with a fraction, the same in every run?"""
        site, shapes = self.find_site(node), self.model.shapes
        if site is None or shapes is None or node.op in UNFOLDED or len(node.outputs) != 1:
            return False
        is_plain = not any(isinstance(a, gs.Graph) for a in node.attrs.values())
        return is_plain and shapes.kind.get(node.outputs[0].name, 0) in EXACT_TYPES

    def find_cone(self, end: gs.Node) -> list[gs.Node]:
        """All nodes that a value is computed by, itself first; none where another value needs one of them."""
        cone = [end]
        for node in cone:
            cone += drop_repeats([m for t in node.inputs for m in t.inputs if all(m is not n for n in cone)])
        within = {id(n) for n in cone}
        inner = [t for n in cone[1:] for t in n.outputs]
        sites = [s for n in cone if (s := self.find_site(n)) is not None]
        is_worth = any(s.traits.is_contraction or s.traits.arithmetic or s.traits.sums for s in sites)
        is_read = any(t.name in self.fixed or any(id(r) not in within for r in t.outputs) for t in inner)
        is_tied = any(t.name in self.tied for n in cone for t in n.inputs)
        return cone if is_worth and not is_read and not is_tied and end.outputs[0].name not in self.fixed else []

    def write_down(self, cone: list[gs.Node], values: Array) -> None:
        """Put the numbers in the place of the nodes, where they take fewer bytes than what only these read.

        They get the name of the one weight among these that has their shape, if there is one.
        """
        within, end = {id(n) for n in cone}, cone[0].outputs[0]
        held = {t.name: t for n in cone for t in n.inputs if isinstance(t, gs.Constant)}
        gone = [t for t in held.values() if t.name not in self.fixed and all(id(r) in within for r in t.outputs)]
        arrays = [np.asarray(self.model.array(t)) for t in gone]
        if values.nbytes >= sum(a.nbytes for a in arrays) or not np.isfinite(values.astype(np.float64)).all():
            return
        same = [t for t, a in zip(gone, arrays, strict=True) if a.shape == values.shape and a.dtype == values.dtype]
        made = make_constant(same[0].name if len(same) == 1 else end.name, values)
        for reader in list(end.outputs):
            for i, t in enumerate(reader.inputs):
                if t is end:
                    reader.inputs[i] = made
        self.drop(*cone)
        self.expressions += 1

    # factors

    def fold_factors(self) -> None:
        """Put products by constants into the weights beside them."""
        behind: set[str] = set()  # values that a contraction lies before
        for node in list(self.model.graph.nodes):
            site = self.find_site(node)
            if site is not None and (site.traits.is_contraction or any(t.name in behind for t in node.inputs)):
                behind |= {t.name for t in node.outputs}
            found = self.find_factor(node)
            if found is None:
                continue
            x, factor = found
            y = node.outputs[0]
            if self.is_written_norm(y, factor):
                continue
            if (edits := self.round(self.scale_before(x, factor))) is not None:
                producer = x.inputs[0]
                self.drop(node)
                producer.outputs = [y if t is x else t for t in producer.outputs]
            elif x.name in behind and (edits := self.round(self.scale_behind(y, factor))) is not None:
                self.drop(node)
                for reader in drop_repeats(list(y.outputs)):
                    reader.inputs = [x if t is y else t for t in reader.inputs]
            else:
                continue
            self.write(edits)
            self.factors += 1

    def find_factor(self, node: gs.Node) -> tuple[gs.Tensor, Factor] | None:
        """A value that a node multiplies by constants, and these, where they differ along one axis at most."""
        site = self.find_site(node)
        if site is None or site.traits.arithmetic != "multiply" or len(node.inputs) != 2:
            return None
        held = [isinstance(t, gs.Constant) for t in node.inputs]
        if held[0] == held[1]:
            return None
        c, x = node.inputs[held.index(True)], node.inputs[held.index(False)]
        value, y = site.inputs[held.index(False)], site.first_output
        if find_element_type(c) not in EXACT_TYPES or value is None or y is None or not is_same_size(value, y):
            return None
        numbers = self.read(c)
        wide = [i for i, n in enumerate(numbers.shape) if n != 1]
        if len(wide) > 1 or numbers.ndim > len(y.shape) or not np.isfinite(numbers).all():
            return None
        return x, Factor(numbers.ravel(), len(y.shape) - numbers.ndim + wide[0] if wide else None)

    def is_written_norm(self, y: gs.Tensor, factor: Factor) -> bool:
        """Is a product by numbers of every channel, with constants added, a norm that was written out?

        What reads statistics and shares errors takes its scale: like BatchNormalization, it is not folded before.
        """
        site = self.find_site(y.outputs[0]) if len(y.outputs) == 1 else None
        if factor.axis is None or site is None or not site.traits.sums or (factor.numbers == 0).any():
            return False
        return any(isinstance(t, gs.Constant) for t in y.outputs[0].inputs)

    def scale_before(self, t: gs.Tensor, factor: Factor) -> Edits | None:
        """The numbers by which a value becomes so many times as large; None where they are not to be changed."""
        site = self.find_site(t.inputs[0]) if self.is_passed_on(t) else None
        if site is None:
            return None
        node = t.inputs[0]
        if site.traits.rectifies:
            return self.scale_before(node.inputs[0], factor) if (factor.numbers >= 0).all() else None
        if site.traits.sums and len(node.inputs) == 2:
            return self.scale_sum(node, site, factor)
        norm = site.traits.norm
        if site.traits.is_linear:
            return self.scale_weights(node, site, factor, (1, site.traits.bias))
        if norm is not None and norm.sum_output is None and len(node.outputs) == 1:
            return self.scale_weights(node, site, factor, (norm.gain, norm.gain + 1 if norm.centred else 0))
        return None

    def scale_sum(self, node: gs.Node, site: Site, factor: Factor) -> Edits | None:
        """A value with constants added to it: both are scaled."""
        held = [isinstance(t, gs.Constant) for t in node.inputs]
        if held[0] == held[1] or not self.is_own(node.inputs[held.index(True)]):
            return None
        c, value, y = node.inputs[held.index(True)], site.inputs[held.index(False)], site.first_output
        edits = self.scale_before(node.inputs[held.index(False)], factor)
        if edits is None or value is None or y is None or not is_same_size(value, y):
            return None
        numbers, rank = self.read(c), len(y.shape)
        if numbers.ndim > rank:
            return None
        whole = numbers.reshape([1] * (rank - numbers.ndim) + list(numbers.shape))
        scaled = whole * factor.shape_for(rank, factor.axis)
        keep = numbers.ndim if scaled.size == numbers.size else max(numbers.ndim, rank - (factor.axis or 0))
        return edits | {c.name: scaled.reshape(scaled.shape[rank - keep :])}

    def scale_weights(self, node: gs.Node, site: Site, factor: Factor, slots: tuple[int, int]) -> Edits | None:
        """The weight (or gain) and bias of a node, scaled along the axis that the output has from them."""
        weight, bias = slots
        out: Edits = {}
        for slot in (weight, *([bias] if 0 < bias < len(node.inputs) and node.inputs[bias].name else [])):
            t = node.inputs[slot] if slot < len(node.inputs) else None
            if t is None or not self.is_own(t):
                return None
            array = self.read(t)
            at = None if factor.axis is None else find_axis(site, site.first_output, factor.axis, site.inputs[slot])
            if factor.axis is not None and (at is None or array.shape[at] != factor.numbers.size):
                return None
            out[t.name] = array * factor.shape_for(array.ndim, at)
        return out

    def scale_behind(self, t: gs.Tensor, factor: Factor) -> Edits | None:
        """The weights of all that contracts a value with its factor in them; None where something else reads it."""
        if t.name in self.fixed or not t.outputs:
            return None
        out: Edits = {}
        for node in drop_repeats(list(t.outputs)):
            edits = self.scale_reader(node, t, factor)
            if edits is None:
                return None
            out |= edits
        return out

    def scale_reader(self, node: gs.Node, t: gs.Tensor, factor: Factor) -> Edits | None:
        site = self.find_site(node)
        if site is None or sum(x is t for x in node.inputs) != 1 or node.inputs[0] is not t:
            return None
        if site.traits.rectifies:
            return self.scale_behind(node.outputs[0], factor) if (factor.numbers >= 0).all() else None
        weight = node.inputs[1] if site.traits.is_linear else None
        if weight is None or not self.is_own(weight):
            return None
        array = self.read(weight)
        at = None if factor.axis is None else find_axis(site, site.inputs[0], factor.axis, site.inputs[1])
        if factor.axis is not None and (at is None or array.shape[at] != factor.numbers.size):
            return None
        return {weight.name: array * factor.shape_for(array.ndim, at)}


__all__ = ["Folded", "fold_maps"]
