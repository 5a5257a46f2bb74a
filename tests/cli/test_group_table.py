"""`spa inspect`: the table of groups, its order, and what is frozen by node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from commands import run_spa
from zoo import CASES, build

ROOT = Path(__file__).resolve().parent.parent.parent
VIT = ROOT / "tests" / "exports" / "vit.legacy17.onnx"


def inspect(*more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_spa("inspect", VIT, "--json", *more).output)
    return found


def test_rows_have_the_modules_that_write_and_read() -> None:
    text = run_spa("inspect", VIT).output
    assert re.search(r"^group +width +MACs +% +parameters +% +written by +read by", text, re.MULTILINE)
    assert re.search(
        r"^attention v dim +2 x 4 +840 +20\.6 +136 +13\.3 +attention\.qkv +attention\.out *$", text, re.MULTILINE
    )
    assert re.search(r"^mlp hidden +10 .* mlp\.0 +mlp\.2 *$", text, re.MULTILINE)
    assert "shares overlap" in text


def test_shares_are_of_the_whole_model() -> None:
    found = inspect()
    for g in found["groups"]:
        assert g["shares"] == {
            "params": pytest.approx(g["parameters"] / found["parameters"]),
            "macs": pytest.approx(g["macs"] / found["macs"]),
        }


def test_groups_come_in_the_order_that_is_asked_for() -> None:
    usual = [g["macs"] for g in inspect()["groups"]]
    assert usual == sorted(usual, reverse=True)
    names = [g["name"] for g in inspect("--sort", "name")["groups"]]
    assert names == sorted(names)
    widths = [g["units"] for g in inspect("--sort", "width")["groups"]]
    assert widths == sorted(widths, reverse=True)
    sizes = [g["parameters"] for g in inspect("--sort", "params")["groups"]]
    assert sizes == sorted(sizes, reverse=True)
    assert inspect("--sort", "order")["groups"][0]["label"] == "patch.weight:0"
    assert run_spa("inspect", VIT, "--sort", "size").exit_code == 2


def test_top_shortens_the_lists_and_not_the_totals() -> None:
    whole, short = inspect(), inspect("--top", 2)
    assert short["groups"] == whole["groups"][:2]
    assert (short["count"], short["parameters"]) == (5, whole["parameters"])
    assert run_spa("inspect", VIT, "--top", 0).exit_code == 2


def test_frozen_nodes_hold_all_frozen_parameters() -> None:
    found = inspect()
    head = found["frozen_nodes"][0]
    assert (head["module"], head["weights"], head["parameters"]) == ("head", ["head.bias"], 7)
    assert head["node"] == "Gemm '/head/Gemm'" and "graph output" in head["reason"]
    assert sum(n["parameters"] for n in found["frozen_nodes"]) == sum(found["frozen"].values())


@pytest.mark.parametrize("name", sorted(CASES))
def test_frozen_nodes_add_up_for_every_operator(name: str, tmp_path: Path) -> None:
    onnx.save(build(CASES[name]), tmp_path / "m.onnx")
    found = json.loads(run_spa("inspect", tmp_path / "m.onnx", "--json").output)
    by_reason: dict[str, int] = {}
    for row in found["frozen_nodes"]:
        by_reason[row["reason"]] = by_reason.get(row["reason"], 0) + row["parameters"]
    assert by_reason == found["frozen"]


def test_brackets_in_names_are_no_markup(tmp_path: Path) -> None:
    data = VIT.with_name("edsr.legacy13.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(data.replace(b"body.0.weight", b"[bo].0.weight"))
    assert "[bo].0 channels" in run_spa("inspect", tmp_path / "m.onnx").output
