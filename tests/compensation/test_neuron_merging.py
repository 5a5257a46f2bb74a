"""Merging: what kept channels make up goes exactly, by weights alone; the rest goes with less error than by slicing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from commands import last, run
from networks import feeds, graph_of, outputs
from spa_compiler.compensation.neuron_merging import merge_channels
from spa_compiler.execution.session import open_session
from spa_compiler.ir.model import Model
from spa_compiler.planning.plan import Plan
from spa_compiler.rewriting.prune import rewrite
from zoo import CASES
from zoo_base import Case

WIDTH = 10
TEXT = """(float[N,3,6,6] x) => (float[N,2,6,6] y) { a = Conv <pads = [1,1,1,1]> (x, w1, c1)
    n = BatchNormalization (a, g, b, m, var)  r = FUNCTION (n)  y = Conv <pads = [1,1,1,1]> (r, w2, c2) }"""
PLAIN = "(float[N,4] x) => (float[N,3] y) { a = Gemm <transB = 1> (x, w1, b1)  r = FUNCTION (a)  y = MatMul(r, w2) }"


def normed() -> dict[str, np.ndarray]:
    """Channel 9 is twice channel 2 behind the normalisation, though no weight of theirs is alike."""
    rng = np.random.default_rng(0)
    found = {"w1": rng.standard_normal((WIDTH, 3, 3, 3)), "c1": rng.standard_normal(WIDTH)}
    found |= {n: rng.standard_normal(WIDTH) for n in ("g", "b", "m")}
    found |= {"var": rng.uniform(0.5, 2, WIDTH), "w2": rng.standard_normal((2, WIDTH, 3, 3)), "c2": np.zeros(2)}
    for n in ("w1", "c1", "m"):
        found[n][9] = 3 * found[n][2]
    found["var"][9], found["b"][9] = 9 * (found["var"][2] + 1e-5) - 1e-5, 2 * found["b"][2]
    found["g"][9] = 2 * found["g"][2]
    return {n: a.astype(np.float32) for n, a in found.items()}


def drop(case: Case, inits: dict[str, np.ndarray], gone: list[int], merged: bool) -> float:
    """The largest error of the outputs, relative to their size, where these channels are removed."""
    graph = graph_of(Case(case.text, dict(inits), None))
    mask = ~np.isin(np.arange(graph.groups[0].size), gone)
    plan = Plan({graph.groups[0].label: mask})
    small = rewrite(graph, plan.masks(graph))
    given = feeds((16, 3, 6, 6) if "w1" in inits and inits["w1"].ndim == 4 else (64, 4), seed=3)
    dense, now = (outputs(m, given) for m in (graph.model, merge_channels(graph, plan, small)[0] if merged else small))
    return float(np.abs(dense - now).max() / np.abs(dense).max())


@pytest.mark.parametrize("function", ["Relu", "LeakyRelu", "Identity"])
def test_a_positive_multiple_goes_exactly_through_any_homogeneous_function(function: str) -> None:
    case = Case(TEXT.replace("FUNCTION", function), {}, None)
    assert drop(case, normed(), [9], merged=False) > 0.01
    assert drop(case, normed(), [9], merged=True) < 1e-5


@pytest.mark.parametrize(("function", "exact"), [("Identity", True), ("Relu", False)])
def test_a_combination_goes_exactly_where_nothing_cuts_it_off(function: str, exact: bool) -> None:
    """Channel 7 is 2 times channel 0 minus channel 3: true of what is linear, and of nothing behind a rectifier."""
    rng = np.random.default_rng(1)
    w1, b1, w2 = rng.standard_normal((8, 4)), rng.standard_normal(8), rng.standard_normal((8, 3))
    w1[7], b1[7] = 2 * w1[0] - w1[3], 2 * b1[0] - b1[3]
    inits = {n: a.astype(np.float32) for n, a in {"w1": w1, "b1": b1, "w2": w2}.items()}
    case = Case(PLAIN.replace("FUNCTION", function), {}, None)
    plain, found = (drop(case, inits, [7], merged) for merged in (False, True))
    assert (found < 1e-5) == exact
    assert found < plain


def test_shares_are_ridge_least_squares_over_all_kept_channels() -> None:
    rng = np.random.default_rng(2)
    w1, w2 = rng.standard_normal((6, 9)), rng.standard_normal((6, 3))
    inits = {n: a.astype(np.float32) for n, a in {"w1": w1, "b1": np.zeros(6), "w2": w2}.items()}
    text = PLAIN.replace("FUNCTION", "Identity").replace("float[N,4]", "float[N,9]")
    graph = graph_of(Case(text, dict(inits), None))
    mask = np.arange(6) < 4
    plan = Plan({graph.groups[0].label: mask})
    small, _ = merge_channels(graph, plan, rewrite(graph, plan.masks(graph)))
    shares = np.linalg.lstsq(inits["w1"][:4].T, inits["w1"][4:].T, rcond=None)[0]
    expected = inits["w2"][:4] + shares @ inits["w2"][4:]
    np.testing.assert_allclose(small.array(small.constants()["w2"]), expected, atol=1e-4)


def test_no_data_is_needed_and_the_model_is_better(models: Path, tmp_path: Path) -> None:
    found = []
    for method in ("none", "merge"):
        chosen = ("--criterion", "l2", "--ratio", 0.3, "--align", 1, "--compensate", method, "--no-latency")
        result = run(models / "digits_resnet.onnx", tmp_path / "o.onnx", *chosen, "--data", models / "digits_test.npz")
        found.append(float(re.findall(r"-> ([\d.]+)%", last(result))[0]))
    assert found[1] > found[0] + 5


def test_channels_of_a_block_are_made_up_of_those_of_their_block() -> None:
    """Values of heads: channel 3 of each head is a sum of two others of it, and goes exactly."""
    rng = np.random.default_rng(3)
    case = CASES["attention"]
    inits = {n: rng.standard_normal(a).astype(np.float32) if isinstance(a, tuple) else a for n, a in case.inits.items()}
    graph = graph_of(Case(case.text, dict(inits), None, opset=case.opset))
    group = next(g for g in graph.groups if g.blocks > 1 and any(m.role == "in" for m in g.members))
    heads, wide = group.shape
    (made,) = [m for m in group.members if m.role == "out" and len(graph.values[m.value].shape) == 2]
    rows = np.moveaxis(inits[made.value], made.axis, 0).reshape(heads, wide, -1)
    rows[:, -1] = rows[:, 0] - 2 * rows[:, 1]
    for m in group.members:
        if m.role != "in" and inits[m.value].ndim == 1:
            inits[m.value][:] = 0
    graph = graph_of(Case(case.text, dict(inits), None, opset=case.opset))
    plan = Plan({group.label: np.tile(np.arange(wide) < wide - 1, (heads, 1))})
    small = rewrite(graph, plan.masks(graph))
    merged, outcome = merge_channels(graph, plan, small)
    assert (outcome.solved, outcome.left) == (1, {})
    given = {
        i.name: rng.standard_normal(graph.values[i.name].shape).astype(np.float32) for i in graph.model.graph.inputs
    }
    dense, plain, exact = (run_outputs(m, given) for m in (graph.model, small, merged))
    assert np.abs(plain - dense).max() > 1e-2
    np.testing.assert_allclose(exact, dense, atol=1e-4)


def run_outputs(model: Model, feed: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(a) for a in open_session(model.proto(), model.folder).run(None, feed)])


def test_integers_stay_as_they_are_and_are_named() -> None:
    graph = graph_of(CASES["qdq_per_channel"])
    plan = Plan({g.label: np.broadcast_to(np.arange(g.size) < max(1, g.size - 1), g.shape) for g in graph.groups})
    small = rewrite(graph, plan.masks(graph))
    merged, outcome = merge_channels(graph, plan, small)
    assert outcome.solved == 0
    assert set(outcome.left.values()) == {"its weight is stored as integers"}
    for n, t in merged.constants().items():
        np.testing.assert_array_equal(merged.array(t), small.array(small.constants()[n]))
