"""The pass for Olive, run by Olive itself: a model and its data in, a proven smaller model out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest

from spa_compiler.pipeline.options import find_declared

pytestmark = pytest.mark.skipif(
    find_spec("olive") is None, reason="Olive is not installed: pip install 'spa-compile[olive]'"
)
DATA = """
import numpy as np
import torch
from olive.data.registry import Registry

class Digits(torch.utils.data.Dataset):
    def __init__(self, file):
        found = np.load(file)
        self.x, self.y = found[INPUT], found["y"]
    def __len__(self):
        return 64
    def __getitem__(self, k):
        return {INPUT: torch.from_numpy(self.x[k])}, int(self.y[k])

@Registry.register_dataset()
def digits(file, **more):
    return Digits(file)
"""


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A program in a folder of its own, that tells nobody of it."""
    environment = {**os.environ, "OLIVE_DISABLE_TELEMETRY": "1", "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def run_olive(folder: Path, model: Path, config: dict[str, Any], data: dict[str, Any] | None = None) -> Any:
    """A workflow of this pass alone."""
    packages = folder / "packages.json"
    if not packages.exists():
        listed = call(folder, "-m", "spa_compiler.olive")
        assert listed.returncode == 0, listed.stderr
        packages.write_text(listed.stdout)
    workflow = {
        "input_model": {"type": "ONNXModel", "model_path": str(model)},
        "passes": {"prune": {"type": "SpaCompile", **config}},
        "data_configs": [data] if data else [],
        "output_dir": str(folder / "out"),
        "cache_dir": str(folder / "cache"),
        "log_severity_level": 1,
    }
    (folder / "run.json").write_text(json.dumps(workflow))
    return call(folder, "-m", "olive", "run", "--config", "run.json", "--package-config", "packages.json")


def find_model(folder: Path) -> Path | None:
    return next(iter(sorted((folder / "out").rglob("*.onnx"))), None)


def read_pipeline(path: Path) -> str:
    """The pipeline that a compiled file names."""
    found = {p.key: p.value for p in onnx.load(path).metadata_props}
    return " ".join(v for k, v in found.items() if k.startswith("spa_compile"))


def test_olive_compiles_a_model_on_its_own_data(tmp_path: Path, models: Path) -> None:
    dense = models / "digits_mobilenet.onnx"
    name = onnx.load(dense).graph.input[0].name
    script = tmp_path / "digits.py"
    script.write_text(DATA.replace("INPUT", repr(name)))
    data = {
        "name": "real", "user_script": str(script),
        "load_dataset_config": {"type": "digits", "params": {"file": str(models / "digits_test.npz")}},
        "dataloader_config": {"params": {"batch_size": 16}},
    }  # fmt: skip
    options = {"ratio": 0.5, "data_config": "real", "align": 1, "latency": False}
    done = run_olive(tmp_path, dense, options, data)
    assert done.returncode == 0, done.stderr[-2000:]
    small = find_model(tmp_path)
    assert small is not None, done.stdout[-2000:] + done.stderr[-2000:]
    assert small.stat().st_size < 0.8 * dense.stat().st_size
    assert "python:calib" in read_pipeline(small)
    kept = next(p for p in (tmp_path / "out").rglob("*.json") if "spa_compile" in p.read_text())
    assert '"VERIFIED"' in kept.read_text()


def test_what_does_not_fit_is_said_and_nothing_is_written(source: Path) -> None:
    both = run_olive(source.parent, source, {"ratio": 0.4, "target": "1MB", "criterion": "l2"})
    assert both.returncode != 0
    assert "--target" in both.stderr + both.stdout
    assert find_model(source.parent) is None


def test_a_budget_out_of_reach_fails_this_model_and_not_the_run(source: Path) -> None:
    done = run_olive(source.parent, source, {"ratio": 0.9999, "criterion": "l2"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert "asked for 100.0% less" in done.stderr + done.stdout
    assert find_model(source.parent) is None


def test_a_model_that_cannot_be_pruned_goes_on_where_that_is_allowed(source: Path) -> None:
    options = {"ratio": 0.4, "criterion": "l2", "exclude": ["*"], "latency": False, "quality": False}
    done = run_olive(source.parent, source, {**options, "allow_noop": True})
    assert done.returncode == 0, done.stderr[-2000:]
    same = find_model(source.parent)
    assert same is not None
    assert same.read_bytes() == source.read_bytes()


def test_every_option_of_a_compile_is_a_parameter(tmp_path: Path) -> None:
    code = (
        "import json; from olive.hardware import DEFAULT_CPU_ACCELERATOR as cpu; "
        "from spa_compiler.olive import SpaCompile; "
        "print(json.dumps({n: p.description for n, p in SpaCompile.default_config(cpu).items()}))"
    )
    done = call(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    missing = {n for n, own in find_declared().items() if not own.shown.hidden} - set(found)
    assert missing == {"dry_run", "fail_under"}
    assert all(found.values())
