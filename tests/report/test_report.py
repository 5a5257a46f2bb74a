"""The report: its schema, its page, and that what it says is true."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import QUICK, check_report, run, run_spa
from spa_compiler.report.numbers import replace_unfinite, write_json
from spa_compiler.report.saving import save_report

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "options",
    [
        ["--ratio", "0.4", "--criterion", "l2"],
        ["--ratio", "0", "--no-latency"],
        ["--ratio", "0.3", "--samples", "16", "--no-latency"],
        ["--ratio", "0.5", "--of", "channels", *QUICK],
    ],
)
def test_the_report_follows_its_schema(source: Path, models: Path, options: list[str]) -> None:
    file = source.with_name("r.json")
    result = run(source, *options, "--data", models / "digits_test.npz", "--report", file)
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text())
    check_report(report)
    assert report["accuracy"]["samples"] == 540
    assert report["output"]["sha256"] == hashlib.sha256(source.with_name("gru.pruned.onnx").read_bytes()).hexdigest()


def names_in(schema: Any) -> set[str]:
    own = set(schema.get("properties", {})) if isinstance(schema, dict) else set()
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    return own.union(*(names_in(s) for s in inner))


def test_every_field_of_the_report_is_documented() -> None:
    text = (ROOT / "docs" / "report.md").read_text()
    schema = json.loads((ROOT / "spa_compiler" / "report" / "schema.json").read_text())
    assert [n for n in sorted(names_in(schema)) if not re.search(rf"\b{n}\b", text)] == []


def test_the_report_as_a_page_escapes_names(source: Path) -> None:
    odd = source.rename(source.with_name("<b>&.onnx"))
    page = source.with_name("r.html")
    assert run(odd, "--ratio", 0.4, "--report", page, *QUICK).exit_code == 0
    assert "&lt;b&gt;&amp;" in page.read_text()
    assert "<b>" not in page.read_text()


def test_outputs_that_are_worse_than_zeros_are_named(tmp_path: Path) -> None:
    """Two hidden units cancel each other; without one of them the other is nearly all there is."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,1] y)
        <float[2,3] w1 = {100, 100, 1, 1, -1, 1}, float[3,1] w2 = {1, -1, 1}>
        { h = MatMul(x, w1) y = MatMul(h, w2) }"""
    source = tmp_path / "cancel.onnx"
    onnx.save(onnx.parser.parse_model(text), source)
    label = json.loads(run_spa("inspect", source, "--json").stdout)["groups"][0]["label"]
    np.savez(tmp_path / "scores.npz", **{label: np.array([3.0, 1.0, 2.0])})
    result = run(source, "--ratio", 0.4, "--scores", tmp_path / "scores.npz", *QUICK)
    assert result.exit_code == 0, result.output
    assert "farther from the dense model's than zeros" in result.output


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child starts from nothing")
def test_peak_memory_is_that_of_the_process_and_not_of_its_parent(tmp_path: Path) -> None:
    script = (
        "import sys, subprocess\n"
        "large = bytearray(1 << 30)\n"
        "large[::4096] = b'x' * len(large[::4096])\n"
        "code = 'from spa_compiler.compiler import measure_peak_memory as p; print(p())'\n"
        "print(subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True).stdout)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    assert 1 << 24 < int(done.stdout) < 1 << 29


NUMBERS = st.floats() | st.integers() | st.none() | st.text() | st.booleans()
DOCUMENTS = st.dictionaries(st.text(), st.recursive(NUMBERS, lambda s: st.lists(s) | st.dictionaries(st.text(), s)))


@given(document=DOCUMENTS)
def test_every_document_is_written_as_json(document: dict[str, Any]) -> None:
    """As RFC 8259 has it: no NaN, no Infinity; what is finite stays as it is, and a note counts the rest."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    document.pop("notes", None)
    found = json.loads(write_json(document), parse_constant=refuse)
    notes = found.pop("notes", [])
    assert bool(notes) == (json.dumps(found) != json.dumps(document))
    assert replace_unfinite(found) == found


def test_a_report_with_numbers_that_are_not_finite_follows_its_schema(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    assert run(source, "--ratio", 0.3, *QUICK, "--fail-under", "cosine=-1e999", "--report", file).exit_code == 0
    text = file.read_text()
    assert "Infinity" not in text and "NaN" not in text
    found = json.loads(text)
    check_report(found)
    assert found["gates"][0]["limit"] is None
    assert any("gates.0.limit" in n for n in found["notes"])


def test_a_report_is_written_with_null_wherever_a_number_is_missing(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    assert run(source, "--ratio", 0.3, *QUICK, "--report", file).exit_code == 0
    report = json.loads(file.read_text())
    report["quality"]["evidence"]["explained_variance"] = float("nan")
    report["protection"] = {"explained_variance": [0.5, float("-inf")], "floor": 0.5}
    for name in ("s.json", "s.html"):
        save_report(report, tmp_path / name)
    check_report(json.loads((tmp_path / "s.json").read_text()))
    assert "NaN" not in (tmp_path / "s.html").read_text()
