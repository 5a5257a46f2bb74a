"""The verdict: words for a drop, measured where there are labels, loud where poor, unknown where nothing tells."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import last, run
from spa_compiler import analyze, load, normalize
from spa_compiler.calibration.inputs import Calibration
from spa_compiler.errors import UsageError
from spa_compiler.quality import inputs
from spa_compiler.quality.estimate import estimate_drop
from spa_compiler.quality.evidence import Evidence, collect_evidence
from spa_compiler.quality.inputs import InputKind
from spa_compiler.quality.judgement import judge_quality
from spa_compiler.quality.verdict import Quality, judge_drop

JUDGED = ["--criterion", "l2", "--no-latency"]
SHARES = st.floats(0, 1)


@given(st.floats(-100, 100))
def test_at_most_two_points_are_good_and_over_five_poor(points: float) -> None:
    assert judge_drop(points) == ("GOOD" if points <= 2 else "FAIR" if points <= 5 else "POOR")


@given(SHARES, SHARES, st.floats(0, 13), st.integers(48, 512))
def test_an_estimate_lies_in_its_interval_and_is_a_drop(
    agreement: float, loss: float, divergence: float, samples: int
) -> None:
    evidence = Evidence(1 - divergence / 13, samples, agreement, loss, divergence, 0.9, 10)
    found = estimate_drop(evidence, "drawn")
    assert found is not None and 0 <= found.low <= found.drop <= found.high <= 100


@given(SHARES, SHARES, SHARES, SHARES, st.sampled_from(["given", "drawn", "foreign"]))
def test_what_differs_more_is_never_called_better(
    agreement: float, loss: float, divergence: float, unexplained: float, kind: InputKind
) -> None:
    one = Evidence(1 - unexplained, 256, agreement, loss, divergence, 0.9, 10)
    worse = replace(
        one, agreement=agreement / 2, expected_loss=(loss + 1) / 2, divergence=divergence + 1,
        explained_variance=-unexplained,
    )  # fmt: skip
    drops = [estimate_drop(e, kind) for e in (one, worse)]
    assert drops[0] is not None and drops[1] is not None and drops[0].drop <= drops[1].drop


@given(st.sampled_from(["noise", "guessed"]))
def test_inputs_that_tell_nothing_give_no_estimate(kind: str) -> None:
    assert estimate_drop(Evidence(1.0, 64), kind) is None  # type: ignore[arg-type]
    assert Quality.of_nothing("nothing tells").verdict == "UNKNOWN"


def test_with_labels_the_drop_is_measured(tmp_path: Path, models: Path) -> None:
    model, data, report = (
        shutil.copy(models / "digits_mobilenet.onnx", tmp_path),
        models / "digits_test.npz",
        tmp_path / "r.json",
    )
    result = run(model, "--ratio", 0.5, "--data", data, "--report", report, *JUDGED)
    found = json.loads(report.read_text())
    drop = 100 * (found["accuracy"]["dense"] - found["accuracy"]["compiled"])
    assert found["quality"]["basis"] == "measured" and found["quality"]["drop"] == pytest.approx(drop)
    assert drop > 5 and f"| quality POOR (measured drop {drop:.0f} points) |" in last(result)
    assert "lower --ratio" in " ".join(found["quality"]["advice"])


def test_a_copy_has_lost_nothing(source: Path) -> None:
    assert "| quality GOOD (measured drop 0.0 points) |" in last(run(source, "--ratio", 0, *JUDGED))


def test_tables_of_numbers_are_no_evidence(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [onnx.numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
               for n, s in (("a", (5, 32)), ("b", (32, 3)))]  # fmt: skip
    nodes = [onnx.helper.make_node("MatMul", ["x", "a"], ["h"]), onnx.helper.make_node("Tanh", ["h"], ["t"]),
             onnx.helper.make_node("MatMul", ["t", "b"], ["y"])]  # fmt: skip
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "table", [info("x", 1, ["n", 5])], [info("y", 1, ["n", 3])], weights)
    path = tmp_path / "table.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    result = run(path, "--ratio", 0.5, *JUDGED)
    assert "| quality UNKNOWN (the graph does not say what its inputs are) |" in last(result)


@pytest.mark.parametrize("scale", [0.1, 1, 60])
def test_half_floats_are_brought_to_the_scale_of_the_given_ones(scale: float) -> None:
    """Their squares are beyond the largest half float."""
    rng = np.random.default_rng(0)
    given = [{"x": rng.normal(0, 70, (2, 3, 64, 64)).astype(np.float16)}]
    drawn = [{"x": rng.normal(0, scale, (2, 3, 64, 64)).astype(np.float16)} for _ in range(3)]
    found = np.concatenate([f["x"] for f in inputs.match_scale(drawn, given)]).astype(np.float64)
    assert np.isfinite(found).all() and 17 < found.std() < 280


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_equal_outputs_that_say_nothing_are_no_verdict(value: float) -> None:
    silent = [[np.full((8, 3), value, np.float32)] for _ in range(2)]
    found = judge_quality(silent, silent, collect_evidence(silent, silent), "drawn")
    assert found.verdict == "UNKNOWN" and "the dense model gives" in found.reason
    one = [[np.zeros((1, 3), np.float32)]]
    assert judge_quality(one, one, collect_evidence(one, one), "drawn").verdict == "GOOD"


@pytest.mark.parametrize("is_given", [False, True])
def test_a_prior_that_fails_leaves_the_next_best_inputs(
    models: Path, monkeypatch: pytest.MonkeyPatch, is_given: bool
) -> None:
    def fail(*_: object) -> None:
        raise UsageError("no such input")

    monkeypatch.setattr(inputs, "draw_unselected", fail)
    graph = analyze(normalize(load(models / "digits_resnet.onnx"))[0])
    given = Calibration([{graph.model.header.graph.input[0].name: np.zeros((4, 1, 8, 8), np.float32)}], "four")
    found = inputs.choose_inputs(graph, given if is_given else None, 0, None)
    assert (found.kind, bool(found.reason)) == (("used" if is_given else "noise"), True)


def test_drawn_inputs_beside_given_ones_that_calibration_used_are_foreign(models: Path) -> None:
    graph = analyze(normalize(load(models / "digits_resnet.onnx"))[0])
    given = Calibration([{graph.model.header.graph.input[0].name: np.zeros((4, 1, 8, 8), np.float32)}], "four")
    assert inputs.choose_inputs(graph, given, 0, None).kind == "foreign"
    assert inputs.choose_inputs(graph, None, 0, None).kind == "drawn"
