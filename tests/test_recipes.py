"""The recipes of README.md run as they stand, where their framework is installed, and its figures are measured ones."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import spa_compiler

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = 6

TORCH = """
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(),
                      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))
"""
KERAS = """
import numpy, keras
from keras import layers
model = keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(16, 3), layers.BatchNormalization(), layers.ReLU(),
                          layers.Conv2D(24, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(10)])
model.predict(numpy.zeros((1, 32, 32, 3)), verbose=0)
"""
JAX = """
import jax
from flax import nnx
class Net(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Conv(3, 16, (3, 3), rngs=rngs), nnx.Conv(16, 24, (3, 3), rngs=rngs)
        self.c = nnx.Linear(24, 10, rngs=rngs)
    def __call__(self, x):
        return self.c(jax.numpy.mean(nnx.relu(self.b(nnx.relu(self.a(x)))), axis=(1, 2)))
model = Net(nnx.Rngs(0))
"""
RECIPES = {
    "PyTorch": (TORCH, ("torch", "onnxscript"), (3, 32, 32)),
    "Keras": (KERAS, ("keras", "torch", "onnxscript"), (32, 32, 3)),
    "JAX": (JAX, ("jax", "flax", "jax2onnx"), (32, 32, 3)),
}


def find_recipe(heading: str) -> str:
    """The first block of Python below a heading."""
    section = README.partition(f"### {heading}\n")[2].partition("\n### ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found, heading
    return textwrap.dedent(found[1])


def call_python(code: str, folder: Path) -> str:
    """The output of a program that has the package of this checkout."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "torch"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_six_lines_at_most(name: str) -> None:
    code = [line for line in find_recipe(f"From {name}").splitlines() if line.strip()]
    assert len(code) <= LINES and all(len(line) <= 120 for line in code)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_a_smaller_model_that_runs(name: str, tmp_path: Path) -> None:
    make, needed, shape = RECIPES[name]
    absent = [n for n in needed if importlib.util.find_spec(n) is None]
    if absent:
        pytest.skip(f"the recipe from {name} needs {', '.join(absent)}, which this environment does not have")
    said = call_python(make + find_recipe(f"From {name}"), tmp_path)
    assert re.search(r"VERIFIED (GOOD|FAIR|POOR)", said), said
    small = tmp_path / "small.onnx"
    assert count_weights(small) < 0.8 * count_weights(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (found,) = session.run(None, {given.name: np.zeros((5, *shape), np.float32)})
    assert found.shape == (5, 10)


def count_weights(path: Path) -> int:
    return sum(int(np.prod(t.dims)) for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT)


def test_the_small_model_is_quantised_as_the_readme_says(tmp_path: Path, models: Path) -> None:
    spa_compiler.compile(
        models / "digits_resnet.onnx", 0.3, output=tmp_path / "small.onnx", device="avx2", latency=False
    )
    (tmp_path / "calib.npz").write_bytes((models / "digits_calib.npz").read_bytes())
    call_python(find_recipe("And then"), tmp_path)
    test = np.load(models / "digits_test.npz")
    session = onnxruntime.InferenceSession(tmp_path / "small.int8.onnx", providers=["CPUExecutionProvider"])
    assert np.mean(session.run(None, {"x": test["x"]})[0].argmax(1) == test["y"]) > 0.95
    assert (tmp_path / "small.int8.onnx").stat().st_size < 0.4 * (tmp_path / "small.onnx").stat().st_size


def test_the_figures_for_a_first_ratio_are_measured_ones() -> None:
    """Every figure of the table stands in a row of docs/results.md of the same network."""
    measured = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    rows = re.findall(r"(?m)^\| [^|`]*`(\w[\w.]*)` \|([^`]*)\| `--", README)
    assert len(rows) >= 8
    for model, text in rows:
        known = " ".join(line for line in measured if line.startswith(f"| {model} "))
        assert set(re.findall(r"\d+\.\d", text)) <= set(re.findall(r"\d+\.\d", known)), model


def test_the_picture_is_of_the_compile_that_it_names(models: Path) -> None:
    """Widths of groups, not of this machine's kernels, and shares within a step of a block."""
    drawn = (ROOT / "docs" / "picture.svg").read_text(encoding="utf-8")
    found = spa_compiler.compile(models / "digits_resnet.onnx", 0.5, device="avx2", latency=False).report
    (text,) = re.findall(r">digits_resnet at half of its work: (\S+) → (\S+) million", drawn)
    assert float(text[0]) == round(found["dense"]["macs"] / 1e6, 2)
    assert abs(float(text[1]) * 1e6 / found["compiled"]["macs"] - 1) < 0.05
    cuts = sum(n["width"] is not None and n["kept"] < n["width"] for n in found["layers"])
    assert drawn.count(" channels<") == cuts
    assert len(drawn) < 30_000
