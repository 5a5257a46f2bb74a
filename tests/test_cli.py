"""The commands as their user meets them: exit codes, the last line, what is written and what is not."""

from __future__ import annotations

import hashlib
import json
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
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from spa_compiler import cli, verify
from spa_compiler.cli import compile_command, spa
from spa_compiler.compiler import Options, compile_file
from spa_compiler.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
NUMBER = r"[-+]?\d[\d.]*(e[-+]\d+)?"
LAST_LINE = re.compile(
    rf"PASSED \| MACs {NUMBER}% \(\S+ -> \S+\) \| params {NUMBER}%( \| latency {NUMBER} -> {NUMBER} ms)?"
    rf"( \| accuracy {NUMBER}% -> {NUMBER}%)? \| cosine {NUMBER} \| prune==mask {NUMBER}"
    rf"( \(no effect on the outputs\))? \| {NUMBER} s"
)
QUICK = ["--criterion", "l2", "--no-latency"]


@pytest.fixture
def source(tmp_path: Path, models: Path) -> Path:
    """A copy of a small model, alone in a folder."""
    return Path(shutil.copy(models / "digits_gru.onnx", tmp_path / "gru.onnx"))


def run(*args: object) -> Result:
    return CliRunner().invoke(compile_command, [*map(str, args)])


def run_spa(*args: object) -> Result:
    return CliRunner().invoke(spa, [*map(str, args)])


def last(result: Result) -> str:
    return result.stdout.strip().splitlines()[-1]


def folder(path: Path) -> dict[str, str]:
    """Names and hashes of what is in a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(path.iterdir())}


def test_a_run_writes_beside_the_input_and_ends_with_the_line_for_grep(source: Path) -> None:
    before = folder(source.parent)
    result = run(source, "--ratio", 0.4, "--criterion", "l2")
    assert result.exit_code == 0
    assert LAST_LINE.fullmatch(last(result)), last(result)
    after = folder(source.parent)
    assert set(after) - set(before) == {"gru.pruned.onnx"}
    assert after["gru.onnx"] == before["gru.onnx"]
    onnx.checker.check_model(source.with_name("gru.pruned.onnx"), full_check=True)


def test_quiet_prints_only_the_last_line(source: Path) -> None:
    result = run(source, "--ratio", 0.4, "-q", *QUICK)
    assert LAST_LINE.fullmatch(result.output.strip())


def test_verbose_lists_groups_and_reasons(source: Path) -> None:
    out = run(source, "--ratio", 0.4, "-v", *QUICK).output
    assert re.search(r"^  \S+: \d+ -> \d+", out, re.MULTILINE)
    assert "graph output: its size is part of the model's signature" in out


def test_a_dry_run_writes_nothing(source: Path) -> None:
    before = folder(source.parent)
    result = run(source, "--ratio", 0.4, "--dry-run", *QUICK)
    assert result.exit_code == 0
    assert "nothing was written" in result.output
    assert folder(source.parent) == before


def check_report(document: Any) -> None:
    schema = json.loads((ROOT / "spa_compiler" / "report.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert not [e.message for e in Draft202012Validator(schema).iter_errors(document)]


@pytest.mark.parametrize(
    "options",
    [
        ["--ratio", "0.4", "--criterion", "l2"],
        ["--ratio", "0", "--no-latency"],
        ["--ratio", "0.3", "--samples", "16", "--no-latency"],
        ["--ratio", "0.5", "--of", "channels", *QUICK],
    ],
)
def test_the_report_follows_its_schema(source: Path, models: Path, options: list[str]) -> None:
    file = source.with_name("r.json")
    result = run(source, *options, "--data", models / "digits_test.npz", "--report", file)
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text())
    check_report(report)
    assert report["accuracy"]["samples"] == 540
    assert report["output"]["sha256"] == hashlib.sha256(source.with_name("gru.pruned.onnx").read_bytes()).hexdigest()


def names_in(schema: Any) -> set[str]:
    own = set(schema.get("properties", {})) if isinstance(schema, dict) else set()
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    return own.union(*(names_in(s) for s in inner))


def test_every_field_of_the_report_is_documented() -> None:
    text = (ROOT / "docs" / "report.md").read_text()
    schema = json.loads((ROOT / "spa_compiler" / "report.schema.json").read_text())
    assert [n for n in sorted(names_in(schema)) if not re.search(rf"\b{n}\b", text)] == []


def test_the_report_as_a_page_escapes_names(source: Path) -> None:
    odd = source.rename(source.with_name("<b>&.onnx"))
    page = source.with_name("r.html")
    assert run(odd, "--ratio", 0.4, "--report", page, *QUICK).exit_code == 0
    assert "&lt;b&gt;&amp;" in page.read_text()
    assert "<b>" not in page.read_text()


def test_accuracy_on_labelled_data_is_in_the_last_line(source: Path, models: Path) -> None:
    result = run(source, "--ratio", 0.2, "--data", models / "digits_test.npz", *QUICK)
    assert re.search(r"accuracy 98\.52% -> \d+\.\d+%", last(result))


def test_a_saved_plan_and_a_mask_give_the_same_file(source: Path) -> None:
    plan, first, again = (source.with_name(n) for n in ("plan.json", "a.onnx", "b.onnx"))
    assert run(source, "--ratio", 0.4, "--save-plan", plan, "-o", first, *QUICK).exit_code == 0
    assert run(source, "--plan", plan, "-o", again, "--no-latency", "--no-compensate").exit_code == 0
    assert onnx.load(first).graph == onnx.load(again).graph
    masks = {}
    for label, entry in json.loads(plan.read_text())["groups"].items():
        masks[label] = np.isin(np.arange(entry["size"]), entry["keep"])
    np.savez(source.with_name("mask.npz"), **masks)
    mask = source.with_name("mask.npz")
    assert run(source, "--mask", mask, "-o", again, "--no-latency", "--no-compensate").exit_code == 0
    assert onnx.load(first).graph == onnx.load(again).graph
    assert run_spa("apply", source, plan, "-o", again, "--no-latency", "--no-compensate").exit_code == 0
    assert onnx.load(first).graph == onnx.load(again).graph


def test_scores_from_a_file_decide_what_goes(source: Path) -> None:
    plan, scores = source.with_name("plan.json"), source.with_name("s.npz")
    groups = json.loads(run_spa("inspect", source, "--json").output)["groups"]
    label, size = groups[0]["label"], groups[0]["size"]
    np.savez(scores, **{label: np.arange(size)})
    result = run(source, "--ratio", 0.1, "--scores", scores, "--save-plan", plan, "--no-latency")
    assert result.exit_code == 0, result.output
    kept = json.loads(plan.read_text())["groups"]
    assert list(kept) == [label]
    assert kept[label]["keep"] == list(range(size - len(kept[label]["keep"]), size))


def test_exit_1_when_verification_fails_and_nothing_is_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder(source.parent)
    monkeypatch.setattr(verify, "tolerance", lambda graph: -1.0)
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
    ["--ratio", "0.5", "--fail-under", "speedup=1", "--no-latency"],
    ["--pipeline", "normalize,erase,score{criterion=l2},allocate{ratio=0.5},remove"],
    ["--ratio", "0.5", "--report", "/no/such/folder/r.json"],
    ["--ratio", "0.5", "-o", "/no/such/folder/out.onnx"],
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


def test_outputs_that_are_worse_than_zeros_are_named(tmp_path: Path) -> None:
    """Two hidden units cancel each other; without one of them the other is nearly all there is."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,1] x) => (float[N,1] y)
        <float[1,3] w1 = {100, 100, 1}, float[3,1] w2 = {1, -1, 1}>
        { h = MatMul(x, w1) y = MatMul(h, w2) }"""
    source = tmp_path / "cancel.onnx"
    onnx.save(onnx.parser.parse_model(text), source)
    label = json.loads(run_spa("inspect", source, "--json").stdout)["groups"][0]["label"]
    np.savez(tmp_path / "scores.npz", **{label: np.array([3.0, 1.0, 2.0])})
    result = run(source, "--ratio", 0.4, "--scores", tmp_path / "scores.npz", *QUICK)
    assert result.exit_code == 0, result.output
    assert "farther from the dense model's than zeros" in result.output


def test_a_defect_is_told_apart_from_a_failed_proof(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("defect")

    monkeypatch.setattr(cli, "compile_file", broken)
    result = run(source, "--ratio", 0.5)
    assert result.exit_code == cli.INTERNAL
    assert "internal error: ZeroDivisionError: defect" in result.stderr


def test_the_output_may_not_be_the_input(source: Path) -> None:
    result = run(source, "--ratio", 0.4, "-o", source, *QUICK)
    assert result.exit_code == 2
    link = source.with_name("link.onnx")
    link.symlink_to(source)
    assert run(source, "--ratio", 0.4, "-o", link, *QUICK).exit_code == 2
    assert "never changed" in result.stderr


def test_the_output_may_not_overwrite_the_data_of_the_input(source: Path) -> None:
    big = source.with_name("big.onnx")
    onnx.save(onnx.load(source), big, save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    before = folder(source.parent)
    assert run(big, "--ratio", 0.4, "-o", source.with_name("out.onnx"), *QUICK).exit_code == 2
    assert folder(source.parent) == before
    assert run(big, "--ratio", 0.4, "-o", source.with_name("small.onnx"), *QUICK).exit_code == 0
    assert set(folder(source.parent)) - set(before) == {"small.onnx", "small.onnx.data"}


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
    assert set(folder(tmp_path)) == {"linear.onnx"}


def test_exit_5_when_the_target_is_met_already(source: Path) -> None:
    result = run(source, "--target", "1GB", *QUICK)
    assert result.exit_code == 5
    assert "already" in result.stderr


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
def test_an_interrupt_leaves_nothing_behind(source: Path, models: Path) -> None:
    vit = Path(shutil.copy(models / "digits_vit.onnx", source.parent))
    before = folder(source.parent)
    for wait in (0.5, 1.0, 1.8):
        command = [
            sys.executable,
            "-c",
            "from spa_compiler.cli import compile_command as c; c()",
            str(vit),
            "--ratio",
            "0.5",
            "--samples",
            "20000",  # minutes of work, so that it is interrupted in the middle
        ]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=source.parent, preexec_fn=heeds_interrupts
        )
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert folder(source.parent) == before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child starts from nothing")
def test_peak_memory_is_that_of_the_process_and_not_of_its_parent(tmp_path: Path) -> None:
    script = (
        "import sys, subprocess\n"
        "large = bytearray(1 << 30)\n"
        "large[::4096] = b'x' * len(large[::4096])\n"
        "code = 'from spa_compiler.compiler import peak_memory as p; print(p())'\n"
        "print(subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True).stdout)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    assert 1 << 24 < int(done.stdout) < 1 << 29


def test_inspect_lists_groups_and_what_is_frozen(source: Path) -> None:
    text = run_spa("inspect", source, "-v").output
    assert re.search(r"^\d+ groups; [\d,]+ of [\d,]+ parameters are prunable, \S+ MACs", text)
    assert "frozen parameters:" in text
    found = json.loads(run_spa("inspect", source, "--json").output)
    assert {"groups", "frozen", "parameters", "macs"} == set(found)
    assert {"label", "size", "blocks", "statistic", "parameters", "macs", "members"} == set(found["groups"][0])


def test_explain_shows_the_path_between_two_axes_and_why_one_is_frozen(source: Path) -> None:
    members = json.loads(run_spa("inspect", source, "--json").output)["groups"][0]["members"]
    a, b = (f"{m['value']}:{m['axis']}" for m in (members[0], members[-1]))
    assert "--[" in run_spa("explain", source, a, b).output
    assert "belongs to the group" in run_spa("explain", source, a).output
    assert "graph input" in run_spa("explain", source, "x:3").output
    for wrong in ("x", "nothing:0", "x:9", ":1"):
        assert run_spa("explain", source, wrong).exit_code == 2


def test_verify_tells_a_right_model_from_a_wrong_one(source: Path, models: Path) -> None:
    small, plan = source.with_name("small.onnx"), source.with_name("plan.json")
    run(source, "--ratio", 0.4, "-o", small, "--save-plan", plan, *QUICK)
    right = run_spa("verify", source, small, "--plan", plan, "--data", models / "digits_test.npz")
    assert right.exit_code == 0, right.output
    assert "prune equals mask: error" in right.output
    assert "accuracy 98.52% -> " in right.output
    wrong = run_spa("verify", source, source, "--plan", plan)
    assert wrong.exit_code == 1
    assert "prune does not equal mask" in wrong.stderr


def test_compare_and_sweep_print_a_row_a_model(source: Path, models: Path) -> None:
    small = source.with_name("small.onnx")
    run(source, "--ratio", 0.4, "-o", small, *QUICK)
    table = run_spa("compare", source, small, "--data", models / "digits_test.npz").output
    assert "gru.onnx" in table
    assert "small.onnx" in table
    swept = run_spa("sweep", source, "--ratios", "0.2,0.5,0.9999", "--criterion", "l2")
    assert swept.exit_code == 0
    rows = swept.output.strip().splitlines()
    assert [r.split()[0] for r in rows[1:4]] == ["0.2", "0.5", "0.9999"]
    assert "at most" in swept.output


def test_passes_lists_passes_and_criteria() -> None:
    text = run_spa("passes").output
    assert all(f"  {name}: " in text for name in ("allocate", "normalize", "verify", "l2", "random"))
    assert "MISSING" not in text


def test_version_and_help_work() -> None:
    assert run("--version").exit_code == 0
    for result in (run("--help"), run_spa("--help"), *(run_spa(c, "--help") for c in spa.commands)):
        assert result.exit_code == 0
        assert result.output.startswith("Usage:")


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


def test_a_plan_applied_by_default_is_compensated(models: Path, tmp_path: Path) -> None:
    source, plan = models / "digits_resnet.onnx", tmp_path / "plan.json"
    data = ("--data", models / "digits_test.npz", "--no-latency")
    assert run(source, "--ratio", 0.5, "--save-plan", plan, "-o", tmp_path / "a.onnx", *data).exit_code == 0
    result = run(source, "--plan", plan, "-o", tmp_path / "b.onnx", *data)
    assert float(re.findall(r"-> ([\d.]+)%", last(result))[0]) > 97
    found = run_spa("verify", source, tmp_path / "b.onnx", "--plan", plan)
    assert found.exit_code == 0
    assert "compensated" in found.output


def test_files_that_are_no_arrays_are_usage_errors(source: Path) -> None:
    bad = source.with_name("bad.npz")
    for content in (b"", b"PK\x03\x04 cut"):
        bad.write_bytes(content)
        assert run(source, "--ratio", 0.4, "--data", bad, *QUICK).exit_code == 2
        assert run(source, "--ratio", 0.4, "--scores", bad, *QUICK).exit_code == 2
    np.savez(bad, x=np.full((4, 1, 8, 8), np.nan, np.float32))
    assert run(source, "--ratio", 0.4, "--calib", bad, "--no-latency").exit_code == 2
