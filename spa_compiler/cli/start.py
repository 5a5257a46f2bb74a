"""The commands as a shell starts them: what is wrong with installed plug-ins is told like any other error."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from spa_compiler.errors import SpaError


def compile_command(*arguments: Any, **settings: Any) -> None:
    """`spa-compile`; arguments are those of a click command."""
    _find_command("compile_command")(*arguments, **settings)


def spa(*arguments: Any, **settings: Any) -> None:
    """`spa`; arguments are those of a click command."""
    _find_command("spa")(*arguments, **settings)


def _find_command(name: str) -> Any:
    """A command; its options are made from the passes that are installed, which may contradict each other."""
    try:
        return getattr(importlib.import_module("spa_compiler.cli.main"), name)
    except SpaError as e:
        print(f"spa-compile: error: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
