"""Plan templates: lists, widths, shares and thresholds by name or pattern; scores say which channels stay."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from commands import run, run_spa
from networks import graph_of
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UsageError
from spa_compiler.pipeline.options import Options, find_idle, pipeline_of
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.plan_template import PlanTemplate, load_template
from zoo_base import Case, build

CHAIN = Case(
    "(float[N,3,6,6] x) => (float[N,2,6,6] y) { a = Conv (x, stem)  r = Relu(a)  b = Conv (r, first)"
    "  q = Relu(b)  c = Conv (q, second)  s = Add(c, a)  u = Relu(s)  y = Conv (u, last) }",
    {"stem": (8, 3, 1, 1), "first": (12, 8, 1, 1), "second": (8, 12, 1, 1), "last": (2, 8, 1, 1)},
    None,
)
QUICK = ("--no-latency", "--no-quality")


def chain() -> tuple[DependencyGraph, dict[str, np.ndarray]]:
    """The graph, and scores that rise with the channel."""
    graph = graph_of(CHAIN)
    return graph, {g.label: np.arange(g.size) / g.size for g in graph.groups}


def resolve(entries: dict[str, Any]) -> dict[str, list[int]]:
    graph, scores = chain()
    plan = PlanTemplate(entries, "t.json").resolve(graph, scores)
    plan.masks(graph)
    return {n: np.flatnonzero(m).tolist() for n, m in plan.keep.items()}


def find_label(member: str) -> str:
    graph, _ = chain()
    return next(g.label for g in graph.groups if any(f"{m.value}:{m.axis}" == member for m in g.members))


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        ([0, 5], [0, 5]),
        (3, [9, 10, 11]),
        (12, list(range(12))),
        (0.25, [9, 10, 11]),
        (1.0, list(range(12))),
        ({"above": 0.5}, [7, 8, 9, 10, 11]),
        ({"above": 9}, [11]),
        ({"size": 12, "keep": [1, 2]}, [1, 2]),
    ],
)
@pytest.mark.parametrize("key", ["first:0", "second:1", "fir*:0", "[f]irst:0"])
def test_every_kind_of_entry_by_every_kind_of_key(entry: Any, kept: list[int], key: str) -> None:
    found = resolve({key: entry})
    assert found.get(find_label("first:0"), list(range(12))) == kept
    assert set(found) <= {find_label("first:0")}


def test_names_count_before_patterns_and_of_patterns_the_first() -> None:
    inner, stream = find_label("first:0"), find_label("stem:0")
    found = resolve({"*": 0.5, "f*:0": 2, "second:1": [0]})
    assert found[inner] == [0]
    assert found[stream] == [4, 5, 6, 7]
    assert resolve({"fir*:0": 2, "*": 0.5})[inner] == [10, 11]


def test_two_widths_of_coupled_channels_are_refused_with_both() -> None:
    """Row Transformable Architecture Search: the widths of the spec, or what couples them."""
    with pytest.raises(UsageError, match=r"'stem:0' and 'second:0' are coupled .* ask for 4 and 6"):
        resolve({"stem:0": 4, "second:0": 6})
    assert len(resolve({"stem:0": 4, "second:0": 4})[find_label("stem:0")]) == 4


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"frist:0": 3}, r"'frist:0' matches no group \(did you mean .*'first:0'"),
        ({"conv9*": 3}, "'conv9\\*' matches no group"),
        ({"first:0": 13}, "asks for 13 channels of .* which has 12"),
        ({"first:0": [12]}, r"'first:0'.*0\.\.11"),
        ({"first:0": []}, "would remove every channel"),
    ],
)
def test_what_does_not_fit_is_named(entries: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve(entries)


@pytest.mark.parametrize(
    "entry", [0, -1, 0.0, 1.5, True, "3", None, {"below": 1}, {"above": "x"}, {"above": 1, "x": 2}]
)
def test_what_is_no_entry_is_refused(entry: Any, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"version": 1, "groups": {"w:0": entry}}))
    with pytest.raises(UsageError, match=r"'w:0'.*neither a list of channels"):
        load_template(file)


def write(folder: Path, groups: dict[str, Any]) -> Path:
    file = folder / "template.json"
    file.write_text(json.dumps({"version": 1, "groups": groups}))
    return file


def test_only_an_open_plan_is_scored(tmp_path: Path) -> None:
    shut, open_ = tmp_path / "shut.json", write(tmp_path, {"*": 0.5})
    shut.write_text(json.dumps({"version": 1, "groups": {"w:0": [0, 1]}}))
    names = {f: [p.name for p in pipeline_of(Options(plan=f, criterion="l1")).iterate_flat()] for f in (shut, open_)}
    assert "score" in names[open_]
    assert "score" not in names[shut]
    assert find_idle(Options(plan=shut, criterion="l1")) == ["criterion"]
    assert find_idle(Options(plan=open_, criterion="l1")) == []
    text = [p.name for p in pipeline_of(Options(plan=open_)).iterate_flat()]
    assert "calibrate" in text
    assert "compensate" not in text


def test_the_widths_of_a_template_are_those_of_the_file(tmp_path: Path) -> None:
    """Row LAPP, too: what is under its threshold goes, and the saved plan makes the same file again."""
    onnx.save(build(CHAIN), tmp_path / "m.onnx")
    template, saved = write(tmp_path, {"stem:0": 5, "first:0": {"above": 1.0}}), tmp_path / "saved.json"
    made = ("--plan", template, "--criterion", "l2", "--save-plan", saved, *QUICK)
    result = run(tmp_path / "m.onnx", tmp_path / "a.onnx", *made)
    assert result.exit_code == 0, result.output
    assert run(tmp_path / "m.onnx", tmp_path / "b.onnx", "--plan", saved, *QUICK).exit_code == 0
    a, b, dense = ({t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / f"{n}.onnx").graph.initializer}
                   for n in "abm")  # fmt: skip
    assert {n: w.tobytes() for n, w in a.items()} == {n: w.tobytes() for n, w in b.items()}
    kept = {n: np.flatnonzero(m) for n, m in Plan.load(saved).keep.items()}
    stream, inner = kept[find_label("stem:0")], kept[find_label("first:0")]
    assert a["stem"].shape[0] == stream.size == 5
    np.testing.assert_array_equal(a["first"], dense["first"][inner][:, stream])
    norms = np.square(dense["first"]).sum((1, 2, 3)) / np.square(dense["first"]).sum((1, 2, 3)).mean()
    norms += np.square(dense["second"]).sum((0, 2, 3)) / np.square(dense["second"]).sum((0, 2, 3)).mean()
    np.testing.assert_array_equal(inner, np.flatnonzero(norms / norms.mean() > 1))
    assert run_spa("verify", tmp_path / "m.onnx", tmp_path / "a.onnx", "--plan", saved).exit_code == 0
    refused = run_spa("verify", tmp_path / "m.onnx", tmp_path / "a.onnx", "--plan", template)
    assert refused.exit_code == 2
    assert re.search(r"--save-plan", refused.output)


def test_a_text_without_scores_says_what_is_missing(tmp_path: Path) -> None:
    onnx.save(build(CHAIN), tmp_path / "m.onnx")
    text = f"normalize,plan{{file={write(tmp_path, {'*': 0.5})}}},remove,verify"
    result = run(tmp_path / "m.onnx", "--pipeline", text, *QUICK)
    assert result.exit_code == 2
    assert "put `score` before `plan`" in result.output
