"""`spa inspect --criterion NAME --calib X`: what training left in every group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from commands import run, run_spa
from networks import graph_of
from spa_compiler.analysis.sparsity import find_pattern
from spa_compiler.statistics.nonzero_rates import measure_rates
from zoo_base import Case, build

WIDTH = 8
NET = """(float[N,4] x) => (float[N,3] y) { a = Gemm <transB = 1> (x, w1, b1)  r = Relu(a)
    y = Gemm <transB = 1> (r, w2, b2) }"""


def planted() -> dict[str, np.ndarray]:
    """Units 0 to 3 fire always, half of the time, a quarter of it and never; 6 and 7 are zero everywhere."""
    rng = np.random.default_rng(0)
    w1, b1 = np.abs(rng.standard_normal((WIDTH, 4))), np.ones(WIDTH)
    w1[:4] = np.eye(4)
    b1[:4] = 0.0, -0.5, -0.75, -9.0
    w1[6:], b1[6:] = 0, 0
    w2 = rng.standard_normal((3, WIDTH))
    w2[:, 6:] = 0
    return {n: a.astype(np.float32) for n, a in {"w1": w1, "b1": b1, "w2": w2, "b2": np.zeros(3)}.items()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(build(Case(NET, dict(planted()), None)), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).uniform(0, 1, (2000, 4)).astype(np.float32))
    return tmp_path / "m.onnx"


def inspect(model: Path, *more: Any) -> dict[str, Any]:
    result = run_spa("inspect", model, "--json", *more)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)["groups"][0]
    return found


def test_rates_are_those_that_were_planted(model: Path) -> None:
    """Rows Lazy Neuron Phenomenon and AP: the rate of numbers that are not 0, and the dead neuron rate beside it."""
    found = inspect(model, "--calib", model.with_name("x.npz"))
    assert found["nonzero_rates"][:4] == pytest.approx([1, 0.5, 0.25, 0], abs=0.05)
    assert found["nonzero_rates"][4:] == [1, 1, 0, 0]
    assert found["dead_units"] == 3
    assert found["nonzero_rate"] == pytest.approx(np.mean(found["nonzero_rates"]))


def test_units_that_never_fire_are_removed_exactly_on_these_inputs(model: Path) -> None:
    """A threshold of 0 on the rates takes them, and the outputs on these inputs stay."""
    calib = model.with_name("x.npz")
    found = inspect(model, "--calib", calib)
    np.savez(model.with_name("s.npz"), **{found["label"]: np.array(found["nonzero_rates"])})
    plan = model.with_name("t.json")
    plan.write_text(json.dumps({"version": 1, "groups": {"*": {"above": 0}}}))
    out = model.with_name("o.onnx")
    more = ("--plan", plan, "--scores", model.with_name("s.npz"), "--data", calib, "--no-latency", "--json")
    result = run(model, out, *more)
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["fidelity"]["cosine"] == pytest.approx(1, abs=1e-6)
    assert {t.name: list(t.dims) for t in onnx.load(out).graph.initializer}["w1"] == [WIDTH - 3, 4]


def test_columns_of_scores(model: Path) -> None:
    """Row PQ index: of d scores of which k are equal and the others 0 it is 1 - (k / d)^(1/p - 1/q)."""
    found = inspect(model, "--criterion", "l1")
    assert found["score_zeros"] == 0.25
    assert found["score_mean"] == pytest.approx(1)
    assert found["nonzero_rate"] is None
    same = {"w1": np.ones((WIDTH, 4)), "b1": np.zeros(WIDTH), "w2": np.ones((3, WIDTH)), "b2": np.zeros(3)}
    same["w1"][5:], same["w2"][:, 5:] = 0, 0
    onnx.save(build(Case(NET, {n: a.astype(np.float32) for n, a in same.items()}, None)), model)
    found = inspect(model, "--criterion", "l1")
    assert found["pq_index"] == pytest.approx(1 - (5 / 8) ** 0.5)
    assert found["weight_zeros"] == pytest.approx(3 / 8)


def test_a_pattern_is_told_and_left_as_it_is(model: Path) -> None:
    """Rows PDP and Turbo-VBI: zeros inside of neurons stay; what N:M they are, and how many, is in the report."""
    inits = planted()
    rng = np.random.default_rng(0)
    inits["w1"] = np.array([[1.0, 0.0, 0.0, 1.0]]) * rng.standard_normal((WIDTH, 4))
    inits["b1"], inits["w2"] = rng.standard_normal(WIDTH), rng.standard_normal((3, WIDTH))
    onnx.save(build(Case(NET, {n: np.asarray(a, np.float32) for n, a in inits.items()}, None)), model)
    found = inspect(model, "--criterion", "l2")
    assert found["patterns"] == {"w1": "2:4"}
    assert found["weight_zeros"] == pytest.approx(16 / (8 * 4 + 3 * 8))
    assert "2:4" in run_spa("inspect", model, "--criterion", "l2").output
    out = model.with_name("o.onnx")
    assert run(model, out, "--ratio", 0, "--no-latency", "--no-quality").exit_code == 0
    assert out.read_bytes() == model.read_bytes()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 4), (2, 8), (4, 8)])
def test_patterns_along_any_axis(axis: int, n: int, m: int) -> None:
    rng = np.random.default_rng(axis)
    weights = np.moveaxis(rng.standard_normal((3, 5, 16)), -1, axis)
    rows = np.moveaxis(weights, axis, -1).reshape(3, 5, -1, m)
    order = np.argsort(rng.random(rows.shape), axis=-1)
    np.put_along_axis(rows, order[..., n:], 0.0, axis=-1)
    weights = np.moveaxis(rows.reshape(3, 5, 16), -1, axis)
    assert find_pattern(weights) in ((n, m), (min(n, 4), 4) if n < 4 else (n, m))
    assert find_pattern(rng.standard_normal((3, 5, 16))) is None


@pytest.mark.parametrize("more", [("--samples", 8), ("--criterion", "l2", "--samples", 8), ("--criterion", "no such")])
def test_options_that_nothing_reads_are_refused(model: Path, more: tuple[Any, ...]) -> None:
    assert run_spa("inspect", model, *more).exit_code == 2


def test_a_criterion_of_moments_draws_its_inputs(model: Path) -> None:
    found = inspect(model, "--criterion", "obspa", "--samples", 64)
    assert found["score_mean"] > 0
    assert found["nonzero_rate"] is not None


HEADS = Case(
    "(float[2,3,8,8] x) => (float[2,4,8,8] y) { a = Conv <group = 4, pads = [1,1,1,1]> (s, w1)  s = Conv (x, w0)"
    "  r = Relu(a)  y = Conv <group = 4> (r, w2) }",
    {"w0": (8, 3, 1, 1), "w1": (24, 2, 3, 3), "w2": (4, 6, 1, 1)},
    None,
)


def test_rates_of_blocks_have_the_shape_of_their_group() -> None:
    case = Case(HEADS.text.replace("a = Conv <group = 4, pads = [1,1,1,1]> (s, w1)  s = Conv (x, w0)",
                                   "s = Conv (x, w0)  a = Conv <group = 4, pads = [1,1,1,1]> (s, w1)"),
                HEADS.inits, None)  # fmt: skip
    graph = graph_of(case)
    feeds = [{"x": np.random.default_rng(k).standard_normal((2, 3, 8, 8)).astype(np.float32)} for k in range(8)]
    rates = measure_rates(graph, feeds)
    group = next(g for g in graph.groups if g.blocks == 4 and g.size == 6)
    assert rates[group.label].shape == (4, 6)
    assert 0.3 < rates[group.label].mean() < 0.7
