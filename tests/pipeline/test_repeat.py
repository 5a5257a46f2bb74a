"""Steps: each asks for the share of the schedule and scores anew, and the last one meets the budget."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import spa_compiler
from commands import check_report
from spa_compiler.errors import UsageError
from spa_compiler.pipeline.options import Options, pipeline_of
from spa_compiler.pipeline.passes import Pipeline, make_pass
from zoo import Case, build

QUICK: dict[str, Any] = {"criterion": "l2", "align": 1, "latency": False, "quality": False}


def compile_in_steps(source: Path, text: str, **options: Any) -> spa_compiler.Result:
    return spa_compiler.compile(source, with_passes=text, **{**QUICK, **options})


@pytest.mark.parametrize("schedule", ["cubic", "linear"])
@pytest.mark.parametrize("start", [0.0, 0.1])
def test_steps_ask_for_the_shares_of_the_formula_and_end_at_the_target(
    models: Path, schedule: str, start: float
) -> None:
    count, ratio, power = 4, 0.5, {"cubic": 3, "linear": 1}[schedule]
    text = f"repeat{{steps={count},schedule={schedule},start={start}}}"
    report = compile_in_steps(models / "digits_vit.onnx", text, ratio=ratio).report
    steps = report["repetition"]["steps"]
    wanted = [ratio + (start - ratio) * (1 - t / count) ** power for t in range(1, count + 1)]
    assert [s["ratio"] for s in steps] == pytest.approx(wanted)
    assert [s["macs"] for s in steps] == pytest.approx(wanted, abs=0.012)
    assert report["reached"]["macs"] == pytest.approx(ratio, abs=0.01)
    assert steps[-1]["ratio"] == report["asked"]["ratio"] == ratio
    check_report(report)


def test_the_text_makes_the_same_file_again(models: Path, tmp_path: Path) -> None:
    source = models / "digits_gru.onnx"
    first = compile_in_steps(source, "repeat{steps=3}", ratio=0.4, output=tmp_path / "a.onnx")
    text = first.report["pipeline"]
    assert "repeat{steps=3}(score,allocate{" in text
    again = spa_compiler.compile(source, pipeline=text, latency=False, quality=False, output=tmp_path / "b.onnx")
    assert again.report["plan_sha256"] == first.report["plan_sha256"]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_one_step_is_the_plain_run(models: Path) -> None:
    source = models / "digits_resnet.onnx"
    one = compile_in_steps(source, "repeat{steps=1}", ratio=0.4)
    plain = spa_compiler.compile(source, 0.4, **QUICK)
    assert one.report["plan_sha256"] == plain.report["plan_sha256"]


def test_what_is_gone_stays_so_and_scores_are_those_of_the_step_before(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A criterion that notes what it is asked about sees smaller and smaller models."""
    seen: list[dict[str, int]] = []

    def spy(graph: Any, moments: Any, rng: np.random.Generator) -> dict[str, Any]:
        seen.append({g.label: g.size for g in graph.groups})
        return {g.label: rng.random(g.shape) for g in graph.groups}

    from_registry = spa_compiler.scoring.registry.find_criterion("l2")
    monkeypatch.setattr("spa_compiler.scoring.magnitude.l2", spy)
    assert from_registry.needs == "weights"
    result = compile_in_steps(models / "digits_vit.onnx", "repeat{steps=4,schedule=linear}", ratio=0.6, scope="uniform")
    assert len(seen) == 4
    for before, after in itertools.pairwise(seen):
        assert before.keys() == after.keys()
        assert all(after[n] <= before[n] for n in before)
        assert sum(after.values()) < sum(before.values())
    graph = result.state.require_graph()
    assert all(result.plan.count_kept(graph.group(n)) <= size for n, size in seen[-1].items())


def test_steps_with_moments_and_an_update_are_proven(models: Path) -> None:
    result = compile_in_steps(
        models / "digits_gru.onnx", "repeat{steps=3}", ratio=0.4, criterion="obspa", samples=64, calib="white"
    )
    assert result.report["status"] == "VERIFIED"
    assert result.report["compensation"]["solved"]
    assert "repeat{steps=3}(score{criterion=obspa},protect(" in result.report["pipeline"]
    onnx.checker.check_model(result.model)


def test_every_kind_of_budget_goes_in_steps(models: Path) -> None:
    source = models / "digits_resnet.onnx"
    dense = spa_compiler.compile(source, 0.0, **QUICK).report["dense"]["macs"]
    absolute = compile_in_steps(source, "repeat{steps=2}", target=f"{0.6 * dense / 1e6:.6f}MMACs").report
    assert absolute["reached"]["macs"] == pytest.approx(0.4, abs=0.01)
    assert [s["ratio"] for s in absolute["repetition"]["steps"]] == pytest.approx([0.35, 0.4], abs=1e-4)
    parts = compile_in_steps(source, "repeat{steps=2}", ratio={"*": 0.4}).report
    assert parts["asked"]["parts"][0]["reached"] == pytest.approx(0.4, abs=0.01)
    channels = compile_in_steps(source, "repeat{steps=2}", ratio=0.5, of="channels").report
    assert channels["reached"]["channels"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"ratio": 0.3, "with_passes": "repeat{steps=0}"}, "expected 1 or more"),
        ({"ratio": 0.3, "with_passes": "repeat{schedule=square}"}, "expected one of cubic, linear"),
        ({"ratio": 0.3, "with_passes": "repeat{start=2}"}, "expected a share"),
        ({"max_drop": "1%", "with_passes": "repeat"}, "a search tries shares of its own"),
    ],
)
def test_steps_that_make_no_sense_are_refused_before_any_work(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        pipeline_of(Options(criterion="l2", **options))


def test_a_start_beyond_the_end_and_no_budget_are_refused(models: Path) -> None:
    with pytest.raises(UsageError, match=r"start=0\.5 is more than the share 0\.3"):
        compile_in_steps(models / "digits_gru.onnx", "repeat{start=0.5}", ratio=0.3)
    text = "normalize,analyze,repeat(score,allocate,remove,verify)"
    with pytest.raises(UsageError, match="no pass in its parentheses that has a budget"):
        spa_compiler.compile(models / "digits_gru.onnx", pipeline=text, latency=False, quality=False)
    assert str(Pipeline.parse(text)) == text
    assert make_pass("repeat").name == "repeat"


def test_coarse_units_of_a_part_are_no_contradiction() -> None:
    """Where one unit is a fifth of a part, a step may take more than it asks for; the last one leaves it so."""
    case = Case(
        "(float[N,6] x) => (float[N,6] y) { a = MatMul(x, u)  b = Relu(a)  y = MatMul(b, w) }",
        {"u": (6, 5), "w": (5, 6)}, None,
    )  # fmt: skip
    found = spa_compiler.compile(build(case), ratio={"*": 0.45}, with_passes="repeat{steps=2,start=0.42}", **QUICK)
    assert found.report["asked"]["parts"][0]["reached"] == pytest.approx(0.6)
