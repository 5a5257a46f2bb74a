"""Shares that are measured on inputs: how alike blocks leave what they read, how much outputs need each group.

The dense model is run once for each chunk of inputs, and once more for each group whose loss is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.residual_blocks import ResidualBlock, find_blocks_of_groups
from spa_compiler.errors import UsageError
from spa_compiler.execution.finite import ignore_overflow
from spa_compiler.planning.plan import Plan, make_best_plan
from spa_compiler.planning.scopes import ScopeInputs, scope
from spa_compiler.planning.settings import PLANNING
from spa_compiler.rewriting.masked_model import make_masked_model
from spa_compiler.verification.fidelity import explain_variance
from spa_compiler.verification.replay import list_taps
from spa_compiler.verification.runs import Side, run_outputs

Feeds = Sequence[Mapping[str, Any]]
_KNOWN: WeakKeyDictionary[DependencyGraph, dict[str, tuple[Feeds, dict[str, float]]]] = WeakKeyDictionary()
"""Measurements on a graph: a search asks for many budgets."""


@scope(needs="inputs")
def similarity(view: ScopeInputs) -> Mapping[str, float]:
    """Groups in residual blocks that change little lose more: 1 - A I, I the centred 1 - cosine (Adapt-Pruner)."""
    importance = {n: 1 - c for n, c in measure_cosines(view, "similarity").items()}
    centred = _center(importance)
    most = max(map(abs, centred.values()), default=0.0)
    return {n: 1 - PLANNING.similarity_amplitude * (v / most if most else 0.0) for n, v in centred.items()}


@scope(needs="inputs", kept=True)
def angle(view: ScopeInputs) -> Mapping[str, float]:
    """Groups in residual blocks keep by how far these turn what they read: sigmoid of the centred angle (CFSP)."""
    cosines = measure_cosines(view, "angle")
    centred = _center({n: math.acos(min(1.0, max(-1.0, c))) for n, c in cosines.items()})
    return {n: 1 / (1 + math.exp(-v)) for n, v in centred.items()}


def _center(values: Mapping[str, float]) -> dict[str, float]:
    mean = float(np.mean(list(values.values()))) if values else 0.0
    return {n: v - mean for n, v in values.items()}


def measure_cosines(view: ScopeInputs, name: str) -> dict[str, float]:
    """Cosines of what the block of each group reads and gives, the mean over inputs; by label of the groups in blocks.

    Raises UsageError where there is no block.
    """
    blocks = find_blocks_of_groups(view.graph)
    if not blocks:
        raise UsageError(
            f"--scope {name} compares what residual blocks read and give; no group of this model lies in one: "
            "take --scope sensitivity"
        )

    def measure() -> dict[str, float]:
        found = _compare_blocks(view, list(dict.fromkeys(blocks.values())))
        return {label: found[b.total] for label, b in blocks.items()}

    return _remember(view, "cosines", measure)


def _compare_blocks(view: ScopeInputs, blocks: Sequence[ResidualBlock]) -> dict[str, float]:
    """The mean cosine of each block's shortcut and sum over the rows of all inputs, by the name of the sum."""
    model, sums = view.graph.model, {b.total: (0.0, 0) for b in blocks}
    names = [n for b in blocks for n in (b.shortcut, b.total)]
    side = Side(model.proto(), model.folder, names, "the dense model")
    for feed in view.feeds:
        values = side.run(feed, names)
        for b in blocks:
            x, y = (np.asarray(values[n], np.float64) for n in (b.shortcut, b.total))
            x, y = (v.reshape(len(v) if v.ndim else 1, -1) for v in (x, y))
            with ignore_overflow():
                scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
                cosines = np.nan_to_num((x * y).sum(1) / np.where(scale > 0, scale, 1.0), posinf=0.0, neginf=0.0)
            total, count = sums[b.total]
            sums[b.total] = total + float(cosines.sum()), count + len(cosines)
    return {n: total / max(count, 1) for n, (total, count) in sums.items()}


@scope(needs="inputs")
def sensitivity(view: ScopeInputs) -> Mapping[str, float]:
    """Groups that outputs need less lose more: half of a group is cut alone, and its loss measured (as ECoFLaP's)."""
    losses = measure_losses(view)
    mean = float(np.mean(list(losses.values()))) if losses else 0.0
    return {n: 1 / (1 + (v / mean if mean else 0.0)) for n, v in losses.items()}


def measure_losses(view: ScopeInputs) -> dict[str, float]:
    """The part of the outputs' variance that is lost where the worse half of one group takes no part, by label."""
    graph = view.graph
    groups = [g for g in graph.groups if g.label in view.scores and g.size > 1]
    plans = {g.label: make_best_plan(graph, view.scores, {g.label: g.size - g.size // 2}) for g in groups}

    def measure() -> dict[str, float]:
        return dict(zip(plans, measure_plan_losses(graph, plans.values(), view.feeds), strict=True))

    return _remember(view, f"losses {_join(plans).digest()}", measure)


def measure_plan_losses(graph: DependencyGraph, plans: Iterable[Plan], feeds: Feeds) -> Iterator[float]:
    """The part of the outputs' variance that each plan loses where what it removes takes no part, 0 at least."""
    given, taps = [dict(f) for f in feeds], list_taps(graph.model)
    dense = run_outputs(graph.model, taps, given, "the dense model", level=3)
    for plan in plans:
        masked = make_masked_model(graph, plan.masks(graph))
        yield max(0.0, 1 - explain_variance(dense, run_outputs(masked, taps, given, "the masked model", level=3)))


def measure_additivity(graph: DependencyGraph, plan: Plan, feeds: Feeds) -> tuple[float, float]:
    """The sum of what the outputs lose where each group of a plan is cut alone, and what they lose under the plan.

    A plan of least error takes errors of groups to add up: this says how far they do.
    """
    alone = [Plan({n: m}) for n, m in plan.keep.items() if not m.all()]
    *each, joint = measure_plan_losses(graph, [*alone, plan], feeds)
    return float(sum(each)), joint


def _join(plans: Mapping[str, Plan]) -> Plan:
    return Plan({n: m for p in plans.values() for n, m in p.keep.items()})


def _remember(view: ScopeInputs, name: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Measurements on this graph and these inputs, made once."""
    known = _KNOWN.setdefault(view.graph, {})
    feeds, found = known.get(name, ([], {}))
    if not found or len(feeds) != len(view.feeds) or any(a is not b for a, b in zip(feeds, view.feeds, strict=True)):
        found = measure()
        known[name] = view.feeds, found
    return found
