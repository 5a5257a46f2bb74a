"""Options: whatever is given takes effect, is named in a note, or is refused before any work is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from commands import QUICK, run, run_spa
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.cli.main import compile_command, spa
from spa_compiler.compiler import compile_file
from spa_compiler.errors import UsageError
from spa_compiler.ir.reader import load
from spa_compiler.pipeline.default_order import find_default_passes
from spa_compiler.pipeline.options import Options, find_declared, find_idle, pipeline_of
from spa_compiler.verification.fidelity import draw_feeds

TEXT = "normalize,score{criterion=l1},allocate{ratio=0.5},remove,verify"
IDLE: list[tuple[dict[str, Any], set[str]]] = [
    ({"ratio": 0.5, "criterion": "l2", "samples": 8}, {"samples"}),
    ({"ratio": 0.5, "criterion": "l2", "calib": "white", "memory": "1GB"}, {"calib"}),
    ({"ratio": 0.5, "scores": "s.npz", "criterion": "l1", "compensate": False}, {"criterion"}),
    ({"ratio": 0.5, "scores": "s.npz", "compensate": False, "samples": 8}, {"samples"}),
    ({"target": "1MB", "of": "params"}, {"of"}),
    ({"plan": "p.json", "scores": "s.npz", "of": "params"}, {"scores", "of"}),
    ({"plan": "p.json", "align": 8, "min_keep": 2, "scope": "global"}, {"align", "min_keep", "scope"}),
    ({"plan": "p.json", "exclude": ("a",), "include": ("b",)}, {"exclude", "include"}),
    ({"plan": "p.json", "group_ratio": ("a=0.5",), "max_group_ratio": 0.5}, {"group_ratio", "max_group_ratio"}),
    ({"plan": "p.json", "criterion": "flap"}, {"criterion"}),
    ({"plan": "p.json", "compensate": False, "samples": 8}, {"samples"}),
    ({"plan": "p.json", "samples": 8, "calib": "white"}, {"samples", "calib"}),
    ({"ratio": 0.5, "criterion": "l2", "compensate": "merge", "samples": 8}, {"samples"}),
    ({"pipeline": TEXT, "criterion": "l2", "scores": "s.npz"}, {"criterion", "scores"}),
    ({"pipeline": TEXT, "compensate": False, "input_shape": ("1,2",)}, {"compensate", "input_shape"}),
    ({"pipeline": TEXT, "compensate": True, "min_keep": 2}, {"compensate", "min_keep"}),
    ({"pipeline": TEXT, "data": "d.npz", "latency": False, "input_range": ("0,1",)}, {"input_range"}),
    ({"pipeline": TEXT, "data": "d.npz", "latency": False, "samples": 8, "seed": 1}, {"samples", "seed"}),
    ({"ratio": 0.0, "criterion": "l2", "align": 8, "samples": 8}, {"criterion", "align", "samples"}),
]  # fmt: skip
HEEDED: list[dict[str, Any]] = [
    {"ratio": 0.5, "criterion": "l2", "compensate": True, "samples": 8, "calib": "white"},
    {"ratio": 0.5, "compensate": True, "memory": "1GB", "input_range": ("0,1",), "seed": 1, "threads": 1},
    {"ratio": 0.5, "criterion": "l1", "compensate": False, "seed": 1, "exclude": ("a",), "align": 8},
    {"ratio": 0.5, "scores": "s.npz", "criterion": "l2", "of": "params", "max_group_ratio": 0.5, "scope": "global"},
    {"ratio": 0.0, "exclude": ("a",), "include": ("b",), "min_keep": 2, "group_ratio": ("a=0.5",), "samples": 8},
    {"plan": "p.json", "compensate": False, "input_shape": ("1,2",), "dry_run": True, "fail_under": ("cosine=0.5",)},
    {"plan": "p.json", "compensate": "bias", "samples": 8},
    {"ratio": 0.5, "criterion": "l2", "compensate": "none"},
    {"pipeline": TEXT, "data": "d.npz", "input_range": ("0,1",), "seed": 1},
]


@pytest.mark.parametrize(("options", "names"), IDLE, ids=lambda v: str(sorted(v) if isinstance(v, set) else v))
def test_options_that_change_nothing_are_found(options: dict[str, Any], names: set[str]) -> None:
    assert set(find_idle(Options(**options))) == names


@pytest.mark.parametrize("options", HEEDED, ids=str)
def test_options_that_change_something_are_accepted(options: dict[str, Any]) -> None:
    assert find_idle(Options(**options)) == []


@pytest.mark.parametrize("options", [o for o, names in IDLE if o.get("ratio") != 0.0], ids=str)
def test_they_are_refused_by_name_before_any_work(source: Path, options: dict[str, Any]) -> None:
    steps: list[str] = []
    with pytest.raises(UsageError, match=r"--[a-z-]+: has no effect") as refused:
        compile_file(source, None, Options(**options), steps.append)
    assert not steps
    assert all(f"--{n.replace('_', '-')}" in str(refused.value) for n in set(find_idle(Options(**options))) - {"seed"})


def test_at_ratio_0_and_for_the_seed_a_note_is_enough(source: Path, models: Path) -> None:
    report = source.with_name("r.json")
    assert run(source, "--ratio", 0, "--align", 8, "--report", report, *QUICK).exit_code == 0
    assert [n for n in json.loads(report.read_text())["notes"] if n.startswith("--align has no effect")]
    data = ("--data", models / "digits_test.npz", "--no-latency", "--report", report)
    assert run(source, "--pipeline", TEXT, "--seed", 3, *data).exit_code == 0
    assert [n for n in json.loads(report.read_text())["notes"] if n.startswith("--seed has no effect")]


def test_every_option_of_compile_is_read_by_the_pipeline_or_by_the_command() -> None:
    own = {
        "source",
        "files",
        "output",
        "reports",
        "as_json",
        "allow_noop",
        "quiet",
        "verbose",
        "save_plan",
        "mask",
    }
    for command in (compile_command, spa.commands["compile"], spa.commands["apply"]):
        names = {p.name for p in command.params if isinstance(p, click.Argument | click.Option)} - {"version"}
        assert names - own <= set(find_declared())


def test_the_same_share_of_channels_is_not_global(source: Path) -> None:
    channels = ("--ratio", 0.5, "--of", "channels", *QUICK)
    assert run(source, *channels, "--scope", "global").exit_code == 2
    report = source.with_name("r.json")
    assert run(source, "--ratio", 0.5, "--of", "channels", "--no-latency", "--report", report).exit_code == 0
    assert json.loads(report.read_text())["asked"]["scope"] == "uniform"


def test_a_target_of_the_passes_says_it_all(source: Path) -> None:
    for more in ("ratio=0.5", "of=params"):
        text = f"normalize,score,allocate{{target=1MB,{more}}},remove,verify"
        assert run(source, "--pipeline", text).exit_code == 2


def test_a_file_of_scores_leaves_no_criterion(source: Path) -> None:
    text = "normalize,score{criterion=l1,file=s.npz},allocate{ratio=0.5},remove,verify"
    result = run(source, "--pipeline", text)
    assert result.exit_code == 2
    assert "without criterion" in result.stderr


def test_the_seed_draws_the_inputs_that_fidelity_is_measured_on(source: Path) -> None:
    model, _ = normalize(load(source))
    first, again, other = (draw_feeds(model, seed)[0]["x"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    small = source.with_name("small.onnx")
    assert run(source, "--ratio", 0.7, "-o", small, *QUICK).exit_code == 0
    for command in ("verify", "compare"):
        said = [run_spa(command, source, small, "--seed", k).output for k in (1, 2)]
        lines = [
            next(n for n in reversed(text.splitlines()) if "fidelity on" in n or "small.onnx" in n) for text in said
        ]
        cosine = [line.split("cosine ")[-1].split(",")[0].split()[-1] for line in lines]
        assert cosine[0] != cosine[1], said
    assert run(source, "--ratio", 0.5, "--seed", -1).exit_code == 2


def test_verify_says_what_it_does_not_draw(source: Path, models: Path) -> None:
    pair = (source, source, "--data", models / "digits_test.npz")
    assert run_spa("verify", *pair, "--input-range", "0,1").exit_code == 2
    assert "--input-range: has no effect" in run_spa("verify", *pair, "--input-range", "0,1").stderr
    assert "note: --seed has no effect" in run_spa("verify", *pair, "--seed", 3).output


def test_options_at_their_defaults_are_nothing_to_refuse() -> None:
    assert find_idle(Options(ratio=0.5)) == []
    assert pipeline_of(Options(ratio=0.5)) == pipeline_of(Options(ratio=0.5, of="macs", calib="synthetic"))


def test_a_pipeline_that_only_normalises_is_measured_like_any_other(source: Path) -> None:
    assert run(source, "--pipeline", "normalize", "-o", source.with_name("same.onnx"), "--no-latency").exit_code == 0


def test_a_distribution_whose_pass_cannot_be_loaded_stops_nothing_else() -> None:
    assert [k.name for k in find_default_passes(("allocate", "of no distribution"))] == ["allocate"]


@pytest.mark.parametrize("name", ["similarity", "sensitivity"])
def test_a_scope_that_measures_is_given_inputs_and_no_more(name: str) -> None:
    text = str(pipeline_of(Options(ratio=0.3, criterion="l2", scope=name, samples=8)))
    assert text == (
        "normalize,analyze,fold,redirect,erase,calibrate{samples=8,moments=false},score,"
        f"allocate{{ratio=0.3,scope={name}}},remove,verify"
    )
    assert not find_idle(Options(ratio=0.3, criterion="l2", scope=name, samples=8))
    assert find_idle(Options(ratio=0.3, criterion="l2", scope="erk", samples=8)) == ["samples"]
