"""The default pipeline (calibrate, obspa, compensate, protect) on models of every kind: a result or a named error."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import zoo
from spa_compiler.compiler import compile_file
from spa_compiler.errors import BudgetError, NothingToPrune
from spa_compiler.pipeline.options import Options
from zoo_base import Case

ODD = """lstm_state_input gather_run_time_channels scatter_nd gemm_nt_c_m1 gemm_nt_c_mn gemm_tn_c_mn
grouped_conv_on_input loop_over_a_sequence""".split()


REFUSED = {n for n, c in zoo.CASES.items() if not c.runs or "GroupQueryAttention" in c.text}
"""Cases that no file can hold: too few inputs for onnxruntime."""


@pytest.mark.parametrize("name", sorted({*list(zoo.CASES)[::8], *ODD} - REFUSED))
def test_the_default_pipeline_gives_a_result_or_says_why_not(name: str, tmp_path: Path) -> None:
    onnx.save(zoo.build(zoo.CASES[name]), tmp_path / "m.onnx")
    try:
        found = compile_file(
            tmp_path / "m.onnx", tmp_path / "out.onnx", Options(ratio=0.3, latency=False, quality=False, samples=16)
        )
    except (NothingToPrune, BudgetError):
        assert not (tmp_path / "out.onnx").exists()
        return
    assert found.report["verification"]["prune_equals_mask"]["error"] <= 1e-4
    assert found.report["reached"]["macs"] > 0 or found.report["reached"]["params"] > 0


def test_magnitude_in_place_of_obspa_is_said(tmp_path: Path) -> None:
    text = "(float[N,13] x) => (float[N,2] y) { a = MatMul(x, w1)  r = Relu(a)  y = MatMul(r, w2) }"
    onnx.save(zoo.build(Case(text, {"w1": (13, 32), "w2": (32, 2)}, None)), tmp_path / "m.onnx")
    said = {}
    for calib in ("synthetic", "features"):
        options = Options(ratio=0.3, latency=False, quality=False, samples=64, calib=calib)
        notes = compile_file(tmp_path / "m.onnx", tmp_path / "o.onnx", options).report["notes"]
        said[calib] = any("magnitude" in n for n in notes)
    assert said == {"synthetic": True, "features": False}
