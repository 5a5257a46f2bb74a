"""Ctrl-C and SIGTERM are not lost where Python loses them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import folder, run
from spa_compiler.errors import UsageError
from spa_compiler.execution.interrupts import check_stop, hold_signals, raise_on_signals
from spa_compiler.execution.parallel import map_parallel
from spa_compiler.pipeline.passes import Pipeline
from spa_compiler.pipeline.state import State

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [signal.signal(s, signal.default_int_handler) for s in (signal.SIGINT, signal.SIGTERM)]
    yield
    for s, action in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(s, action)


def swallowed(number: int = signal.SIGINT) -> None:
    """The fate of an interrupt in a callback or in the initialisation of a module."""
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt:
        pass
    else:
        pytest.fail("nothing was raised")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_swallowed_is_raised_again(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), raise_on_signals():
        check_stop()
        swallowed(number)
        check_stop()
    check_stop()  # it is over with the command


def test_an_error_made_of_an_interrupt_is_the_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), raise_on_signals():
        swallowed()
        raise ImportError("initialization failed")
    with pytest.raises(UsageError), raise_on_signals():
        raise UsageError("not interrupted")


def test_work_side_by_side_stops() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), raise_on_signals():
        for item in map_parallel(lambda k: k, range(1000)):
            done.append(item)
            if item == 3:
                swallowed()
    assert done == [0, 1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_interrupts_what_is_held(number: int) -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), raise_on_signals(), hold_signals():
        os.kill(os.getpid(), number)  # may reach any thread
        time.sleep(0.05)
        done = True
    assert done


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with raise_on_signals():
        signal.raise_signal(signal.SIGINT)
        check_stop()


def test_a_command_that_lost_its_interrupt_writes_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copy(models / "digits_gru.onnx", tmp_path))
    before = folder(tmp_path)
    steps = Pipeline.run

    def interrupted(self: Pipeline, state: State) -> State:
        state = steps(self, state)
        swallowed()
        return state

    monkeypatch.setattr(Pipeline, "run", interrupted)
    result = run(source, "--ratio", 0.3, "--criterion", "l2", "--no-latency")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert folder(tmp_path) == before
