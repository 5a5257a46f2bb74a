"""Passes, criteria and costs of other distributions plug in exactly as ours do; `test_plugin` is one of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner

import spa_compiler
from commands import check_report, run_spa
from laws import analyze_proto, random_masks
from spa_compiler.analysis import cost_registry
from spa_compiler.analysis.cost import CostModel
from spa_compiler.cli.main import spa
from spa_compiler.compensation import policy
from spa_compiler.errors import BudgetError, GateError, NothingToPrune, UsageError
from spa_compiler.pipeline import passes
from spa_compiler.planning import scopes
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.scoring import registry
from zoo import CASES, build

PLUGIN = Path(__file__).resolve().parent / "test_plugin"


def install(source: Path, target: Path) -> None:
    """Install a pure distribution as pip does: its packages, its name and its entry points."""
    project = tomllib.loads((source / "pyproject.toml").read_text())
    for package in project["tool"]["setuptools"]["packages"]:
        shutil.copytree(source / package, target / package, dirs_exist_ok=True)
    name, version = project["project"]["name"], project["project"]["version"]
    info = target / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = project["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


def forget() -> None:
    passes.find_passes.cache_clear()
    registry.find_criteria.cache_clear()
    scopes.find_scope_points.cache_clear()
    policy.find_policy_points.cache_clear()
    cost_registry.find_cost_points.cache_clear()
    cost_registry.find_costs.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions with the plugin in it."""
    folder = tmp_path / "site"
    folder.mkdir()
    install(PLUGIN, folder)
    monkeypatch.syspath_prepend(str(folder))
    forget()
    yield folder
    forget()


@pytest.mark.usefixtures("site")
def test_an_outside_pass_runs_in_a_pipeline(models: Path, tmp_path: Path) -> None:
    text = "normalize,every_other{step=4},remove,verify"
    result = spa_compiler.compile(models / "digits_gru.onnx", pipeline=text, output=tmp_path / "out.onnx")
    assert result.report["notes"] == ["every other channel went"]
    assert all(g["kept"] == -(-g["size"] // 4) for g in result.report["groups"])
    assert {p.key: p.value for p in onnx.load(tmp_path / "out.onnx").metadata_props}["spa_compile.pipeline"] == text


@pytest.mark.usefixtures("site")
def test_an_outside_criterion_scores(models: Path) -> None:
    result = spa_compiler.compile(models / "digits_gru.onnx", 0.3, criterion="position", latency=False, quality=False)
    for label, mask in result.state.plan.keep.items():
        kept = int(mask.reshape(-1, mask.shape[-1])[0].sum())
        assert mask.reshape(-1, mask.shape[-1])[:, -kept:].all(), label


@pytest.mark.usefixtures("site")
def test_an_outside_scope_says_how_groups_share_a_budget(models: Path) -> None:
    found = spa_compiler.compile(
        models / "digits_vit.onnx", ratio=0.4, criterion="l2", scope="longest", align=1, latency=False
    )
    assert found.report["asked"]["scope"] == "longest"
    lost = {g["size"]: 1 - g["kept"] / g["size"] for g in found.report["groups"]}
    assert lost[max(lost)] > lost[min(lost)]
    assert "scope=longest" in found.report["pipeline"]


@pytest.mark.usefixtures("site")
def test_an_outside_policy_makes_new_weights(models: Path, tmp_path: Path) -> None:
    options = {"ratio": 0.3, "criterion": "l2", "latency": False, "quality": False}
    found = spa_compiler.compile(models / "digits_mobilenet.onnx", compensate="dropout", **options)
    plain = spa_compiler.compile(models / "digits_mobilenet.onnx", compensate=False, **options)
    assert found.report["compensation"]["method"] == "dropout"
    assert "compensate{method=dropout}" in found.report["pipeline"]
    graph, plan = found.state.require_graph(), found.state.plan
    group = next(g for g in graph.groups if g.label in plan.keep)
    read = next(m.value for m in group.members if m.role == "in")
    made = [r.state.model for r in (found, plain)]
    grown, cut = (m.array(m.constants()[read]) for m in made)
    np.testing.assert_allclose(grown, cut * (group.size / plan.count_kept(group)), rtol=1e-6)


@pytest.mark.usefixtures("site")
def test_an_outside_criterion_that_needs_moments_is_calibrated(models: Path) -> None:
    """`--calib` and `--samples` count for it as they do for ours, and its errors make groups compete."""
    options = {"criterion": "spread", "calib": "white", "samples": 16, "latency": False}
    report = spa_compiler.compile(models / "digits_gru.onnx", 0.3, **options).report
    assert report["calibration"]["samples"] == 16
    assert report["asked"]["scope"] == "global"
    assert report["compensation"]


@pytest.mark.usefixtures("site")
def test_with_puts_a_pass_where_its_after_says(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    arguments = ["compile", models / "digits_gru.onnx", "-o", out, "--ratio", 0, "--with", "every_other{step=4}", "-q"]
    result = CliRunner().invoke(spa, [*map(str, arguments), "--no-latency"])
    assert result.exit_code == 0, result.output
    said = {p.key: p.value for p in onnx.load(out).metadata_props}["spa_compile.pipeline"]
    assert said == "normalize,analyze,fold,redirect,erase,every_other{step=4},remove,verify"


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("added", "why"),
    [
        (("every_other", "every_other"), "the pipeline has this pass"),
        (("remove",), "the pipeline has this pass"),
        (("merge",), "no pass is called 'merge'"),
        (("every_other{pace=2}",), "has no option pace"),
        (("compensate",), "needs the calibration|put `calibrate`"),
    ],
)
def test_what_cannot_be_put_anywhere_is_refused(models: Path, added: tuple[str, ...], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        spa_compiler.compile(
            models / "digits_gru.onnx", 0.3, criterion="l2", with_passes=added, latency=False, quality=False
        )


def test_a_pass_that_says_no_place_is_not_put_anywhere() -> None:
    with pytest.raises(UsageError, match="goes after verify, which the pipeline lacks"):
        passes.Pipeline.parse("normalize").insert(passes.make_pass("compensate"))


def scaled(file: Path, hidden: int = 8, op: str = "Mul") -> Path:
    """x, a weight, a scale (another `op` stays in the graph) and a weight: the hidden units are its only group."""
    rng = np.random.default_rng(0)
    weights = {"w1": (4, hidden), "s": (hidden,), "w2": (hidden, 3)}
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 3] y)
        {{ a = MatMul(x, w1) r = Relu(a) m = {op}(r, s) y = MatMul(m, w2) }}"""
    )
    tensors = {n: rng.uniform(0.5, 1.5, shape).astype(np.float32) for n, shape in weights.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in tensors.items())
    onnx.save(model, file)
    return file


@pytest.mark.usefixtures("site")
def test_a_right_fold_is_proven_and_kept_though_nothing_is_pruned(tmp_path: Path) -> None:
    source, out = scaled(tmp_path / "m.onnx"), tmp_path / "o.onnx"
    result = spa_compiler.compile(source, 0, out, with_passes=("fold_scale",), latency=False, quality=False)
    assert result.state.plan.is_empty and result.state.edits == ("fold_scale",)
    assert [n.op_type for n in onnx.load(out).graph.node] == ["MatMul", "Relu", "MatMul"]
    assert result.report["fidelity"]["cosine"] > 0.999999
    assert "fold_scale" in result.report["seconds"]


@pytest.mark.usefixtures("site")
def test_where_an_exact_pass_finds_nothing_the_file_comes_back_byte_for_byte(models: Path, tmp_path: Path) -> None:
    source, out = models / "digits_gru.onnx", tmp_path / "o.onnx"
    spa_compiler.compile(source, 0, out, with_passes=("fold_scale",), latency=False, quality=False)
    assert out.read_bytes() == source.read_bytes()


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("ratio", [0, 0.5])
def test_a_wrong_fold_is_refused_and_named(tmp_path: Path, ratio: float) -> None:
    source, out = scaled(tmp_path / "m.onnx"), tmp_path / "o.onnx"
    arguments = [source, "-o", out, "--ratio", ratio, "--with", "fold_scale{factor=0.08}", "--criterion", "l2"]
    if not ratio:
        arguments = arguments[:-2]
    result = CliRunner().invoke(spa, ["compile", *map(str, arguments), "--no-latency"])
    assert result.exit_code == 1, result.output
    assert "pass 'fold_scale' says that it changes no output" in result.stderr
    assert not out.exists()


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("ratio", [0, 0.5])
def test_a_wrong_edit_of_a_pass_that_only_helps_is_undone_with_a_note(
    tmp_path: Path, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes.find_pass_type("fold_scale"), "optional", True, raising=False)
    source = scaled(tmp_path / "m.onnx")
    arguments = {"with_passes": ("fold_scale{factor=0.08}",), "latency": False, "quality": False, "criterion": "l2"}
    result = spa_compiler.compile(source, ratio, **arguments)
    assert "fold_scale" not in result.state.edits and result.report["exit_code"] == 0
    assert any("what pass 'fold_scale' would have edited stays as it is" in note for note in result.report["notes"])
    assert ratio or result.report["fidelity"]["cosine"] > 0.999999


@pytest.mark.usefixtures("site")
def test_a_pass_that_edits_the_graph_comes_before_those_that_read_it() -> None:
    with pytest.raises(UsageError, match="'fold_scale' edits the graph that pass 'erase' reads"):
        passes.Pipeline.parse("normalize,erase,fold_scale,remove,verify").complete()


@pytest.mark.usefixtures("site")
def test_both_are_listed_with_their_options() -> None:
    text = CliRunner().invoke(spa, ["passes"]).output
    assert "  every_other: Keep every `step`-th channel of every group.\n      step=2" in text
    assert "  position: Later channels matter more." in text


def run_shell(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`spa` in a process of its own, as somebody has it who installed the plugin."""
    code = "from spa_compiler.cli.start import spa; spa()"
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "120"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


ENERGY = 4.6 * (4 + 3) + 20 * 4 * (4 + 1 + 3)
"""Picojoules of a hidden unit of `scaled`: its multiply-accumulates and the bytes of its weights."""


def check_outside_costs(report: dict[str, Any], of: str) -> None:
    """The report tells them as it does ours: of `scaled`, whose second contraction always gives three numbers."""
    check_report(report)
    left = report["groups"][0]["kept"]
    assert report["asked"]["of"] == of
    assert report["dense"]["activations"] == 8 + 3 and report["compiled"]["activations"] == left + 3
    assert report["dense"]["energy"] == round(8 * ENERGY) and report["compiled"]["energy"] == round(left * ENERGY)
    assert report["reached"]["energy"] == pytest.approx(1 - left / 8, abs=1e-3)
    assert report["reached"]["heads"] == 1 - left / 8
    assert report["reached"][of] >= report["asked"]["ratio"]


@pytest.mark.parametrize(
    ("budget", "of", "kept", "called"),
    [
        (("--of", "activations", "--ratio", 0.3), "activations", 4, "activations"),
        (("--target", "2.7 nJ"), "energy", 4, "energy (pJ)"),
    ],
)
def test_a_budget_of_an_outside_cost_is_met_and_reported(
    site: Path, tmp_path: Path, budget: tuple[object, ...], of: str, kept: int, called: str
) -> None:
    """By one file of the plug-in: nothing else in the compiler knows these costs."""
    source, file = scaled(tmp_path / "m.onnx", op="Add"), tmp_path / "r.json"
    done = run_shell(site, "compile", source, *budget, "--criterion", "l2", "--no-latency", "--report", file)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    check_outside_costs(report, of)
    assert [g["kept"] for g in report["groups"]] == [kept]
    assert f"removed {report['reached'][of]:.1%} of the {called} (requested" in done.stdout
    rows = [row.split()[0] for row in done.stdout.splitlines()[1:6]]
    assert rows == ["MACs", "parameters", "weights", "activations", "energy"]


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("budget", "of", "kept"),
    [({"target": "0.007kActivations"}, "activations", 4), ({"of": "heads", "ratio": 0.25}, "heads", 6)],
)
def test_an_outside_cost_of_every_kind_is_a_budget(tmp_path: Path, budget: dict[str, Any], of: str, kept: int) -> None:
    report = spa_compiler.compile(
        scaled(tmp_path / "m.onnx", op="Add"), **budget, criterion="l2", latency=False, quality=False
    ).report
    check_outside_costs(report, of)
    assert [g["kept"] for g in report["groups"]] == [kept]


@pytest.mark.usefixtures("site")
def test_an_outside_cost_that_is_measured_is_a_budget(tmp_path: Path) -> None:
    source = scaled(tmp_path / "m.onnx", hidden=400, op="Add")
    report = spa_compiler.compile(source, 0.2, of="file", criterion="l2", latency=False, quality=False).report
    check_report(report)
    assert 0.2 <= report["reached"]["file"] <= 0.23
    assert report["compiled"]["file"] <= 0.8 * report["dense"]["file"]
    reached = spa_compiler.compile(source, target="10kBytes", criterion="l2", latency=False, quality=False).report[
        "compiled"
    ]["file"]
    assert 9700 <= reached <= 10000
    with pytest.raises(NothingToPrune, match=r"--target 20000Bytes: the model already takes only 1.*Bytes here"):
        spa_compiler.compile(source, target="20kBytes", criterion="l2", latency=False, quality=False)
    with pytest.raises(BudgetError, match="file: no plan tried is 99% smaller on this machine"):
        spa_compiler.compile(source, 0.99, of="file", criterion="l2", latency=False, quality=False)


@pytest.mark.usefixtures("site")
def test_a_gate_takes_an_outside_cost(tmp_path: Path) -> None:
    source, options = scaled(tmp_path / "m.onnx", op="Add"), {"criterion": "l2", "latency": False}
    spa_compiler.compile(source, 0.5, fail_under=("energy_reduction=0.5",), **options)
    with pytest.raises(GateError, match=r"activations_reduction is 0\.3636, under the gate of 0\.5"):
        spa_compiler.compile(source, 0.5, fail_under=("activations_reduction=0.5",), **options)
    with pytest.raises(UsageError, match="channels_reduction, heads_reduction, speedup"):
        spa_compiler.compile(source, 0.5, fail_under=("joules_reduction=0.5",), **options)


@pytest.mark.usefixtures("site")
def test_tables_show_an_outside_cost(tmp_path: Path) -> None:
    source = scaled(tmp_path / "m.onnx", op="Add")
    found = json.loads(run_spa("inspect", source, "--json").stdout)
    assert found["energy"] == found["groups"][0]["energy"] == round(8 * ENERGY)
    assert (found["activations"], found["groups"][0]["activations"]) == (11, 8)
    text = run_spa("inspect", source).stdout
    assert re.search(r"^group +width +MACs +% +activations +% +energy \(pJ\) +% +parameters +%", text, re.MULTILINE)
    assert re.search(r" 8 +56 +100\.0 +8 +72\.7 +5\.38k +\S+ +64 ", text)
    swept = run_spa("sweep", source, "--ratios", "0.5", "--criterion", "l2").stdout
    assert swept.split()[:7] == ["budget", "MACs", "parameters", "activations", "energy", "(pJ)", "ms"]
    assert swept.splitlines()[1].split()[:5] == ["0.5", "28", "32", "7", "2.69k"]
    assert "  energy: Energy of one sample: 4.6 pJ a multiply-accumulate" in run_spa("passes").stdout


def test_an_unknown_cost_is_refused_with_those_that_there_are(site: Path, tmp_path: Path) -> None:
    source = scaled(tmp_path / "m.onnx", op="Add")
    names = ["macs", "params", "size", "latency", "channels", "flops", "activations", "energy", "file", "heads"]
    done = run_shell(site, "compile", source, "--of", "joules", "--ratio", 0.5)
    assert done.returncode == 2 and all(f"'{n}'" in done.stderr for n in names)
    with pytest.raises(UsageError, match=f"of='joules': expected one of {', '.join(map(repr, names))}"):
        spa_compiler.compile(source, 0.5, of="joules", criterion="l2")
    with pytest.raises(UsageError, match="a number with MACs, params, B, ms, FLOPs, activations, J or Bytes, like"):
        spa_compiler.compile(source, target="5 joules", criterion="l2")


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", ["residual_projection", "resnext", "lstm"])
def test_an_outside_cost_under_widths_is_that_of_the_rewritten_model(name: str) -> None:
    graph = analyze_proto(build(CASES[name]))
    masks = random_masks(graph, np.random.default_rng(3))
    widths = {d: float(m.reshape(-1, d.size)[0].sum()) for d, m in masks.items()}
    small = CostModel(analyze_proto(rewrite(graph, masks).proto()))
    assert CostModel(graph).total("activations", widths) == small.total("activations", {})


def rename(site: Path, old: str, new: str) -> None:
    """Let a second distribution use a name that is taken."""
    taken = site / "spa_other-2.0.dist-info"
    taken.mkdir()
    (taken / "METADATA").write_text("Metadata-Version: 2.1\nName: spa-other\nVersion: 2.0\n")
    text = (site / "spa_every_other-1.0.dist-info" / "entry_points.txt").read_text()
    (taken / "entry_points.txt").write_text(text.replace(old, new))
    forget()


def test_two_passes_of_one_name_are_an_error(site: Path) -> None:
    rename(site, "every_other = spa_every_other", "remove = spa_every_other")
    with pytest.raises(UsageError, match=r"two distributions define the pass 'remove': .*EveryOther"):
        passes.Pipeline.parse("normalize")


def test_two_criteria_of_one_name_are_an_error(site: Path) -> None:
    rename(site, "position = spa_every_other", "l2 = spa_every_other")
    with pytest.raises(UsageError, match=r"two distributions define the criterion 'l2': .*position"):
        registry.find_criterion("l1")


def test_two_costs_of_one_name_are_an_error(site: Path) -> None:
    rename(site, "energy = spa_every_other", "macs = spa_every_other")
    with pytest.raises(UsageError, match=r"two distributions define the cost 'macs': .*energy"):
        cost_registry.find_costs()
    done = run_shell(site, "--help")
    assert done.returncode == 2 and "two distributions define the cost 'macs'" in done.stderr


def test_two_costs_of_one_unit_are_an_error(site: Path) -> None:
    rename(site, "energy = spa_every_other.costs:energy", "bytes = spa_every_other.costs:energy")
    with pytest.raises(UsageError, match="the costs 'size' and 'bytes' are both counted in the unit 'bytes'"):
        cost_registry.find_costs()


def test_a_cost_that_cannot_be_loaded_concerns_only_who_asks_for_it(site: Path, tmp_path: Path) -> None:
    rename(site, "energy = spa_every_other.costs:energy", "broken = spa_every_other.costs:nothing")
    source = scaled(tmp_path / "m.onnx", op="Add")
    options = {"criterion": "l2", "latency": False}
    with pytest.raises(UsageError, match=r"the cost 'broken' \(spa_every_other.costs:nothing\) cannot be loaded: "):
        spa_compiler.compile(source, 0.5, of="broken", **options)
    assert "broken" not in spa_compiler.compile(source, 0.5, **options).report["dense"]


def test_the_same_entry_point_found_twice_is_no_clash(site: Path) -> None:
    rename(site, "nothing", "nothing")
    assert "every_other" in passes.find_passes()
    assert "position" in registry.find_criteria()
    assert "energy" in cost_registry.find_costs()


def test_without_the_plugin_its_names_are_unknown() -> None:
    forget()
    assert "every_other" not in passes.find_passes()
    assert "position" not in registry.find_criteria()
    assert list(cost_registry.find_costs()) == ["macs", "params", "size", "latency", "channels", "flops"]


def test_with_gives_a_pass_that_is_there_its_options() -> None:
    steps = passes.Pipeline.parse("normalize,analyze,basis,erase,calibrate,score,protect(allocate{ratio=0.5},remove)")
    turned = steps.insert(passes.make_pass("basis", dims="all"))
    assert str(turned) == str(steps).replace("basis", "basis{dims=all}")
    inner = passes.Pipeline.parse("allocate{ratio=0.25}").passes[0]
    assert str(steps.insert(inner)) == str(steps).replace("ratio=0.5", "ratio=0.25")
    with pytest.raises(UsageError, match="the pipeline has this pass"):
        turned.insert(passes.make_pass("basis", dims="all"))
