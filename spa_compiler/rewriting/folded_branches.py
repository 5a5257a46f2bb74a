"""Branches that are linear maps of one value become one map: x W + (x A) B is x (W + A B), parallel kernels are one.

    fold_branches(edit)         # how many maps are not computed any more

Low-rank branches (LoRA, SoRA, DSEE, Compresso, adapters without a function in them) are folded where the weights, and
so the multiply-accumulates, get fewer; convolutions of one value that are added (RepVGG, the bypass of LAPP) where each
place that one reads is a place that the other one reads, too. A chain of products without branches stays as it is: the
channels between them are what pruning takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.ir.editing import drop_repeats
from spa_compiler.ir.model import make_constant
from spa_compiler.operators import build
from spa_compiler.operators.site import Site
from spa_compiler.rewriting.own_weights import Array, WeightEdit, find_axis, is_same_size

PLAIN_ATTRIBUTES = {"alpha", "beta", "transA", "transB"}
KERNEL_ATTRIBUTES = {"kernel_shape", "strides", "pads", "dilations", "group", "auto_pad"}


@dataclass(frozen=True)
class Window:
    """Where a convolution reads: strides, groups, and per axis the first place and the step between places."""

    strides: tuple[int, ...]
    groups: int
    begins: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True)
class LinearMap:
    """A value as a linear map of another one: (in, out), or a kernel where there is a window, and what is added.

    `node` is the contraction whose weight can hold the whole map, `nodes` are all that compute it.
    """

    x: gs.Tensor
    weight: Array
    bias: Array
    entries: int
    node: gs.Node
    nodes: tuple[gs.Node, ...]
    window: Window | None = None
    added: str = ""
    """The name of a constant that is added."""
    is_sum: bool = False
    """Are there branches in it?"""


Maps = dict[int, LinearMap]
"""A value as maps of others, by the identity of these."""


def fold_branches(edit: WeightEdit) -> int:
    """Fold every value that is a smaller map of another one; returns how many branches went."""
    gone = 0
    for node in reversed(list(edit.model.graph.nodes)):  # what reads others first
        site = edit.find_site(node) if node.outputs else None
        if site is None or not site.traits.sums:
            continue
        found = [m for m in trace(edit, node).values() if m.is_sum and m.entries > m.weight.size]
        best = max(found, key=lambda m: m.entries - m.weight.size, default=None)
        if best is not None and np.isfinite(best.weight).all():
            gone += put_in_place(edit, node.outputs[0], best)
    return gone


def trace(edit: WeightEdit, node: gs.Node) -> Maps:
    """The first output of a node as linear maps."""
    site = edit.find_site(node)
    if site is None or site.first_output is None or len(node.outputs) != 1:
        return {}
    if site.traits.sums and len(node.inputs) == 2:
        return trace_sum(edit, node, site)
    if not site.traits.is_linear:
        return {}
    own = read_matrix(edit, node, site) if site.traits.kernel == "matrix" else read_kernel(edit, node, site)
    if own is None:
        return {}
    before = trace_input(edit, own.x) if own.window is None else {}
    composed = {k: compose(m, own) for k, m in before.items() if m.window is None}
    return {id(own.x): own, **composed}


def trace_input(edit: WeightEdit, t: gs.Tensor) -> Maps:
    """A value that nothing else reads as linear maps."""
    return trace(edit, t.inputs[0]) if edit.is_passed_on(t) else {}


def trace_sum(edit: WeightEdit, node: gs.Node, site: Site) -> Maps:
    """A sum of two maps of one value, or of a map and constants."""
    a, b = node.inputs
    terms = [v for v, t in zip(site.inputs, node.inputs, strict=True) if not isinstance(t, gs.Constant)]
    if not all(v is not None and is_same_size(v, site.y) for v in terms):
        return {}
    sign = -1.0 if site.traits.sums == "minus" else 1.0
    if isinstance(a, gs.Constant) or isinstance(b, gs.Constant):
        c, x = (a, b) if isinstance(a, gs.Constant) else (b, a)
        if (sign < 0 and c is a) or not edit.is_own(c):
            return {}
        found = {k: add_constant(m, sign * edit.read(c), c.name, node) for k, m in trace_input(edit, x).items()}
        return {k: m for k, m in found.items() if m is not None}
    if a is b:
        return {}
    first, second = trace_input(edit, a), trace_input(edit, b)
    joined = {k: join(first[k], second[k], sign, node) for k in first.keys() & second.keys()}
    for bypass, m, signs in ((a, second, (sign, 1.0)), (b, first, (1.0, sign))):
        if id(bypass) in m:
            joined[id(bypass)] = add_bypass(m[id(bypass)], signs, node)
    return {k: m for k, m in joined.items() if m is not None}


def add_bypass(m: LinearMap, signs: tuple[float, float], node: gs.Node) -> LinearMap | None:
    """A map, and the value itself, each with a sign."""
    channels = m.weight.shape[0]
    if m.window is None:
        inside, one = m.weight.shape[0] == m.weight.shape[1], np.eye(channels)
    else:
        inner = m.weight.shape[1]
        inside = inner * m.window.groups == channels
        one = np.zeros((channels, inner, *[1] * len(m.window.steps)))
        one[np.arange(channels), np.arange(channels) % inner] = 1.0
    if not inside:
        return None
    window = m.window and replace(m.window, strides=(1,) * len(m.window.steps), begins=(0,) * len(m.window.steps))
    own = LinearMap(m.x, signs[1] * one, np.zeros(channels), channels, m.node, (), window)
    return join(replace(m, weight=signs[0] * m.weight, bias=signs[0] * m.bias), own, 1.0, node)


def add_constant(m: LinearMap, c: Array, name: str, node: gs.Node) -> LinearMap | None:
    """A map with a constant added that has one number, or one a channel."""
    channels, axis = (m.weight.shape[0], -len(m.window.steps) - 1) if m.window else (m.weight.shape[1], -1)
    is_along = c.ndim >= -axis and c.shape[axis] == channels
    if c.size != 1 and not (is_along and c.size == channels):
        return None
    return replace(m, bias=m.bias + c.ravel(), nodes=(*m.nodes, node), added=name if c.size > 1 else m.added)


def compose(m: LinearMap, then: LinearMap) -> LinearMap:
    """One matrix after the other."""
    keeps = m.weight.shape[1] == then.weight.shape[1]
    return replace(
        m, weight=m.weight @ then.weight, bias=m.bias @ then.weight + then.bias, entries=m.entries + then.entries,
        nodes=(*m.nodes, *then.nodes), added=then.added or m.added * keeps, is_sum=m.is_sum or then.is_sum,
    )  # fmt: skip


def join(a: LinearMap, b: LinearMap, sign: float, node: gs.Node) -> LinearMap | None:
    """The sum of two maps of one value."""
    if (a.window is None) != (b.window is None):
        return None
    if a.window is not None and a.weight[0, 0].size < b.weight[0, 0].size:
        wide, small = replace(b, weight=sign * b.weight), a.weight
    else:
        wide, small = a, sign * b.weight
    weight = wide.weight + small if a.window is None else add_kernels(wide, small, a if wide.nodes is b.nodes else b)
    if weight is None:
        return None
    base = next((m for m in (wide, a, b) if len(m.nodes) == 1 or m.added), wide)
    return LinearMap(
        a.x, weight, a.bias + sign * b.bias, a.entries + b.entries, wide.node if a.window else base.node,
        (*a.nodes, *b.nodes, node), wide.window, a.added or b.added, True,
    )  # fmt: skip


def add_kernels(wide: LinearMap, small: Array, other: LinearMap) -> Array | None:
    """A kernel with the entries of another one at the places that they read; None where it lacks one of them."""
    w, o = wide.window, other.window
    if w is None or o is None or (w.strides, w.groups) != (o.strides, o.groups) or wide.weight.ndim != small.ndim:
        return None
    if wide.weight.shape[:2] != small.shape[:2]:
        return None
    places = list[Array]()
    for i, size in enumerate(small.shape[2:]):
        offset = o.begins[i] + o.steps[i] * np.arange(size) - w.begins[i]
        if (offset % w.steps[i]).any() or offset.min() < 0 or offset.max() // w.steps[i] >= wide.weight.shape[2 + i]:
            return None
        places.append(offset // w.steps[i])
    out = wide.weight.copy()
    out[np.ix_(np.arange(out.shape[0]), np.arange(out.shape[1]), *places)] += small
    return out


def read_bias(edit: WeightEdit, node: gs.Node, site: Site, channels: int) -> tuple[Array, str] | None:
    """One number a channel that a node adds, and the constant's name; None where it may not be changed."""
    slot = site.traits.bias
    if not slot or slot >= len(node.inputs) or not node.inputs[slot].name:
        return np.zeros(channels), ""
    t = node.inputs[slot]
    if not edit.is_own(t) or edit.read(t).shape != (channels,):
        return None
    return edit.read(t) * float(node.attrs.get("beta", 1.0)), t.name


def read_matrix(edit: WeightEdit, node: gs.Node, site: Site) -> LinearMap | None:
    """A product with a matrix that may be changed."""
    t, y = node.inputs[1], site.first_output
    is_plain = node.attrs.keys() <= PLAIN_ATTRIBUTES and not node.attrs.get("transA", 0)
    if not is_plain or not edit.is_own(t) or y is None or isinstance(node.inputs[0], gs.Constant):
        return None
    array, at = edit.read(t), find_axis(site, y, len(y.shape) - 1, site.inputs[1])
    if array.ndim != 2 or at is None or 1 in array.shape:
        return None
    matrix = float(node.attrs.get("alpha", 1.0)) * (array if at == 1 else array.T)
    bias = read_bias(edit, node, site, matrix.shape[1])
    if bias is None:
        return None
    return LinearMap(node.inputs[0], matrix, bias[0], array.size, node, (node,), None, bias[1])


def read_kernel(edit: WeightEdit, node: gs.Node, site: Site) -> LinearMap | None:
    """A convolution whose kernel may be changed, and whose padding is written down."""
    t = node.inputs[1]
    auto = node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", b"NOTSET", "")
    is_plain = site.traits.kernel == "convolution" and auto and node.attrs.keys() <= KERNEL_ATTRIBUTES
    if not is_plain or not edit.is_own(t) or isinstance(node.inputs[0], gs.Constant):
        return None
    kernel = edit.read(t)
    bias, rank = read_bias(edit, node, site, kernel.shape[0]), kernel.ndim - 2
    if bias is None:
        return None
    begins = tuple(-int(p) for p in (node.attrs.get("pads") or [0] * 2 * rank)[:rank])
    steps, strides = (tuple(map(int, node.attrs.get(n) or [1] * rank)) for n in ("dilations", "strides"))
    window = Window(strides, int(node.attrs.get("group", 1)), begins, steps)
    return LinearMap(node.inputs[0], kernel, bias[0], kernel.size, node, (node,), window, bias[1])


def put_in_place(edit: WeightEdit, y: gs.Tensor, m: LinearMap) -> int:
    """Let one contraction compute a value; returns how many branches are not computed any more."""
    nodes = drop_repeats(list(m.nodes))
    linear = [(n, s) for n in nodes if (s := edit.find_site(n)) is not None and s.traits.is_linear]
    fits = [n for n, s in linear if n.inputs[0] is m.x and read_shape(edit, n, s, m) == m.weight.shape]
    node = m.node if m.window else next(iter(fits), m.node)
    site, t = edit.find_site(node), node.inputs[1]
    if site is None:
        return 0
    gone = max(1, len(linear) - 1)  # where a value was added to one map of it, that sum alone
    dtype = np.asarray(edit.model.array(t)).dtype
    is_turned = m.window is None and find_axis(site, site.first_output, len(site.y.shape) - 1, site.inputs[1]) == 0
    slot = site.traits.bias
    has_slot = bool(slot) and slot < len(node.inputs) and bool(node.inputs[slot].name)
    own = node.inputs[slot].name if has_slot else ""
    edit.drop(*[n for n in nodes if n is not node])
    node.inputs[1] = make_constant(t.name, (m.weight.T if is_turned else m.weight).astype(dtype))
    node.attrs |= {n: 1.0 for n in ("alpha", "beta") if n in node.attrs}
    edit.model.origin = {n: o for n, o in edit.model.origin.items() if n != y.name}
    if not (m.bias.any() or has_slot):
        node.outputs = [y]
        return gone
    added = m.bias.astype(dtype)
    name = own or m.added
    c = make_constant(name, added) if name else edit.model.new_constant(f"{t.name}.bias", added)
    if has_slot or m.window:
        node.inputs = [*node.inputs[:slot], c]
        node.outputs = [y]
        return gone
    between = edit.model.new_value(f"{y.name}.product", y.dtype)
    node.outputs = [between]
    at = next(i for i, n in enumerate(edit.model.graph.nodes) if n is node)
    edit.model.graph.nodes.insert(at + 1, build.new_node(edit.model, build.add(between, c), f"{node.name}.bias", [y]))
    return gone


def read_shape(edit: WeightEdit, node: gs.Node, site: Site, m: LinearMap) -> tuple[int, ...]:
    """The shape of the map that a node computes by itself."""
    own = read_matrix(edit, node, site) if m.window is None else read_kernel(edit, node, site)
    return () if own is None else own.weight.shape


__all__ = ["fold_branches"]
