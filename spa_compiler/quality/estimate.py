"""The drop of the metric that evidence stands for: a curve that was fitted on compiles whose true drop is known.

    estimate = estimate_drop(evidence, kind="drawn", compensated=True)
    estimate.drop, estimate.low, estimate.high        # points of the metric; 80 % of the fitted compiles lie between

The curve is linear between logarithms: log(points + OFFSET) over logarithms of the evidence, one for classifiers and
one, by explained variance alone, for other networks. `tools/measure/verdicts.py` collects compiles, fits it (each
family judged by a curve that has not seen it) and writes `curve.json` and the table in docs/results.md.
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

OFFSET = 0.5
"""Points that are added before a logarithm is taken: half a point is no difference."""
MOST_DROP = 100.0


@dataclass(frozen=True)
class Estimate:
    """An estimated drop in points, and the interval in which it lies four times out of five."""

    drop: float
    low: float
    high: float


def list_features(evidence: Evidence, kind: InputKind, compensated: bool) -> dict[str, float]:
    """The numbers that the curve is linear in. All grow with what is lost; without classes some are absent."""
    lost = min(max(1 - evidence.explained_variance, 1e-4), 4.0)
    out = {"constant": 1.0, "unexplained": math.log(lost), "drawn": float(kind != "given"),
           "uncompensated": float(not compensated)}  # fmt: skip
    if evidence.agreement is None or evidence.expected_loss is None or evidence.divergence is None:
        return out
    n = max(evidence.samples, 1)
    return out | {
        "disagreement": math.log(1 - evidence.agreement + 0.5 / n),
        "expected_loss": math.log(max(evidence.expected_loss, 0.0) + 1e-3),
        "divergence": math.log(min(evidence.divergence, 10.0) + 1e-3),
    }


def estimate_drop(evidence: Evidence, kind: InputKind, compensated: bool) -> Estimate | None:
    """The estimate; None where the inputs tell nothing."""
    if kind in ("noise", "guessed"):
        return None
    features = list_features(evidence, kind, compensated)
    curve = _load_curves()["classes" if evidence.agreement is not None else "others"]
    weights: dict[str, float] = curve["weights"]
    level = sum(w * features[name] for name, w in weights.items())
    drop, low, high = (_to_points(level + shift) for shift in (0.0, curve["low"], curve["high"]))
    return Estimate(drop, low, high)


def _to_points(level: float) -> float:
    return min(max(math.exp(min(level, 10.0)) - OFFSET, 0.0), MOST_DROP)


@functools.cache
def _load_curves() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("curve.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


__all__ = ["Estimate", "estimate_drop", "list_features"]
