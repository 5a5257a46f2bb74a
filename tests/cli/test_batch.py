"""Several models in one run: which are compiled, where they go, one table, and what one failure means for the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from commands import QUICK, check_report, folder, last, run
from spa_compiler.execution import interrupts

RATIO = ("--ratio", "0.4")


@pytest.fixture
def zoo(models: Path, tmp_path: Path) -> Path:
    """A folder with two models, a third one below, and a result that is there already."""
    place = tmp_path / "zoo"
    (place / "below").mkdir(parents=True)
    for name, file in (("a", "digits_gru"), ("b", "digits_resnet"), ("below/c", "digits_gru")):
        shutil.copy(models / f"{file}.onnx", place / f"{name}.onnx")
    shutil.copy(models / "digits_gru.onnx", place / "old.pruned.onnx")
    return place


def list_names(place: Path) -> set[str]:
    return {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()}


@pytest.mark.parametrize("how", [("-o", "out"), ("-o", "out/"), ("out",)])
def test_a_folder_is_compiled_whole_into_another_of_the_same_shape(zoo: Path, how: tuple[str, ...]) -> None:
    before, out = folder(zoo / "below"), zoo.parent / "out"
    found = run(zoo, *(how[:-1]), f"{zoo.parent}/{how[-1]}", *RATIO, *QUICK)
    assert found.exit_code == 0, found.output
    assert list_names(out) == {"a.pruned.onnx", "b.pruned.onnx", "below/c.pruned.onnx"}
    assert folder(zoo / "below") == before
    lines = found.stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [
        [str(zoo / f"{name}.onnx"), "VERIFIED"] for name in ("a", "b", "below/c")
    ]
    assert last(found).startswith("VERIFIED | 3 models: 3 VERIFIED | weights -")


def test_without_an_output_each_lies_beside_its_model(zoo: Path) -> None:
    files = [zoo / "a.onnx", zoo / "b.onnx", zoo / "below" / "c.onnx"]
    assert run(*files, *RATIO, *QUICK).exit_code == 0
    assert {"a.pruned.onnx", "b.pruned.onnx", "below/c.pruned.onnx"} < list_names(zoo)


def test_one_that_fails_stops_no_other_and_gives_its_exit_code(zoo: Path) -> None:
    (zoo / "a.onnx").write_bytes(b"no model")
    report = zoo.parent / "all.json"
    found = run(zoo, "-o", f"{zoo.parent}/out/", *RATIO, "--report", report, *QUICK)
    assert found.exit_code == 3
    assert list_names(zoo.parent / "out") == {"b.pruned.onnx", "below/c.pruned.onnx"}
    assert last(found).startswith("ERROR | 3 models: 2 VERIFIED, 1 ERROR")
    document = json.loads(report.read_text())
    assert (document["format"], document["status"], document["exit_code"]) == ("spa-compile batch", "ERROR", 3)
    assert [r["status"] for r in document["runs"]] == ["ERROR", "VERIFIED", "VERIFIED"]
    for entry in document["runs"]:
        check_report(entry)


def test_a_gate_that_one_misses_is_the_end_of_that_one_only(zoo: Path) -> None:
    found = run(zoo, "-o", f"{zoo.parent}/out/", *RATIO, "--fail-under", "cosine=0.8", "--json", *QUICK)
    runs = json.loads(found.stdout)["runs"]
    assert found.exit_code == 6
    assert [r["status"] for r in runs] == ["VERIFIED", "GATE_MISSED", "VERIFIED"]
    assert list_names(zoo.parent / "out") == {"a.pruned.onnx", "below/c.pruned.onnx"}


def test_models_that_nothing_can_be_taken_from_are_copied_where_that_is_allowed(zoo: Path) -> None:
    nothing = ("--exclude", "*", "--criterion", "l2", "--no-latency", "--no-quality")
    assert run(zoo, "-o", f"{zoo.parent}/out/", *RATIO, *nothing).exit_code == 5
    found = run(zoo, "-o", f"{zoo.parent}/out/", *RATIO, "--allow-noop", *nothing)
    assert found.exit_code == 0
    assert last(found) == "UNCHANGED | 3 models: 3 UNCHANGED"
    assert (zoo.parent / "out" / "b.pruned.onnx").read_bytes() == (zoo / "b.onnx").read_bytes()


@pytest.mark.parametrize(("given", "words"), [
    (("-o", "{}/one.onnx"), "several models go to a folder"), (("--report", "{}/r.html"), "a page shows one model"),
    (("--save-plan", "{}/p.json"), "--save-plan is of one model"), (("--with", "nonsense"), "nonsense"),
])  # fmt: skip
def test_what_is_wrong_for_all_is_said_before_any_work(zoo: Path, given: tuple[str, str], words: str) -> None:
    before = list_names(zoo.parent)
    found = run(zoo, *RATIO, given[0], given[1].format(zoo.parent), *QUICK)
    assert found.exit_code == 2
    assert words in found.stderr
    assert list_names(zoo.parent) == before


def test_two_models_of_one_name_are_not_written_onto_each_other(zoo: Path) -> None:
    shutil.copy(zoo / "a.onnx", zoo / "below" / "a.onnx")
    before = list_names(zoo.parent)
    found = run(zoo / "a.onnx", zoo / "below" / "a.onnx", "-o", f"{zoo.parent}/out/", *RATIO, *QUICK)
    assert found.exit_code == 2
    assert "written to the same file" in found.stderr
    assert list_names(zoo.parent) == before


def test_a_model_is_not_the_output_of_another(zoo: Path) -> None:
    before = folder(zoo / "below")
    shutil.copy(zoo / "a.onnx", zoo / "below" / "a.pruned.onnx")
    found = run(zoo / "a.onnx", zoo / "below" / "a.pruned.onnx", "-o", zoo / "below", *RATIO, *QUICK)
    assert found.exit_code == 2
    assert "a model that is compiled" in found.stderr
    assert folder(zoo / "below").items() > before.items()


def test_of_two_words_the_second_is_the_output_unless_a_model_would_be_lost(zoo: Path) -> None:
    before = (zoo / "b.onnx").read_bytes()
    found = run(zoo / "a.onnx", zoo / "b.onnx", *RATIO, *QUICK)
    assert found.exit_code == 2
    assert "-o FOLDER/" in found.stderr
    assert (zoo / "b.onnx").read_bytes() == before
    for _ in range(2):  # what a compilation made may be made again
        assert run(zoo / "a.onnx", zoo / "new.onnx", *RATIO, *QUICK).exit_code == 0
    assert run(zoo / "a.onnx", "-o", zoo / "b.onnx", *RATIO, *QUICK).exit_code == 0
    assert (zoo / "b.onnx").read_bytes() != before


def test_a_folder_without_models_and_a_file_that_is_not_there_are_said(tmp_path: Path, zoo: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = run(tmp_path / "empty", *RATIO, *QUICK)
    assert found.exit_code == 3
    assert "no *.onnx in this folder" in found.stderr
    found = run(zoo / "a.onnx", zoo / "none.onnx", "-o", f"{tmp_path}/out/", *RATIO, *QUICK)
    assert found.exit_code == 3
    assert "no such file" in found.stdout
    assert list_names(tmp_path / "out") == {"a.pruned.onnx"}


def test_an_interrupt_in_disguise_ends_all(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disguise(*args: object, **given: object) -> None:
        interrupts._stop_requested.set()
        raise ValueError("an interrupt that a library made an error of")

    monkeypatch.setattr("spa_compiler.cli.compilation.compile_file", disguise)
    found = run(zoo, "-o", f"{zoo.parent}/out/", *RATIO, *QUICK)
    assert found.exit_code == 130
    assert not (zoo.parent / "out").exists()


def test_a_time_limit_is_of_the_whole_run_and_what_is_done_is_told(zoo: Path) -> None:
    shutil.copy(zoo / "a.onnx", zoo / "0.onnx")
    found = run(zoo, "-o", f"{zoo.parent}/out/", *RATIO, "--time-limit", "0.001", "--json", *QUICK)
    assert found.exit_code == 3
    runs = json.loads(found.stdout)["runs"]
    assert [r["status"] for r in runs] == ["ERROR"]
    assert "--time-limit" in runs[0]["error"]


def test_markdown_has_a_table_of_all(zoo: Path) -> None:
    report = zoo.parent / "all.md"
    assert run(zoo, "-o", f"{zoo.parent}/out/", *RATIO, "--report", report, *QUICK).exit_code == 0
    text = report.read_text()
    assert text.startswith("## spa-compile: 3 models")
    assert sum(line.startswith(("| a.onnx | VERIFIED", "| b.onnx | VERIFIED", "| c.onnx | VERIFIED"))
               for line in text.splitlines()) == 3  # fmt: skip
