"""The table of programs on the edge says what failed, and whether the dense model fails there, too."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.measure.edge import compile_model, describe, take_step

GOOD = {"difference": 1e-7, "exact": True, "top1": 99.0, "ms": 0.5}
WRONG = {**GOOD, "difference": 0.5}


def test_a_failure_of_the_dense_model_is_told_from_one_of_the_compiled_alone() -> None:
    assert describe(GOOD, {"error": "no Gather"})[0] == "COMPILED ALONE FAILS: no Gather"
    assert describe({"error": "no"}, {"error": "no Gather"})[0] == "dense fails, too: no Gather"
    assert describe({"error": "no Gather"}, GOOD)[0] == "compiled alone; dense fails: no Gather"
    assert describe(GOOD, GOOD)[0] == "yes"


def test_a_difference_is_no_failure_where_numbers_change_on_purpose() -> None:
    assert describe(GOOD, WRONG)[0] == "COMPILED ALONE DIFFERS"
    assert describe(WRONG, WRONG)[0] == "DIFFERS, dense, too"
    assert describe(WRONG, GOOD)[0] == "yes; dense DIFFERS"
    inexact = {**WRONG, "exact": False}
    assert describe(inexact, inexact)[0] == "yes"


def test_a_step_measures_a_compiled_model_and_reports_what_goes_wrong(tmp_path: Path, models: Path) -> None:
    compile_model(models / "digits_gru.onnx", tmp_path / "small.onnx", 0.3)
    found = take_step(sys.executable, "onnxruntime", tmp_path / "small.onnx", models, tmp_path / "work")
    assert found["difference"] == 0 and found["top1"] > 90 and found["ms"] > 0
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert "error" in take_step(sys.executable, "onnxruntime", tmp_path / "broken.onnx", models, tmp_path / "work")
