"""The dependency graph: which axes the rules couple, which of them may be pruned, and why the others may not.

    graph = analyze(model)
    for group in graph.groups: print(group.label, group.size, [m.value for m in group.members])
    print(graph.explain("conv1.weight:0", "fc.weight:1"))

The algebra (`algebra.unify`) refines axes; networkx holds every equation as an edge between two axes, labelled with the
node that stated it, and finds the paths that explain a coupling. Neither repeats the other.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from spa_compiler.algebra.expr import Dim, Expr, Reason, count_positions, freeze, is_trivial, iterate_dims
from spa_compiler.algebra.masks import find_covering_dims, resize_axis
from spa_compiler.algebra.unify import UndecidedError, allow_choices, naming
from spa_compiler.analysis.blocks import find_blocks
from spa_compiler.analysis.group_names import name_groups
from spa_compiler.analysis.groups import Group, Member
from spa_compiler.analysis.scope_names import read_module
from spa_compiler.analysis.written_sizes import SizeWriter, find_fixed_dims, freeze_unwritable
from spa_compiler.errors import Conflict, UsageError, suggest_names
from spa_compiler.execution.gc_pause import pause_collector
from spa_compiler.ir.control_flow import Chain, find_chains, is_control, is_marker
from spa_compiler.ir.initializers import REPLACEABLE
from spa_compiler.ir.model import Model, describe_node, find_element_type
from spa_compiler.ir.subgraphs import WEIGHT_TYPES, find_outer_values
from spa_compiler.operators import tables
from spa_compiler.operators.shape_uses import find_fed_values, find_shape_reads, trace_sizes
from spa_compiler.operators.site import Scope, Site, Value, describe_place

Axis = tuple[str, int]
TensorProto = onnx.TensorProto


@dataclass(eq=False)
class DependencyGraph:
    """The result of the analysis. `values` and `sites` are in the model's own order."""

    model: Model
    values: dict[str, Value]
    sites: list[Site]
    weights: list[str]  # constants of rank 1 or more that count as parameters
    size_writer: SizeWriter
    blocks: dict[Dim, Dim] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    _dims: dict[int, frozenset[Dim]] = field(default_factory=dict, repr=False)

    def group(self, name: str) -> Group:
        """The group with this label, or else with this name. Raises UsageError with the nearest of them."""
        if (found := self.find_group(name)) is not None:
            return found
        near = suggest_names(name, [n for g in self.groups for n in (g.name, g.label)])
        raise UsageError(f"no group is called '{name}'{near}; `spa inspect` lists them")

    def find_group(self, name: str) -> Group | None:
        """The group with this label, or else with this name; None without."""
        return self.by_label.get(name) or self.by_name.get(name)

    def count_channels(self, group: Group) -> int:
        """Channels that all units of a group are, on the axis of a constant that has most of them."""
        axes = [self.values[m.value].axes[m.axis] for m in group.members]
        return max(count_positions(a, group.dims) for a in axes)

    @functools.cached_property
    def by_label(self) -> dict[str, Group]:
        """Groups by their labels."""
        return {g.label: g for g in reversed(self.groups)}

    @functools.cached_property
    def by_name(self) -> dict[str, Group]:
        """Groups by their names."""
        return {g.name: g for g in self.groups}

    @functools.cached_property
    def readers(self) -> dict[str, list[Site]]:
        """Sites that read a value."""
        out: dict[str, list[Site]] = {}
        for site in self.sites:
            for v in {id(v): v for v in site.inputs if v is not None}.values():
                out.setdefault(v.name, []).append(site)
        return out

    @functools.cached_property
    def makers(self) -> dict[str, Site]:
        """The site that gives a value."""
        return {v.name: site for site in self.sites for v in site.outputs if v is not None}

    @functools.cached_property
    def constants(self) -> dict[str, gs.Constant]:
        """Initializers of the main graph by name, listed once: the model of an analysis is not edited."""
        return self.model.constants()

    @functools.cached_property
    def contractions(self) -> dict[Dim, list[tuple[Site, Scope, str]]]:
        """Where each dim is summed over: the node, what it said, and the name that the dim lies on."""
        out: dict[Dim, list[tuple[Site, Scope, str]]] = {}
        for site in self.sites:
            for scope in site.scopes:
                for name in sorted(scope.find_contracted()):
                    for d in self.find_dims(scope.env[name]) if name in scope.env else ():
                        out.setdefault(d, []).append((site, scope, name))
        return out

    def resize_axes(self, value: Value, shape: Sequence[int], which: Collection[int]) -> list[Expr]:
        """The axes of a value where it has this shape, those in `which` at that length.

        Raises Conflict for a length that does not tell which digits have grown.
        """
        out = list(value.axes)
        for i in which:
            found = resize_axis(value.axes[i], shape[i], self.size_writer.fixed)
            if found is None:
                raise Conflict(
                    f"which channels the {shape[i]} positions on axis {i} of '{value.name}' carry is not known"
                )
            out[i] = found
        return out

    def find_role(self, value: Value, dim: Dim) -> str:
        """The role of a constant for a dim, followed through operators that work on constants only."""
        roles = {r for site in self.readers.get(value.name, []) for r in self._find_roles(site, value, dim)}
        return next((r for r in ("in", "scale", "out") if r in roles), "out")

    def is_contracted(self, value: Value, dim: Dim) -> bool:
        """Does a node sum over a dim of this constant, with nothing computed in between?"""
        return any("in" in self._find_direct_roles(site, value, dim) for site in self.readers.get(value.name, []))

    def _find_roles(self, site: Site, value: Value, dim: Dim) -> Iterator[str]:
        made = [v for v in site.outputs if v is not None and any(dim in self.find_dims(a) for a in v.axes)]
        if _has_only_constants(site) and made:
            yield from (self.find_role(v, dim) for v in made)
        else:
            yield from self._find_direct_roles(site, value, dim)

    def find_dims(self, e: Expr) -> frozenset[Dim]:
        """The dims of an axis of a value, or of a name in a scope, of this graph; found once for each."""
        found = self._dims.get(id(e))
        if found is None:
            found = self._dims[id(e)] = frozenset(iterate_dims(e))
        return found

    def _find_direct_roles(self, site: Site, value: Value, dim: Dim) -> Iterator[str]:
        """Roles of a dim of `value` in this node alone."""
        for scope in site.scopes:
            named = [n for v, _, row in scope.tensors if v is value for names in row for n in names]
            for n in (n for n in dict.fromkeys(named) if n in scope.env and dim in self.find_dims(scope.env[n])):
                if named.count(n) > 1:  # a square weight (recurrence): one of its axes is contracted
                    yield "in"
                sides = [(v, out) for v, out, row in scope.tensors if any(n in names for names in row)]
                if not any(out for _, out in sides):
                    yield "in"
                else:
                    yield "scale" if any(not out and not v.constant for v, out in sides) else "out"

    @functools.cached_property
    def network(self) -> nx.Graph[Axis]:
        """Nodes are axes (value, index), edges are equations and carry the site that stated them."""
        net: nx.Graph[Axis] = nx.Graph()
        for site in self.sites:
            first: dict[Dim, Axis] = {}
            for v in (*site.inputs, *site.outputs):
                for i, a in enumerate(v.axes if v is not None else ()):
                    for d in set(iterate_dims(a)):
                        if v is None or is_trivial(d):
                            continue
                        start = first.setdefault(d, (v.name, i))
                        if start != (v.name, i):
                            net.add_edge(start, (v.name, i), site=site)
        return net

    def explain(self, a: Axis, b: Axis) -> list[tuple[Axis, str, Axis]]:
        """The shortest chain of equations that couples two axes: (axis, node, axis) per step.

        Raises UsageError when nothing couples them.
        """
        for axis in (a, b):
            self.axis(axis)
        try:
            path = nx.shortest_path(self.network, a, b)
        except (nx.NetworkXNoPath, nx.NodeNotFound) as e:
            raise UsageError(f"nothing couples {a[0]}:{a[1]} with {b[0]}:{b[1]}") from e
        steps = itertools.pairwise(path)
        return [(x, describe_place(self.network.edges[x, y]["site"]), y) for x, y in steps]

    def find_chain(
        self, starts: Collection[Axis], ends: Collection[Axis], dims: Collection[Dim] | None = None
    ) -> list[tuple[Axis, str, Axis]] | None:
        """The shortest chain as of `explain` along channels that lie on both sides (among `dims`); None without any."""
        sides = [{d for a in side for d in iterate_dims(self.axis(a)) if not is_trivial(d)} for side in (starts, ends)]
        shared = sides[0] & sides[1] & (sides[0] if dims is None else set(dims))
        net: nx.Graph[Axis] = nx.Graph()
        for site in self.sites if shared else ():
            values = {v.name: v for v in (*site.inputs, *site.outputs) if v is not None}.values()
            held = [
                ((v.name, i), found)
                for v in values
                for i, a in enumerate(v.axes)
                if (found := shared & self.find_dims(a))
            ]
            for (x, dims_x), (y, dims_y) in itertools.combinations(held, 2):
                if dims_x & dims_y:
                    net.add_edge(x, y, place=describe_place(site))
        first, last = ("", -1), ("", -2)  # no axes of any value
        for end, side in ((first, starts), (last, ends)):
            net.add_edges_from((end, a) for a in side if shared & self.find_dims(self.axis(a)))
        if not shared or not nx.has_path(net, first, last):
            return None
        path = nx.shortest_path(net, first, last)[1:-1]
        return [(x, str(net.edges[x, y]["place"]), y) for x, y in itertools.pairwise(path)]

    def axis(self, axis: Axis) -> Expr:
        """The expression of an axis. Raises UsageError for a name or an index that does not exist."""
        value = self.values.get(axis[0])
        if value is None:
            raise UsageError(f"no value is called '{axis[0]}'; `spa inspect` lists the members of every group")
        if not 0 <= axis[1] < len(value.axes):
            raise UsageError(f"'{axis[0]}' has {len(value.axes)} axes, there is no axis {axis[1]}")
        return value.axes[axis[1]]

    def find_reasons(self, axis: Axis) -> list[Reason]:
        """Why the frozen dims of an axis may not change, earliest first."""
        found = {d.frozen for d in iterate_dims(self.axis(axis)) if d.frozen}
        return sorted(found)

    def count_parameters(self, name: str) -> int:
        """Elements of a constant."""
        return int(np.prod(self.values[name].shape, dtype=np.int64))

    def find_users(self, name: str) -> list[Site]:
        """Nodes that read a constant and work on activations, through nodes that work on constants only."""
        out: dict[int, Site] = {}
        for site in self.readers.get(name, ()):
            inner = [v.name for v in site.outputs if v is not None] if _has_only_constants(site) else []
            found = [s for n in inner for s in self.find_users(n)] if inner else [site]
            out |= {id(s): s for s in found}
        return list(out.values())

    def list_frozen_weights(self) -> list[tuple[str, str]]:
        """Constants that no group can cut, each with the reason."""
        live = {m.value for g in self.groups for m in g.members}
        return [(n, self._find_reason(self.values[n])) for n in self.weights if n not in live]

    def frozen_parameters(self) -> dict[str, int]:
        """Float parameters that no group can cut, by reason, largest first."""
        out: dict[str, int] = {}
        for name, reason in self.list_frozen_weights():
            out[reason] = out.get(reason, 0) + self.count_parameters(name)
        inside = "inside the body of an operator that is not opened"
        for reason, tensors in ((inside, self.model.inner_weights()), (REPLACEABLE, self.model.default_weights())):
            if elements := sum(int(np.prod(t.dims, dtype=np.int64)) for t in tensors):
                out[reason] = out.get(reason, 0) + elements
        return dict(sorted(out.items(), key=lambda item: -item[1]))

    def _find_reason(self, value: Value) -> str:
        """The reason of the largest frozen dim; a constant without one belongs to nothing that could be cut.

        Units that are frozen for the same reason count together: they are the channels of what was one dim.
        """
        sizes: dict[str, int] = {}
        for d in (d for a in value.axes for d in iterate_dims(a) if d.frozen and not is_trivial(d)):
            text = d.frozen.text if d.frozen else ""
            before = sizes.get(text, 0)
            sizes[text] = before + 1 if d.unit else max(before, d.size)
        nothing = "a single number, or read by nothing that has channels"
        return max(sizes, key=lambda text: sizes[text]) if sizes else nothing


def _has_only_constants(site: Site) -> bool:
    """Is everything that this node makes a constant?"""
    return all(v is None or v.constant for v in site.outputs)


@pause_collector()
def analyze(model: Model, order: Sequence[int] | None = None) -> DependencyGraph:
    """Apply every rule to a normalised model. Never raises for what a model contains: it freezes, with a reason.

    `order` is the order in which nodes are visited (theirs); the groups do not depend on it.
    """
    assert model.shapes is not None, "analyze needs a normalised model"
    values = _make_values(model)
    outputs = {t.name for t in model.graph.outputs}
    for name in [t.name for t in model.graph.inputs] + sorted(outputs):
        what = "graph output: its size is part of the model's signature"
        if name not in outputs:
            size = "graph input: its size is part of the model's signature"
            what = REPLACEABLE if name in model.defaults else size
        for a in values[name].axes if name in values else ():
            freeze(a, Reason.new(what, name))
    nodes = model.graph.nodes
    sites = [_make_site(model, n, values, chain) for n, chain in zip(nodes, find_chains(nodes), strict=True)]
    _apply_all(model, sites, values, list(order) if order is not None else list(range(len(sites))))
    _freeze_bodies(model, values)
    writer = SizeWriter(values, trace_sizes(model, values), find_fixed_dims(values.values()), find_fed_values(model))
    freeze_unwritable(sites, writer)
    _freeze_common_units(values)
    weights = [n for n, t in model.constants().items() if find_element_type(t) in WEIGHT_TYPES and len(t.shape) > 0]
    graph = DependencyGraph(model, values, sites, weights, writer, find_blocks(values, sites))
    graph.groups = list(_find_groups(graph))
    name_groups(graph.groups, sites, weights)
    return graph


def _make_values(model: Model) -> dict[str, Value]:
    assert model.shapes is not None
    constants = set(model.constants())
    known = model.shapes
    out = {
        n: Value(n, s, known.dynamic[n], n in constants, sizes=known.axes.get(n, ())) for n, s in known.shape.items()
    }
    for node in model.graph.nodes:  # what depends on constants only is as good as one
        if is_marker(node) or is_control(node):  # states start as constants, and change
            continue
        if node.inputs and all(not t.name or (t.name in out and out[t.name].constant) for t in node.inputs):
            for t in node.outputs:
                if t.name in out:
                    out[t.name].constant = True
    return out


def _freeze_bodies(model: Model, values: dict[str, Value]) -> None:
    """Freeze what graphs inside nodes capture and hold where they are not opened."""
    for node in model.origin.values():
        for name, tensor in find_outer_values(node):
            if tensor is not None or model.captured.get(name) is not None:
                tensor = tensor or model.captured[name]
                values.setdefault(name, Value(name, tuple(tensor.dims if tensor else ()), constant=True))
            for a in values[name].axes if name in values else ():
                freeze(a, Reason.new(f"read inside the body of {node.op_type}", name))


def _make_site(model: Model, node: gs.Node, values: dict[str, Value], chain: Chain = ()) -> Site:
    domain = "" if node.domain in (None, "", "ai.onnx") else node.domain
    consts = {}
    for i, t in enumerate(node.inputs):
        if (
            isinstance(t, gs.Constant)
            and math.prod(t.shape) <= 1 << 16
            and find_element_type(t) in (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)
        ):
            consts[i] = model.array(t)
    inputs = [values.get(t.name) if t.name else None for t in node.inputs]
    outputs = [values.get(t.name) if t.name else None for t in node.outputs]
    while outputs and outputs[-1] is None:
        outputs.pop()
    traits = tables.find_rule(domain, node.op) or tables.NO_ROW
    attrs = {**traits.defaults, **node.attrs}
    why = model.shapes.why if model.shapes is not None else {}
    entries = model.shapes.entries if model.shapes is not None else {}
    known = {i: entries[t.name] for i, t in enumerate(node.inputs) if t.name in entries}
    for t in (t for t in (*node.inputs, *node.outputs) if t.name in why):
        attrs.setdefault("why", why[t.name])
    path = chain[-1] if chain else ""
    name = describe_node(node)
    if chain and not is_marker(node) and not name.startswith(f"{path}/"):
        name = f"{path}/{name}"
    opset = model.opset.get(domain, 1)
    site = Site(node.op, name, opset, inputs, outputs, attrs, consts, path=path, known=known, traits=traits)
    if node.outputs and (origin := model.origin.get(node.outputs[0].name)) is not None:
        site.module = read_module(origin)
    if len(outputs) > 1:
        held = {t.name for t in model.graph.outputs} | set(model.captured)
        site.read = frozenset(k for k, t in enumerate(node.outputs) if t.name and (t.outputs or t.name in held))
    if node.op == "Shape":
        length = outputs[0].shape[0] if outputs and outputs[0] is not None else 0
        site.shape_reads = find_shape_reads(
            model, node, {t.name for t in model.graph.outputs} | set(model.captured), length
        )
    return site


def _apply_all(model: Model, sites: list[Site], values: dict[str, Value], todo: list[int]) -> None:
    """Run all rules; those that have to choose between free digits wait until nothing else tells."""
    nodes = list(model.graph.nodes)
    decide = False
    while todo:
        left = [i for i in todo if not _apply(sites[i], nodes[i], values, decide and i == todo[0])]
        decide = len(left) == len(todo)
        todo = sorted(left)


def _apply(site: Site, node: gs.Node, values: dict[str, Value], decide: bool) -> bool:
    """Run the rule of a node; whatever goes wrong freezes what the node touches. False: it has to wait."""
    bodies = any(isinstance(a, gs.Graph) for a in node.attrs.values())
    found = None if bodies else tables.find_rule(node.domain or "", node.op)
    unknown = [t.name for t in [*node.outputs, *node.inputs] if t.name and t.name not in values]
    try:
        if bodies:
            raise Conflict(f"the bodies of {node.op} are not analysed")
        if found is None:
            raise Conflict(f"there is no rule for {node.domain or 'ai.onnx'}::{node.op}")
        if unknown and not (is_marker(node) or is_control(node)):  # these say it for each of their values
            raise Conflict(site.attrs.get("why") or f"the shape of '{unknown[0]}' is not known")
        with allow_choices(decide), naming(f"{site.op} '{site.name}'"):
            found(site)
    except UndecidedError:
        site.clear()
        return False
    except Exception as e:  # nothing that loads may crash the analysis
        if not isinstance(e, Conflict):
            site.failure = f"the rule of {node.op} does not fit ({type(e).__name__}: {e})"
        site.freeze_all([*site.inputs, *site.outputs], (site.failure or str(e))[:160])
        site.clear()
    return True


def _freeze_common_units(values: dict[str, Value]) -> None:
    """A unit that every position of an axis carries can only vanish with the whole axis: it stays."""
    for v in values.values():
        for a in v.axes:
            for d in find_covering_dims(a):
                if d.unit and not d.frozen:
                    tied = (
                        "all its channels are regrouped together: no single channel can be removed"
                        if a.size > 1
                        else "its axis has one channel, as in a loop over single channels: it has to stay"
                    )
                    freeze(d, Reason.new(tied, v.name))


def _find_groups(graph: DependencyGraph) -> Iterator[Group]:
    """Dims that may lose channels and are on a weight; units with the same members count as one group."""
    members: dict[Dim, list[Axis]] = {}
    for name in graph.weights:
        for i, a in enumerate(graph.values[name].axes):
            for d in dict.fromkeys(iterate_dims(a)):
                if not d.frozen and (d.size > 1 or d.unit):
                    members.setdefault(d, []).append((name, i))
    merged: dict[Any, list[Dim]] = {}
    for d, where in members.items():
        merged.setdefault(tuple(where) if d.unit else d, []).append(d)
    taken: dict[str, int] = {}
    for dims in merged.values():
        cut = [Member(n, i, graph.find_role(graph.values[n], dims[0])) for n, i in members[dims[0]]]
        head = next((m for m in cut if m.role == "out"), cut[0])
        stem = f"{head.value}:{head.axis}"
        taken[stem] = taken.get(stem, 0) + 1
        name = stem if taken[stem] == 1 else f"{stem}#{taken[stem]}"
        yield Group(name, tuple(dims), cut, graph.blocks.get(dims[0]))


__all__ = ["Axis", "DependencyGraph", "Group", "Member", "analyze"]
