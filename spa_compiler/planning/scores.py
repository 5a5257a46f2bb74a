"""Scores: one number per channel of every group, larger = keep; what a criterion hands to allocation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.weight_slices import Slices, index_channels
from spa_compiler.errors import UsageError, suggest_names
from spa_compiler.execution.finite import is_finite

Scores = dict[str, NDArray[np.float64]]


class NotedScores(Scores):
    """Scores, and by group label why a group is scored by its weights and not as the criterion does; for the report."""

    def __init__(self, scores: Mapping[str, NDArray[np.float64]], notes: Mapping[str, str]) -> None:
        super().__init__(scores)
        self.notes = dict(notes)


def check_scores(graph: DependencyGraph, scores: Mapping[str, Any], source: str) -> Scores:
    """Scores by label as float64, in the shapes of their groups and finite; `source` says whose they are.

    Groups may be left out: they are not cut. Raises UsageError that names the group.
    """
    out: Scores = {}
    for name, given in scores.items():
        label, wanted = graph.group(name).label, graph.group(name).shape
        try:
            out[label] = np.asarray(given, np.float64)
        except (TypeError, ValueError) as e:
            raise UsageError(f"{source}: the scores of '{name}' are not numbers: {e}") from e
        if out[label].shape != wanted:
            raise UsageError(
                f"{source}: group '{name}' has shape {list(wanted)}, the scores have {list(out[label].shape)}"
            )
        if not is_finite(out[label]):
            raise UsageError(f"{source}: the scores of '{name}' are not finite; every channel needs a number")
    return out


def map_tensor_scores(
    graph: DependencyGraph, dense: DependencyGraph, arrays: Mapping[str, NDArray[Any]], source: str
) -> tuple[Scores, list[str]]:
    """Scores of groups from arrays of group labels or names, and of weights by name, each number that of one weight.

    Of a weight the numbers of a unit are summed over all of its slices that are scored, whatever group of `dense` (the
    graph before exact edits) they lie in: those of a low-rank branch go to the group of what it is added to. Returns
    also the names of weights that no group cuts. Raises UsageError for other names and shapes.
    """
    groups = {n: g for n in arrays if (g := graph.find_group(n)) is not None}
    out: Scores = {g.label: arrays[n] for n, g in groups.items()}
    if len(out) < len(groups):
        both = next((n, g.label) for n, g in groups.items() if n != g.label and g.label in groups)
        raise UsageError(f"{source}: '{both[0]}' and '{both[1]}' are one group")
    tensors = {n: np.asarray(a) for n, a in arrays.items() if n not in groups}
    used = set[str]()
    for name, array in tensors.items():
        shape = dense.model.array(dense.constants[name]).shape if name in dense.constants else None
        if shape is None:
            near = suggest_names(name, [*graph.by_label, *graph.by_name, *dense.constants])
            raise UsageError(f"{source}: no group and no weight is called '{name}'{near}; `spa inspect` lists them")
        if array.shape != shape or array.dtype.kind not in "fiu":
            raise UsageError(
                f"{source}: '{name}' has shape {list(shape)}, its scores are {array.dtype}{list(array.shape)}"
            )
    for group in dense.groups if tensors else ():
        size, parts = int(np.prod(group.shape)), [m for m in group.members if m.value in tensors]
        target = find_same_group(graph, group)
        if not parts or target is None:
            continue
        used.update(m.value for m in parts)
        if any(g is target for g in groups.values()):
            raise UsageError(f"{source}: '{target.label}' and '{parts[0].value}' both score group '{target.name}'")
        slices = (Slices(m, tensors[m.value], index_channels(dense, group, m)) for m in parts)
        total = sum((s.sum_channels(s.values.astype(np.float64), size) for s in slices), np.zeros(size))
        out[target.label] = out.get(target.label, np.zeros(target.shape)) + total.reshape(target.shape)
    return out, sorted(tensors.keys() - used)


def find_same_group(graph: DependencyGraph, group: Group) -> Group | None:
    """The group of a graph that cuts what this one of an earlier graph does; None where it is gone."""
    held = {(m.value, m.axis) for m in group.members}
    found = [g for g in graph.groups if g.shape == group.shape and held & {(m.value, m.axis) for m in g.members}]
    return next((g for g in found if g.label == group.label), found[0] if len(found) == 1 else None)
