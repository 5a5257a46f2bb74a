"""Passes and criteria of other distributions plug in exactly as ours do; `test_plugin` is such a distribution."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

import spa_compiler
from spa_compiler.cli.main import spa
from spa_compiler.errors import UsageError
from spa_compiler.pipeline import passes
from spa_compiler.scoring import registry

PLUGIN = Path(__file__).resolve().parent / "test_plugin"


def install(source: Path, target: Path) -> None:
    """What pip does with a pure distribution: its packages, its name and its entry points."""
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
    passes.available.cache_clear()
    registry.available.cache_clear()


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
        registry.criterion("l1")


def test_the_same_entry_point_found_twice_is_no_clash(site: Path) -> None:
    rename(site, "nothing", "nothing")
    assert "every_other" in passes.available()
    assert "position" in registry.available()


def test_without_the_plugin_its_names_are_unknown() -> None:
    forget()
    assert "every_other" not in passes.available()
    assert "position" not in registry.available()
