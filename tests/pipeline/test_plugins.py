"""Passes and criteria of other distributions plug in exactly as ours do; `test_plugin` is such a distribution."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner

import spa_compiler
from spa_compiler.cli.main import spa
from spa_compiler.errors import UsageError
from spa_compiler.pipeline import passes
from spa_compiler.scoring import registry

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
    result = spa_compiler.compile(models / "digits_gru.onnx", 0.3, criterion="position", latency=False)
    for label, mask in result.state.plan.keep.items():
        kept = int(mask.reshape(-1, mask.shape[-1])[0].sum())
        assert mask.reshape(-1, mask.shape[-1])[:, -kept:].all(), label


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
    assert said == "normalize,analyze,erase,every_other{step=4},remove,verify"


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
        spa_compiler.compile(models / "digits_gru.onnx", 0.3, criterion="l2", with_passes=added, latency=False)


def test_a_pass_that_says_no_place_is_not_put_anywhere() -> None:
    with pytest.raises(UsageError, match="goes after verify, which the pipeline lacks"):
        passes.Pipeline.parse("normalize").insert(passes.make_pass("compensate"))


def scaled(file: Path, hidden: int = 8) -> Path:
    """x, a weight, a scale and a weight: `frozen` by one hidden unit, it has nothing that may be pruned."""
    rng = np.random.default_rng(0)
    weights = {"w1": (4, hidden), "s": (hidden,), "w2": (hidden, 3)}
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 3] y)
        { a = MatMul(x, w1) r = Relu(a) m = Mul(r, s) y = MatMul(m, w2) }"""
    )
    tensors = {n: rng.uniform(0.5, 1.5, shape).astype(np.float32) for n, shape in weights.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in tensors.items())
    onnx.save(model, file)
    return file


@pytest.mark.usefixtures("site")
def test_a_right_fold_is_proven_and_kept_though_nothing_is_pruned(tmp_path: Path) -> None:
    source, out = scaled(tmp_path / "m.onnx"), tmp_path / "o.onnx"
    result = spa_compiler.compile(source, 0, out, with_passes=("fold_scale",), latency=False)
    assert result.state.plan.is_empty and result.state.edits == ("fold_scale",)
    assert [n.op_type for n in onnx.load(out).graph.node] == ["MatMul", "Relu", "MatMul"]
    assert result.report["fidelity"]["cosine"] > 0.999999
    assert "fold_scale" in result.report["seconds"]


@pytest.mark.usefixtures("site")
def test_where_an_exact_pass_finds_nothing_the_file_comes_back_byte_for_byte(models: Path, tmp_path: Path) -> None:
    source, out = models / "digits_gru.onnx", tmp_path / "o.onnx"
    spa_compiler.compile(source, 0, out, with_passes=("fold_scale",), latency=False)
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
def test_a_pass_that_edits_the_graph_comes_before_those_that_read_it() -> None:
    with pytest.raises(UsageError, match="'fold_scale' edits the graph that pass 'erase' reads"):
        passes.Pipeline.parse("normalize,erase,fold_scale,remove,verify").complete()


@pytest.mark.usefixtures("site")
def test_both_are_listed_with_their_options() -> None:
    text = CliRunner().invoke(spa, ["passes"]).output
    assert "  every_other: Keep every `step`-th channel of every group.\n      step=2" in text
    assert "  position: Later channels matter more." in text


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


def test_the_same_entry_point_found_twice_is_no_clash(site: Path) -> None:
    rename(site, "nothing", "nothing")
    assert "every_other" in passes.find_passes()
    assert "position" in registry.find_criteria()


def test_without_the_plugin_its_names_are_unknown() -> None:
    forget()
    assert "every_other" not in passes.find_passes()
    assert "position" not in registry.find_criteria()
