"""How often channels are not 0 behind a function that cuts off one side: P(a_j != 0) over inputs and positions.

    measure_rates(graph, feeds)["conv1.weight:0"]       # one number a unit; 0: it never fires on these inputs

The Lazy Neuron Phenomenon (Li et al. 2023); 1 less it is the dead neuron rate of Activating-while-Pruning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import iterate_dims
from spa_compiler.algebra.masks import NO_CHANNEL
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group, Member
from spa_compiler.analysis.weight_slices import index_channels
from spa_compiler.execution.finite import ignore_overflow
from spa_compiler.interpreter.activation_maps import Adjust
from spa_compiler.interpreter.chunks import Chunks, Feed
from spa_compiler.interpreter.deferred_inputs import Late
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.operators.site import Value

Floats = NDArray[np.float64]


def measure_rates(
    graph: DependencyGraph, feeds: Sequence[Feed], adjust: Adjust | None = None, late: Late | None = None
) -> dict[str, Floats]:
    """The rate of every unit, in the shape of its group; groups that no such function reads are left out."""
    walk, counts = Walk(graph.model), dict[str, tuple[Floats, Floats]]()
    with ignore_overflow():
        for step in walk.run(feeds, late):
            walk.finish(step, (adjust or Adjust()).of(walk, step))
            value = graph.sites[step.index].first_output
            if value is None or not (step.traits.rectifies or step.traits.zero == "clip") or not step.outputs:
                continue
            for group in graph.groups:
                for axis in find_axes(value, group):
                    add_counts(graph, group, value, axis, step.outputs[0] or [], counts)
    return {
        n: np.divide(hits, every, out=np.zeros_like(hits), where=every > 0).reshape(graph.group(n).shape)
        for n, (hits, every) in counts.items()
    }


def find_axes(value: Value, group: Group) -> list[int]:
    """Axes of a value that carry channels of a group."""
    return [k for k, a in enumerate(value.axes) if not set(group.dims).isdisjoint(iterate_dims(a))]


def add_counts(
    graph: DependencyGraph, group: Group, value: Value, axis: int, chunks: Chunks,
    counts: dict[str, tuple[Floats, Floats]],
) -> None:  # fmt: skip
    """Add how many numbers of each unit are not 0, and how many there are."""
    index = index_channels(graph, group, Member(value.name, axis, "scale"))
    size = int(np.prod(group.shape))
    hits, every = counts.setdefault(group.label, (np.zeros(size), np.zeros(size)))
    where = index[index != NO_CHANNEL]
    for chunk in chunks:
        idle = tuple(k for k, n in enumerate(index.shape) if n == 1)
        if any(chunk.shape[k] != n for k, n in enumerate(index.shape) if n > 1):
            continue
        live = np.count_nonzero(chunk, axis=idle, keepdims=True)[index != NO_CHANNEL]
        hits += np.bincount(where, live, size)
        every += np.bincount(where, minlength=size) * (chunk.size / index.size)


__all__ = ["measure_rates"]
