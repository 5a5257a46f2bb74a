"""The report of a run that ended without a result: how, why, and what it was asked for.

    make_failed_report(NothingToPrune("..."), Path("m.onnx"))["status"]      # UNCHANGED

It follows the same schema as the report of a run with a result, with few of its fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spa_compiler.errors import NothingToPrune, SpaError, VerificationError
from spa_compiler.exit_codes import ExitCode
from spa_compiler.report.document import REPORT_FORMAT
from spa_compiler.version import VERSION

FAILED_STATUSES = ("FAILED", "UNCHANGED", "ERROR")
"""Of runs that have no result."""


def make_failed_report(
    error: Exception, source: Path, output: dict[str, Any] | None = None, is_allowed: bool = False
) -> dict[str, Any]:
    """The report of a run that raised this.

    `is_allowed`: nothing could be pruned, and the run ends with 0; `output` then says which copy of the input it wrote.
    """
    unchanged = isinstance(error, NothingToPrune)
    status = "UNCHANGED" if unchanged else "FAILED" if isinstance(error, VerificationError) else "ERROR"
    return {
        "format": "spa-compile report",
        "version": REPORT_FORMAT,
        "tool": f"spa-compile {VERSION}",
        "status": status,
        "exit_code": int(ExitCode.DONE if is_allowed else find_exit_code(error)),
        "error": describe_error(error),
        "input": {"path": str(source)},
        **({"output": output} if output else {}),
    }


def find_exit_code(error: Exception) -> ExitCode:
    """The code that a process ends with."""
    if isinstance(error, SpaError):
        return error.exit_code
    return ExitCode.BAD_USAGE if isinstance(error, OSError) else ExitCode.INTERNAL


def describe_error(error: Exception) -> str:
    """The error in the words of the command line."""
    if isinstance(error, SpaError | OSError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; nothing was written"
    return f"internal error: {type(error).__name__}: {error} (-v shows where)"


__all__ = ["FAILED_STATUSES", "describe_error", "find_exit_code", "make_failed_report"]
