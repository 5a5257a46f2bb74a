"""The analysis of a model: labels, roles, explanations, reasons."""

from __future__ import annotations

import itertools
from pathlib import Path

import onnx
import pytest

from laws import analyze_proto, assert_every_rule_fits, list_groups
from spa_compiler.errors import UsageError
from spa_compiler.operators import tables
from zoo import CASES, Case, build
from zoo_base import Init


def test_members_have_roles() -> None:
    graph = analyze_proto(build(CASES["residual"]))
    (group,) = graph.groups
    roles = {f"{m.value}:{m.axis}": m.role for m in group.members}
    assert roles["w1:0"] == "out" and roles["w2:1"] == "in" and roles["w3:1"] == "in"
    assert roles["s:0"] == "scale" == roles["var:0"]


def test_a_label_finds_its_group() -> None:
    graph = analyze_proto(build(CASES["grouped_conv"]))
    for group in graph.groups:
        assert graph.group(group.label) is group
        assert group.label.split("#")[0] in {f"{m.value}:{m.axis}" for m in group.members}
    assert len({g.label for g in graph.groups}) == len(graph.groups)
    with pytest.raises(UsageError, match="nobody"):
        graph.group("nobody")


def test_explain_gives_the_chain_of_nodes() -> None:
    graph = analyze_proto(build(CASES["residual"]))
    path = graph.explain(("w1", 0), ("w3", 1))
    assert path[0][0] == ("w1", 0) and path[-1][2] == ("w3", 1)
    assert all(a[2] == b[0] for a, b in itertools.pairwise(path))
    assert any("Conv" in node for _, node, _ in path)


def test_explain_refuses_what_is_not_coupled_or_not_there() -> None:
    graph = analyze_proto(build(CASES["conv"]))
    for a, b in ((("w1", 0), ("w1", 1)), (("w1", 0), ("nobody", 0)), (("w1", 9), ("w2", 1))):
        with pytest.raises(UsageError):
            graph.explain(a, b)


def test_frozen_parameters_are_counted_by_reason() -> None:
    graph = analyze_proto(build(CASES["custom_op"]))
    counted = graph.frozen_parameters()
    assert sum(counted.values()) == 6 * 7 + 4 * 6
    assert all("Mystery" in reason for reason in counted)


def test_blocks_have_masks_of_two_axes() -> None:
    graph = analyze_proto(build(CASES["grouped_conv"]))
    shapes = {k: g.shape for k, g in list_groups(graph).items()}
    assert shapes["b1:0 w1:0 w2:1"] == (3, 2) and shapes["b1:0 b2:0 w1:0 w2:0 w3:1"] == (3,)


def test_every_rule_fits_the_digits_models(models: Path) -> None:
    for path in models.glob("*.onnx"):
        assert_every_rule_fits(analyze_proto(onnx.load(path)))


def test_a_rule_that_stumbles_is_told_and_freezes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tables.TABLES[""], "Relu", lambda site: site.x(0).axes[9])
    graph = analyze_proto(build(CASES["conv"]))
    with pytest.raises(AssertionError, match="the rule of Relu does not fit"):
        assert_every_rule_fits(graph)
    assert not graph.groups


@pytest.mark.parametrize("pick", ["Gather", "Slice", "Split"])
def test_a_loop_over_single_channels_is_named(pick: str) -> None:
    channels = range(5)
    picks = {
        "Gather": "  ".join(f"g{k} = Gather<axis=1>(a, i{k})  p{k} = Unsqueeze(g{k}, one)" for k in channels),
        "Slice": "  ".join(f"p{k} = Slice(a, v{k}, v{k + 1}, one)" for k in channels),
        "Split": f"{', '.join(f'p{k}' for k in channels)} = Split<axis=1>(a, parts)",
    }
    inits: dict[str, Init] = {
        "Gather": {"one": [1], **{f"i{k}": k for k in channels}},
        "Slice": {"one": [1], **{f"v{k}": [k] for k in range(6)}},
        "Split": {"parts": [1] * 5},
    }[pick]
    each = "  ".join(f"q{k} = Sin(p{k})" for k in channels)
    text = f"""(float[N,3] x) => (float[N,2] y) {{ a = MatMul(x, w1)  {picks[pick]}  {each}
        z = Concat<axis=1>({", ".join(f"q{k}" for k in channels)})  y = MatMul(z, w2) }}"""
    graph = analyze_proto(build(Case(text, {"w1": (3, 5), "w2": (5, 2), **inits}, None)))
    assert not graph.groups
    assert all("loop over single channels" in reason for reason in graph.frozen_parameters())
