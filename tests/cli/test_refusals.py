"""Refusals, interrupts and faults: the exit code, one clear line, and nothing written, changed or lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from commands import QUICK, check_report, folder, last, run
from spa_compiler import compiler
from spa_compiler.cli import compilation
from spa_compiler.compiler import compile_file
from spa_compiler.errors import UsageError
from spa_compiler.exit_codes import ExitCode
from spa_compiler.ir.snapshots import hash_file
from spa_compiler.pipeline.options import Options
from spa_compiler.verification import proof


def test_exit_1_when_verification_fails_and_nothing_is_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder(source.parent)
    monkeypatch.setattr(proof, "choose_tolerance", lambda graph: -1.0)
    result = run(source, "--ratio", 0.4, *QUICK)
    assert result.exit_code == 1
    assert "prune does not equal mask" in result.stderr
    assert folder(source.parent) == before


USAGE = [
    [],
    ["--ratio", "1.5"],
    ["--ratio", "nan"],
    ["--ratio", "0.5", "--target", "1MB"],
    ["--target", "lots"],
    ["--ratio", "0.5", "--align", "some"],
    ["--ratio", "0.5", "--of", "joules"],
    ["--ratio", "0.5", "--criterion", "none"],
    ["--ratio", "0.5", "--exclude", "nothing"],
    ["--ratio", "0.5", "--group-ratio", "x"],
    ["--ratio", "0.5", "--input-shape", "y:1,2"],
    ["--ratio", "0.5", "--input-shape", "1,1,8"],
    ["--ratio", "0.5", "--input-range", "x:1,0"],
    ["--ratio", "0.5", "--input-range", "y:0,1"],
    ["--ratio", "0.5", "--fail-under", "beauty=1"],
    ["--ratio", "0.5", "--fail-under", "cosine=high"],
    ["--ratio", "0.5", "--fail-under", "accuracy=0.9"],
    ["--ratio", "0.5", "--report", "/no/such/folder/r.json"],
    ["--ratio", "0.5", "-o", f"{__file__}/folder/out.onnx"],
    ["--ratio", "0.5", "--data", "/no/such/file.npz"],
    ["--plan", "/no/such/plan.json"],
    ["--mask", "/no/such/mask.npz"],
    ["--pipeline", "prune"],
    ["--colour", "red"],
]


@pytest.mark.parametrize("options", USAGE, ids=" ".join)
def test_exit_2_for_what_makes_no_sense(source: Path, options: list[str]) -> None:
    before = folder(source.parent)
    result = run(source, *options, *QUICK[:2] if "--criterion" not in options else [])
    assert result.exit_code == 2, result.output
    assert "internal error" not in result.stderr
    assert folder(source.parent) == before


@pytest.mark.parametrize("options", [
    {"pipeline": "normalize,score{criterion=l2},allocate{ratio=0.5},verify,remove"},
    {"ratio": 0.5, "fail_under": ("speedup=1",), "latency": False},
    {"ratio": 0.5, "fail_under": ("accuracy_kept=0.9",)},
], ids=str)  # fmt: skip
def test_what_would_be_refused_at_the_end_is_refused_before_any_work(source: Path, options: dict[str, Any]) -> None:
    steps: list[str] = []
    with pytest.raises(UsageError, match=r"prove|measured"):
        compile_file(source, None, Options(**options), steps.append)
    assert not steps


@pytest.mark.parametrize(("options", "last"), [
    ({"ratio": 0.5, "data": "gone.npz"}, "load"),
    ({"plan": "gone.json"}, "plan"),
    ({"ratio": 0.5, "scores": "gone.npz"}, "score"),
], ids=str)  # fmt: skip
def test_a_file_that_is_not_there_is_missed_before_calibration(
    source: Path, options: dict[str, Any], last: str
) -> None:
    steps: list[str] = []
    with pytest.raises(UsageError, match=r"gone\.\w+: no such file"):
        compile_file(source, None, Options(**options), steps.append)
    assert steps[-1] == last and "calibrate" not in steps


@pytest.mark.parametrize("option", ["-o", "--report", "--save-plan"])
def test_a_folder_that_may_not_be_written_is_refused_before_any_pass(
    source: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = source.parent / "closed"
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode, **_: Path(path) != closed)
    monkeypatch.setattr(compiler.Pipeline, "run", lambda *_: pytest.fail("work was done"))
    result = run(source, "--ratio", 0.4, option, closed / "x.json")
    assert result.exit_code == 2
    assert "no permission" in result.stderr


def test_a_file_that_may_be_written_needs_no_such_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /dev/stdout: it is written to. The model is renamed to its place: it would replace a device, a pipe."""
    closed, report, pipe = (source.parent / name for name in ("closed", "closed/report.json", "pipe"))
    closed.mkdir()
    report.touch()
    os.mkfifo(pipe)
    monkeypatch.setattr(os, "access", lambda path, mode, **_: Path(path) != closed)
    options = ("--ratio", 0.4, "--criterion", "l2", "--no-latency")
    assert run(source, *options, "--report", report).exit_code == 0 and report.read_text()
    refused = run(source, *options, "-o", pipe)
    assert refused.exit_code == 2 and "not a plain file" in refused.stderr and pipe.is_fifo()
    assert run(source, *options, "-o", pipe, "--dry-run").exit_code == 0


def test_a_dry_run_needs_no_place_to_write(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode, **_: Path(path) != source.parent)
    assert run(source, "--ratio", 0.4, "--dry-run", *QUICK).exit_code == 0
    assert run(source, "--ratio", 0.4, *QUICK).exit_code == 2


def test_a_folder_to_calibrate_on_needs_no_slash_and_a_typo_is_told(
    source: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source.parent / "real").mkdir()
    shutil.copy(models / "digits_calib.npz", source.parent / "real")
    monkeypatch.chdir(source.parent)
    plain = ("--ratio", 0.4, "--no-latency", "--dry-run", "--samples", 16)
    assert "calibrated on 16 inputs from real" in run(source, *plain, "--calib", "real").stdout
    result = run(source, *plain, "--calib", "strokse")
    assert result.exit_code == 2
    assert "no file or folder, and no kind of synthetic input (photographs, " in result.stderr


def test_a_defect_is_told_apart_from_a_failed_proof(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("defect")

    monkeypatch.setattr(compilation, "compile_file", broken)
    result = run(source, "--ratio", 0.5)
    assert result.exit_code == ExitCode.INTERNAL
    assert "internal error: ZeroDivisionError: defect" in result.stderr


def test_the_output_may_not_be_the_input(source: Path) -> None:
    result = run(source, "--ratio", 0.4, "-o", source, *QUICK)
    assert result.exit_code == 2
    link = source.with_name("link.onnx")
    link.symlink_to(source)
    assert run(source, "--ratio", 0.4, "-o", link, *QUICK).exit_code == 2
    assert "never changed" in result.stderr


def test_the_output_leaves_the_data_of_the_input_alone(source: Path) -> None:
    """Also where that has the name that data beside this output had before it was named after its content."""
    big = source.with_name("big.onnx")
    onnx.save(onnx.load(source), big, save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    before = folder(source.parent)
    for name in ("out.onnx", "small.onnx"):
        assert run(big, "--ratio", 0.4, "-o", source.with_name(name), *QUICK).exit_code == 0
    assert run(big, "--ratio", 0.4, "-o", source.with_name("out.onnx.data"), *QUICK).exit_code == 2
    after = folder(source.parent)
    assert before.items() <= after.items()
    new = {re.sub("[0-9a-f]{16}", "*", n) for n in set(after) - set(before)}
    assert new == {"out.onnx", "out.onnx.*.data", "small.onnx", "small.onnx.*.data"}


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x08\x07" * 50, None])
def test_exit_3_for_what_is_no_model(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "m.onnx"
    if content is not None:
        file.write_bytes(content)
    result = run(file, "--ratio", 0.5)
    assert result.exit_code == 3
    assert str(file) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_exit_4_for_a_budget_out_of_reach(source: Path) -> None:
    result = run(source, "--ratio", 0.9999, *QUICK)
    assert result.exit_code == 4
    assert re.search(r"asked for 100\.0% less, at most \d+\.\d% can go", result.stderr)


def linear(path: Path) -> Path:
    """A model of one matrix: everything is the signature's."""
    text = '<ir_version: 10, opset_import: ["" : 18]> m (float[1,4] x) => (float[1,3] y) { y = MatMul(x, w) }'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    onnx.save(model, path)
    return path


def test_exit_5_when_nothing_can_be_pruned_unless_that_is_allowed(tmp_path: Path) -> None:
    file = linear(tmp_path / "linear.onnx")
    result = run(file, "--ratio", 0.5, *QUICK)
    assert result.exit_code == 5
    assert "12 parameters: graph input" in result.stderr
    allowed = run(file, "--ratio", 0.5, "--allow-noop", *QUICK)
    assert allowed.exit_code == 0
    assert last(allowed).startswith("UNCHANGED | ")
    assert (tmp_path / "linear.pruned.onnx").read_bytes() == file.read_bytes()
    assert set(folder(tmp_path)) == {"linear.onnx", "linear.pruned.onnx"}


@pytest.mark.parametrize("external", [False, True], ids=["one file", "external data"])
def test_an_allowed_noop_gives_the_next_step_a_model_and_a_report(tmp_path: Path, external: bool) -> None:
    there = tmp_path / "next"
    file = linear(tmp_path / "linear.onnx")
    if external:
        onnx.save(onnx.load(file), file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = folder(tmp_path)
    out, report = there / "small.onnx", tmp_path / "r.json"
    result = run(file, out, "--ratio", 0.5, "--allow-noop", "--report", report, *QUICK)
    assert result.exit_code == 0
    assert f"{out} is a copy of {file}" in last(result)
    found = json.loads(report.read_text())
    check_report(found)
    assert (found["status"], found["exit_code"], found["output"]["path"]) == ("UNCHANGED", 0, str(out))
    assert found["output"]["bytes"] == sum(p.stat().st_size for p in there.iterdir())
    assert found["output"]["sha256"] == folder(there)["small.onnx"]
    assert set(folder(there)) == {"small.onnx", found["output"]["data"]} - {None}
    if external:
        (tmp_path / "weights.bin").unlink()  # the copy has its own
        del before["weights.bin"]
    assert onnx.numpy_helper.to_array(onnx.load(out).graph.initializer[0]).tolist() == np.ones((4, 3)).tolist()
    assert {n: hash_file(tmp_path / n) for n in before} == before


def test_an_allowed_noop_keeps_to_dry_runs_and_refuses_the_input_as_output(tmp_path: Path) -> None:
    file = linear(tmp_path / "linear.onnx")
    before = folder(tmp_path)
    dry = run(file, "--ratio", 0.5, "--allow-noop", "--dry-run", "--fail-under", "macs_reduction=0.1", *QUICK)
    assert (dry.exit_code, folder(tmp_path)) == (0, before)
    assert last(dry).endswith("nothing was written; --fail-under was not judged")
    assert run(file, file, "--ratio", 0.5, "--allow-noop", *QUICK).exit_code == 2
    assert folder(tmp_path) == before


def test_exit_5_when_the_target_is_met_already(source: Path) -> None:
    result = run(source, "--target", "1GB", *QUICK)
    assert result.exit_code == 5
    assert re.search(r"already has only [\d,]+ bytes", result.stderr)


def test_exit_6_when_a_gate_is_missed_and_nothing_is_written(source: Path) -> None:
    before = folder(source.parent)
    result = run(source, "--ratio", 0.8, "--fail-under", "cosine=0.9999", *QUICK)
    assert result.exit_code == 6
    assert re.search(r"cosine is 0\.\d+, under the gate of 0\.9999", result.stderr)
    assert folder(source.parent) == before
    assert run(source, "--ratio", 0.2, "--fail-under", "macs_reduction=0.19", *QUICK).exit_code == 0


def heeds_interrupts() -> None:
    """In the child: jobs in the background of a shell ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")
@pytest.mark.parametrize("wait", [0.5, 1.0, 1.8])
def test_an_interrupt_leaves_nothing_behind(source: Path, models: Path, wait: float) -> None:
    vit = Path(shutil.copy(models / "digits_vit.onnx", source.parent))
    before = folder(source.parent)
    command = [sys.executable, "-c", "from spa_compiler.cli.start import compile_command as c; c()", str(vit)]
    command += ["--ratio", "0.5", "--samples", "20000"]  # minutes of work, so that it is interrupted in the middle
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=source.parent, preexec_fn=heeds_interrupts
    )
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0  # 130, or what Python itself makes of it while it starts
    assert folder(source.parent) == before


def test_a_report_never_replaces_the_model_or_the_output(source: Path) -> None:
    before = folder(source.parent)
    out = source.with_name("o.onnx")
    assert run(source, "--ratio", 0.4, "-o", out, "--report", source, *QUICK).exit_code == 2
    assert run(source, "--ratio", 0.4, "-o", out, "--report", out, *QUICK).exit_code == 2
    assert folder(source.parent) == before


def test_a_pipeline_that_does_not_apply_or_prove_its_plan_is_refused(source: Path) -> None:
    plan = "normalize,score{criterion=l2},allocate{ratio=0.5}"
    for text in (plan, plan + ",remove"):
        result = run(source, "--pipeline", text, "--no-latency")
        assert result.exit_code == 2
        assert "pipeline" in result.stderr


def test_files_that_are_no_arrays_are_usage_errors(source: Path) -> None:
    bad = source.with_name("bad.npz")
    for content in (b"", b"PK\x03\x04 cut"):
        bad.write_bytes(content)
        assert run(source, "--ratio", 0.4, "--data", bad, *QUICK).exit_code == 2
        assert run(source, "--ratio", 0.4, "--scores", bad, *QUICK).exit_code == 2
    np.savez(bad, x=np.full((4, 1, 8, 8), np.nan, np.float32))
    assert run(source, "--ratio", 0.4, "--calib", bad, "--no-latency").exit_code == 2
