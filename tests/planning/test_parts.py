"""Parts of a model: each loses its share of its cost, others stay as they are, and budgets that clash are errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import spa_compiler
from commands import check_report, run
from spa_compiler.analysis.cost import CostModel
from spa_compiler.errors import BudgetError, UsageError
from spa_compiler.planning.parts import PartCost, find_groups_of_parts, find_parts
from spa_compiler.planning.plan import find_widths
from zoo import Case, build

NAMES = ("first", "first", "second", "second", "third", "third")
CHAIN = Case(
    "(float[N,20] x) => (float[N,6] y) {"
    + "".join(f" a{k} = MatMul(h{k}, w{k})  h{k + 1} = Relu(a{k})" for k in range(6)).replace("h0", "x")
    + " y = MatMul(h6, w6) }",
    {"w0": (20, 120), "w1": (120, 90), "w2": (90, 130), "w3": (130, 110), "w4": (110, 100), "w5": (100, 80),
     "w6": (80, 6)},
    None,
)  # fmt: skip
QUICK: dict[str, Any] = {"criterion": "l2", "align": 1, "latency": False, "quality": False}


def make_chain(seed: int = 0) -> onnx.ModelProto:
    """Three parts of two products each, and a head; a group of channels leads from each part to the next."""
    proto, rng = build(CHAIN), np.random.default_rng(seed)
    for t in proto.graph.initializer:
        shape = tuple(t.dims)
        values = rng.standard_normal(shape) / np.sqrt(shape[0] / 2)
        t.CopyFrom(numpy_helper.from_array(values.astype(np.float32), t.name))
    for k, node in enumerate(proto.graph.node):
        node.name = f"{NAMES[k // 2]}/{node.op_type}{k}" if k < 12 else "head"
    return proto


def list_weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def find_reached(result: spa_compiler.Result) -> dict[str, float]:
    return {p["pattern"]: p["reached"] for p in result.report["asked"]["parts"]}


@pytest.mark.parametrize("of", ["macs", "params", "size"])
@pytest.mark.parametrize("ratio", [0.2, 0.45])
def test_a_part_loses_its_share_and_all_others_stay_bit_for_bit(of: str, ratio: float) -> None:
    proto = make_chain()
    result = spa_compiler.compile(proto, ratio={"second/*": ratio}, of=of, **QUICK)
    before, after = list_weights(proto), list_weights(result.model)
    assert find_reached(result)["second/*"] == pytest.approx(ratio, abs=0.01)
    inner = [a.size for n, a in after.items() if n in ("w2", "w3")]
    assert 1 - sum(inner) / (90 * 130 + 130 * 110) == pytest.approx(ratio, abs=0.01)
    for n in set(before) - {"w2", "w3"}:
        assert np.array_equal(before[n], after[n]), n


def test_what_is_left_is_updated_in_the_part_only() -> None:
    proto = make_chain()
    result = spa_compiler.compile(proto, ratio={"second/*": 0.4}, **{**QUICK, "criterion": "obspa"}, samples=64)
    before, after = list_weights(proto), list_weights(result.model)
    assert result.report["compensation"]["solved"] >= 1
    for n in set(before) - {"w2", "w3"}:
        assert np.array_equal(before[n], after[n]), n


@pytest.mark.parametrize("scope", ["global", "uniform", "exact", "erk"])
def test_several_parts_and_the_whole_each_within_a_percent(scope: str) -> None:
    wanted = {"first/*": 0.3, "third/*": 0.5}
    result = spa_compiler.compile(make_chain(), ratio=[0.4, wanted], scope=scope, **QUICK)  # type: ignore[list-item]
    for pattern, ratio in wanted.items():
        assert find_reached(result)[pattern] == pytest.approx(ratio, abs=0.01)
    assert result.report["reached"]["macs"] == pytest.approx(0.4, abs=0.01)


def test_a_part_in_a_part_has_its_own_share() -> None:
    result = spa_compiler.compile(make_chain(), ratio={"*/*": 0.4, "second/*": 0.2}, **QUICK)
    assert find_reached(result) == {"*/*": pytest.approx(0.4, abs=0.01), "second/*": pytest.approx(0.2, abs=0.01)}


def test_the_costs_of_parts_add_up_to_that_of_the_whole() -> None:
    result = spa_compiler.compile(make_chain(), ratio=0.3, **QUICK)
    graph, widths = result.state.require_graph(), find_widths(result.state.require_graph(), result.plan)
    every = range(len(graph.sites))
    halves = [PartCost(graph, frozenset(k for k in every if k % 2 == r)) for r in range(2)]
    for unit in ("macs", "params", "bytes"):
        assert sum(p.total(unit, widths) for p in halves) == pytest.approx(CostModel(graph).total(unit, widths))


def test_a_channel_between_two_parts_belongs_to_the_part_around_both() -> None:
    graph = spa_compiler.compile(make_chain(), ratio=0.3, **QUICK).state.require_graph()
    inner = find_groups_of_parts(graph, find_parts(graph, {"first/*": 0.3, "second/*": 0.3}))
    outer = find_groups_of_parts(graph, find_parts(graph, {"first/*": 0.3, "*/*": 0.3}))
    between = {g.label for g in graph.groups if {m.value for m in g.members} == {"w1", "w2"}}
    assert len(between) == 1
    assert not between & set(inner)
    assert {outer[n].name for n in between} == {"*/*"}


@pytest.mark.parametrize(
    ("ratio", "why"),
    [
        ({"second/*": 0.2, "*": 0.001}, "contradict each other"),
        ([0.4, "*=0.2"], r"\* shall lose 20\.0% of its macs, and the whole model, which is the same nodes, 40\.0%"),
        ([0.05, "second/*=0.6"], r"contradict each other: the whole model shall lose 5\.0%"),
        (["second/*=0.6", "second/*=0.2"], r"contradict each other: second/\*=0\.6 and 0\.2"),
        ([0.3, 0.4], r"0\.3 and 0\.4 contradict each other"),
        ({"secnd/*": 0.2}, r"matches no node \(did you mean 'second/\*'"),
        ({"nothing*": 0.2}, "matches no node"),
        ({"*/Relu*": 0.2}, "have no macs"),
        ({"second/*": 1.5}, "a share in 0..1"),
    ],
)
def test_budgets_that_make_no_sense_are_errors_of_use(ratio: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        spa_compiler.compile(make_chain(), ratio=ratio, **QUICK)


def test_a_part_out_of_reach_is_named() -> None:
    with pytest.raises(BudgetError, match=r"second/\*: macs: asked for 90\.0% less, at most"):
        spa_compiler.compile(make_chain(), ratio={"second/*": 0.9}, max_group_ratio=0.5, **QUICK)


@pytest.mark.parametrize(
    "options",
    [{"max_drop": "1%"}, {"plan": "p.json"}, {"of": "channels"}, {"of": "latency"}],
)
def test_parts_do_not_go_with_what_knows_no_parts(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        spa_compiler.compile(make_chain(), ratio={"second/*": 0.2}, **{**QUICK, **options})
    with pytest.raises(UsageError, match="give one of them"):
        spa_compiler.compile(make_chain(), ratio=["auto", "second/*=0.2"], **QUICK)


def test_the_command_line_repeats_the_option_and_its_text_makes_the_same_file(tmp_path: Path) -> None:
    source, report = tmp_path / "m.onnx", tmp_path / "r.json"
    onnx.save(make_chain(), source)
    quick = ("--criterion", "l2", "--no-latency", "--no-quality")
    done = run(
        source, "--ratio", "40%", "--ratio", "second/*=20%", "--align", 1, *quick, "--report", report,
        "-o", tmp_path / "a.onnx",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "of the MACs of second/* (requested 20.0%)" in done.output
    document = json.loads(report.read_text())
    check_report(document)
    assert document["reached"]["macs"] == pytest.approx(0.4, abs=0.01)
    assert run(
        source, "--pipeline", document["pipeline"], "--no-latency", "--no-quality", "-o", tmp_path / "b.onnx"
    ).exit_code == 0  # fmt: skip
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    for wrong, code in ((("--ratio", "secnd/*=0.2"), 2), (("--ratio", "second/*=0.95"), 4), (("--ratio", "x=y"), 2)):
        assert run(source, *wrong, *quick, "-o", tmp_path / "c.onnx").exit_code == code
    assert not (tmp_path / "c.onnx").exists()
