"""Inputs of a script: `script.py:name`, a function, a class or a value; only the script that was named is run."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spa_compiler.errors import SpaError, UsageError


def is_script(text: str) -> bool:
    """Does a text name something in a script?"""
    return ".py:" in text


def read_script(text: str) -> tuple[str, Any]:
    """`script.py:name`: what messages call it, and its value. Raises UsageError for anything that goes wrong."""
    file, name = text.rsplit(":", 1)
    if not Path(file).is_file():
        raise UsageError(f"{file}: no such script")
    names = _call(f"{file}: the script", lambda: runpy.run_path(file))
    if name not in names or not name:
        raise UsageError(f"{file}: it defines no function, class or value '{name}'")
    found = names[name]
    if isinstance(found, type) or (callable(found) and not hasattr(found, "get_next")):
        return f"{file}: {name}()", _call(f"{file}: {name}()", found)
    return f"{file}: {name}", found


def _call(what: str, function: Callable[[], Any]) -> Any:
    """The value of a call. Raises UsageError for whatever it raises, SystemExit among it."""
    try:
        return function()
    except (KeyboardInterrupt, MemoryError, SpaError):
        raise
    except BaseException as e:
        raise UsageError(f"{what} ends with {type(e).__name__}: {e}") from e


def iterate_reader(reader: Any) -> Iterator[Any]:
    """Feeds of an onnxruntime CalibrationDataReader, up to None."""
    while (feed := reader.get_next()) is not None:
        yield feed
