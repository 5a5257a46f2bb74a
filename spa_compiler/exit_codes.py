"""The exit codes of every command: what a CI step sees. README has the same table.

>>> ExitCode.GATE_MISSED.value
6
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The number that a process ends with; errors that are raised on purpose carry theirs (`spa_compiler.errors`)."""

    DONE = 0
    VERIFICATION_FAILED = 1
    """The rewrite does not do what the plan says, or the proof cannot see it; nothing was written."""
    BAD_USAGE = 2
    """An option, a plan or a file beside the model does not fit."""
    BAD_MODEL = 3
    """The model cannot be read, is invalid or cannot be run."""
    BUDGET_OUT_OF_REACH = 4
    NOTHING_TO_PRUNE = 5
    GATE_MISSED = 6
    """A metric is on the wrong side of its `--fail-under`."""
    REPORT_NOT_WRITTEN = 7
    """The model was written; its report or its plan could not be."""
    INTERNAL = 70
    """A defect of spa-compile, or too little memory (sysexits' EX_SOFTWARE)."""
    INTERRUPTED = 130
    """Ctrl-C or SIGTERM."""
