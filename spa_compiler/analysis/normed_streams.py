"""Residual streams that only normalisations read: an orthogonal matrix may turn what all blocks write and read.

    found = find_streams(graph, graph.groups)        # [Stream(group, written=[...], norms=[Normed(...), ...])]

A norm over all channels gives turned channels where it gets turned ones: the length of a row stays, and so does its
mean where the matrix leaves the vector of ones alone. Its gain goes into the weights that read it. What is written is
the outputs of contractions, their biases, and constants that are added or stand beside (positions, a class token, a
table of embeddings). Nothing is known of any model: every node that touches the dim has to be one of these, a sum of
such values, a movement, a mean over other axes or a factor without the dim. A norm that is written out in single
operators is of these, a mean of squares and a gain.
[SliceGPT, arXiv 2401.15024, which makes every norm an RMS norm; here a norm that is centred stays what it is]
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spa_compiler.algebra.expr import Dim, resolve
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.mixable_dims import Columns, find_columns, is_held, is_own, is_summed, list_touching
from spa_compiler.operators.site import Site, Value


@dataclass(frozen=True)
class Normed:
    """A norm of the stream: the value that it reads, its gain and bias, the weights that read what it gives.

    `is_centred`: does it subtract the mean? None where `value` is normed before, if at all, and this is its gain, or
    only what reads it.
    """

    value: str
    is_centred: bool | None
    gain: Columns | None
    bias: Columns | None
    readers: list[Columns]


@dataclass(frozen=True)
class Stream:
    """All constants that hold the channels of a group: those that are written into it, and the norms that read it.

    `keeps_mean`: the mean over all channels has to stay what it is, or a norm subtracts it. `is_centred`: nothing but
    norms that subtract it sees the mean, so that it may be taken off what is written.
    """

    group: Group
    written: list[Columns]
    norms: list[Normed]
    keeps_mean: bool
    is_centred: bool


@dataclass
class _Norm:
    value: str
    is_centred: bool | None
    gain: str = ""
    bias: str = ""
    readers: list[str] = field(default_factory=list)


@dataclass
class _Flow:
    """All that touches the dim, as far as it was followed; `of` says of a value which norm gave it, None for none."""

    of: dict[str, _Norm | None] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    norms: list[_Norm] = field(default_factory=list)
    squares: set[str] = field(default_factory=set)
    keeps_mean: bool = False


class _Lost(Exception):
    """A node of which a turned stream would not come out turned."""


def find_streams(graph: DependencyGraph, groups: Sequence[Group]) -> list[Stream]:
    """Those of the groups that are such streams."""
    touching = list_touching(graph)
    found = []
    for group in groups:
        if len(group.dims) == group.blocks == 1:
            with contextlib.suppress(_Lost):
                found.append(_find_stream(graph, group, touching.get(group.dims[0], [])))
    return found


def _find_stream(graph: DependencyGraph, group: Group, sites: list[Site]) -> Stream:
    """The stream of a group. Raises _Lost."""
    d, flow = group.dims[0], _Flow()
    tied = {*graph.model.copies, *graph.model.copies.values()}
    if not d.stat or d.unit or not all(is_own(graph, m.value) for m in group.members):
        raise _Lost
    if any(m.value in tied and len(graph.values[m.value].shape) > 1 for m in group.members):
        raise _Lost  # a table that is also the head would be in the file twice
    for site in sites:
        _follow_node(graph, site, d, flow)
    norms = [[n for n in (v.gain, v.bias) if n] for v in flow.norms]
    names = [*flow.written, *(n for row in norms for n in row), *(n for v in flow.norms for n in v.readers)]
    if not flow.written or not flow.norms or not all(n.readers for n in flow.norms):
        raise _Lost
    if sorted(names) != sorted(m.value for m in group.members):
        raise _Lost
    known = {n: found for n in names if (found := find_columns(graph, group, n)) is not None}
    if len(known) != len(names) or any(len(known[n].positions[0]) > 1 for row in norms for n in row):
        raise _Lost
    return Stream(group, [known[n] for n in flow.written], [
        Normed(n.value, n.is_centred, known.get(n.gain), known.get(n.bias), [known[r] for r in n.readers])
        for n in flow.norms
    ], flow.keeps_mean or any(n.is_centred for n in flow.norms),
        not flow.keeps_mean and not flow.squares and all(n.is_centred for n in flow.norms))  # fmt: skip


def _follow_node(graph: DependencyGraph, site: Site, d: Dim, flow: _Flow) -> None:
    """Put down what a node does to the stream."""
    holding = [v for v in site.inputs if v is not None and is_held(graph, v, d)]
    made = [v for v in site.outputs if v is not None and is_held(graph, v, d)]
    if not made and site.shape_reads is not None:
        return
    if site.path or site.traits.activation or not all(_is_whole(graph, v, d) for v in (*holding, *made)):
        raise _Lost
    values = [v for v in holding if not v.constant]
    if any(v.name in flow.squares for v in values):
        if made or not site.traits.mean:
            raise _Lost
        return
    sources = {id(n): n for n in (flow.of[v.name] for v in values if v.name in flow.of)}
    if any(v.name not in flow.of for v in values) or len(sources) > 1:
        raise _Lost
    source = next(iter(sources.values()), None)
    if site.traits.norm is not None:
        _follow_norm(site, flow, values, made, source)
    elif site.traits.is_linear:
        _follow_contraction(graph, site, d, flow, holding, made, source)
    else:
        _follow_numbers(graph, site, flow, holding, made, source)


def _follow_norm(site: Site, flow: _Flow, values: list[Value], made: list[Value], source: _Norm | None) -> None:
    """A norm over the channels alone, whose gain and bias are constants."""
    norm = site.traits.norm
    if norm is None or norm.over != "axis" or norm.sum_output is not None or len(values) != 1 or len(made) != 1:
        raise _Lost
    x = values[0]
    gain, bias = (site.inputs[k] if k < len(site.inputs) else None for k in (norm.gain, norm.gain + 1))
    axis = int(site.attrs.get("axis", site.traits.defaults.get("axis", -1))) % len(x.shape)
    if axis != len(x.shape) - 1 or gain is None or not gain.constant or source is not None or x is not site.inputs[0]:
        raise _Lost
    if bias is not None and not (norm.centred and bias.constant):
        raise _Lost
    flow.norms.append(_Norm(x.name, norm.centred, gain.name, bias.name if bias is not None else ""))
    flow.of[made[0].name] = flow.norms[-1]


def _follow_contraction(
    graph: DependencyGraph, site: Site, d: Dim, flow: _Flow, holding: list[Value], made: list[Value],
    source: _Norm | None,
) -> None:  # fmt: skip
    """A product that writes the stream, one that reads what a norm gives, or one over other axes (of attention)."""
    slot = site.traits.bias
    bias = site.inputs[slot] if 0 < slot < len(site.inputs) else None
    weights = [v for v in holding if v.constant and v is not bias]
    values = [v for v in holding if not v.constant]
    summed = is_summed(graph, site, d)
    if len(weights) == 1 and not values and not summed and float(site.attrs.get("alpha", 1.0)) == 1:
        if bias is not None and (bias not in holding or not bias.constant or float(site.attrs.get("beta", 1.0)) != 1):
            raise _Lost
        flow.written += [weights[0].name, *([bias.name] if bias is not None else [])]
        flow.of |= {v.name: None for v in made}
    elif len(weights) == len(values) == 1 and summed and not made:
        if source is None:
            source = _Norm(values[0].name, None)
            flow.norms.append(source)
        source.readers.append(weights[0].name)
    elif len(values) == 1 and not weights and not summed:
        flow.of |= {v.name: source for v in made}
    else:
        raise _Lost


def _follow_numbers(
    graph: DependencyGraph, site: Site, flow: _Flow, holding: list[Value], made: list[Value], source: _Norm | None
) -> None:
    """Neither norm nor contraction: a mean, a square, a gain, a bias, a sum, a factor or a movement."""
    traits, names = site.traits, [v.name for v in holding if v.constant]
    if not made or _is_square(graph, site):
        if source is not None or names or not (made or traits.mean):
            raise _Lost
        flow.squares |= {v.name for v in made}
        flow.keeps_mean |= not made
        return
    if traits.arithmetic == "multiply" and len(holding) == 2 and len(names) == 1 and source is None:
        source = _Norm(next(v.name for v in holding if not v.constant), None, names[0])
        flow.norms.append(source)
    elif traits.sums == "plus" and len(holding) == 2 and len(names) == 1 and source is not None and not source.bias:
        source.bias = names[0]
    elif (source is not None and names) or not _is_linear(site, holding, source):
        raise _Lost
    else:
        flow.written += names
        flow.keeps_mean |= _is_shift(site, holding)
    flow.of |= {v.name: source for v in made}


def _is_square(graph: DependencyGraph, site: Site) -> bool:
    """Does a node give the squares of its first input?"""
    a, b = site.inputs if len(site.inputs) == 2 else (None, None)
    if a is None or b is None:
        return False
    if site.traits.power:
        power = graph.constants.get(b.name)
        return power is not None and bool((np.asarray(graph.model.array(power)) == 2).all())
    return site.traits.arithmetic == "multiply" and a is b


def _is_shift(site: Site, holding: list[Value]) -> bool:
    """Is one number added to all channels? It has to be the mean, or is added to the mean."""
    return bool(site.traits.sums) and len(holding) < sum(v is not None for v in site.inputs)


def _is_linear(site: Site, holding: list[Value], source: _Norm | None) -> bool:
    """Does a node give turned channels where it gets turned ones?"""
    traits = site.traits
    if traits.sums:
        return source is None or not _is_shift(site, holding)
    if traits.zero == "multiply" or traits.divides:
        is_first = len(holding) == 1 and (traits.arithmetic == "multiply" or holding[0] is site.inputs[0])
        return is_first and not holding[0].constant
    return traits.mean or traits.reorders or traits.moves or traits.identity


def _is_whole(graph: DependencyGraph, value: Value, d: Dim) -> bool:
    """Has one axis of a value all channels of the dim, in their order, and nothing else?"""
    return sum(a is d for a in map(resolve, value.axes)) == 1 == sum(d in graph.find_dims(a) for a in value.axes)


__all__ = ["Normed", "Stream", "find_streams"]
