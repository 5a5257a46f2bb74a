"""The laws of the compiler as functions: what tests state once, for every operator and every model.

graph = analyze_proto(build(case))
masks = random_masks(graph, rng)
error, effect = compare(graph, masks)       # prune against mask, mask against dense; shares of the output's scale
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from spa_compiler.algebra.expr import Dim, is_trivial, iterate_dims
from spa_compiler.algebra.masks import Bools, count_kept
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group, analyze
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.execution.inputs import draw_random_inputs
from spa_compiler.execution.session import open_session, run_session
from spa_compiler.ir.model import Model, find_element_type
from spa_compiler.ir.reader import from_proto
from spa_compiler.rewriting.masked_model import make_masked_model
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.verification.branches import force_branches, list_choices

Masks = dict[Dim, Bools]
FLOATS = {1, 10, 11, 16}


def analyze_proto(proto: onnx.ModelProto) -> DependencyGraph:
    """The dependency graph of a model in memory."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    model, _ = normalize(from_proto(copy, Path("model.onnx")))
    return analyze(model)


def list_groups(graph: DependencyGraph) -> dict[str, Group]:
    """The groups under the keys of zoo_base."""
    constants, copies = graph.model.constants(), graph.model.copies
    floats = {n for n, t in constants.items() if find_element_type(t) in FLOATS}
    found: list[tuple[list[str], Group]] = []
    for g in graph.groups:
        members = {f"{copies.get(m.value, m.value)}:{m.axis}" for m in g.members if m.value in floats}
        if members:
            found.append((sorted(members), g))
    out: dict[str, Group] = {}
    for key in dict.fromkeys(" ".join(m) for m, _ in found):
        same = [g for m, g in found if " ".join(m) == key]
        order = _order_groups(graph, same)
        for k, g in enumerate(sorted(same, key=lambda g: order[g])):
            out[key if k == 0 else f"{key}#{k + 1}"] = g
    return out


def assert_nothing_is_lost(graph: DependencyGraph) -> None:
    """Every axis of a weight is in a group or has a reason."""
    live = {d for g in graph.groups for d in g.dims}
    for name in graph.weights:
        for i, axis in enumerate(graph.values[name].axes):
            for d in iterate_dims(axis):
                assert d in live or is_trivial(d) or (d.frozen and d.frozen.text), f"{name}:{i} is lost"


def assert_every_rule_fits(graph: DependencyGraph) -> None:
    """Every rule fits: a rule that raises is wrong, and what may not change for a good reason has that reason."""
    failures = {s.name: s.failure for s in graph.sites if s.failure}
    assert not failures, failures


def _order_groups(graph: DependencyGraph, same: list[Group]) -> dict[Group, int]:
    """Where each group first occurs on the first member's axis."""
    first = min(same[0].members, key=lambda m: f"{m.value}:{m.axis}")
    dims = list(iterate_dims(graph.values[first.value].axes[first.axis]))
    return {g: next((i for i, d in enumerate(dims) if d in g.dims), len(dims)) for g in same}


def random_masks(graph: DependencyGraph, rng: np.random.Generator, share: float = 0.7, stat: bool = True) -> Masks:
    """A random plan over (a share of) all groups that leaves no axis empty."""
    masks: Masks = {}
    groups = [g for g in graph.groups if stat or not g.stat]
    for g in groups:
        if len(groups) == 1 or rng.random() < share:
            masks.update(_random_mask(g, rng))
    for v in graph.values.values():
        for a in v.axes:
            if a.size and count_kept(a, masks) == 0:
                for d in {d for d in iterate_dims(a) if d in masks and not masks[d].any()}:
                    masks[d] = np.ones(1, bool)
    return masks


def _random_mask(group: Group, rng: np.random.Generator) -> Masks:
    if group.dims[0].unit:
        return {d: rng.random(1) < 0.7 for d in group.dims}
    d = group.dims[0]
    left = int(rng.integers(max(1, d.size // 3), d.size)) if d.size > 1 else 1

    def choose_channels() -> Bools:
        return np.isin(np.arange(d.size), rng.permutation(d.size)[:left])

    return {
        d: np.stack([choose_channels() for _ in range(group.blocks)]) if group.block is not None else choose_channels()
    }


def outputs(model: Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """One run, in double precision for comparison."""
    got = run_session(open_session(model.proto(), model.folder, level=0, threads=1), feed, "the model")
    return [np.asarray(a, np.float64) for a in got if isinstance(a, np.ndarray)]


def compare(graph: DependencyGraph, masks: Masks, seed: int = 0, side: int = 0) -> tuple[float, float]:
    """(prune against mask, mask against dense), each the largest difference as a share of the mask output's scale."""
    model = graph.model
    assert model.shapes is not None
    sizes = {n: s[side] for n, s in model.shapes.sizes.items()}
    feed = draw_random_inputs(model, sizes, np.random.default_rng(seed))
    models = rewrite(graph, masks), make_masked_model(graph, masks), model
    error = effect = 0.0
    for choice in [{}, *list_choices(model)]:
        small, masked, dense = (outputs(force_branches(m, choice), feed) for m in models)
        for a, b, c in zip(small, masked, dense, strict=True):
            assert a.shape == b.shape == c.shape, f"an output changed its shape: {c.shape} to {a.shape}"
            if b.size:
                scale = float(np.abs(b).max()) + 1e-6
                error = max(error, float(np.abs(a - b).max()) / scale)
                effect = max(effect, float(np.abs(b - c).max()) / scale)
    return error, effect


TOLERANCE = 1e-4
VISIBLE = 1e-6
