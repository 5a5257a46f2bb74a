"""Reports and JSON: of every command, of every way that a run can end, in every form, and never onto something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import QUICK, check_report, folder, last, run, run_spa


def read_json(result: Any) -> Any:
    """All of standard output as JSON."""
    return json.loads(result.stdout)


def test_json_is_the_report_and_nothing_else(source: Path) -> None:
    report = source.with_name("r.json")
    result = run(source, "--ratio", 0.4, "--json", "--report", report, *QUICK)
    assert result.exit_code == 0
    check_report(read_json(result))
    assert read_json(result) == json.loads(report.read_text())


@pytest.mark.parametrize(("options", "status", "code"), [
    (["--ratio", 0.4, "--exclude", "*"], "UNCHANGED", 5),
    (["--ratio", 0.4, "--exclude", "*", "--allow-noop"], "UNCHANGED", 0),
    (["--ratio", 0.999], "ERROR", 4),
    (["--ratio", 0.4, "--plan", "none.json"], "ERROR", 2),
    (["--ratio", 0.4, "--fail-under", "cosine=2"], "GATE_MISSED", 6),
], ids=["unchanged", "allowed", "budget", "usage", "gate"])  # fmt: skip
def test_a_run_without_a_result_says_so_in_its_reports(
    source: Path, options: list[Any], status: str, code: int
) -> None:
    files = [source.with_name(n) for n in ("r.json", "r.md", "r.html")]
    given = [x for f in files for x in ("--report", f)]
    result = run(source, *options, "--json", *given, *QUICK)
    found = json.loads(files[0].read_text())
    assert (result.exit_code, found["exit_code"], found["status"]) == (code, code, status)
    assert read_json(result) == found
    check_report(found)
    if status != "GATE_MISSED":
        assert found["error"] in result.stderr or code == 0
    assert status in files[1].read_text() or (status == "GATE_MISSED" and "MISSED" in files[1].read_text())
    assert files[2].read_text().startswith("<!doctype html>")
    assert source.with_name("gru.pruned.onnx").exists() == ("--allow-noop" in options)


def test_a_failed_run_writes_onto_reports_only(source: Path) -> None:
    old, other, new = (source.with_name(n) for n in ("old.json", "weights.bin", "new.json"))
    assert run(source, "--ratio", 0.4, "--report", old, *QUICK).exit_code == 0
    other.write_bytes(b"not a report")
    result = run(source, "--ratio", 0.999, *(x for f in (old, other, new) for x in ("--report", f)), *QUICK)
    assert result.exit_code == 4
    assert json.loads(old.read_text()) == json.loads(new.read_text())
    assert other.read_bytes() == b"not a report"
    assert f"{other} is no report and stays as it is" in result.stderr
    before = source.read_bytes()
    assert run(source, "--ratio", 0.4, "--report", source, *QUICK).exit_code == 2
    assert source.read_bytes() == before


def test_markdown_has_the_last_line_the_costs_and_the_gates(source: Path) -> None:
    text = source.with_name("r.md")
    result = run(source, "--ratio", 0.4, "--report", text, "--fail-under", "cosine=0.1", *QUICK)
    found = text.read_text()
    assert last(result).split(" | ")[2] in found.replace("\\", "")
    assert "| MACs |" in found
    assert "| cosine=0.1 |" in found
    assert found.startswith("## spa-compile: gru.onnx\n")


def test_the_summary_of_a_job_is_added_to(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = source.with_name("step_summary_1")
    summary.write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert run(source, "--ratio", 0.4, "--report", summary, *QUICK).exit_code == 0
    assert run(source, "--ratio", 0.999, "--report", summary, *QUICK).exit_code == 4
    found = summary.read_text()
    assert found.startswith("# before\n## spa-compile: gru.onnx\n")
    assert found.count("## spa-compile: gru.onnx") == 2
    assert "**ERROR** (exit code 4)" in found


def test_two_reports_are_two_files(source: Path) -> None:
    place = source.with_name("r.json")
    assert run(source, "--ratio", 0.4, "--report", place, "--report", place, *QUICK).exit_code == 2


def test_the_second_file_is_the_output(source: Path) -> None:
    out = source.with_name("small.onnx")
    assert run(source, out, "--ratio", 0.4, *QUICK).exit_code == 0
    assert out.exists()
    before = folder(source.parent)
    both = run(source, out, "-o", out, "--ratio", 0.4, *QUICK)
    assert both.exit_code == 2
    assert "both say where to write" in both.stderr
    assert folder(source.parent) == before
    assert run("-h").exit_code == run_spa("-h").exit_code == run_spa("sweep", "-h").exit_code == 0


def test_every_command_prints_json(source: Path) -> None:
    small = source.with_name("small.onnx")
    assert run(source, small, "--ratio", 0.4, *QUICK).exit_code == 0
    inspected = read_json(run_spa("inspect", source, "--json"))
    member = next(m for m in inspected["groups"][0]["members"] if m["role"])
    axis = f"{member['value']}:{member['axis']}"
    explained = read_json(run_spa("explain", source, axis, "--json"))
    assert explained["axis"] == axis and explained["groups"]
    chain = read_json(run_spa("explain", source, axis, axis, "--json"))
    assert chain == {"axis": axis, "other": axis, "coupled": True, "chain": []}
    compared = read_json(run_spa("compare", source, small, "--json"))
    assert [Path(r["model"]).name for r in compared["rows"]] == ["gru.onnx", "small.onnx"]
    assert compared["rows"][1]["macs"] < compared["rows"][0]["macs"]
    swept = read_json(run_spa("sweep", source, "--ratios", "0.2,0.999", "--criterion", "l2", "--json"))
    assert [r["ratio"] for r in swept["rows"]] == [0.2, 0.999]
    assert swept["rows"][0]["verdict"] and "at most" in swept["rows"][1]["error"]
    assert set(read_json(run_spa("passes", "--json"))) == {
        "passes",
        "criteria",
        "scopes",
        "costs",
        "devices",
        "policies",
    }
    verified = read_json(run_spa("verify", source, small, "--fail-under", "cosine=0", "--json"))
    assert verified["exit_code"] == 0


@pytest.mark.parametrize("verb", ["inspect", "compare", "sweep", "verify"])
def test_a_command_that_fails_prints_json_too(source: Path, verb: str) -> None:
    none = source.with_name("none.onnx")
    result = run_spa(verb, none, *([source] if verb in ("compare", "verify") else []), "--json")
    found = read_json(result)
    assert found["status"] == "ERROR"
    assert found["exit_code"] == result.exit_code == 3
    assert found["error"] in result.stderr
