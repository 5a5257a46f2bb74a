"""The laws of the compiler over all hand-written models and over random ones; see `laws` for what they compare."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws import (
    TOLERANCE,
    VISIBLE,
    Masks,
    analyze_proto,
    assert_every_rule_fits,
    assert_nothing_is_lost,
    compare,
    list_groups,
    random_masks,
)
from random_graphs import graphs
from spa_compiler.algebra.masks import Bools
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group, analyze
from spa_compiler.rewriting.prune import rewrite
from zoo import CASES, build

NAMES = sorted(CASES)
RUNNING = [n for n in NAMES if CASES[n].runs and CASES[n].groups != {}]


@functools.cache
def graph_of(name: str) -> DependencyGraph:
    """The analysis of a hand-written model; nobody changes it."""
    return analyze_proto(build(CASES[name]))


@pytest.mark.parametrize("name", NAMES)
def test_groups_blocks_and_statistics_are_as_stated(name: str) -> None:
    case, found = CASES[name], list_groups(graph_of(name))
    if case.groups is None:
        return
    assert {k: g.size for k, g in found.items()} == case.groups
    assert {k: g.blocks for k, g in found.items() if g.blocks > 1} == case.blocks
    assert {k for k, g in found.items() if g.stat} == set(case.stats)


@pytest.mark.parametrize("name", [n for n in NAMES if CASES[n].frozen])
def test_frozen_axes_say_why(name: str) -> None:
    graph = graph_of(name)
    for axis, part in CASES[name].frozen.items():
        value, _, index = axis.rpartition(":")
        said = [f"{r.text} {r.where}".lower() for r in graph.find_reasons((value, int(index)))]
        assert any(part.lower() in text for text in said), f"{axis}: {said}"


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_axis_is_in_a_group_or_has_a_reason(name: str) -> None:
    assert_nothing_is_lost(graph_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_fits(name: str) -> None:
    assert_every_rule_fits(graph_of(name))


@pytest.mark.parametrize("name", RUNNING)
def test_prune_equals_mask(name: str) -> None:
    graph = graph_of(name)
    effects = []
    for seed in range(4):
        masks = random_masks(graph, np.random.default_rng(seed), share=1.0 if seed == 0 else 0.7)
        error, effect = compare(graph, masks, seed, side=seed % 2)
        assert error < TOLERANCE
        effects.append(effect)
    assert max(effects) > VISIBLE, "the plan has no effect on the output: the check has no power"


@settings(max_examples=120)
@given(graphs(), st.integers(0, 9))
def test_prune_equals_mask_on_random_models(model: onnx.ModelProto, seed: int) -> None:
    graph = analyze_proto(model)
    assert_nothing_is_lost(graph)
    assert compare(graph, random_masks(graph, np.random.default_rng(seed)), seed)[0] < TOLERANCE


def shape_of_groups(graph: DependencyGraph) -> Counter[tuple[object, ...]]:
    """Properties that do not depend on names that the analysis gives: members, sizes, blocks."""
    return Counter((frozenset((m.value, m.axis) for m in g.members), g.size, g.blocks) for g in graph.groups)


@pytest.mark.parametrize("name", NAMES)
def test_order_does_not_matter(name: str) -> None:
    graph = graph_of(name)
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(graph.sites)).tolist()
        assert shape_of_groups(analyze(graph.model, order)) == shape_of_groups(graph)


@settings(max_examples=40)
@given(graphs(), st.randoms(use_true_random=False))
def test_order_does_not_matter_on_random_models(model: onnx.ModelProto, random: object) -> None:
    graph = analyze_proto(model)
    order = list(range(len(graph.sites)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert shape_of_groups(analyze(graph.model, order)) == shape_of_groups(graph)


@pytest.mark.parametrize("name", RUNNING)
def test_rewriting_twice_gives_the_same_bytes(name: str) -> None:
    first, second = (analyze_proto(build(CASES[name])) for _ in range(2))
    small = [
        rewrite(g, random_masks(g, np.random.default_rng(0))).proto().SerializeToString(deterministic=True)
        for g in (first, first, second)
    ]
    assert small[0] == small[1] == small[2]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_plan_changes_nothing(name: str) -> None:
    graph = graph_of(name)
    assert rewrite(graph, {}).proto() == graph.model.proto()


def flat(group: Group, masks: Masks) -> Bools:
    """The mask of a group as an array of the group's shape."""
    parts = [masks.get(d, np.ones(d.size, bool)) for d in group.dims]
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return np.broadcast_to(whole, group.shape)


def unflat(group: Group, mask: Bools) -> Masks:
    """The reverse of `flat`."""
    if len(group.dims) == 1:
        return {group.dims[0]: mask}
    return {d: mask[i : i + 1] for i, d in enumerate(group.dims)}


def merged(graph: DependencyGraph, first: Masks, then: DependencyGraph, second: Masks) -> Masks:
    """One plan that does what two successive plans do."""
    out = dict(first)
    old = {g.label: g for g in graph.groups}
    for g in then.groups:
        outer, inner = old[g.label], flat(g, second)
        mask = flat(outer, first).copy()
        mask[mask] = inner.ravel()
        out |= unflat(outer, mask)
    return out


@pytest.mark.parametrize("name", RUNNING)
def test_two_plans_equal_the_merged_one(name: str) -> None:
    graph, rng = graph_of(name), np.random.default_rng(5)
    blocks = {g.block for g in graph.groups}
    masks = random_masks(graph, rng, share=0.5)
    first = {d: m for d, m in masks.items() if d not in blocks and graph.blocks.get(d) not in masks}
    then = analyze_proto(rewrite(graph, first).proto())
    if not {g.label for g in then.groups} <= {g.label for g in graph.groups}:
        pytest.skip("what is left of a shuffle reads as a plain permutation, under other names")
    second = random_masks(then, rng)
    once = rewrite(graph, merged(graph, first, then, second)).proto()
    twice = rewrite(then, second).proto()
    assert once.graph.initializer == twice.graph.initializer
