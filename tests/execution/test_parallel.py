"""Work side by side: results in order, and never far ahead of who takes them."""

from __future__ import annotations

import threading
import time

import pytest

from spa_compiler.execution import parallel
from spa_compiler.execution.parallel import PROCESSORS, bound_threads, map_parallel


@pytest.mark.parametrize("cores", [1, 3])
def test_results_come_in_order(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(parallel, "CORES", cores)

    def slow_at_first(k: int) -> int:
        time.sleep(0.02 if k == 0 else 0)
        return k * k

    assert list(map_parallel(slow_at_first, range(20))) == [k * k for k in range(20)]


def test_no_more_is_begun_than_fits_beside_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "CORES", 2)
    begun, lock = [], threading.Lock()

    def work(k: int) -> int:
        with lock:
            begun.append(k)
        return k

    found = map_parallel(work, range(100))
    assert next(found) == 0
    time.sleep(0.05)
    assert len(begun) <= 4
    assert list(found) == list(range(1, 100))


def test_an_error_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "CORES", 2)
    with pytest.raises(ZeroDivisionError):
        list(map_parallel(lambda k: 1 // k, [2, 1, 0]))


def test_a_session_has_no_more_threads_than_there_are_cores() -> None:
    assert [bound_threads(n) for n in (0, 1, -3)] == [0, 1, 0]
    assert bound_threads(999) == PROCESSORS
