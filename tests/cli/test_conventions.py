"""The things that people type, and what happens then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commands import QUICK, check_report, folder, run, run_spa

RATIO = ("--ratio", "0.4")


def test_a_folder_takes_the_usual_name_and_is_made_where_it_is_missing(source: Path) -> None:
    base = source.parent
    for given, file in (("out/", "out/gru.pruned.onnx"), ("a/b/", "a/b/gru.pruned.onnx"), ("c/d/x.onnx", "c/d/x.onnx")):
        assert run(source, *RATIO, "-o", f"{base}/{given}", *QUICK).exit_code == 0
        assert (base / file).is_file()
    (base / "there").mkdir()
    assert run(source, base / "there", *RATIO, *QUICK).exit_code == 0
    assert (base / "there" / "gru.pruned.onnx").is_file()


def test_a_folder_that_was_made_for_nothing_goes_again(source: Path) -> None:
    before = folder(source.parent)
    assert run(source, "--ratio", "0.9999", "-o", source.parent / "x" / "y" / "o.onnx", *QUICK).exit_code == 4
    assert folder(source.parent) == before


def test_a_dash_is_standard_output_of_a_report(source: Path) -> None:
    found = run(source, *RATIO, "--report", "-", *QUICK)
    report = json.loads(found.stdout)
    check_report(report)
    assert report["exit_code"] == found.exit_code == 0
    assert not Path("-").exists()


@pytest.mark.parametrize("share", ["0.4", "40%", ".4"])
def test_shares_are_numbers_or_percent(source: Path, share: str) -> None:
    found = json.loads(run(source, "--ratio", share, "--json", *QUICK).stdout)
    assert found["asked"]["ratio"] == 0.4


@pytest.mark.parametrize(("target", "unit", "limit"), [
    ("300KiB", "bytes", 300 * 1024), ("0.3MB", "bytes", 3e5), ("1.2 MFLOPs", "flops", 1.2e6), ("600kmacs", "macs", 6e5),
])  # fmt: skip
def test_targets_come_in_the_units_that_people_use(source: Path, target: str, unit: str, limit: float) -> None:
    found = json.loads(run(source, "--target", target, "--json", *QUICK).stdout)
    assert found["compiled"][unit] <= limit < found["dense"][unit]


def test_operations_are_twice_the_multiply_accumulates(source: Path) -> None:
    found = json.loads(run(source, *RATIO, "--of", "flops", "--json", *QUICK).stdout)
    assert found["dense"]["flops"] == 2 * found["dense"]["macs"]
    assert found["reached"]["flops"] == pytest.approx(found["reached"]["macs"])
    assert not any(line.strip().startswith("FLOPs") for line in run(source, *RATIO, *QUICK).stdout.splitlines())


@pytest.mark.parametrize(("options", "words"), [
    ((*RATIO, "-q", "-v"), "-q and -v contradict each other"),
    ((*RATIO, "--memory", "2"), "--memory 2: expected a size with its unit, like 2GB"),
    ((*RATIO, "--of", "watts"), "'watts' is not one of"),
    ((*RATIO, "--nonsense"), "No such option"),
    ((), "no budget: give --ratio 0.5"),
])  # fmt: skip
def test_every_error_is_one_line_of_one_style(source: Path, options: tuple[str, ...], words: str) -> None:
    found = run(source, *options, *QUICK)
    assert found.exit_code == 2 and not found.stdout
    assert found.stderr.startswith("spa-compile: error: ") and len(found.stderr.splitlines()) == 1
    assert words in found.stderr


@pytest.mark.parametrize(("name", "words"), [
    ("m.pt", "PyTorch, no ONNX model; export it first (torch.onnx.export"), ("m.tflite", "TensorFlow Lite"),
    ("m.keras", "Keras"), ("m.h5", "Keras"), ("m.safetensors", "PyTorch"), ("m.pb", "TensorFlow"),
])  # fmt: skip
def test_files_of_other_formats_are_named_for_what_they_are(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4")
    found = run(tmp_path / name, *RATIO)
    assert found.exit_code == 3 and words in found.stderr


def test_ratios_of_groups_are_a_budget_of_their_own(source: Path) -> None:
    found = json.loads(run(source, "--group-ratio", "*=0.3", "--json", *QUICK).stdout)
    assert found["exit_code"] == 0
    assert all(g["kept"] == pytest.approx(0.7 * g["size"], abs=4) for g in found["groups"])


def test_the_compiler_knows_the_verbs_of_the_other_command(source: Path) -> None:
    assert run("inspect", source).stdout == run_spa("inspect", source).stdout
    assert run("passes").stdout == run_spa("passes").stdout
    assert run("compare", source, source.with_name("none.onnx")).exit_code == 3
    assert "inspect" in run("inspect", "-h").stdout


def test_the_package_is_a_program() -> None:
    command = [sys.executable, "-m", "spa_compiler", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("spa-compile, version ")
