"""`spa verify`: what a file says of itself proves nothing, and what can be proven is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from commands import QUICK, run, run_spa

DEFAULT = ["--no-latency", "--no-quality", "--samples", "32"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """A folder with a small model compiled with compensation (a) and without (b), and their plans."""
    folder = tmp_path_factory.mktemp("verify")
    shutil.copy(models / "digits_gru.onnx", folder / "m.onnx")
    for name, options in (("a", DEFAULT), ("b", QUICK)):
        files = ("-o", folder / f"{name}.onnx", "--save-plan", folder / f"{name}.json")
        assert run(folder / "m.onnx", "--ratio", 0.4, *files, *options).exit_code == 0
    return folder


def verify(folder: Path, name: str, *options: object) -> tuple[int, str, str]:
    """The exit code, the last line and everything that was printed."""
    found = run_spa("verify", folder / "m.onnx", folder / name, *options)
    lines = found.stdout.strip().splitlines()
    return found.exit_code, lines[-1] if lines else "", found.output


def forge(made: Path, folder: Path, name: str, scale: float = 0.0, pipeline: str = "") -> None:
    """The files, one of them with its weights multiplied by a number, and more in its recorded pipeline."""
    shutil.copytree(made, folder, dirs_exist_ok=True)
    file = onnx.load(folder / name)
    for t in file.graph.initializer:
        if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1:
            t.CopyFrom(numpy_helper.from_array(np.float32(scale) * numpy_helper.to_array(t), t.name))
    for entry in file.metadata_props:
        if entry.key == "spa_compile.pipeline":
            entry.value += pipeline
    onnx.save(file, folder / name)


def test_weights_that_are_slices_of_the_dense_ones_are_proven_by_the_plan(made: Path) -> None:
    code, last, text = verify(made, "b.onnx", "--plan", made / "b.json")
    assert (code, last) == (0, "VERIFIED")
    assert "prune equals mask: error" in text and "by their hashes" in text


def test_weights_that_were_updated_are_not_proven_by_a_plan(made: Path) -> None:
    plan = ("--plan", made / "a.json")
    code, last, text = verify(made, "a.onnx", *plan)
    assert (code, last) == (1, "UNPROVEN weights")
    assert "every node, wire, type and shape" in text and "prune equals mask before the update" in text
    assert "--rerun" in text
    assert verify(made, "a.onnx", *plan, "--allow-unproven")[:2] == (0, "UNPROVEN weights")
    assert verify(made, "a.onnx", *plan, "--fail-under", "cosine=0.2")[:2] == (0, "UNPROVEN weights")
    assert verify(made, "a.onnx", *plan, "--fail-under", "cosine=1.1")[0] == 6
    assert verify(made, "a.onnx", *plan, "--fail-under", "speedup=1")[0] == 2  # nothing is timed here


def test_without_a_plan_nothing_is_proven(made: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        assert verify(made, name)[:2] == (1, "UNPROVEN weights")
        assert verify(made, name, "--allow-unproven")[0] == 0


@pytest.mark.parametrize("name", ["a", "b"])
def test_running_the_recorded_pipeline_again_proves_every_weight(made: Path, name: str) -> None:
    code, last, text = verify(made, f"{name}.onnx", "--rerun", "--plan", made / f"{name}.json")
    assert (code, last) == (0, "VERIFIED"), text
    assert "bit for bit" in text


@pytest.mark.parametrize("scale", [0.0, 1.001, -1.0])
@pytest.mark.parametrize(("name", "more"), [("a", ""), ("b", ""), ("b", ",compensate"), ("b", ",no_such_pass")])
def test_other_weights_are_never_exit_0(made: Path, tmp_path: Path, scale: float, name: str, more: str) -> None:
    """Whatever the file says of itself."""
    forge(made, tmp_path, f"{name}.onnx", scale, more)
    code, last, text = verify(tmp_path, f"{name}.onnx", "--plan", tmp_path / f"{name}.json")
    assert code == 1 and (last == "UNPROVEN weights" or "prune does not equal mask" in text)
    again = verify(tmp_path, f"{name}.onnx", "--rerun")
    assert again[0] in (1, 2) and "VERIFIED" not in again[2]


def test_a_plan_or_a_source_that_is_another_one_is_refused_by_its_hash(made: Path, tmp_path: Path) -> None:
    for plan in ("b.json", "nonsense.json"):
        (made / "nonsense.json").write_text('{"version": 1, "groups": {"no:0": {"size": 5, "keep": [0]}}}')
        code, _, text = verify(made, "a.onnx", "--plan", made / plan)
        assert code == 1 and "another plan" in text
    forge(made, tmp_path, "m.onnx", 2.0)
    for more in ((), ("--plan", made / "a.json"), ("--rerun",), ("--allow-unproven",)):
        code, _, text = verify(tmp_path, "a.onnx", *more)
        assert code == 1 and "another model" in text


def strip_metadata(folder: Path, name: str, pipeline: str = "") -> None:
    """A file that says nothing of itself, or only a pipeline."""
    file = onnx.load(folder / name)
    del file.metadata_props[:]
    if pipeline:
        file.metadata_props.add(key="spa_compile.pipeline", value=pipeline)
    onnx.save(file, folder / name)


def test_a_file_that_says_nothing_of_itself_is_judged_by_what_it_is(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    strip_metadata(tmp_path, "a.onnx")
    strip_metadata(tmp_path, "b.onnx")
    assert verify(tmp_path, "b.onnx", "--plan", tmp_path / "b.json")[:2] == (0, "VERIFIED")
    assert verify(tmp_path, "a.onnx", "--plan", tmp_path / "a.json", "--allow-unproven")[0] == 1
    code, _, text = verify(tmp_path, "a.onnx", "--rerun")
    assert code == 2 and "does not say how it was made" in text
    assert verify(tmp_path, "b.onnx", "--plan", tmp_path / "a.json")[0] == 1


def test_a_recorded_pipeline_runs_no_script(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "s.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef rows():\n    yield {{}}\n")
    text = "normalize,calibrate{source=%s},score{criterion=obspa},allocate{ratio=0.4},remove,verify,compensate"
    strip_metadata(tmp_path, "a.onnx", text % (tmp_path / "s.py:rows"))
    code, _, text = verify(tmp_path, "a.onnx", "--rerun")
    assert code == 2 and "script" in text
    assert not (tmp_path / "ran").exists()


def test_what_the_recorded_pipeline_allows_itself_does_not_count(made: Path, tmp_path: Path) -> None:
    """Groups that nothing depends on need the caller's --allow-unproven, not the file's."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    blind = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,2] y) { a = Gemm(x, w, b)  r = Relu(a)  y = MatMul(r, v) }""")
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 8)), "b": np.full(8, -1e9), "v": rng.normal(size=(8, 2))}
    blind.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items())
    onnx.save(blind, tmp_path / "m.onnx")
    out = ("-o", tmp_path / "c.onnx", "--ratio", 0.3, "--allow-unproven", *QUICK)
    assert "UNPROVEN" in run(tmp_path / "m.onnx", *out).stdout
    code, last, _ = verify(tmp_path, "c.onnx", "--rerun")
    assert code == 1 and last.startswith("UNPROVEN (")
    assert verify(tmp_path, "c.onnx", "--rerun", "--allow-unproven")[0] == 0


def test_the_dense_file_itself_needs_no_proof(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "a.onnx", tmp_path / "m.onnx")
    assert verify(tmp_path, "a.onnx")[:2] == (0, "VERIFIED")


def test_json_says_the_same(made: Path) -> None:
    result = run_spa("verify", made / "m.onnx", made / "a.onnx", "--plan", made / "a.json", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == found["exit_code"] == 1
    assert found["status"] == "UNPROVEN weights"
    assert found["provenance"]["source"] == found["provenance"]["plan"] == "equal"
    assert found["prune_equals_mask"]["error"] <= 1e-5 and found["weights"]["other"]
    assert set(found["fidelity"]) >= {"cosine", "snr_db", "inputs"}
