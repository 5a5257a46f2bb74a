"""Every budget is looked at once more at the end: exit 4 where less went than was asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from commands import QUICK, run
from laws import analyze_proto
from spa_compiler import compiler
from spa_compiler.analysis.cost import CostModel
from spa_compiler.analysis.cost_registry import find_cost, find_group_shares
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import BudgetError
from spa_compiler.planning import budget_check
from spa_compiler.planning.allocation import Budget, allocate
from spa_compiler.planning.budget_check import check_budget
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.width_ladder import Limits
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.verification.latency import summarize_times
from zoo import Case, build

TEXT = """(float[1,3,8,8] x) => (float[1,4,8,8] y) {
    a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  d = Relu(c)  e = Conv(d, w3)  f = Relu(e)  y = Conv(f, w4) }"""


def chain(*sizes: int) -> DependencyGraph:
    """Convolutions with a group of each size between them."""
    one, two, three = sizes
    weights = {"w1": (one, 3, 1, 1), "w2": (two, one, 1, 1), "w3": (three, two, 1, 1), "w4": (4, three, 1, 1)}
    return analyze_proto(build(Case(TEXT, dict(weights), None)))


def allocate_share(graph: DependencyGraph, ratio: float, limits: Limits) -> dict[str, int]:
    scores = {g.label: np.arange(1.0, g.size + 1).reshape(g.shape) for g in graph.groups}
    return allocate(graph, CostModel(graph), scores, Budget("channels", ratio), limits, "uniform")


@pytest.mark.parametrize("sizes", [(8, 6, 7), (64, 40, 24), (33, 100, 18), (2, 3, 1)])
@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.3, 0.5, 0.7])
def test_a_share_of_the_channels_goes_within_one_channel_a_group(sizes: tuple[int, ...], ratio: float) -> None:
    graph = chain(*sizes)
    kept = allocate_share(graph, ratio, Limits())
    gone = sum(g.size - kept.get(g.label, g.size) for g in graph.groups)
    assert gone >= ratio * sum(sizes) - len(graph.groups)


@pytest.mark.parametrize(
    "limits",
    [Limits(max_group_ratio=0.3), Limits(group_ratio={"*": 0.1}), Limits(min_keep=16), Limits(align=16),
     Limits(group_ratio={"w1:0": 0.0})],
)  # fmt: skip
def test_limits_that_leave_too_much_are_exit_4(limits: Limits) -> None:
    with pytest.raises(BudgetError, match=r"channels: asked for 50.0% less") as e:
        allocate_share(chain(24, 24, 24), 0.5, limits)
    assert e.value.exit_code == 4


def test_groups_that_are_left_alone_are_no_part_of_a_share() -> None:
    kept = allocate_share(chain(24, 24, 24), 0.5, Limits(include=("w2:0",)))
    assert kept == {"w2:0": 12}


@pytest.mark.parametrize("of", [*find_group_shares(), "macs", "params", "size"])
def test_the_command_ends_with_exit_4_and_writes_nothing(of: str, tmp_path: Path, models: Path) -> None:
    out = tmp_path / "o.onnx"
    options = ("--ratio", 0.5, "--of", of, "--max-group-ratio", 0.2, "--align", 4, "-o", out)
    result = run(models / "digits_resnet.onnx", *options, *QUICK)
    assert result.exit_code == 4 and "asked for 50.0% less" in result.stderr
    assert not out.exists()


def test_a_plan_that_falls_short_is_found_at_the_end() -> None:
    graph = chain(8, 8, 8)
    plan = Plan({graph.groups[0].label: np.arange(8) > 0})
    check_budget(graph, rewrite(graph, plan.masks(graph)), Budget("macs", 0.05), plan)
    for of in ("macs", "params", "size"):
        with pytest.raises(BudgetError, match=f"{of}: asked for 50.0% less"):
            check_budget(graph, graph.model, Budget(of, 0.5), plan)


@pytest.mark.parametrize(("shares", "holds"), [([0.5], True), ([-0.2, 0.34, 0.36], True), ([-0.2, 0.34, 0.3], False)])
def test_a_measured_budget_may_miss_twice(shares: list[float], holds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine gives any number once; a model that is never fast enough is refused."""
    left = list(shares)
    cost = replace(find_cost("latency"), measure=lambda *_: (1.0, 1 - left.pop(0)))
    monkeypatch.setattr(budget_check, "find_cost", lambda of: cost)
    graph = chain(8, 8, 8)
    if holds:
        check_budget(graph, graph.model, Budget("latency", 0.4, tolerance=0.05), Plan())
    else:
        with pytest.raises(BudgetError, match=r"latency: asked for 40.0% less, \+34.0% went"):
            check_budget(graph, graph.model, Budget("latency", 0.4, tolerance=0.05), Plan())
    assert not left


def test_milliseconds_are_checked_on_the_file_that_would_be_written(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slower: Any = lambda *args, **more: summarize_times([1.0] * 5, [1.2] * 5, 1, {})  # noqa: E731
    monkeypatch.setattr(compiler, "measure_latency", slower)
    cost = replace(find_cost("latency"), measure=lambda *_: (1.0, 1.2))
    monkeypatch.setattr(budget_check, "find_cost", lambda of: cost)
    monkeypatch.setattr(
        "spa_compiler.passes.allocate.find_measured_plan", lambda cost, graph, ratio, make, *more: make(0.3)
    )
    options = ("--ratio", 0.4, "--of", "latency", "--criterion", "l2", "--no-quality", "-o", tmp_path / "o.onnx")
    result = run(models / "digits_gru.onnx", *options)
    assert result.exit_code == 4
    assert "asked for 40.0% less, -20.0% went" in result.stderr
    assert not (tmp_path / "o.onnx").exists()


def test_the_report_has_the_spread_of_times(tmp_path: Path, models: Path) -> None:
    report = tmp_path / "r.json"
    options = ("--criterion", "l2", "--no-quality", "--report", report, "-o", tmp_path / "o.onnx")
    assert run(models / "digits_gru.onnx", "--ratio", 0.3, *options).exit_code == 0
    found = json.loads(report.read_text())["latency"]
    assert found["dense_min_ms"] <= found["dense_ms"] <= found["dense_p90_ms"]
    assert found["statistic"] in ("median", "minimum")
    assert onnx.load(tmp_path / "o.onnx").graph.node
