"""Whatever runs the model, or works on it, ends when the time is over: with exit 3 and a message."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import spa_compiler
from commands import QUICK, run, run_spa
from spa_compiler.errors import ModelError, TimeLimitError
from spa_compiler.execution import time_limit
from spa_compiler.execution.interrupts import check_stop
from spa_compiler.execution.parallel import map_parallel
from spa_compiler.execution.session import open_session, run_session
from spa_compiler.execution.time_limit import limit_time

ENDLESS = """<ir_version: 8, opset_import: ["" : 18]> g (float[2,8] x) => (float[2,4] y) {
    a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)
    y = Loop(n, t, c) <body = r (int64 i, bool k, float[2,4] v) => (bool m, float[2,4] u) {
        m = Identity(k)  u = Tanh(v) }> }"""
FEED = {"x": np.zeros((2, 8), np.float32)}


def make_endless() -> onnx.ModelProto:
    """A file of half a kilobyte that runs for an hour."""
    model = onnx.parser.parse_model(ENDLESS)
    weights = {"w1": np.ones((8, 6), np.float32), "w2": np.ones((6, 4), np.float32)}
    for name, value in (weights | {"n": np.array(10**9), "t": np.array(True)}).items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    onnx.save(make_endless(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def session() -> ort.InferenceSession:
    return open_session(make_endless(), Path())


def test_a_run_ends_when_the_time_is_over(session: ort.InferenceSession) -> None:
    start = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"within the --time-limit of 0\.5 seconds"), limit_time(0.5):
        run_session(session, FEED)
    assert time.monotonic() - start < 30


def test_one_run_has_a_limit_where_none_is_given(
    session: ort.InferenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_limit, "MOST_RUN_SECONDS", 0.3)
    with pytest.raises(TimeLimitError, match="give --time-limit"):
        run_session(session, FEED)


def test_runs_in_other_threads_end_too(session: ort.InferenceSession) -> None:
    with pytest.raises(TimeLimitError), limit_time(0.5):
        list(map_parallel(lambda _: run_session(session, FEED), range(4)))


def test_no_run_begins_after_the_end(session: ort.InferenceSession) -> None:
    with pytest.raises(TimeLimitError), limit_time(0.3):
        for _ in range(2):
            try:
                run_session(session, FEED)
            except ModelError:  # whoever drops it is told again
                start = time.monotonic()
        assert time.monotonic() - start < 10
        check_stop()


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="alarms reach the main thread")
def test_our_own_work_ends_wherever_it_stands() -> None:
    with pytest.raises(TimeLimitError), limit_time(0.2):
        for _ in itertools.count():
            pass


def test_errors_that_follow_from_the_end_are_the_end(session: ort.InferenceSession) -> None:
    with pytest.raises(TimeLimitError), limit_time(0.2):
        try:
            run_session(session, FEED)
        except TimeLimitError as e:
            raise ValueError("something else") from e


def test_without_a_limit_nothing_is_stopped() -> None:
    with limit_time(0.0):
        check_stop()
    with limit_time(60.0):
        check_stop()


@pytest.mark.parametrize("criterion", [QUICK[:2], []])
def test_a_command_ends_with_exit_3(endless: Path, criterion: list[str]) -> None:
    target = endless.with_name("small.onnx")
    got = run(endless, "--ratio", "0.3", *criterion, "--time-limit", "1", "-o", target)
    assert got.exit_code == 3 and "--time-limit of 1 seconds" in got.output
    assert not target.exists() and len(list(endless.parent.iterdir())) == 1


def test_other_commands_and_python_have_the_limit(endless: Path) -> None:
    assert run_spa("verify", endless, endless, "--time-limit", "1").exit_code == 3
    with pytest.raises(TimeLimitError):
        spa_compiler.compile(endless, ratio=0.3, criterion="l2", time_limit=1.0)
