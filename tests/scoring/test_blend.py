"""Blends: a weight of 0 or 1 reproduces either criterion; `order` keeps prefixes, `random` follows its seed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import spa_compiler
from networks import CONV, DENSE, feeds, graph_of
from spa_compiler.errors import UsageError
from spa_compiler.pipeline.options import Options, pipeline_of
from spa_compiler.scoring.blend import parse_blend
from spa_compiler.scoring.registry import find_criteria, find_criterion
from spa_compiler.statistics.moments import collect_moments

QUICK: dict[str, Any] = {"align": 1, "latency": False, "quality": False}
SEEDED = {"calib": "white", "samples": 32}


def random_case(case: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return graph_of(case, **{n: rng.standard_normal(s).astype(np.float32) for n, s in case.inits.items()})


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(["l2", "obspa", "random", "flap"], 2)))
def test_weights_of_nothing_and_one_are_either_criterion(models: Path, one: str, other: str) -> None:
    graph = random_case(DENSE)
    moments = collect_moments(graph, feeds((16, 5)))
    for text, name in ((f"0*{one}+1*{other}", other), (f"1*{one}+0*{other}", one), (f"{other}+0.0*{one}", other)):
        found, wanted = find_criterion(text), find_criterion(name)
        assert found is wanted or found == wanted
        a, b = (c(graph, moments, np.random.default_rng(3)) for c in (found, wanted))
        assert all(np.array_equal(a[n], b[n]) for n in b)


@pytest.mark.parametrize(("text", "name"), [("0*l2+1*obspa", "obspa"), ("1*l2+0*obspa", "l2")])
def test_they_make_the_same_model(models: Path, text: str, name: str) -> None:
    given = SEEDED if name == "obspa" else {}
    found = [spa_compiler.compile(models / "digits_gru.onnx", 0.4, criterion=c, **QUICK, **given) for c in (text, name)]
    assert found[0].model.graph.SerializeToString() == found[1].model.graph.SerializeToString()


def test_scores_are_weighted_sums_in_units_of_their_means() -> None:
    graph = random_case(CONV)
    moments = collect_moments(graph, feeds((4, 3, 6, 6)))
    rng = np.random.default_rng
    a, b = (find_criterion(n)(graph, moments, rng(0)) for n in ("l2", "flap"))
    found = find_criterion("0.25*l2+3*flap")(graph, moments, rng(0))
    means = [np.mean(np.concatenate([np.ravel(v) for v in s.values()])) for s in (a, b)]
    for n in a:
        assert found[n] == pytest.approx(0.25 * a[n] / means[0] + 3 * b[n] / means[1])


def test_a_blend_needs_what_its_parts_need() -> None:
    assert find_criterion("l2+l1").needs == "weights"
    assert find_criterion("0.3*l2+obspa").needs == "moments"
    assert not find_criterion("l2+obspa").scores_are_errors
    assert find_criterion("flap+obspa").scores_are_errors
    text = str(pipeline_of(Options(ratio=0.3, criterion="0.3*l2+0.7*obspa")))
    assert "score{criterion=0.3*l2+0.7*obspa}" in text
    assert ",calibrate," in text
    assert "compensate" in text


def test_the_text_of_a_blend_makes_the_same_plan(models: Path) -> None:
    first = spa_compiler.compile(models / "digits_gru.onnx", 0.4, criterion="0.5*l2+flap", **QUICK, **SEEDED)
    again = spa_compiler.compile(
        models / "digits_gru.onnx", pipeline=first.report["pipeline"], latency=False, quality=False
    )
    assert again.report["plan_sha256"] == first.report["plan_sha256"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.5*l2+", "expected criteria with weights"),
        ("-1*l2+obspa", "expected criteria with weights"),
        ("1.2.3*l2+obspa", "expected criteria with weights"),
        ("0*l2+0*obspa", "every weight is 0"),
        ("l2+nobody", "no criterion is called 'nobody'"),
    ],
)
def test_other_expressions_are_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        find_criterion(text)


def test_weights_may_have_exponents() -> None:
    assert parse_blend("1e+1*l2+2e-3*l1") == [(10.0, "l2"), (0.002, "l1")]


# `order`: prefixes


@pytest.mark.parametrize("kept", [1, 2, 5, 9, 16, 31, 32])
def test_any_prefix_equals_the_slice_of_the_weights(models: Path, kept: int) -> None:
    source = models / "digits_resnet.onnx"
    dense = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    share = 1 - kept / 32
    result = spa_compiler.compile(source, group_ratio={"2.0.body.0.0.weight:0": share}, criterion="order", **QUICK)
    small = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert "2.0.body.0.0.weight" in small
    for name, weights in small.items():
        if name in dense:
            assert np.array_equal(weights, dense[name][tuple(slice(n) for n in weights.shape)]), name
    assert small["2.0.body.0.0.weight"].shape[0] == kept


def test_every_block_keeps_its_first_channels(models: Path) -> None:
    result = spa_compiler.compile(models / "digits_vit.onnx", 0.5, criterion="order", **QUICK)
    for label, mask in result.plan.keep.items():
        rows = mask.reshape(-1, mask.shape[-1])
        assert all(row[: row.sum()].all() for row in rows), label
    assert "order" in find_criteria()


# `random`: the baseline


@pytest.mark.parametrize("scope", ["auto", "erk"])
def test_random_plans_follow_the_seed_and_meet_the_budget(models: Path, scope: str) -> None:
    def compile_with(seed: int) -> spa_compiler.Result:
        return spa_compiler.compile(
            models / "digits_resnet.onnx", 0.4, criterion="random", scope=scope, seed=seed, **QUICK
        )

    first, again, other = compile_with(1), compile_with(1), compile_with(2)
    assert first.report["plan_sha256"] == again.report["plan_sha256"] != other.report["plan_sha256"]
    for found in (first, other):
        assert found.report["reached"]["macs"] == pytest.approx(0.4, abs=0.01)
