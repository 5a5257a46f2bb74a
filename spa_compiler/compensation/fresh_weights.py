"""Fresh weights: the shapes that a plan leaves, with initial weights to be trained (Liu et al. 2019).

Weights that are summed over are drawn with variance 2 / fan-in (He et al. 2015), those of recurrent cells 1 / fan-in,
tables that are looked up with the deviation that they had; biases become 0, gains 1, stored statistics 0 and 1. What is
no weight (sizes, masks, scales, integers) stays. Numbers follow from the seed and from what was there before, so that
weights that are shared stay equal.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.compensation.apply import Outcome
from spa_compiler.compensation.policy import Task, policy
from spa_compiler.ir.model import Model, make_constant
from spa_compiler.operators import build
from spa_compiler.operators.recurrent_cell import GATES, B, R, W
from spa_compiler.operators.site import Scope, Site, Value

Array = NDArray[Any]
Stored = Mapping[str, Array]
"""Numbers of constants, by the name under which nodes read them."""


@policy(is_writing_norms=True)
def fresh(task: Task) -> tuple[Model, Outcome]:
    """New initial weights in the shapes that are left, to be trained (Liu et al. 2019); the seed draws them."""
    model, done = task.small.copy(), set[str]()
    sources = find_sources(model)
    stored = {n: model.array(t) for n, t in sources.items() if model.array(t).dtype.kind == "f"}
    for index, site in enumerate(task.graph.sites):
        if task.only is not None and index not in task.only:
            continue
        for name, (center, deviation) in list_initial(task.graph, site, stored).items():
            old, tensor = stored[name], sources[name]
            if tensor.name in done:
                continue
            rng = np.random.default_rng((task.seed, zlib.crc32(old.tobytes())))
            new = center + deviation * rng.standard_normal(old.shape)
            tensor._values = make_constant(tensor.name, new.astype(old.dtype))._values
            done.add(tensor.name)
    return model, Outcome(solved=len(done))


def find_sources(model: Model) -> dict[str, gs.Constant]:
    """By the name of what nodes read, the constant that it is, or that it is a Cast of."""
    read = {t.name: t for n in model.graph.nodes for t in n.inputs if not isinstance(t, gs.Constant)}
    casts = {n: build.find_stored(t) for n, t in read.items()}
    return {**model.constants(), **{n: t for n, t in casts.items() if t is not None}}


def list_initial(graph: DependencyGraph, site: Site, stored: Stored) -> dict[str, tuple[float, float]]:
    """Mean and deviation with which the constants of a node begin."""
    norm, out = site.traits.norm, dict[str, tuple[float, float]]()
    own = {k: v for k, v in enumerate(site.inputs) if v is not None and v.name in stored}
    if norm is not None:
        means = {norm.gain: 1.0, norm.gain + 1: 0.0, **dict(zip(norm.statistics, (0.0, 1.0), strict=False))}
        return {v.name: (means[k], 0.0) for k, v in own.items() if k in means}
    if site.op in GATES:
        out |= {own[k].name: (0.0, _find_fan(own[k], stored) ** -0.5) for k in (W, R) if k in own}
        return out | ({own[B].name: (0.0, 0.0)} if B in own else {})
    if site.traits.is_contraction and not site.traits.is_quantized:
        for k, v in own.items():
            is_bias = k == site.traits.bias > 0 or len(v.shape) < 2
            out[v.name] = (0.0, 0.0 if is_bias else (2 / count_summed(site, v, stored)) ** 0.5)
    elif site.traits.lookup and 0 in own and len(own[0].shape) > 1:
        out[own[0].name] = (0.0, float(np.std(stored[own[0].name].astype(np.float64))))
    elif site.traits.sums == "plus" and any(_is_product(graph, v) for v in site.inputs):
        out |= {v.name: (0.0, 0.0) for v in own.values() if max(v.shape, default=1) == np.prod(v.shape) > 1}
    return out


def _is_product(graph: DependencyGraph, v: Value | None) -> bool:
    """Does a node that multiplies and accumulates give it?"""
    maker = graph.makers.get(v.name) if v is not None else None
    return maker is not None and maker.traits.is_contraction


def _find_fan(v: Value, stored: Stored) -> int:
    """Entries of the last axis of a weight."""
    return max(int(stored[v.name].shape[-1]), 1)


def count_summed(site: Site, weight: Value, stored: Stored) -> int:
    """Entries of a weight that are summed over for one number of the output (its fan-in), in the model's own widths."""
    shape = stored[weight.name].shape
    for scope in site.scopes:
        found = {n for _, is_output, rows in scope.tensors if is_output for names in rows for n in names}
        carried = {n for n in found if n in scope.env}  # others are places of a kernel, or of a map
        for v, is_output, rows in scope.tensors:
            if v is weight and not is_output:
                parts = [count_names(scope, names, n, carried) for n, names in zip(shape, rows, strict=True)]
                return max(round(np.prod(parts)), 1)
    return max(int(np.prod(shape[1:])), 1)


def count_names(scope: Scope, names: frozenset[str], size: int, carried: set[str]) -> float:
    """The part of the size of an axis that is not of names that the output carries."""
    if names and names <= carried:
        return 1.0
    return size / float(np.prod([scope.env[n].size for n in names & carried], dtype=float))
