"""Ctrl-C and SIGTERM that nothing swallows.

Python raises KeyboardInterrupt wherever it stands, and some places drop it or make another error of it: finalizers,
callbacks of the garbage collector, initialisation of compiled modules. So imports are not interrupted (`held`), and a
command remembers that it was told to stop (`stoppable`): the next `check` says so again, at the latest before a result
is moved to its place.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_told = threading.Event()


@contextmanager
def held() -> Iterator[None]:
    """Ctrl-C waits until the end (at once where the system has no signal masks)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT (unless it is ignored, as for jobs in the background) and SIGTERM raise KeyboardInterrupt inside.

    An error that follows one is the interrupt in disguise and becomes it. Signals reach the main thread; elsewhere
    nothing is done.
    """
    _told.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, _tell) for s in stops}
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


def check() -> None:
    """Raise KeyboardInterrupt where the command was told to stop and has not."""
    if _told.is_set():
        raise KeyboardInterrupt


def _tell(signum: int, frame: FrameType | None) -> None:
    _told.set()
    raise KeyboardInterrupt
