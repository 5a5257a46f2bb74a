"""A limit of time for whatever runs the model: a file can ask for a Loop of 10^9 rounds.

    with limit_time(60):
        ...                                    # TimeLimitError after a minute, whatever is done inside

    with watch_run(options):                   # RunOptions of onnxruntime: the run ends at the limit
        session.run(None, feed, options)

onnxruntime looks at its options between two nodes, and `check_time` is asked between the steps of our own work; code in
the main thread is stopped by an alarm wherever it stands, where the system has one. Who drops an error drops this one
too: so each later run and check raises it again, at the latest before a result is moved to its place.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from spa_compiler.errors import TimeLimitError, UsageError

if TYPE_CHECKING:  # interrupts are caught before anything large is imported
    import onnxruntime as ort

MOST_RUN_SECONDS = 600.0
"""Seconds that one run of a model may take where no limit was given."""
LONGEST_SECONDS = 1e8
"""Three years: more than an alarm can be set to on some systems."""
WATCH_SECONDS = 0.2
"""Seconds between two looks at the runs that are under way."""


@dataclass(eq=False)
class _Limit:
    """`seconds` from `start` on for everything; `message`: what to say once it has passed."""

    seconds: float = 0.0
    start: float = field(default_factory=time.monotonic)
    message: str = ""

    def has_passed(self) -> bool:
        """Is the time over? From then on the message says so."""
        if not self.message and self.seconds and time.monotonic() - self.start > self.seconds:
            self.message = f"the work is not done within the --time-limit of {self.seconds:g} seconds"
        return bool(self.message)


@dataclass(eq=False)
class _Run:
    """A run that is under way."""

    options: ort.RunOptions
    limit: _Limit
    start: float = field(default_factory=time.monotonic)


_limit: ContextVar[_Limit | None] = ContextVar("_limit", default=None)
_runs: set[_Run] = set()
_changed = threading.Condition()
_watchers: list[threading.Thread] = []


@contextmanager
def limit_time(seconds: float) -> Iterator[None]:
    """The work inside may take so many seconds; 0: no limit, but that of one run. Raises TimeLimitError."""
    if not 0 <= seconds < math.inf:
        raise UsageError(f"--time-limit {seconds:g}: expected a number of seconds, or 0 for no limit")
    limit = _Limit(min(seconds, LONGEST_SECONDS))
    token = _limit.set(limit)
    try:
        with _set_alarm(limit):
            yield
    except TimeLimitError:
        raise
    except Exception as e:
        if limit.has_passed():
            raise TimeLimitError(limit.message) from e
        raise
    finally:
        _limit.reset(token)


@contextmanager
def _set_alarm(limit: _Limit) -> Iterator[None]:
    """An alarm at the end of a limit, in the main thread of a system that has alarms."""
    main = threading.current_thread() is threading.main_thread()
    if not limit.seconds or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if limit.has_passed():
            raise TimeLimitError(limit.message)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit.seconds + WATCH_SECONDS, 1.0)  # again, if the first is dropped
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def check_time() -> None:
    """Raise TimeLimitError where the time is over."""
    limit = _limit.get()
    if limit is not None and limit.has_passed():
        raise TimeLimitError(limit.message)


@contextmanager
def watch_run(options: ort.RunOptions) -> Iterator[None]:
    """A run with these options ends when the time is over. Raises TimeLimitError, also before it begins."""
    check_time()
    run = _Run(options, _limit.get() or _Limit())
    with _changed:
        _runs.add(run)
        _start_watcher()
        _changed.notify()
    try:
        yield
    except Exception as e:
        if run.limit.has_passed():
            raise TimeLimitError(run.limit.message) from e
        raise
    finally:
        with _changed:
            _runs.discard(run)


def _start_watcher() -> None:
    """One thread looks at all runs; a forked process has to start its own."""
    if not _watchers or not _watchers[0].is_alive():
        _watchers[:] = [threading.Thread(target=_watch_runs, name="time limit", daemon=True)]
        _watchers[0].start()


def _watch_runs() -> None:
    while True:
        with _changed:
            while not _runs:
                _changed.wait()
            for run in _runs:
                _stop_late(run)
        time.sleep(WATCH_SECONDS)


def _stop_late(run: _Run) -> None:
    """End a run whose time is over."""
    most = MOST_RUN_SECONDS
    if not run.limit.seconds and not run.limit.message and time.monotonic() - run.start > most:
        run.limit.message = (
            f"one run of the model takes longer than {most:g} seconds; give --time-limit SECONDS for more"
        )
    if run.limit.has_passed():
        run.options.terminate = True
