"""A file that onnxruntime cannot load is refused before any work; one that it loads and cannot run, with a message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from commands import QUICK, run, run_spa
from spa_compiler.canonicalize import pipeline
from spa_compiler.cli import inspection
from spa_compiler.execution import session
from zoo import Case, build

WEIGHTS = {"w1": (8, 16), "w2": (16, 8), "w3": (8, 4)}
HIDDEN = "a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Relu(c)"
UNLOADABLE = {
    "an operator that nobody has": "e = Erf(d)  y = MatMul(e, w3)",
    "two types for one": "e = Cast<to = 11>(d)  y = MatMul(e, w3)",
    "a type without a kernel": "e = Cast<to = 16>(d)  f = Tan(e)  g = Cast<to = 1>(f)  y = MatMul(g, w3)",
    "shapes that do not fit": "e = Expand(d, s)  y = MatMul(e, w3)",
}
UNRUNNABLE = {
    "a place in no table": "e = Gather<axis = 1>(d, p)  y = MatMul(e, w3)",
    "a place that is written and is none": "e = ScatterElements<axis = 1>(d, q, u)  y = MatMul(e, w3)",
    "a place that is written in no row": "e = ScatterND(d, r, v)  y = MatMul(e, w3)",
    "a place for a node that nothing reads": "e = Gather<axis = 1>(d, p)  y = MatMul(d, w3)",
}
OPERANDS = {
    "s": np.array([3, 7]), "p": np.array([0, 1, 2, 3, 4, 5, 6, 30]), "q": np.array([[99]]), "r": np.array([[0, 99]]),
    "u": np.ones((1, 1), np.float32), "v": np.ones(1, np.float32), "far": np.array([3, 7]),
}  # fmt: skip
SIZES = ["2", "N"]


def save_network(path: Path, tail: str, rows: str) -> Path:
    text = f"(float[{rows}, 8] x) => (float[{rows}, 4] y) {{ {HIDDEN} {tail} }}"
    used = {n: a for n, a in OPERANDS.items() if f" {n})" in tail or f" {n}," in tail}
    model = build(Case(text, {**WEIGHTS, **used}, None))
    for node in (n for n in model.graph.node if n.op_type == "Erf"):
        node.op_type, node.domain = "Mystery", "com.example"
        model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("kind", UNLOADABLE)
def test_a_file_that_cannot_be_loaded_is_refused_before_any_work(
    kind: str, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_network(tmp_path / "m.onnx", UNLOADABLE[kind], rows)
    monkeypatch.setattr(pipeline, "_normalize", lambda *_: pytest.fail("work was done"))
    monkeypatch.setattr(inspection, "check_memory", lambda *_: pytest.fail("work was done"))
    for result in (
        run(path, "--ratio", 0.3),
        run(path, "--ratio", 0),
        run_spa("verify", path, path),
        run_spa("compare", path, path),
        run_spa("sweep", path),
    ):
        assert result.exit_code == 3
        assert str(path) in result.stderr and "onnxruntime cannot load it" in result.stderr


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("kind", UNRUNNABLE)
def test_a_file_that_loads_and_does_not_run_is_refused(kind: str, rows: str, tmp_path: Path) -> None:
    path = save_network(tmp_path / "m.onnx", UNRUNNABLE[kind], rows)
    for options in (["--ratio", 0], ["--ratio", 0.3, "--samples", 16], ["--ratio", 0.3, *QUICK]):
        result = run(path, *options, "--align", 1)
        assert result.exit_code == 3, options
        assert "onnxruntime cannot run" in result.stderr
    assert run_spa("verify", path, path).exit_code == 3


def test_a_node_that_nothing_reads_decides_at_which_sizes_the_file_runs(tmp_path: Path) -> None:
    """It is no part of what is compiled, but the dense file is run, too: for the proof and for its time."""
    path = save_network(tmp_path / "m.onnx", "e = Gather(d, far)  y = MatMul(d, w3)", "N")
    result = run(path, "--ratio", 0.3, "--align", 1, "--samples", 16)
    assert result.exit_code == 0, result.stderr


CELL = "y = GRU<hidden_size = 4>(x, w, r)"
LOOP = """y = Loop(n, , x) <body = b (int64 i, bool c, float16[2,8] s) => (bool d, float16[2,8] t) {
    d = Identity(c)  m = MatMul(s, w)  t = Tanh(m) }>"""
HALF = {
    "a cell": (f"(float16[5,2,8] x) => (float16[5,1,2,4] y) {{ {CELL} }}", {"w": (1, 12, 8), "r": (1, 12, 4)}),
    "products": ("(float16[2,8] x) => (float16[2,8] y) { d = MatMul(x, w)  y = Tanh(d) }", {"w": (8, 8)}),
    "a body": (f"(float16[2,8] x) => (float16[2,8] y) {{ {LOOP} }}", {"w": (8, 8), "n": np.array(3)}),
}


@pytest.mark.parametrize("kind", HALF)
def test_a_file_that_ends_the_process_is_tried_in_another(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As onnxruntime's optimisations do with some models of half floats."""
    text, sizes = HALF[kind]
    draw = np.random.default_rng(0).normal
    halves = {n: draw(size=s).astype(np.float16) if isinstance(s, tuple) else s for n, s in sizes.items()}
    path = tmp_path / "m.onnx"
    onnx.save(build(Case(text, halves, None)), path)
    assert run(path, "--ratio", 0).exit_code == 0
    monkeypatch.setattr(session, "OPEN_IN_CHILD", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    for result in (run(path, "--ratio", 0), run_spa("verify", path, path)):
        assert result.exit_code == 3
        assert str(path) in result.stderr and "ends the process (SIGKILL)" in result.stderr
    plain = save_network(tmp_path / "plain.onnx", "y = MatMul(d, w3)", "2")
    assert run(plain, "--ratio", 0).exit_code == 0
