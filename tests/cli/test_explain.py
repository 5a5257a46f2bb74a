"""`spa explain`: groups, nodes, modules, values and axes, what hangs on them, and the chain between two."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import onnx.parser
import pytest

from commands import run_spa
from laws import analyze_proto
from zoo import CASES, build

VIT = Path(__file__).resolve().parent.parent / "exports" / "vit.legacy17.onnx"
HIDDEN = [
    ("onnx::MatMul_151", 1, "out", "mlp.0"),
    ("mlp.0.bias", 0, "scale", "mlp.0"),
    ("onnx::MatMul_152", 0, "in", "mlp.2"),
]


def explain(*things: str) -> dict[str, Any]:
    result = run_spa("explain", VIT, *things, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def list_members(group: dict[str, Any]) -> list[tuple[str, int, str, str]]:
    return [(m["value"], m["axis"], m["role"], m["module"]) for m in group["members"]]


@pytest.mark.parametrize("thing", ["mlp hidden", "/mlp/mlp.1/Erf", "mlp.1", "mlp.0.bias", "/mlp/mlp.1/Erf_output_0:2"])
def test_what_hangs_on_a_group_is_listed_for_all_that_names_it(thing: str) -> None:
    found = explain(thing)
    assert [g["name"] for g in found["groups"]] == ["mlp hidden"]
    assert list_members(found["groups"][0]) == HIDDEN
    assert found["other"] is None


def test_a_label_is_its_group_where_it_is_no_axis() -> None:
    assert [g["name"] for g in explain("onnx::MatMul_147:1#2")["groups"]] == ["attention q/k dim"]
    on_axis = {g["name"] for g in explain("onnx::MatMul_147:1")["groups"]}
    assert on_axis == {"attention heads", "attention q/k dim", "attention v dim"}


def test_the_chain_is_drawn_from_where_channels_are_made_to_where_they_are_read() -> None:
    lines = run_spa("explain", VIT, "mlp hidden").output.splitlines()
    at = lines.index("  the chain from onnx::MatMul_151:1 to onnx::MatMul_152:0:")
    assert [line.strip() for line in lines[at + 1 :]] == [
        "onnx::MatMul_151:1",
        "|  MatMul '/mlp/mlp.0/MatMul'",
        "/mlp/mlp.0/MatMul_output_0:2",
        "|  Add '/mlp/mlp.0/Add'",
        "/mlp/mlp.0/Add_output_0:2",
        "|  Mul '/mlp/mlp.1/Mul'",
        "/mlp/mlp.1/Mul_output_0:2",
        "|  Mul '/mlp/mlp.1/Mul_1'",
        "/mlp/mlp.1/Mul_1_output_0:2",
        "|  MatMul '/mlp/mlp.2/MatMul'",
        "onnx::MatMul_152:0",
    ]


def test_a_chain_joins_any_two_things() -> None:
    found = explain("patch", "head")
    chain = found["chain"]
    assert found["coupled"]
    assert all(a["other"] == b["axis"] for a, b in itertools.pairwise(chain))
    assert "/head/Gemm" in chain[-1]["node"]
    assert run_spa("explain", VIT, "x:0", "x:0").output == "the same axis\n"


@pytest.mark.parametrize(
    "pair", [("mlp hidden", "attention heads"), ("attention heads", "attention v dim"), ("x:2", "patch.weight:1")]
)
def test_that_nothing_couples_two_things_is_an_answer(pair: tuple[str, str]) -> None:
    result = run_spa("explain", VIT, *pair)
    assert result.exit_code == 0
    assert result.output.startswith("nothing couples ")
    assert explain(*pair)["coupled"] is False


def test_reasons_name_all_axes_that_are_frozen_for_them() -> None:
    found = explain("head")
    reasons = {f["where"]: f["axes"] for f in found["frozen"]}
    assert reasons["y"] == ["head.weight:0", "head.bias:0", "y:1"]
    assert [g["axis"] for g in found["groups"]] == ["head.weight:1"]
    assert explain("head.weight:0")["frozen"][0]["chain"][-1]["other"] == "y:1"
    assert "and 1 more are frozen: graph input" in run_spa("explain", VIT, "mlp.1").output


@pytest.mark.parametrize(("wrong", "near"), [("mlp hiden", "'mlp hidden'"), ("/mlp/mlp.1/Erff", "'/mlp/mlp.1/Erf'")])
def test_an_unknown_name_is_refused_with_names_that_are_near(wrong: str, near: str) -> None:
    result = run_spa("explain", VIT, wrong)
    assert result.exit_code == 2
    assert f"nothing is called '{wrong}' (did you mean {near}" in result.stderr


@pytest.mark.parametrize("name", sorted(CASES))
def test_members_of_a_group_are_coupled(name: str) -> None:
    graph = analyze_proto(build(CASES[name]))
    for group in graph.groups:
        first, *others = [(m.value, m.axis) for m in group.members]
        for other in others:
            chain = graph.find_chain([first], [other], group.dims)
            assert chain and (chain[0][0], chain[-1][2]) == (first, other)


def test_a_file_without_groups_is_explained(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    assert "x:0, x:1 are frozen" in run_spa("explain", tmp_path / "m.onnx", "x").output
