"""Residual streams that only normalisations read: an orthogonal matrix may turn what all blocks write and read.

    found = find_streams(graph, graph.groups)        # [Stream(group, written=[...], norms=[Normed(...), ...])]

A norm over all channels gives turned channels where it gets turned ones: the length of a row stays, and so does its
mean where the matrix leaves the vector of ones alone. Its gain goes into the weights that read it. What is written is
the outputs of contractions, their biases, and constants that are added or stand beside (positions, a class token, a
table of embeddings). Nothing is known of any model: every node that touches the dim has to be one of these, a sum of
such values, a movement, a mean over other axes or a factor without the dim.
[SliceGPT, arXiv 2401.15024, which makes every norm an RMS norm; here a norm that is centred stays what it is]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from spa_compiler.algebra.expr import Dim, resolve
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.mixable_dims import Columns, find_columns, is_held, is_own, is_summed, list_touching
from spa_compiler.operators.site import Site, Value


@dataclass(frozen=True)
class Normed:
    """A norm of the stream: the value that it reads, its gain and bias, the weights that read what it gives."""

    value: str
    is_centred: bool
    gain: Columns
    bias: Columns | None
    readers: list[Columns]


@dataclass(frozen=True)
class Stream:
    """All constants that hold the channels of a group: those that are written into it, and the norms that read it."""

    group: Group
    written: list[Columns]
    norms: list[Normed]

    @property
    def is_centred(self) -> bool:
        """Do the norms subtract the mean? They all do, or none."""
        return self.norms[0].is_centred


@dataclass
class _Norm:
    value: str
    is_centred: bool
    gain: str
    bias: str
    readers: list[str] = field(default_factory=list)


@dataclass
class _Flow:
    """All that touches the dim, as far as it was followed; `of` says of a value which norm gave it, None for none."""

    of: dict[str, _Norm | None] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    norms: list[_Norm] = field(default_factory=list)


def find_streams(graph: DependencyGraph, groups: Sequence[Group]) -> list[Stream]:
    """Those of the groups that are such streams."""
    touching = list_touching(graph)
    found = (_find_stream(graph, g, touching.get(g.dims[0], [])) for g in groups if len(g.dims) == g.blocks == 1)
    return [s for s in found if s is not None]


def _find_stream(graph: DependencyGraph, group: Group, sites: list[Site]) -> Stream | None:
    d, flow = group.dims[0], _Flow()
    if not d.stat or d.unit or not all(is_own(graph, m.value) for m in group.members):
        return None
    tied = {*graph.model.copies, *graph.model.copies.values()}
    if any(m.value in tied and len(graph.values[m.value].shape) > 1 for m in group.members):
        return None  # a table that is also the head would be in the file twice
    if not all(_follow(graph, site, d, flow) for site in sites):
        return None
    norms = [[n.gain, *([n.bias] if n.bias else []), *n.readers] for n in flow.norms]
    names = [*flow.written, *(n for row in norms for n in row)]
    if not flow.written or not all(n.readers for n in flow.norms) or len({n.is_centred for n in flow.norms}) != 1:
        return None
    if sorted(names) != sorted(m.value for m in group.members):
        return None
    known = {n: found for n in names if (found := find_columns(graph, group, n)) is not None}
    if len(known) != len(names):
        return None
    return Stream(group, [known[n] for n in flow.written], [
        Normed(n.value, n.is_centred, known[n.gain], known[n.bias] if n.bias else None, [known[r] for r in n.readers])
        for n in flow.norms
    ])  # fmt: skip


def _follow(graph: DependencyGraph, site: Site, d: Dim, flow: _Flow) -> bool:
    """Put down what a node does to the stream; False where a turned stream would not come out turned."""
    holding = [v for v in site.inputs if v is not None and is_held(graph, v, d)]
    made = [v for v in site.outputs if v is not None and is_held(graph, v, d)]
    if not made and site.shape_reads is not None:
        return True
    if site.path or site.traits.activation or not all(_is_whole(graph, v, d) for v in (*holding, *made)):
        return False
    values = [v for v in holding if not v.constant]
    constants = [v for v in holding if v.constant]
    if any(v.name not in flow.of for v in values):
        return False
    if site.traits.norm is not None:
        return _follow_norm(site, flow, values, made)
    if site.traits.is_linear:
        return _follow_contraction(graph, site, d, flow, holding, made)
    sources = {id(flow.of[v.name]): flow.of[v.name] for v in values}
    if len(sources) > 1 or not made or not _is_linear(site, holding, d):
        return False
    source = next(iter(sources.values()), None)
    if constants and source is not None:
        return False
    flow.written += [v.name for v in constants]
    flow.of |= {v.name: source for v in made}
    return True


def _is_linear(site: Site, holding: list[Value], d: Dim) -> bool:
    """Does a node that is neither norm nor contraction give turned channels where it gets turned ones?"""
    traits = site.traits
    if traits.sums:
        return len(holding) == sum(v is not None for v in site.inputs)
    if traits.zero == "multiply":
        is_first = len(holding) == 1 and (traits.arithmetic == "multiply" or holding[0] is site.inputs[0])
        return is_first and not holding[0].constant
    return traits.mean or traits.reorders or traits.moves or traits.identity


def _is_whole(graph: DependencyGraph, value: Value, d: Dim) -> bool:
    """Has one axis of a value all channels of the dim, in their order, and nothing else?"""
    return sum(a is d for a in map(resolve, value.axes)) == 1 == sum(d in graph.find_dims(a) for a in value.axes)


def _follow_norm(site: Site, flow: _Flow, values: list[Value], made: list[Value]) -> bool:
    """A norm over the channels alone, whose gain and bias are constants."""
    norm = site.traits.norm
    if norm is None or norm.over != "axis" or norm.sum_output is not None or len(values) != 1 or len(made) != 1:
        return False
    x = values[0]
    gain, bias = (site.inputs[k] if k < len(site.inputs) else None for k in (norm.gain, norm.gain + 1))
    axis = int(site.attrs.get("axis", site.traits.defaults.get("axis", -1))) % len(x.shape)
    if axis != len(x.shape) - 1 or gain is None or not gain.constant or len(gain.shape) != 1:
        return False
    if (
        (bias is not None and not (norm.centred and bias.constant))
        or flow.of[x.name] is not None
        or x is not site.inputs[0]
    ):
        return False
    flow.norms.append(_Norm(x.name, norm.centred, gain.name, bias.name if bias is not None else ""))
    flow.of[made[0].name] = flow.norms[-1]
    return True


def _follow_contraction(
    graph: DependencyGraph, site: Site, d: Dim, flow: _Flow, holding: list[Value], made: list[Value]
) -> bool:
    slot = site.traits.bias
    bias = site.inputs[slot] if 0 < slot < len(site.inputs) else None
    weights = [v for v in holding if v.constant and v is not bias]
    values = [v for v in holding if not v.constant]
    summed = is_summed(graph, site, d)
    if len(weights) == 1 and not values and not summed and float(site.attrs.get("alpha", 1.0)) == 1:
        if bias is not None and (bias not in holding or not bias.constant or float(site.attrs.get("beta", 1.0)) != 1):
            return False
        flow.written += [weights[0].name, *([bias.name] if bias is not None else [])]
        flow.of |= {v.name: None for v in made}
        return True
    if len(weights) == 1 and len(values) == 1 and summed and not made:
        norm = flow.of[values[0].name]
        if norm is not None:
            norm.readers.append(weights[0].name)
        return norm is not None
    if len(values) == 1 and not weights and not summed:
        flow.of |= {v.name: flow.of[values[0].name] for v in made}
        return True
    return False


__all__ = ["Normed", "Stream", "find_streams"]
