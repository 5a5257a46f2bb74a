"""Policies: what `--compensate NAME` does to the weights that stay, in every way in which it can be given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from commands import run, run_spa
from networks import DENSE
from spa_compiler.cli.arguments import spell_out_switches
from spa_compiler.cli.main import compile_command
from spa_compiler.compensation.policy import find_policy, list_policy_names
from spa_compiler.errors import UsageError
from spa_compiler.pipeline.options import Options, pipeline_of
from zoo_base import build

SHORT = ("--align", 1, "--no-latency", "--no-quality")


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A small network with a mean in what is removed."""
    path = tmp_path / "dense.onnx"
    onnx.save(build(DENSE), path)
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"ratio": 0.5}, "lockstep"),
        ({"ratio": 0.5, "criterion": "l2"}, ""),
        ({"ratio": 0.5, "criterion": "l2", "compensate": True}, "lockstep"),
        ({"ratio": 0.5, "compensate": False}, ""),
        ({"ratio": 0.5, "compensate": "none"}, ""),
        ({"ratio": 0.5, "criterion": "l2", "compensate": "merge"}, "merge"),
        ({"plan": "p.json"}, ""),
        ({"plan": "p.json", "compensate": True}, "lockstep"),
        ({"plan": "p.json", "compensate": "bias"}, "bias"),
    ],
)
def test_the_pipeline_has_the_policy_that_was_asked_for(given: dict[str, Any], method: str) -> None:
    steps = {p.name: p for p in pipeline_of(Options(**given)).iterate_flat()}
    text = str(pipeline_of(Options(**given)))
    assert ("compensate" in text) == bool(method)
    assert (f"compensate{{method={method}}}" in text) == (method not in ("", "lockstep"))
    if not given.get("ratio"):
        assert ("calibrate" in steps) == bool(method)


def test_a_policy_of_weights_alone_calibrates_nothing() -> None:
    names = {p.name for p in pipeline_of(Options(ratio=0.5, criterion="l2", compensate="merge")).iterate_flat()}
    assert not names & {"calibrate", "protect"}


def test_an_unknown_policy_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="'none', 'bias'"):
        Options(ratio=0.5, compensate="biases")
    with pytest.raises(UsageError, match=r"no policy is called 'x'; there are .*lockstep"):
        find_policy("x")
    assert run("m.onnx", "--ratio", 0.5, "--compensate=x").exit_code == 2


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ("--compensate m.onnx", "--compensate=lockstep m.onnx"),
        ("m.onnx --compensate", "m.onnx --compensate=lockstep"),
        ("--compensate bias m.onnx", "--compensate bias m.onnx"),
        ("--compensate=bias m.onnx", "--compensate=bias m.onnx"),
        ("m.onnx --no-compensate", "m.onnx --compensate=none"),
        ("--compensate -- --compensate", "--compensate=lockstep -- --compensate"),
    ],
)
def test_the_name_may_be_left_out(args: str, wanted: str) -> None:
    assert " ".join(spell_out_switches(compile_command.params, args.split())) == wanted


def test_spa_passes_lists_the_policies() -> None:
    found = json.loads(run_spa("passes", "--json").output)["policies"]
    assert sorted(found) == sorted(set(list_policy_names()) - {"none"})
    assert all(found.values())


def test_bias_changes_nothing_but_biases_and_lowers_the_error(dense: Path, tmp_path: Path) -> None:
    """FLAP: what was removed stands at its mean; every weight is a slice of the dense one, bit for bit."""
    calib = tmp_path / "x.npz"
    np.savez(calib, x=np.random.default_rng(0).standard_normal((256, 5)).astype(np.float32) + 1)
    files = {n: tmp_path / f"{n}.onnx" for n in ("none", "bias")}
    reports = {n: tmp_path / f"{n}.json" for n in files}
    for name, file in files.items():
        more = ("--calib", calib) if name == "bias" else ()
        chosen = ("--criterion", "l2", "--ratio", 0.4, "--compensate", name)
        result = run(dense, file, *chosen, *SHORT, *more, "--report", reports[name])
        assert result.exit_code == 0, result.output
    plain, better = (read(f) for f in files.values())
    for name, array in plain.items():
        assert name.startswith("b") or array.tobytes() == better[name].tobytes()
    assert json.loads(reports["bias"].read_text())["compensation"]["method"] == "bias"
    errors = [measure(dense, f, calib) for f in files.values()]
    assert errors[1] < 0.7 * errors[0]


def measure(dense: Path, file: Path, calib: Path) -> float:
    """Mean squared distance of the outputs."""
    x = np.load(calib)["x"]
    a, b = (run_model(f, x) for f in (dense, file))
    return float(np.square(a - b).mean())


def run_model(file: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])
