"""The verdict on a compiled model: GOOD, FAIR, POOR or UNKNOWN, from a measured or an estimated drop of its metric.

>>> Quality.of_measured(0.92, 0.88).verdict, round(Quality.of_measured(0.92, 0.88).drop, 6)
('FAIR', 4.0)
>>> describe_quality(Quality.of_measured(0.92, 0.88).document())
'quality FAIR (measured drop 4.0 points)'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from spa_compiler.quality.estimate import Estimate

Verdict = Literal["GOOD", "FAIR", "POOR", "UNKNOWN"]
GOOD_DROP, POOR_DROP = 2.0, 5.0
"""Points of the metric: at most the first is GOOD, more than the second is POOR."""


@dataclass(frozen=True)
class Quality:
    """The verdict; `drop` in points of the metric, between `low` and `high` four times out of five.

    `basis`: "measured" with labels, "estimated" from how the outputs of both models differ, "none" where `reason` says
    why neither was possible.
    """

    verdict: Verdict
    basis: Literal["measured", "estimated", "none"]
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    @classmethod
    def of_measured(cls, dense: float, compiled: float) -> Quality:
        """From accuracies with labels, as shares."""
        drop = 100 * (dense - compiled)
        return cls(judge_drop(drop), "measured", drop, drop, drop)

    @classmethod
    def of_estimate(cls, estimate: Estimate) -> Quality:
        """From evidence on inputs without labels."""
        return cls(judge_drop(estimate.drop), "estimated", estimate.drop, estimate.low, estimate.high)

    @classmethod
    def of_nothing(cls, reason: str) -> Quality:
        """Where there is nothing to judge by."""
        return cls("UNKNOWN", "none", reason=reason)

    def document(self) -> dict[str, Any]:
        """As a dictionary for the report."""
        return {
            "verdict": self.verdict, "basis": self.basis, "drop": self.drop, "low": self.low, "high": self.high,
            "reason": self.reason, "advice": [],
        }  # fmt: skip


def describe_quality(found: Mapping[str, Any]) -> str:
    """The second field of the last line, from the section of the report."""
    if found["drop"] is None:
        return f"quality {found['verdict']} ({found['reason']})"
    return f"quality {found['verdict']} ({found['basis']} drop {format_points(found['drop'])} points)"


def shorten_quality(found: Mapping[str, Any]) -> str:
    """The verdict and the drop in points for a row of a table.

    >>> shorten_quality({"verdict": "GOOD", "drop": 1.42})
    'GOOD 1.4'
    """
    return str(found["verdict"]) + ("" if found["drop"] is None else f" {format_points(found['drop'])}")


def judge_drop(points: float) -> Verdict:
    """The word for a drop in points."""
    return "GOOD" if points <= GOOD_DROP else "POOR" if points > POOR_DROP else "FAIR"


def advise(given: bool, labelled: bool, folded: bool, compensated: bool) -> Sequence[str]:
    """Ways to a better model than a poor one, the most useful first.

    `given`: it was calibrated on the caller's inputs; `folded`: its BatchNormalization is gone; `compensated`: what
    stays was updated.
    """
    advice = ["remove less (a lower --ratio)"]
    if not compensated:
        advice.append("update the weights that stay: --compensate, or the default --criterion")
    if not given:
        advice.append("give real inputs: --calib FOLDER (64 are enough, no labels)")
    if folded and not given:
        advice.append("export the model with BatchNormalization kept")
    if not labelled:
        advice.append("measure with labels: --data FOLDER or FILE.npz")
    return advice


def format_points(drop: float) -> str:
    """Points in a line of text."""
    return f"{drop:.1f}" if abs(drop) < 9.95 else f"{drop:.0f}"


__all__ = [
    "GOOD_DROP", "POOR_DROP", "Quality", "Verdict", "advise", "describe_quality", "format_points",
    "judge_drop", "shorten_quality",
]  # fmt: skip
