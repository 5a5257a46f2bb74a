"""The commands as a shell starts them: what is wrong with installed plug-ins is told like any other error.

The version is told at once, before a library is imported.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from spa_compiler.errors import SpaError
from spa_compiler.execution.address_space import import_in_little_memory
from spa_compiler.execution.interrupts import hold_signals


def compile_command(*arguments: Any, **settings: Any) -> None:
    """`spa-compile`; arguments are those of a click command."""
    _tell_version("spa-compile")
    _find_command("compile_command")(*arguments, **settings)


def spa(*arguments: Any, **settings: Any) -> None:
    """`spa`; arguments are those of a click command."""
    _tell_version("spa")
    _find_command("spa")(*arguments, **settings)


def _tell_version(name: str) -> None:
    """Where nothing else is asked for, print the version and end, as the command itself would."""
    if sys.argv[1:] == ["--version"]:
        print(f"{name}, version {importlib.import_module('spa_compiler.version').VERSION}")
        sys.exit(0)


def _find_command(name: str) -> Any:
    """A command; its options are made from the passes that are installed, which may contradict each other."""
    try:
        with hold_signals(), import_in_little_memory():
            return getattr(importlib.import_module("spa_compiler.cli.main"), name)
    except SpaError as e:
        print(f"spa-compile: error: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
