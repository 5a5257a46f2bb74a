"""Ctrl-C and SIGTERM that nothing swallows.

Python raises KeyboardInterrupt wherever it stands, and some places drop it or make another error of it: finalizers,
callbacks of the garbage collector, initialisation of compiled modules. So imports are not interrupted (`held`), and a
command remembers that it was told to stop (`stoppable`): the next `check` says so again, at the latest before a result
is moved to its place.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Action = Callable[[int, FrameType | None], Any]
_told = threading.Event()


@contextmanager
def held() -> Iterator[None]:
    """Ctrl-C, and SIGTERM where it is heeded, wait until the end. For the main thread; elsewhere nothing is done."""
    told: list[int] = []
    before = _replaced(lambda number, frame: told.append(number), lambda action: callable(action))
    try:
        yield
    finally:
        for s, action in before.items():
            signal.signal(s, action)
        if told:
            signal.raise_signal(told[0])


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT (unless it is ignored, as for jobs in the background) and SIGTERM raise KeyboardInterrupt inside.

    An error that follows one is the interrupt in disguise and becomes it. Signals reach the main thread; elsewhere
    nothing is done.
    """
    _told.clear()
    before = _replaced(_tell, lambda action: action not in (signal.SIG_IGN, None))
    try:
        yield
    except Exception as e:
        if _told.is_set():
            raise KeyboardInterrupt from e
        raise
    finally:
        for s, action in before.items():
            signal.signal(s, action)
        _told.clear()


def _replaced(action: Action, where: Callable[[Any], bool]) -> dict[signal.Signals, Any]:
    """Let signals that stop a program do this, where what they do is so; returns what they did before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    stops = [s for s in (signal.SIGINT, signal.SIGTERM) if where(signal.getsignal(s))]
    return {s: signal.signal(s, action) for s in stops}


def check() -> None:
    """Raise KeyboardInterrupt where the command was told to stop and has not."""
    if _told.is_set():
        raise KeyboardInterrupt


def _tell(signum: int, frame: FrameType | None) -> None:
    _told.set()
    raise KeyboardInterrupt
