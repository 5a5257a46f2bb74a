"""Gates: limits that a run must hold, `--fail-under cosine=0.95`, `--fail-under "latency_ms<=5"`, `"drop<=1%"`.

>>> Gate.parse("drop<=1%")
Gate(metric='drop', least=False, limit=1.0, text='drop<=1%')
>>> Gate.parse("cosine=0.95").is_met(0.96), Gate.parse("latency_ms<=5").is_met(6)
(True, False)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spa_compiler.errors import UsageError

PATTERN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(>=|<=|=)\s*([-+0-9.eE]+)\s*(%?)\s*\Z")
POINTS = ("drop",)
"""Metrics in points (percent of the metric): a percent sign says the same."""


@dataclass(frozen=True)
class Gate:
    """`metric` must be at least `limit`, or at most; `text` is what the caller wrote."""

    metric: str
    least: bool
    limit: float
    text: str

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read `METRIC=VALUE`, `METRIC>=VALUE` or `METRIC<=VALUE`. Raises UsageError for anything else.

        `=` is what it always was, "at least". A value with `%` is a share of 1; points where the metric is in points.
        """
        found = PATTERN.match(text)
        try:
            limit = float(found[3]) if found else math.nan
        except ValueError:
            limit = math.nan
        if found is None or math.isnan(limit):
            raise UsageError(f"--fail-under {text}: expected METRIC=NUMBER, METRIC>=NUMBER or METRIC<=NUMBER")
        name = found[1]
        if name in POINTS and found[2] == "=":
            raise UsageError(f"--fail-under {text}: a smaller {name} is better, write '{name}<={found[3]}'")
        return cls(name, found[2] != "<=", limit / 100 if found[4] and name not in POINTS else limit, text)

    def is_met(self, value: float) -> bool:
        """Is the value on the right side? What is not a number is not."""
        return value >= self.limit if self.least else value <= self.limit


def parse_gates(texts: Iterable[str], metrics: Iterable[str]) -> tuple[Gate, ...]:
    """All gates. Raises UsageError for one that cannot be read or names none of the metrics."""
    known, gates = list(metrics), tuple(Gate.parse(t) for t in texts)
    for gate in gates:
        if gate.metric not in known:
            names = ", ".join(known)
            raise UsageError(f"--fail-under {gate.text}: no metric is called '{gate.metric}'; there are {names}")
    return gates


def judge_gates(gates: Iterable[Gate], values: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each gate with its value and whether it holds, for the report. Raises UsageError where nothing was measured."""
    out = []
    for gate in gates:
        if gate.metric not in values:
            there = ", ".join(sorted(values))
            raise UsageError(f"--fail-under {gate.text}: {gate.metric} was not measured here; there are {there}")
        value = values[gate.metric]
        out.append({"gate": gate.text, "metric": gate.metric, "value": value, "limit": gate.limit,
                    "bound": "least" if gate.least else "most", "holds": gate.is_met(value)})  # fmt: skip
    return out


def describe_missed(gates: Iterable[Mapping[str, Any]]) -> str:
    """A sentence about every gate that does not hold."""
    parts = [
        f"{g['metric']} is {g['value']:.4g}, {'under' if g['bound'] == 'least' else 'over'} the gate of {g['limit']:g}"
        for g in gates if not g["holds"]
    ]  # fmt: skip
    return "; ".join(parts)


__all__ = ["Gate", "describe_missed", "judge_gates", "parse_gates"]
