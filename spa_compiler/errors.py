"""Every error that spa-compile raises on purpose, with the exit code that the command line gives it (`exit_codes`).

    SpaError (1)
    |-- VerificationError (1)   the rewrite does not do what the plan says; nothing was written
    |   |-- UnprovenError (1)   nothing that the proof sees depends on some groups (--allow-unproven)
    |   `-- UnprovenWeightsError (1)   nothing proves where the weights of a file come from (--rerun, --allow-unproven)
    |-- UsageError (2)          an option, a plan or a file of scores does not fit
    |   `-- PlaceError (2)      a file would be written where none can be, or onto another
    |-- ModelError (3)          the model cannot be read, is invalid or cannot be run
    |   |-- OversizeError (3)   a value of the model takes more than --memory
    |   `-- TimeLimitError (3)  running the model takes longer than --time-limit
    |-- BudgetError (4)         the budget cannot be reached
    |-- NothingToPrune (5)      no group of the model may lose a channel
    |-- GateError (6)           a --fail-under gate was missed
    |-- ReportError (7)         the model was written, its report or its plan could not be
    |-- RuleError               the rule string of an operator cannot be read
    `-- Conflict                two axes have no common refinement; the analysis turns it into a freeze

>>> raise ModelError("model.onnx: node 'conv1' reads 'w', which nothing produces")
Traceback (most recent call last):
spa_compiler.errors.ModelError: model.onnx: node 'conv1' reads 'w', which nothing produces
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from spa_compiler.exit_codes import ExitCode


class SpaError(Exception):
    """Base of all; `exit_code` is what the process ends with."""

    exit_code = ExitCode.VERIFICATION_FAILED


class VerificationError(SpaError):
    """The compiled model is not what the plan asks for; no output was written."""


class UnprovenError(VerificationError):
    """The proof cannot see some groups that lose a unit: `silent` are their names, of `groups` in all.

    `unfinite`: constants that hold NaN or infinity, behind which nothing moves.
    """

    def __init__(self, silent: Iterable[str], groups: int, unfinite: Iterable[str] = ()) -> None:
        self.silent, self.groups = tuple(silent), groups
        names = ", ".join(f"'{n}'" for n in self.silent[:4]) + ", ..." * (len(self.silent) > 4)
        flawed = ", ".join(f"'{n}'" for n in list(unfinite)[:4])
        why = f" (NaN or infinity in {flawed}: nothing moves behind it)" if flawed else ""
        super().__init__(
            f"the proof cannot see {describe_unproven(len(self.silent), groups)}: on the inputs that were drawn, "
            f"nothing moves with {names}{why}; give --input-range, --exclude them, or --allow-unproven; "
            "nothing was written"
        )


class UnprovenWeightsError(VerificationError):
    """Nothing that was checked proves where the weights of a compiled file come from; `reason` says why not."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the weights are not proven: {reason}; --rerun proves them, a gate that holds (--fail-under cosine=0.95) "
            "or --allow-unproven accepts them"
        )


def describe_unproven(silent: int, groups: int) -> str:
    """How many of the groups that lose a unit nothing depends on."""
    return f"{silent} of {groups} groups"


class UsageError(SpaError):
    """The caller's options or files do not make sense for this model."""

    exit_code = ExitCode.BAD_USAGE


class PlaceError(UsageError):
    """A file would be written where none can be, or onto one that is read or written as well."""


class ModelError(SpaError):
    """The model cannot be read, is invalid, or onnxruntime cannot run it."""

    exit_code = ExitCode.BAD_MODEL


class OversizeError(ModelError):
    """A value of the model would take more memory than it may."""


class TimeLimitError(ModelError):
    """The model runs longer than it may."""


class BudgetError(SpaError):
    """Even with every group at its floor the budget is not met."""

    exit_code = ExitCode.BUDGET_OUT_OF_REACH


class NothingToPrune(SpaError):
    """No group may lose a channel; the message says what holds them."""

    exit_code = ExitCode.NOTHING_TO_PRUNE


class GateError(SpaError):
    """A metric is on the wrong side of its --fail-under gate; `report` is that of the run."""

    exit_code = ExitCode.GATE_MISSED

    def __init__(self, text: str, report: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.report = report


class ReportError(SpaError):
    """The work was done, and the report or the plan that was asked for could not be written."""

    exit_code = ExitCode.REPORT_NOT_WRITTEN


class Conflict(SpaError):
    """Two axes cannot be given a common refinement. Rules never let it escape: it becomes a frozen reason."""


class RuleError(SpaError):
    """A rule string cannot be read: the string, where in it, and what is wrong.

    >>> raise RuleError("n c -> n d", 9, "'d' is an axis of an output and of no input")
    Traceback (most recent call last):
    spa_compiler.errors.RuleError: 'd' is an axis of an output and of no input (character 10 of `n c -> n d`)
    """

    def __init__(self, rule: str, place: int, text: str) -> None:
        self.rule, self.place, self.text = rule, place, text
        super().__init__(f"{text} (character {place + 1} of `{rule}`)")


MOST_SUGGESTIONS = 2
"""Names that a message about a name gives."""


def suggest_names(name: str, names: Iterable[str]) -> str:
    """The end of a message about a name that there is not: names that look like it; '' where none does."""
    return _join_suggestions(difflib.get_close_matches(name, list(dict.fromkeys(names)), n=MOST_SUGGESTIONS))


def suggest_patterns(pattern: str, names: Iterable[str]) -> str:
    """The same of a shell pattern that matches nothing: also one of all names that have it inside."""
    core, names = pattern.strip("*"), list(dict.fromkeys(names))
    near = difflib.get_close_matches(core, names, n=MOST_SUGGESTIONS)
    if core and any(core in n for n in names) and not any(core in n for n in near):
        near = [f"*{core}*", *near][:MOST_SUGGESTIONS]
    return _join_suggestions(near)


def _join_suggestions(near: list[str]) -> str:
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
