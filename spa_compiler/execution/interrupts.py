"""Ctrl-C and SIGTERM that are never lost.

Python raises KeyboardInterrupt wherever it stands, and some places drop it or make another error of it: finalizers,
callbacks of the garbage collector, initialisation of compiled modules. So imports are not interrupted (`hold_signals`),
and a command remembers that it was told to stop (`raise_on_signals`): the next `check_stop` says so again, at the
latest before a result is moved to its place.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from spa_compiler.execution.time_limit import check_time

Action = Callable[[int, FrameType | None], Any]
_stop_requested = threading.Event()


@contextmanager
def hold_signals() -> Iterator[None]:
    """Ctrl-C, and SIGTERM where it is heeded, wait until the end. For the main thread; elsewhere nothing is done."""
    told: list[int] = []
    before = _replace_actions(lambda number, frame: told.append(number), lambda action: callable(action))
    try:
        yield
    finally:
        for s, action in before.items():
            signal.signal(s, action)
        if told:
            signal.raise_signal(told[0])


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """SIGINT (unless it is ignored, as for jobs in the background) and SIGTERM raise KeyboardInterrupt inside.

    An error that follows one is the interrupt in disguise and becomes it. Signals reach the main thread; elsewhere
    nothing is done.
    """
    _stop_requested.clear()
    before = _replace_actions(_tell, lambda action: action not in (signal.SIG_IGN, None))
    try:
        yield
    except Exception as e:
        if _stop_requested.is_set():
            raise KeyboardInterrupt from e
        raise
    finally:
        for s, action in before.items():
            signal.signal(s, action)
        _stop_requested.clear()


def _replace_actions(action: Action, where: Callable[[Any], bool]) -> dict[signal.Signals, Any]:
    """Let signals that stop a program do this, where what they do is so; returns what they did before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    stops = [s for s in (signal.SIGINT, signal.SIGTERM) if where(signal.getsignal(s))]
    return {s: signal.signal(s, action) for s in stops}


def check_stop() -> None:
    """Raise KeyboardInterrupt where the command was told to stop and has not, TimeLimitError where its time is over."""
    if _stop_requested.is_set():
        raise KeyboardInterrupt
    check_time()


def _tell(signum: int, frame: FrameType | None) -> None:
    _stop_requested.set()
    raise KeyboardInterrupt
