"""Ratios of contractions: the widths are those whose densities are nearest, whatever the weights hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import load, numpy_helper

import spa_compiler
from laws import analyze_proto
from spa_compiler.analysis.cost import CostModel, make_group_widths
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UsageError
from spa_compiler.planning.allocation import Budget, allocate
from spa_compiler.planning.density_widths import list_contraction_names
from spa_compiler.planning.plan import make_best_plan
from spa_compiler.planning.width_ladder import Limits
from spa_compiler.rewriting.prune import rewrite
from zoo import Case, build

SHUFFLE = Case(
    """(float[N,3,8,8] x) => (float[N,5] y) {
    a = Conv(x, w0)  r = Relu(a)  s, t = Split <axis = 1, num_outputs = 2> (r)  b = Conv(t, w1)  c = Relu(b)
    d = Conv <group = 12, pads = [1,1,1,1]> (c, w2)  e = Conv(d, w3)  f = Relu(e)  j = Concat <axis = 1> (s, f)
    v = Reshape(j, sizes)  q = Transpose <perm = [0,2,1,3,4]> (v)  u = Reshape(q, flat)  p = GlobalAveragePool(u)
    g = Flatten(p)  y = MatMul(g, w4) }""",
    {
        "w0": (24, 3, 1, 1), "w1": (12, 12, 1, 1), "w2": (12, 1, 3, 3), "w3": (12, 12, 1, 1), "w4": (24, 5),
        "sizes": np.array([0, 2, 12, 8, 8]), "flat": np.array([0, 24, 8, 8]),
    },
    None,
    opset=18,
)  # fmt: skip


@pytest.fixture(scope="module")
def graphs(models: Path) -> dict[str, DependencyGraph]:
    found = {n: analyze_proto(load(models / f"digits_{n}.onnx")) for n in ("resnet", "mobilenet", "vit")}
    return found | {"shuffle": analyze_proto(build(SHUFFLE))}


def measure_densities(graph: DependencyGraph, kept: dict[str, int]) -> dict[str, float]:
    """The part of its weights that each contraction keeps, by the name of the weight: entries of the sliced array."""
    scores = {g.label: np.arange(np.prod(g.shape), dtype=float).reshape(g.shape) for g in graph.groups}
    small = rewrite(graph, make_best_plan(graph, scores, kept).masks(graph)).constants()
    out = {}
    for site in graph.sites:
        for v in (v for v in site.inputs if v is not None and v.constant and len(v.shape) > 1):
            if site.traits.is_contraction:
                out[v.name] = float(np.prod(small[v.name].shape) / np.prod(v.shape))
    return out


def solve(graph: DependencyGraph, ratios: dict[str, float], seed: int = 0) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    scores = {g.label: rng.random(g.shape) for g in graph.groups}
    limits = Limits(align=1, layer_ratio=ratios, max_group_ratio=0.95)
    return allocate(graph, CostModel(graph), scores, Budget("macs", 0.0), limits, "uniform")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["resnet", "mobilenet", "vit"])
def test_densities_that_some_widths_have_are_met_within_a_channel(
    graphs: dict[str, DependencyGraph], name: str, seed: int
) -> None:
    graph, rng = graphs[name], np.random.default_rng(seed)
    widths = {g.label: int(rng.integers(max(1, -(-g.size // 8)), g.size + 1)) for g in graph.groups}
    wanted = measure_densities(graph, widths)
    reached = measure_densities(graph, solve(graph, {n: 1 - d for n, d in wanted.items()}))
    for n, density in wanted.items():
        fewest = min(w for g in graph.groups if any(m.value == n for m in g.members) for w in [widths[g.label]])
        assert reached[n] == pytest.approx(density, rel=2 / fewest), n


@pytest.mark.parametrize("density", [0.25, 0.5])
def test_one_density_for_all_is_met_within_a_channel_in_the_middle(
    graphs: dict[str, DependencyGraph], density: float
) -> None:
    """Between contractions of groups of their own, alpha_in * alpha_out is the density."""
    graph = graphs["resnet"]
    kept = solve(graph, {"*": 1 - density})
    shares = {g.label: kept[g.label] / g.size for g in graph.groups}
    reached = measure_densities(graph, kept)
    inner = [n for n in reached if n.startswith(("2.0.body", "4.0.body"))]
    assert inner
    step = 1 / min(g.size for g in graph.groups)
    for n in inner:
        assert abs(reached[n] - density) <= 2 * step * max(shares.values()) + 0.02, n


def test_split_and_shuffled_channels_are_coupled_and_stay_whole(graphs: dict[str, DependencyGraph]) -> None:
    proto = build(SHUFFLE)
    names = list_contraction_names(graphs["shuffle"])
    result = spa_compiler.compile(
        proto, layer_ratio=dict.fromkeys(names, 0.5), criterion="l2", align=1, latency=False, quality=False
    )
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report["reached"]["params"] > 0.3
    assert result.report["verification"]["prune_equals_mask"]["error"] < 1e-5


def test_widths_do_not_follow_the_weights(models: Path) -> None:
    proto = load(models / "digits_mobilenet.onnx")
    other, rng = onnx.ModelProto(), np.random.default_rng(0)
    other.CopyFrom(proto)
    for t in other.graph.initializer:
        a = numpy_helper.to_array(t)
        if a.ndim > 1:
            t.CopyFrom(numpy_helper.from_array(rng.standard_normal(a.shape).astype(a.dtype), t.name))
    found = [solve(analyze_proto(p), {"*": 0.6}, seed) for seed, p in enumerate((proto, other))]
    assert found[0] == found[1]


def test_what_no_pattern_touches_stays_whole_and_a_groups_own_ratio_holds(graphs: dict[str, DependencyGraph]) -> None:
    graph = graphs["resnet"]
    first = next(n for n in measure_densities(graph, {}) if n.startswith("4.0.body"))
    group = next(g for g in graph.groups if any(m.value == first for m in g.members if m.role == "out"))
    kept = solve(graph, {first: 0.5})
    touched = {g.label for g in graph.groups if any(m.value == first for m in g.members)}
    assert all(kept[g.label] == g.size for g in graph.groups if g.label not in touched)
    assert measure_densities(graph, kept)[first] == pytest.approx(0.5, abs=0.02)
    scores = {g.label: np.ones(g.shape) for g in graph.groups}
    limits = Limits(align=1, layer_ratio={first: 0.5}, group_ratio={group.label: 0.25})
    both = allocate(graph, CostModel(graph), scores, Budget("macs", 0.0), limits, "uniform")
    assert both[group.label] == group.size * 3 // 4
    assert measure_densities(graph, both)[first] == pytest.approx(0.5, abs=0.02)


def test_ratios_of_contractions_count_towards_a_budget(graphs: dict[str, DependencyGraph]) -> None:
    graph = graphs["resnet"]
    scores = {g.label: np.random.default_rng(1).random(g.shape) for g in graph.groups}
    first = next(n for n in measure_densities(graph, {}) if n.startswith("2.0.body"))
    limits = Limits(align=1, layer_ratio={first: 0.3})
    kept = allocate(graph, CostModel(graph), scores, Budget("macs", 0.4), limits, "uniform")
    sizes = {d: w for g in graph.groups if g.label in kept for d, w in make_group_widths(g, kept[g.label]).items()}
    cost = CostModel(graph)
    assert 1 - cost.total("macs", sizes) / cost.total("macs", {}) == pytest.approx(0.4, abs=0.012)
    assert measure_densities(graph, kept)[first] == pytest.approx(0.7, abs=0.04)


def test_a_pattern_that_names_no_contraction_says_what_is_near(graphs: dict[str, DependencyGraph]) -> None:
    name = list_contraction_names(graphs["resnet"])[1]
    with pytest.raises(UsageError, match="did you mean"):
        solve(graphs["resnet"], {name[:-2]: 0.5})
    with pytest.raises(UsageError, match="no contraction has such a name"):
        solve(graphs["resnet"], {"nothing*": 0.5})
