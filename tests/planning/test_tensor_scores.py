"""Scores by the names of weights: summed over the slices of each unit of a group, whatever weights they stand in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from commands import run
from networks import RESIDUAL, graph_of
from spa_compiler.errors import UsageError
from spa_compiler.ir.reader import load
from spa_compiler.pipeline.options import Options, pipeline_of
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.scores import map_tensor_scores
from zoo_base import Case, build

LORA = Case(
    "(float[N,6] x) => (float[N,3] y) { h = MatMul(x, w1)  a = MatMul(x, lora_a)  b = MatMul(a, lora_b)  s = Add(h, b)"
    "  r = Relu(s)  y = MatMul(r, w2) }",
    {"w1": (6, 8), "lora_a": (6, 2), "lora_b": (2, 8), "w2": (8, 3)},
    None,
)


def test_scores_of_a_low_rank_branch_reach_the_base_group(tmp_path: Path) -> None:
    """Row LoRAPrune: importance of the LoRA weights alone chooses units of the weight that they are added to."""
    model, scores, plan = tmp_path / "m.onnx", tmp_path / "s.npz", tmp_path / "p.json"
    onnx.save(build(LORA), model)
    sidecar = np.random.default_rng(0).uniform(size=(2, 8))
    np.savez(scores, lora_b=sidecar)
    more = ("--align", 1, "--no-latency", "--no-quality", "--scores", scores, "--save-plan", plan, "--no-compensate")
    result = run(model, tmp_path / "o.onnx", "--ratio", 0.4, *more)
    assert result.exit_code == 0, result.output
    kept = next(m for m in Plan.load(plan).keep.values() if m.size == 8)
    order = np.argsort(sidecar.sum(0))
    np.testing.assert_array_equal(np.flatnonzero(~kept), np.sort(order[: (~kept).sum()]))


def test_they_are_sums_over_all_slices_of_all_weights() -> None:
    """Row SPA: any criterion per weight, summed over the coupled slices; as the sum of absolute weights it is that."""
    graph = graph_of(RESIDUAL)
    arrays = {n: np.abs(graph.model.array(t)) for n, t in graph.constants.items()}
    found, idle = map_tensor_scores(graph, graph, arrays, "s.npz")
    assert not set(idle) & {"ws", "w1", "w2", "wf"}
    inner = next(g for g in graph.groups if g.size == 8)
    expected = arrays["w1"].sum((1, 2, 3)) + arrays["b1"] + arrays["w2"].sum((0, 2, 3))
    np.testing.assert_allclose(found[inner.label], expected, rtol=1e-6)


def test_groups_that_an_exact_pass_has_changed_are_found_again() -> None:
    """The branch is gone from the graph that is pruned; its scores are those of the graph before."""
    dense = graph_of(LORA)
    folded = graph_of(
        Case("(float[N,6] x) => (float[N,3] y) { h = MatMul(x, w1)  r = Relu(h)  y = MatMul(r, w2) }",
             {"w1": (6, 8), "w2": (8, 3)}, None)
    )  # fmt: skip
    sidecar = np.random.default_rng(1).uniform(size=(2, 8))
    found, idle = map_tensor_scores(folded, dense, {"lora_b": sidecar, "lora_a": np.ones((6, 2))}, "s.npz")
    (label,) = found
    assert label in folded.by_label
    np.testing.assert_allclose(found[label], sidecar.sum(0))
    assert idle == ["lora_a"]  # its rank is no unit any more


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"lora_c": np.ones((2, 8))}, r"no group and no weight is called 'lora_c' \(did you mean 'lora_"),
        ({"lora_b": np.ones((8, 2))}, r"'lora_b' has shape \[2, 8\], its scores are float64\[8, 2\]"),
        ({"lora_b": np.full((2, 8), "a")}, "'lora_b' has shape"),
        ({"lora_b": np.ones((2, 8)), "LABEL": np.ones(8)}, "both score group"),
        ({"lora_b": np.full((2, 8), np.nan)}, "not finite"),
    ],
)
def test_what_does_not_fit_is_named(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    onnx.save(build(LORA), tmp_path / "m.onnx")
    label = next(g.label for g in graph_of(LORA).groups if g.size == 8)
    np.savez(tmp_path / "s.npz", **{label if n == "LABEL" else n: a for n, a in arrays.items()})
    steps = pipeline_of(Options(ratio=0.3, scores=tmp_path / "s.npz", compensate=False))
    with pytest.raises(UsageError, match=said):
        steps.run(State.of(load(tmp_path / "m.onnx")))


def test_weights_that_no_group_cuts_are_noted(tmp_path: Path) -> None:
    case = Case("(float[N,4] x) => (float[N,4] y) { h = MatMul(x, w1)  r = Relu(h)  o = MatMul(r, w2)  y = Add(o, c) }",
                {"w1": (4, 8), "w2": (8, 4), "c": (4,)}, None)  # fmt: skip
    onnx.save(build(case), tmp_path / "m.onnx")
    np.savez(tmp_path / "s.npz", w1=np.ones((4, 8)), c=np.ones(4))
    steps = pipeline_of(Options(ratio=0.3, scores=tmp_path / "s.npz", compensate=False, align=1))
    assert "--scores: no group cuts c" in steps.run(State.of(load(tmp_path / "m.onnx"))).notes
