"""spa sweep: rows as they come, kept where a later one fails, each the model that the budget alone would give."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import spa_compiler
from commands import run, run_spa
from spa_compiler.errors import UsageError
from spa_compiler.report.curve import draw_curve
from spa_compiler.report.sweep_rows import format_rows, save_rows

L2 = ("--criterion", "l2", "--no-latency")


def test_a_row_is_the_model_of_its_budget(source: Path, tmp_path: Path) -> None:
    folder, single = tmp_path / "new" / "models", tmp_path / "single.onnx"
    swept = run_spa("sweep", source, "--ratios", "20%,0.4", "--targets", "20kparams", "--write", folder, *L2, "--json")
    rows = json.loads(swept.stdout)["rows"]
    assert [r.get("ratio", r.get("target")) for r in rows] == [0.2, 0.4, "20kparams"]
    for row, budget in zip(rows, (("--ratio", 0.2), ("--ratio", 0.4), ("--target", "20kparams")), strict=True):
        assert run(source, single, *budget, *L2).exit_code == 0
        assert Path(row["output"]).read_bytes() == single.read_bytes()
    assert rows[2]["params"] <= 20000
    assert {p.name for p in folder.iterdir()} == {"gru.0.2.onnx", "gru.0.4.onnx", "gru.20kparams.onnx"}


def test_a_row_is_shown_before_the_next_one_is_made() -> None:
    made = list[int]()

    def rows() -> Iterator[dict[str, Any]]:
        for k in (1, 2):
            made.append(k)
            yield {"ratio": k / 10, "error": "none"}

    lines = format_rows(rows())
    next(lines)
    assert next(lines).startswith("0.1") and made == [1]


def test_what_was_found_stays_where_a_later_row_fails(source: Path, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gru.0.4.onnx").mkdir()  # no place for the second model
    swept = run_spa("sweep", source, "--ratios", "0.2,0.4", "--write", tmp_path / "out", "--csv", table, *L2)
    assert swept.exit_code == 2 and "gru.0.4.onnx" in swept.stderr
    assert [r["ratio"] for r in csv.DictReader(table.read_text().splitlines())] == ["0.2"]


@pytest.mark.parametrize("name", ["r.html", "r.md", "r.csv", "r.json"])
def test_reports_hold_every_row(source: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    assert run_spa("sweep", source, "--ratios", "0.2,0.4,0.9999", *L2, "--report", file).exit_code == 0
    text = file.read_text()
    assert all(part in text for part in ("0.2", "0.4", "0.9999", "at most"))
    assert ("<svg" in text and "http://" not in text.replace("http://www.w3.org", "")) == (name == "r.html")
    assert "://" not in text.replace("http://www.w3.org", "")


def test_the_curve_is_drawn_of_what_there_is(tmp_path: Path) -> None:
    rows = [{"removed": 0.2, "drop": 0.5, "speedup": None}, {"removed": 0.5, "drop": 4.0}, {"error": "x"}]
    assert draw_curve(rows, limit=1.0, best=0.2).startswith("<svg")
    assert "faster" not in draw_curve(rows)
    assert draw_curve([{"error": "x"}]) == ""
    save_rows({"input": "a<b>.onnx", "rows": [{"ratio": 0.1, "error": "<script>"}]}, tmp_path / "p.html")
    assert "<script>" not in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(("options", "words"), [
    (("--ratios", "1.5"), "--ratios 1.5: shares to remove"),
    (("--ratios", "much"), "--ratios much: expected numbers"),
    (("--targets", "12"), "--target 12: expected a number with"),
    (("--csv", "none/r.csv"), "not a file in a folder that exists"),
])  # fmt: skip
def test_what_is_no_budget_is_refused_before_the_work(source: Path, options: tuple[str, str], words: str) -> None:
    swept = run_spa("sweep", source, *options, *L2)
    assert swept.exit_code == 2 and words in swept.stderr and not swept.stdout


def test_the_model_is_never_written_onto(source: Path) -> None:
    before = source.read_bytes()
    assert run_spa("sweep", source, "--ratios", "0.2", "--csv", source, *L2).exit_code == 2
    assert source.read_bytes() == before


def test_python_gives_rows_as_they_come(source: Path) -> None:
    rows = spa_compiler.sweep(source, ratios=[0.2, 0.4], criterion="l2", latency=False)
    assert next(rows)["ratio"] == 0.2
    assert next(rows)["macs_removed"] == pytest.approx(0.4, abs=0.05)
    with pytest.raises(UsageError):
        spa_compiler.sweep(source, ratios=[2.0])
