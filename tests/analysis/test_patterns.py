"""Patterns of groups, nodes, modules, weights and operators, and the names that a message gives for one that fails."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import spa_compiler
from commands import run, run_spa
from laws import analyze_proto
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.patterns import is_group_named, is_site_named
from spa_compiler.errors import UsageError, suggest_names, suggest_patterns

EXPORTS = Path(__file__).resolve().parent.parent / "exports"
VIT = EXPORTS / "vit.legacy17.onnx"
QUICK = ("--criterion", "l2", "--no-latency", "--no-quality", "--dry-run", "--align", 1)


@pytest.fixture(scope="module")
def graph() -> DependencyGraph:
    return analyze_proto(onnx.load(VIT))


def list_named(graph: DependencyGraph, pattern: str) -> list[str]:
    return sorted(g.name for g in graph.groups if is_group_named(graph, g, pattern))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("attention heads", ["attention heads"]),
        ("attention * dim", ["attention q/k dim", "attention v dim"]),
        ("onnx::MatMul_151:1", ["mlp hidden"]),
        ("mlp.0.bias", ["mlp hidden"]),
        ("mlp.0.bias:0", ["mlp hidden"]),
        ("mlp.0", ["mlp hidden", "residual stream"]),
        ("/mlp/mlp.2/MatMul", ["mlp hidden", "residual stream"]),
        ("type:Conv", ["residual stream"]),
        ("type:Co*", ["residual stream"]),
        ("type:conv", []),
        ("type:Softmax", []),
    ],
)
def test_patterns_of_groups(graph: DependencyGraph, pattern: str, names: list[str]) -> None:
    assert list_named(graph, pattern) == names


@pytest.mark.parametrize(
    ("pattern", "nodes"),
    [
        ("type:Gemm", ["/head/Gemm"]),
        ("head", ["/head/Gemm"]),
        ("head.weight", ["/head/Gemm"]),
        ("/head/*", ["/head/Gemm"]),
        ("type:Softmax", ["/attention/Softmax"]),
    ],
)
def test_patterns_of_nodes(graph: DependencyGraph, pattern: str, nodes: list[str]) -> None:
    assert [s.name for s in graph.sites if is_site_named(s, pattern)] == nodes


def test_an_operator_is_found_behind_what_makes_its_weights() -> None:
    """The weights of a quantised graph go through DequantizeLinear."""
    graph = analyze_proto(onnx.load(EXPORTS / "resnet.legacy17.qdq.onnx"))
    assert list_named(graph, "type:Conv") == sorted(g.name for g in graph.groups)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--exclude", "type:matmul"),
        ("--include", "type:matmul"),
        ("--group-ratio", "type:matmul=0.1"),
        ("--layer-ratio", "type:matmul=0.1"),
        ("--ratio", "type:matmul=0.1"),
        ("--with", "factor{exclude=type:matmul}"),
    ],
)
def test_what_matches_nothing_is_refused_with_names_that_are_near(option: str, value: str) -> None:
    ratio = () if option == "--ratio" else ("--ratio", 0.2)
    result = run(VIT, *ratio, *QUICK, option, value)
    assert result.exit_code == 2
    assert "did you mean 'type:MatMul'" in result.stderr


def test_a_plan_that_matches_nothing_is_refused_with_names_that_are_near(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"version": 1, "groups": {"mlp hiden": 0.5}}')
    result = run_spa("compile", VIT, "--plan", tmp_path / "plan.json", "--no-latency", "--dry-run")
    assert result.exit_code == 2
    assert "'mlp hiden' matches no group (did you mean 'mlp hidden'" in result.stderr


@pytest.mark.parametrize(
    ("options", "cut"),
    [
        ({"ratio": 0.1, "include": ("*hidden",)}, {"mlp hidden"}),
        ({"ratio": 0.1, "exclude": ("type:MatMul",)}, set()),
        ({"ratio": {"mlp.*": 0.4}}, {"mlp hidden"}),
        ({"ratio": 0.03, "layer_ratio": {"mlp.0": 0.2}, "include": ("mlp hidden",)}, {"mlp hidden"}),
    ],
)
def test_patterns_decide_what_is_cut(options: dict[str, object], cut: set[str]) -> None:
    given = {"criterion": "l2", "latency": False, "quality": False, "align": 1, **options}
    if not cut:
        with pytest.raises(spa_compiler.SpaError):
            spa_compiler.compile(VIT, **given)  # type: ignore[arg-type]
        return
    report = spa_compiler.compile(VIT, **given).report  # type: ignore[arg-type]
    assert {g["name"] for g in report["groups"] if g["kept"] < g["size"]} == cut


def test_suggestions() -> None:
    names = ["layers.0.attn heads", "layers.1.attn heads", "patch channels"]
    assert suggest_names("patch chanels", names) == " (did you mean 'patch channels'?)"
    assert suggest_names("nothing", names) == ""
    assert suggest_patterns("attn", names) == " (did you mean '*attn*'?)"
    assert suggest_patterns("nothing*", names) == ""
    assert suggest_patterns("*", []) == ""


def test_an_unknown_group_is_named_with_those_that_are_near(graph: DependencyGraph) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'mlp hidden'\?"):
        graph.group("mlp hiddn")
