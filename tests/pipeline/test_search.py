"""search: the largest model that holds a drop, made as if its share had been asked for, and clear words where none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import spa_compiler
from commands import run
from spa_compiler.errors import BudgetError, UsageError
from spa_compiler.planning.search import KNEE_STEP

QUICK: dict[str, Any] = {"latency": False, "samples": 64}


@pytest.mark.parametrize("options", [{}, {"criterion": "l2", "samples": 0}], ids=["default", "l2"])
def test_the_model_is_that_of_the_share_that_was_found(models: Path, options: dict[str, Any]) -> None:
    source = models / "digits_resnet.onnx"
    data = models / "digits_test.npz"
    found = spa_compiler.compile(source, max_drop="3%", data=data, **(QUICK | options))
    search = found.report["search"]
    trials, best = search["trials"], search["best"]
    assert best["drop"] <= 3
    assert best["ratio"] == max(t["ratio"] for t in trials if t["drop"] <= 3)
    assert all(t["drop"] > 3 for t in trials if t["ratio"] > best["ratio"])
    assert found.report["quality"]["drop"] == pytest.approx(best["drop"])
    assert "search" not in found.report["pipeline"]
    again = spa_compiler.compile(source, pipeline=found.report["pipeline"], data=data, latency=False)
    assert again.model.SerializeToString() == found.model.SerializeToString()
    plain = spa_compiler.compile(source, best["ratio"], **(QUICK | options))
    assert plain.plan.digest() == found.plan.digest()


def test_the_page_shows_the_curve_of_what_was_tried(models: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    options = ("--max-drop", "3%", "--data", models / "digits_test.npz", "--criterion", "l2", "--no-latency")
    assert run(models / "digits_resnet.onnx", tmp_path / "o.onnx", *options, "--report", page).exit_code == 0
    assert "<svg" in page.read_text() and "drop, points" in page.read_text()


def test_a_budget_that_loses_too_much_names_what_can_go(models: Path) -> None:
    options = {**QUICK, "criterion": "l2", "samples": 0, "data": models / "digits_test.npz", "max_drop": "5%"}
    with pytest.raises(BudgetError, match=r"8\d\.\d% fewer MACs lose \d+ points, more than the 5\.0 allowed; \d+\.\d%"):
        spa_compiler.compile(models / "digits_resnet.onnx", 0.8, **options)
    fine = spa_compiler.compile(models / "digits_resnet.onnx", 0.05, **options)
    assert fine.report["asked"]["ratio"] == 0.05
    assert fine.report["search"] is None


def test_where_no_plan_holds_the_best_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    source, data = save_network(tmp_path / "m.onnx", 0.0), tmp_path / "d.npz"
    x = np.random.default_rng(1).standard_normal((512, 128)).astype(np.float32)
    y = onnxruntime.InferenceSession(source).run(None, {"x": x})[0]
    np.savez(data, x=x, y=y.argmax(1))
    out, report = tmp_path / "o.onnx", tmp_path / "r.json"
    got = run(
        source, out, "--max-drop", "0.1%", "--data", data, "--criterion", "l2", "--report", report, "--no-latency"
    )
    assert got.exit_code == 4, got.output
    assert "at most 0.1 points are allowed, and the least that was tried" in got.output
    assert not out.exists()
    assert json.loads(report.read_text())["exit_code"] == 4


@pytest.mark.parametrize(("options", "words"), [
    ({"max_drop": "much"}, "--max-drop much: expected points"),
    ({"max_drop": "0%"}, "--max-drop 0%: expected points"),
    ({"max_drop": "1%", "ratio": "auto"}, "both say what is removed"),
    ({"max_drop": "1%", "plan": "p.json"}, "both say what is removed"),
    ({"pipeline": "normalize,analyze,score{criterion=l2},search{max_drop=1%}(remove,verify)"}, "takes a share"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(source: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        spa_compiler.compile(source, **({"latency": False} | options))


def test_a_table_of_numbers_does_not_tell_what_is_lost(tmp_path: Path) -> None:
    source = save_network(tmp_path / "table.onnx", 0.0)
    with pytest.raises(UsageError, match=r"not known .* --calib, or with labels --data"):
        spa_compiler.compile(source, max_drop="1%", latency=False)


def save_network(file: Path, planted: float, seed: int = 0) -> Path:
    """Units between 128 numbers and 12 others, a share of which are others once more, nearly."""
    rng = np.random.default_rng(seed)
    units, copies = 100, round(100 * planted)
    w = rng.standard_normal((128, units)).astype(np.float32)
    w[:, units - copies :] = w[:, :copies] + 1e-4 * rng.standard_normal((128, copies)).astype(np.float32)
    v = rng.choice([-1.0, 1.0], (units, 12)).astype(np.float32)  # no unit weighs less than another
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("MatMul", ["r", "v"], ["y"])]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", 128])],
        [helper.make_tensor_value_info("y", 1, ["n", 12])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


@pytest.mark.parametrize("planted", [0.2, 0.4])
def test_the_knee_is_where_planted_redundancy_ends(tmp_path: Path, planted: float) -> None:
    source = save_network(tmp_path / "planted.onnx", planted)
    inputs = np.random.default_rng(1).standard_normal((16384, 128)).astype(np.float32)
    found = spa_compiler.compile(source, "auto", calib=inputs, latency=False)
    assert abs(found.report["search"]["best"]["ratio"] - planted) <= KNEE_STEP / 2 + 1e-9


def test_a_budget_without_a_drop_is_no_search(models: Path) -> None:
    text = "normalize,score,search(allocate{ratio=0.3},remove,verify)"
    with pytest.raises(UsageError, match="give that, or no budget"):
        spa_compiler.compile(models / "digits_gru.onnx", pipeline=text, latency=False, quality=False)
