"""Ranges of whole numbers that are computed with before they index: an offset, a row times a width, a remainder.

    find_index_ranges(model)                 # {"columns": (0, 3)}: lowest, and below the second

Every value between the inputs and an index gets the interval that it lies in; an input's range is grown as long as all
indices that follow from it lie in what they point into. Where one cannot, as its interval is not known or the graph
chooses by other means, it does not count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from spa_compiler.execution.finite import ignore_overflow
from spa_compiler.execution.index_limits import find_index_limits, find_indexed_sizes, has_smaller_size
from spa_compiler.execution.input_ranges import inspect_inputs, read_span
from spa_compiler.ir.model import Model
from spa_compiler.operators.lookups import is_moving_ids
from spa_compiler.operators.value_ranges import ANYTHING, Span, find_interval, is_followed

IdRange = tuple[int, int]
Spans = dict[str, Span]
FARTHEST = 1 << 31
"""Ids are looked for below."""


@dataclass(frozen=True)
class ComputedIndex:
    """An index into an axis of so many entries, the nodes that compute it in their order, and the inputs behind it."""

    name: str
    size: int
    nodes: tuple[gs.Node, ...]
    inputs: frozenset[str]


def find_index_ranges(model: Model, sizes: Mapping[str, int] | None = None, fixed: bool = False) -> dict[str, IdRange]:
    """For whole-number inputs that index something: the lowest id, and what all are below.

    `fixed`: limits of inputs that are ids themselves hold for every number and follow no symbol.
    """
    ranges = {n: (0, limit) for n, limit in find_index_limits(model, sizes, fixed).items()}
    indices = list(_list_computed(model, sizes))
    if not indices:
        return ranges
    with ignore_overflow():
        return ranges | _Search(model, indices, ranges).find()


def _list_computed(model: Model, sizes: Mapping[str, int] | None) -> Iterator[ComputedIndex]:
    """Indices that nodes compute from inputs of whole numbers."""
    types = {vi.name: vi.type.tensor_type.elem_type for vi in model.header.graph.input}
    kinds = {n: onnx.helper.tensor_dtype_to_np_dtype(t).kind for n, t in types.items() if t}
    shrunk = has_smaller_size(model, sizes or {})
    for node in model.graph.nodes:
        for t in (t for t in node.inputs if t.inputs and not isinstance(t, gs.Constant)):
            found = list(find_indexed_sizes(model, node, t))
            if not found:
                continue
            nodes, inputs = _trace_back(t, {n for n, kind in kinds.items() if kind in "iu"})
            if inputs and not all(is_moving_ids(n, x) for n in nodes for x in n.inputs if _is_traced(x)):
                size = min(1 if dynamic and shrunk else size for size, dynamic in found)
                yield ComputedIndex(t.name, size, nodes, inputs)


def _is_traced(t: gs.Tensor) -> bool:
    return not isinstance(t, gs.Constant)


def _trace_back(t: gs.Tensor, whole: set[str]) -> tuple[tuple[gs.Node, ...], frozenset[str]]:
    """The nodes that compute a value, as far as intervals are followed through them, and the whole inputs behind it."""
    nodes: list[gs.Node] = []
    inputs: set[str] = set()
    seen: set[int] = set()
    todo: list[tuple[gs.Tensor, gs.Node | None]] = [(t, None)]
    while todo:
        value, done = todo.pop()
        if done is not None:
            nodes.append(done)
        elif value.name in whole:
            inputs.add(value.name)
        elif value.inputs and id(value.inputs[0]) not in seen and is_followed(value.inputs[0]):
            node = value.inputs[0]
            seen.add(id(node))
            todo.append((value, node))
            todo += [(x, None) for x in node.inputs if _is_traced(x)]
    return tuple(nodes), frozenset(inputs)


class _Search:
    """Ranges of inputs for which all indices that can be in their tables are there."""

    def __init__(self, model: Model, indices: list[ComputedIndex], direct: Mapping[str, IdRange]) -> None:
        self.model, self.direct = model, direct
        told = inspect_inputs(model)
        self.names = sorted({n for i in indices for n in i.inputs if not told[n].mask or n in direct})
        self.spans: Spans = {n: (0.0, 1.0) for i in indices for n in i.inputs if n not in self.names}
        self.constants: Spans = {}
        self.spans |= dict.fromkeys(self.names, (0.0, 0.0))
        self.indices = [i for i in indices if self._can_start(i)]

    def find(self) -> dict[str, IdRange]:
        """Ranges of inputs that an index follows which can be in its table."""
        names = [n for n in self.names if any(n in i.inputs for i in self.indices)]
        steps = [1 << k for k in range(FARTHEST.bit_length() - 1)]
        endless = list(names)
        for step in steps:
            endless = [n for n in endless if self._can_grow(n, step)]
        for n in endless:  # as many ids as the longest axis has entries
            low = self.spans[n][0]
            self.spans[n] = (low, low + max(i.size for i in self.indices if n in i.inputs) - 1)
        for step in reversed(steps):
            for n in names:
                _ = n in endless or self._can_grow(n, step)
        return {n: (int(low), int(high) + 1) for n, (low, high) in self.spans.items() if n in names}

    def _can_start(self, index: ComputedIndex) -> bool:
        """Is there a start from which an index is in its table? The lowest ids are raised to it."""
        names = [n for n in self.names if n in index.inputs]
        start = {n: self.spans[n] for n in names}
        at = self._evaluate(index)
        if not all(map(math.isfinite, at)):
            return False
        powers = [1 << k for k in range(FARTHEST.bit_length() - 1)]
        for shift in (0, math.ceil(-at[0]), math.ceil(at[1]) - index.size + 1, *powers):
            for several in (names, *([n] for n in names)):
                moved = {n: (start[n][0] + shift * (n in several),) * 2 for n in names}
                self.spans |= moved
                if shift >= 0 and self._is_inside(index) and all(self._is_allowed(n) for n in names):
                    return True
        self.spans |= start
        return False

    def _can_grow(self, name: str, step: int) -> bool:
        """Do all indices stay in their tables with a highest id that is so much higher? Then it is raised."""
        before = self.spans[name]
        self.spans[name] = (before[0], before[1] + step)
        if self._is_allowed(name) and all(self._is_inside(i) for i in self.indices if name in i.inputs):
            return True
        self.spans[name] = before
        return False

    def _is_allowed(self, name: str) -> bool:
        """Is the range below the limit that the input has as an index itself?"""
        most = self.direct[name][1] if name in self.direct else FARTHEST
        return self.spans[name][1] < most

    def _is_inside(self, index: ComputedIndex) -> bool:
        low, high = self._evaluate(index)
        return math.ceil(low) >= 0 and math.floor(high) < index.size if math.isfinite(low + high) else False

    def _evaluate(self, index: ComputedIndex) -> Span:
        """The interval of an index."""
        spans = dict(self.spans)
        for node in index.nodes:
            found = find_interval(node, [self._read(t, spans) for t in node.inputs], False)
            for t in node.outputs:
                spans[t.name] = ANYTHING if np.isnan(found).any() else found
        return spans.get(index.name, ANYTHING)

    def _read(self, t: gs.Tensor, spans: Spans) -> Span:
        if t.name in spans:
            return spans[t.name]
        if t.name not in self.constants:
            known = read_span(self.model, t)
            if known is None and t.inputs:
                known = find_interval(t.inputs[0], [ANYTHING] * len(t.inputs[0].inputs), False)
            self.constants[t.name] = known or ANYTHING
        return self.constants[t.name]


__all__ = ["find_index_ranges"]
