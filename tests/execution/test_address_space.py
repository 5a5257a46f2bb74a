"""A process with little memory starts with one thread of linear algebra, or says why it does not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spa_compiler.execution import address_space
from spa_compiler.execution.address_space import AMPLE_BYTES, LEAST_BYTES, THREAD_VARIABLES, import_in_little_memory


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def limit_to(monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    monkeypatch.setattr(address_space, "find_limit", lambda: limit)


@pytest.mark.parametrize("limit", [None, AMPLE_BYTES])
def test_where_memory_is_ample_nothing_is_changed(limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_to(monkeypatch, limit)
    with import_in_little_memory():
        assert not any(name in os.environ for name in THREAD_VARIABLES)


def test_where_it_is_little_there_is_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_to(monkeypatch, LEAST_BYTES)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")  # whoever says so, gets it
    with import_in_little_memory():
        assert [os.environ.get(name) for name in THREAD_VARIABLES] == ["3", "1", "1"]
    for name in THREAD_VARIABLES[1:]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("error", [ImportError("failed to map segment"), MemoryError(), OSError("no memory")])
def test_what_cannot_be_loaded_says_why(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_to(monkeypatch, LEAST_BYTES + (8 << 20))
    with pytest.raises(MemoryError, match="limited to 264 MB"), import_in_little_memory():
        raise error
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space differ")
@pytest.mark.parametrize(("megabytes", "words"), [(120, "limited to 120 MB"), (350, "")])
def test_a_process_ends_at_once(megabytes: int, words: str) -> None:
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({megabytes << 20},) * 2)"
    code = f"{limit}; import spa_compiler; spa_compiler.compile"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (got.returncode == 0) is (not words) and words in got.stderr
