"""Gates: bounds from below and from above, all of them judged, and a report where one is missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import spa_compiler
from commands import QUICK, check_report, folder, last, run
from spa_compiler.errors import GateError, UsageError
from spa_compiler.quality.gates import Gate, judge_gates, parse_gates


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("cosine=0.9", 0.9, True), ("cosine>=0.9", 0.89, False), ("latency_ms<=5", 5.0, True),
        ("latency_ms<=5", 5.1, False),
        ("drop<=1%", 1.0, True), ("drop<=1", 1.1, False), ("accuracy>=90%", 0.9, True), ("accuracy>=90%", 0.899, False),
        ("cosine=0.9", float("nan"), False), ("drop<=1", float("nan"), False),
    ],
)  # fmt: skip
def test_a_gate_holds_on_its_side(text: str, value: float, holds: bool) -> None:
    assert Gate.parse(text).is_met(value) is holds


@pytest.mark.parametrize("text", ["cosine", "cosine=high", "cosine==1", "=0.9", "cosine=nan", "cosine<0.9", "drop=1"])
def test_what_is_no_gate_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="--fail-under"):
        Gate.parse(text)


def test_an_unknown_metric_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="no metric is called 'beauty'; there are cosine, drop"):
        parse_gates(["beauty=1"], ["cosine", "drop"])
    with pytest.raises(UsageError, match="cosine was not measured here"):
        judge_gates(parse_gates(["cosine=0.9"], ["cosine"]), {"drop": 1.0})


def test_a_missed_gate_writes_its_report_and_no_model(source: Path) -> None:
    report, before = source.parent / "report.json", folder(source.parent)
    gates = ["--fail-under", "explained_variance=0.99999", "--fail-under", "macs_reduction>=0.5"]
    result = run(source, "--ratio", 0.7, "--report", report, *gates, *QUICK)
    assert result.exit_code == 6
    found = json.loads(report.read_text())
    check_report(found)
    assert (found["status"], found["exit_code"], found["output"]["path"]) == ("GATE_MISSED", 6, None)
    assert [(g["metric"], g["holds"]) for g in found["gates"]] == [
        ("explained_variance", False),
        ("macs_reduction", True),
    ]
    report.unlink()
    assert folder(source.parent) == before
    assert last(result).startswith("GATE_MISSED | quality ")
    assert "explained_variance is" in result.stderr and "macs_reduction is" not in result.stderr


def test_in_python_the_error_carries_the_report(source: Path) -> None:
    with pytest.raises(GateError, match=r"drop is .* over the gate of -1") as caught:
        spa_compiler.compile(source, ratio=0.7, criterion="l2", latency=False, fail_under=("drop<=-1",))
    assert caught.value.report is not None and caught.value.report["status"] == "GATE_MISSED"


def test_gates_that_hold_are_listed(source: Path) -> None:
    report = source.parent / "report.json"
    assert (
        run(source, "--ratio", 0.3, "--report", report, "--fail-under", "params_reduction>=1%", *QUICK).exit_code == 0
    )
    assert [g["holds"] for g in json.loads(report.read_text())["gates"]] == [True]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_report_of_a_missed_gate_that_cannot_be_written_is_told(source: Path) -> None:
    result = run(source, "--ratio", 0.7, "--report", "/dev/full", "--fail-under", "cosine>=2", *QUICK)
    assert result.exit_code == 6
    assert "the report /dev/full was not written: No space left" in result.stderr
