"""The drop of the metric that evidence stands for: a curve that was fitted on compiles whose true drop is known.

    estimate = estimate_drop(evidence, kind="drawn")
    estimate.drop, estimate.low, estimate.high        # points of the metric; 80 % of the fitted compiles lie between

The square root of the drop is linear in the evidence (disagreement for classifiers; the root of the variance that is
not explained for any network): where few answers change, they are those that the dense model was least sure of, and
often wrong about. `tools/measure/verdicts.py` collects compiles, fits it (each family judged by a curve that has not
seen it) and writes `curve.json` and the table in docs/results.md.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import Any

from spa_compiler.quality.evidence import Evidence
from spa_compiler.quality.inputs import InputKind

MOST_DROP = 100.0
MOST_UNEXPLAINED = 2.0
"""Shares of the variance: outputs that are farther off are lost as well."""


@dataclass(frozen=True)
class Estimate:
    """An estimated drop in points, and the interval in which it lies four times out of five."""

    drop: float
    low: float
    high: float


def list_features(evidence: Evidence) -> dict[str, float]:
    """The numbers that the root of the drop is linear in. All but the first grow with what is lost."""
    lost = min(max(1 - evidence.explained_variance, 0.0), MOST_UNEXPLAINED)
    out = {"constant": 1.0, "unexplained": math.sqrt(lost)}
    return out if evidence.agreement is None else out | {"disagreement": 1 - evidence.agreement}


def estimate_drop(evidence: Evidence, kind: InputKind) -> Estimate | None:
    """The estimate; None where the inputs tell nothing."""
    if kind in ("noise", "guessed") or (kind == "used" and evidence.agreement is None):
        return None
    features = list_features(evidence)
    curve = _load_curves()[find_curve(evidence, kind)]
    weights: dict[str, float] = curve["weights"]
    root = sum(w * features[name] for name, w in weights.items())
    drop, low, high = (find_points(root + shift) for shift in (0.0, curve["low"], curve["high"]))
    return Estimate(drop, low, high)


def find_curve(evidence: Evidence, kind: InputKind) -> str:
    """Which of the curves says what evidence stands for: on inputs of another kind than those of calibration the same
    drop shows more.
    """
    if evidence.agreement is None:
        return "others"
    return "foreign" if kind == "foreign" else "classes"


def find_points(root: float) -> float:
    """The drop whose root this is."""
    return float(min(max(root, 0.0) ** 2, MOST_DROP))


@functools.cache
def _load_curves() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("curve.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


__all__ = ["Estimate", "estimate_drop", "find_curve", "find_points", "list_features"]
