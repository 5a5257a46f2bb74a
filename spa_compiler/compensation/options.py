"""How to compensate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from spa_compiler.compensation.settings import COMPENSATION
from spa_compiler.interpreter.activation_maps import Adjust
from spa_compiler.interpreter.deferred_inputs import Late


@dataclass(frozen=True)
class Options:
    """How to compensate.

    ridge       share of the mean diagonal of C_xx, towards the old weights
    adjust      what calibration does to values of both models (synthetic inputs)
    residual    correct the errors of earlier blocks at residual Adds
    shrink      shrink covariances towards their diagonal by what so few inputs cannot tell
    everything  solve contractions that were not cut, but whose inputs changed, too
    bias_only   only the intercept (FLAP): W stays
    contractions  solve contractions at all
    norms       normalisations, too: "statistics" that are stored, or "affine": gain and bias
    repair      largest factor by which the deviation of an output row may be restored; 1: not at all
    late        inputs that join on the way
    only        numbers of the sites whose weights may change; None: all
    """

    ridge: float = COMPENSATION.ridge
    adjust: Adjust = field(default_factory=Adjust)
    residual: bool = True
    shrink: bool = True
    everything: bool = True
    bias_only: bool = False
    contractions: bool = True
    norms: Literal["", "statistics", "affine"] = ""
    repair: float = COMPENSATION.most_repair
    late: Late | None = None
    seed: int = 0
    only: frozenset[int] | None = None
