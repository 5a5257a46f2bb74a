"""Functions of the model's own: how many nodes they become is counted before they are inlined."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from spa_compiler.errors import ModelError
from spa_compiler.ir.reader import load


def save_calls(depth: int, times: int, folder: Path, last: str = "b = Tanh(a)") -> Path:
    """A file whose functions call the next one so often."""
    head = '<domain: "f", opset_import: ["" : 18, "f" : 1]>'
    calls = "  ".join(f"v{k + 1} = f.f{{0}}(v{k})" for k in range(times))
    functions = [
        f"{head} f{i} (a) => (b) {{ v0 = Identity(a)  {calls.format(i + 1)}  b = Identity(v{times}) }}"
        for i in range(depth)
    ]
    functions.append(f"{head} f{depth} (a) => (b) {{ {last} }}")
    text = f"""<ir_version: 8, opset_import: ["" : 18, "f" : 1]> g (float[2,8] x) => (float[2,4] y)
        {{ h = MatMul(x, w1)  t = f.f0(h)  y = MatMul(t, w2) }} {" ".join(functions)}"""
    model = onnx.parser.parse_model(text)
    for name, shape in (("w1", (8, 6)), ("w2", (6, 4))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize(("depth", "times"), [(25, 2), (40, 3), (60, 100)])
def test_functions_that_become_too_many_nodes_are_refused(depth: int, times: int, tmp_path: Path) -> None:
    file = save_calls(depth, times, tmp_path)
    one = times**depth + 2 * sum(times**k for k in range(depth))
    with pytest.raises(ModelError, match=re.escape(f"'f0' is {one:,}")):
        load(file)


def test_functions_that_become_few_nodes_are_inlined(tmp_path: Path) -> None:
    model = load(save_calls(5, 2, tmp_path))
    assert len(model.graph.nodes) == 2 + 2**5 + 2 * (2**5 - 1)


@pytest.mark.parametrize("depth", [0, 2])
def test_functions_that_call_themselves_are_refused(depth: int, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="call themselves: 'f0'"):
        load(save_calls(depth, 2, tmp_path, "b = f.f0(a)"))
