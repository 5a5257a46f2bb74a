"""The commands as their user meets them: the last line, what is written, and what the other commands print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import spa_compiler
from commands import LAST_LINE, QUICK, folder, last, run, run_spa
from spa_compiler.cli.main import spa
from zoo import CASES, Case, build

GROUPS_OF_FOUR = Case(
    """(float[1,3,4,4] x) => (float[1,5,4,4] y) {
        a = Conv(x, w1)  b = GroupNormalization<num_groups=3>(a, gain, bias)  y = Conv(b, w2) }""",
    {"w1": (12, 3, 1, 1), "gain": (12,), "bias": (12,), "w2": (5, 12, 1, 1)},
    None,
    opset=21,
)


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
    assert re.search(r"^  gru units \d: \d+ -> \d+", out, re.MULTILINE)
    assert "graph output: its size is part of the model's signature" in out


def test_a_dry_run_writes_nothing(source: Path) -> None:
    before = folder(source.parent)
    result = run(source, "--ratio", 0.4, "--dry-run", *QUICK)
    assert result.exit_code == 0
    assert "nothing was written" in result.output
    assert folder(source.parent) == before


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


@pytest.mark.parametrize("of", ["channels", "params", "macs"])
def test_a_share_below_one_unit_removes_one_or_says_so(of: str, source: Path) -> None:
    """Nothing that is frozen is the reason: a larger share removes something."""
    result = run(source, "--ratio", 0.0001, "--of", of, *QUICK)
    assert result.exit_code == (5 if of == "channels" else 0)
    assert ("is less than one unit" in result.output) == (of == "channels")
    assert "frozen:" not in result.output
    assert run(source, "--ratio", 0.5, "--of", of, *QUICK).exit_code == 0


def test_inspect_lists_groups_and_what_is_frozen(source: Path) -> None:
    text = run_spa("inspect", source, "-v").output
    assert re.search(r"^\d+ groups; [\d,]+ of [\d,]+ parameters are prunable, \S+ MACs", text)
    assert "frozen parameters" in text and re.search(r"^ +10  head +graph output: its size", text, re.MULTILINE)
    found = json.loads(run_spa("inspect", source, "--json").output)
    assert {"count", "groups", "frozen", "frozen_nodes", "parameters", "macs"} == set(found)
    words = "label name kind size blocks units channels statistic parameters macs shares writers readers members"
    assert set(words.split()) == set(found["groups"][0])


def test_inspect_shows_how_many_channels_the_units_of_a_group_are(tmp_path: Path) -> None:
    """GroupNormalization ties the four channels of each of its three groups together."""
    onnx.save(build(GROUPS_OF_FOUR), tmp_path / "m.onnx")
    found = json.loads(run_spa("inspect", tmp_path / "m.onnx", "--json").output)["groups"]
    assert sorted((g["units"], g["channels"]) for g in found) == [(3, 12), (12, 12)]
    text = run_spa("inspect", tmp_path / "m.onnx", "-v").output
    assert ": 3 units, 12 channels" in text and ": 3 x 4 units, 12 channels" in text


def test_inspect_counts_what_hangs_on_a_group_once(tmp_path: Path) -> None:
    """The state of a recurrence is read and given by one matrix."""
    onnx.save(build(CASES["gru"]), tmp_path / "m.onnx")
    found = json.loads(run_spa("inspect", tmp_path / "m.onnx", "--json").output)["groups"]
    assert [g["parameters"] for g in found] == [18 * 3 + 18 * 6 + 36 + 6 * 2]
    assert [g["macs"] for g in found] == [5 * (18 * 3 + 18 * 6 + 6 * 2)]


def test_explain_shows_the_path_between_two_axes_and_why_one_is_frozen(source: Path) -> None:
    members = json.loads(run_spa("inspect", source, "--json").output)["groups"][0]["members"]
    a, b = (f"{m['value']}:{m['axis']}" for m in (members[0], members[-1]))
    assert re.match(rf"{re.escape(a)}\n  \|  GRU '", run_spa("explain", source, a, b).output)
    assert "belongs to the group" in run_spa("explain", source, a).output
    said = run_spa("explain", source, a).output
    assert f"\n{a} is frozen" not in said and f"another part of {a} is frozen: GRU works along" in said
    assert "x:3 is frozen: graph input" in run_spa("explain", source, "x:3").output
    for wrong in ("nothing", "nothing:0", "x:9", ":1"):
        assert run_spa("explain", source, wrong).exit_code == 2


def test_a_file_that_fits_one_size_only_is_compiled_and_verified_with_a_note(tmp_path: Path) -> None:
    """Exporters write the sizes of their example into a Reshape, under symbolic axes."""
    text = "(float[N,T,4] x) => (float[N,T,2] y) { a = MatMul(x, w1)  r = Reshape(a, to)  y = MatMul(r, w2) }"
    dense, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(build(Case(text, {"w1": (4, 8), "to": [3, 5, 8], "w2": (8, 2)}, None)), dense)
    shape = ("--input-shape", "3,5,4")
    result = run(dense, "--ratio", 0.5, "--criterion", "l2", "--no-latency", "-o", small, *shape)
    assert result.exit_code == 0, result.output
    assert "N=3, T=5" in result.output
    assert "the signature is the same" in run_spa("verify", dense, small, *shape).output


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
    assert run_spa("sweep", source, "--ratios", "0.2,1.5", "--criterion", "l2").exit_code == 2


def test_passes_lists_passes_and_criteria() -> None:
    text = run_spa("passes").output
    assert all(f"  {name}: " in text for name in ("allocate", "normalize", "verify", "l2", "random"))
    assert "MISSING" not in text


@pytest.mark.parametrize("command", ["compile_command", "spa"])
def test_the_version_is_told_before_libraries_are_imported(command: str) -> None:
    code = f"""import sys
sys.argv[1:] = ["--version"]
from spa_compiler.cli import start
try:
    start.{command}()
finally:
    assert not {{"onnx", "onnxruntime", "networkx"}} & set(sys.modules)"""
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (got.returncode, got.stderr) == (0, "") and got.stdout.endswith(f"version {spa_compiler.__version__}\n")


def test_the_library_gives_what_it_names_and_nothing_else() -> None:
    for name in spa_compiler.__all__:
        assert getattr(spa_compiler, name) is not None and name in dir(spa_compiler)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        spa_compiler.nothing  # noqa: B018


def test_version_and_help_work() -> None:
    assert run("--version").exit_code == 0
    for result in (run("--help"), run_spa("--help"), *(run_spa(c, "--help") for c in spa.commands)):
        assert result.exit_code == 0
        assert result.output.startswith("Usage:")
        assert 'default: ""' not in result.output


def test_a_plan_gives_slices_unless_compensation_is_asked_for(models: Path, tmp_path: Path) -> None:
    source, plan = models / "digits_resnet.onnx", tmp_path / "plan.json"
    data = ("--data", models / "digits_test.npz", "--no-latency")
    assert run(source, "--ratio", 0.5, "--save-plan", plan, "-o", tmp_path / "a.onnx", *data).exit_code == 0
    assert run(source, "--plan", plan, "-o", tmp_path / "slices.onnx", *data).exit_code == 0
    found = run_spa("verify", source, tmp_path / "slices.onnx", "--plan", plan)
    assert (found.exit_code, last(found).split()[0]) == (0, "VERIFIED")
    result = run(source, "--plan", plan, "--compensate", "-o", tmp_path / "b.onnx", *data)
    assert float(re.findall(r"-> ([\d.]+)%", last(result))[0]) > 97
    found = run_spa("verify", source, tmp_path / "b.onnx", "--plan", plan)
    assert (found.exit_code, last(found)) == (1, "UNPROVEN weights")
    assert "were updated after removal" in found.output


def test_compare_shows_the_bytes_of_files_and_the_types_of_weights(tmp_path: Path) -> None:
    """A file with external data counts whole; a float16 weight behind a Cast is one."""
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[N,6] x) => (float[N,4] y) {
        v = Cast <to = 1> (w)  a = MatMul(x, v)  y = MatMul(a, u) }"""
    proto = onnx.parser.parse_model(text)
    for name, array in {"w": np.ones((6, 50), np.float16), "u": np.ones((50, 4), np.float32)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "a.onnx")
    onnx.save(proto, tmp_path / "b.onnx", save_as_external_data=True, location="b.data", size_threshold=0)
    rows = json.loads(run_spa("compare", tmp_path / "a.onnx", tmp_path / "b.onnx", "--json").output)["rows"]
    assert rows[0]["types"] == rows[1]["types"] == {"float": 800, "float16": 600}
    files = [tmp_path / n for n in ("a.onnx", "b.onnx", "b.data")]
    sizes = [f.stat().st_size for f in files]
    assert [r["file_bytes"] for r in rows] == [sizes[0], sizes[1] + sizes[2]]
    table = run_spa("compare", tmp_path / "a.onnx", tmp_path / "b.onnx").output
    assert "file" in table and "types" in table and "float16" in table and "cosine on" in table


def test_compare_puts_a_random_model_of_as_many_macs_beside_each(source: Path, models: Path) -> None:
    small = source.with_name("small.onnx")
    assert run(source, small, "--ratio", 0.4, *QUICK).exit_code == 0
    found = [
        json.loads(run_spa("compare", source, small, source, "--random", "--seed", seed, "--json").output)
        for seed in (1, 1, 2)
    ]
    for one in found:
        assert [Path(r["model"]).name for r in one["rows"]] == [
            source.name,
            "small.onnx",
            "random.small.onnx",
            source.name,
        ]
        _, mine, random, _ = one["rows"]
        assert random["macs"] == pytest.approx(mine["macs"], rel=0.03)
        assert any("no fewer MACs" in note for note in one["notes"])
    cosines = [one["rows"][2]["cosine"] for one in found]
    assert cosines[0] == cosines[1] != cosines[2]
    assert "random.small.onnx" in run_spa("compare", source, small, "--random").output
