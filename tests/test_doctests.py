"""The examples in the docstrings of every module hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

PACKAGES = [importlib.import_module(n) for n in ("spa_compiler", "spa_compiler.passes")]
MODULES = sorted({m.name for p in PACKAGES for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")})
NOT_IMPORTED = {"__main__", "olive"}
"""One runs on import, the other needs Olive, an extra."""
IMPORTED = [n for n in MODULES if n.rpartition(".")[2] not in NOT_IMPORTED]


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", IMPORTED)
def test_the_examples_in_the_docstrings_hold(name: str) -> None:
    assert doctest.testmod(module(name)).failed == 0


def test_the_examples_are_found() -> None:
    found = doctest.DocTestFinder(exclude_empty=True)
    assert sum(bool(t.examples) for n in IMPORTED for t in found.find(module(n))) >= 8
