"""Plans: JSON there and back, merging, digests, and errors that name the group."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spa_compiler
from laws import analyze_proto
from spa_compiler.algebra.masks import Bools
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UsageError
from spa_compiler.planning.plan import Plan, keep_top, make_best_plan
from zoo import CASES, build
from zoo_base import Case

LABELS = st.sampled_from(["conv1.weight:0", "a/b:1#2", "größe:0"])


def masks() -> st.SearchStrategy[Bools]:
    """Masks of one or several blocks, with equally many channels in each."""

    def build_mask(blocks: int, size: int, kept: int, seed: int) -> Bools:
        rng = np.random.default_rng(seed)
        rows = [np.isin(np.arange(size), rng.permutation(size)[: min(kept, size)]) for _ in range(max(blocks, 1))]
        return np.stack(rows) if blocks else rows[0]

    return st.builds(build_mask, st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))


@given(st.dictionaries(LABELS, masks()))
def test_json_there_and_back_is_the_same_plan(keep: dict[str, Bools]) -> None:
    plan = Plan(keep)
    back = Plan.parse(json.loads(json.dumps(plan.document())))
    assert back.document() == plan.document()
    assert back.digest() == plan.digest()
    for label, mask in keep.items():
        if not mask.all():
            np.testing.assert_array_equal(back.keep[label], mask)
        else:
            assert label not in back.keep


def test_digests_tell_plans_apart() -> None:
    a = Plan({"w:0": np.array([True, False, True])})
    assert a.digest() != Plan({"w:0": np.array([True, True, False])}).digest()
    assert a.digest() != Plan({"v:0": np.array([True, False, True])}).digest()
    assert a.digest() == Plan({"w:0": np.array([True, False, True]), "v:0": np.ones(4, bool)}).digest()


def test_merged_plans_keep_what_both_keep() -> None:
    a = Plan({"u:0": np.array([True, False, True]), "v:0": np.array([False, True])})
    b = Plan({"u:0": np.array([True, True, False]), "w:0": np.array([True])})
    merged = a.merge(b)
    assert {n: m.tolist() for n, m in merged.keep.items()} == {
        "u:0": [True, False, False],
        "v:0": [False, True],
        "w:0": [True],
    }
    assert merged.digest() == b.merge(a).digest()


def test_a_plan_of_full_masks_is_empty() -> None:
    assert Plan().is_empty
    assert Plan({"w:0": np.ones(3, bool)}).is_empty
    assert not Plan({"w:0": np.array([True, False])}).is_empty


def residual() -> DependencyGraph:
    return analyze_proto(build(CASES["residual_projection"]))


def test_an_unknown_group_is_named() -> None:
    with pytest.raises(UsageError, match=r"'no\.such:0'"):
        Plan({"no.such:0": np.array([True])}).masks(residual())


def test_a_mask_of_the_wrong_size_is_named_with_both_sizes() -> None:
    graph = residual()
    label = graph.groups[0].label
    with pytest.raises(UsageError, match=rf"'{label}'\) has shape \[{graph.groups[0].size}\], the plan gives \[3\]"):
        Plan({label: np.array([True, False, True])}).masks(graph)


def test_a_plan_that_empties_an_axis_names_it() -> None:
    graph = residual()
    group = graph.groups[0]
    with pytest.raises(UsageError, match=r"would remove every channel of '.+' axis \d"):
        Plan({group.label: np.zeros(group.size, bool)}).masks(graph)


def test_blocks_must_keep_equally_many() -> None:
    graph = analyze_proto(build(CASES["grouped_conv"]))
    group = next(g for g in graph.groups if g.blocks > 1)
    mask = np.ones(group.shape, bool)
    mask[0, 0] = False
    with pytest.raises(UsageError, match="every block must keep equally many"):
        Plan({group.label: mask}).masks(graph)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[]", "not a plan"),
        ('{"version": 99, "groups": {}}', "not a plan"),
        ('{"version": 1}', "not a plan"),
        ("{", "cannot read the plan"),
        ('{"version": 1, "groups": {"w:0": {"size": 3, "keep": [3]}}}', r"'w:0'.*0\.\.2"),
        ('{"version": 1, "groups": {"w:0": {"size": 3, "keep": [-1]}}}', r"'w:0'.*0\.\.2"),
        ('{"version": 1, "groups": {"w:0": {"keep": [1]}}}', "'w:0'"),
        ('{"version": 1, "groups": {"w:0": {"size": -3, "keep": [1]}}}', "'w:0'"),
        ('{"version": 1, "groups": {"w:0": {"size": 3, "keep": "all"}}}', "'w:0'"),
        ('{"version": 1, "groups": {"w:0": {"size": 3, "keep": [0.5]}}}', "'w:0'"),
        ('{"version": 1, "groups": {"w:0": 7}}', "'w:0'"),
    ],
)
def test_a_file_that_is_no_plan_says_where(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=part):
        Plan.load(file)


def test_a_missing_or_binary_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        Plan.load(tmp_path / "none.json")
    (tmp_path / "plan.json").write_bytes(b"\x08\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read the plan"):
        Plan.load(tmp_path / "plan.json")


def test_a_plan_applies_to_another_checkpoint_of_the_same_graph() -> None:
    first, second = build(CASES["residual_projection"]), build(CASES["residual_projection"])
    for t in second.graph.initializer:
        t.raw_data = (-np.frombuffer(t.raw_data, np.float32)).tobytes()
    a, b = analyze_proto(first), analyze_proto(second)
    plan = Plan({g.label: np.arange(g.size) % 2 == 0 for g in a.groups})
    read = Plan.parse(json.loads(json.dumps(plan.document())))
    found = {g.label: [read.masks(b)[d].tolist() for d in g.dims] for g in b.groups}
    assert found == {g.label: [plan.masks(a)[d].tolist() for d in g.dims] for g in a.groups}


def test_a_saved_plan_gives_the_same_file_again(tmp_path: Path, models: Path) -> None:
    source = models / "digits_vit.onnx"
    first = spa_compiler.compile(source, 0.4, tmp_path / "a.onnx", criterion="l2", latency=False, quality=False)
    plan = tmp_path / "plan.json"
    first.state.plan.save(plan)
    again = spa_compiler.compile(
        source, plan=str(plan), output=tmp_path / "b.onnx", latency=False, quality=False, compensate=False
    )
    assert again.report["plan_sha256"] == first.report["plan_sha256"]
    assert again.model.graph == first.model.graph


def test_top_keeps_the_best_of_each_row_and_the_first_of_equals() -> None:
    assert keep_top(np.array([1.0, 3.0, 2.0, 3.0]), 2).tolist() == [False, True, False, True]
    assert keep_top(np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0]]), 2).tolist() == [
        [True, True, False],
        [False, True, True],
    ]


def test_the_best_plan_leaves_something_of_every_axis() -> None:
    """Channels 0 and 16 are an axis of their own, and the worst: the better one stays in place of another."""
    case = Case(
        "(float[N,3,4,4] x) => (float[N,4,4,4] y) { h = Conv(x, w1)  p = Slice(h, s, e, a, t)  q = ReduceMean(p, a)"
        "  g = Mul(h, q)  y = Conv(g, w2) }",
        {"w1": (32, 3, 1, 1), "w2": (4, 32, 1, 1), "s": [0], "e": [32], "a": [1], "t": [16]},
        None,
    )
    graph = analyze_proto(build(case))
    label = graph.groups[0].label
    for score, width, kept in ((0.5, 3, [16, 30, 31]), (0.5, 1, [16]), (40.0, 2, [16, 31])):
        scores = np.where(np.arange(32) == 16, score, np.arange(32.0))
        assert np.flatnonzero(make_best_plan(graph, {label: scores}, {label: width}).keep[label]).tolist() == kept
