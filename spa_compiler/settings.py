"""Settings: constants that were tuned, each with its unit, the source of its value and the models that decided.

    weight: float = setting(3.0, "weight of ...", unit="times", source="top-1", chosen_on=("ResNet-20",), rows=("E43",))

They are fields of one frozen dataclass a package, in its module `settings`, which has one instance of it in capitals
(`SCORING.residual_weight`). `rows` are those of docs/experiments.md that record the choice. Limits of memory and time,
tolerances and facts of a format are no settings: they stay where they are used.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")
EVIDENCE_KEY = "evidence"
UNRECORDED = "none recorded"
"""The source of a value of which nobody wrote down how it was chosen."""


@dataclass(frozen=True)
class Evidence:
    """A setting, and the reason to believe in its value.

    `source`: by what it was chosen (a metric, a publication, UNRECORDED). `chosen_on` are the models that decided,
    `confirmed_on` those that were looked at afterwards, as the rows of docs/experiments.md call them.
    """

    about: str
    unit: str
    source: str
    chosen_on: tuple[str, ...]
    confirmed_on: tuple[str, ...]
    rows: tuple[str, ...]


def setting(
    default: T,
    about: str,
    *,
    unit: str,
    rows: tuple[str, ...],
    source: str = UNRECORDED,
    chosen_on: tuple[str, ...] = (),
    confirmed_on: tuple[str, ...] = (),
) -> T:
    """A field of a frozen dataclass with its evidence."""
    evidence = Evidence(about, unit, source, chosen_on, confirmed_on, rows)
    made: T = field(default=default, metadata={EVIDENCE_KEY: evidence})
    return made


def list_settings(settings: Any) -> dict[str, tuple[Any, Evidence]]:
    """Value and evidence of every field of a dataclass of settings, by name."""
    return {f.name: (getattr(settings, f.name), f.metadata[EVIDENCE_KEY]) for f in fields(settings)}
