"""The results of solving a node: new weights, or why it keeps its old ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.compensation.apply import Replacement, Update
from spa_compiler.compensation.options import Options
from spa_compiler.compensation.settings import COMPENSATION
from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.statistics.covariance import Floats, repair_variance
from spa_compiler.statistics.wide_columns import Evidence

Array = NDArray[Any]


@dataclass(frozen=True)
class NewTable:
    """A new table of experts, and the matrices that are looked up in it for every row."""

    table: str  # the constant
    looked_up: str  # the value
    values: Array
    index: list[Array]


@dataclass(frozen=True)
class Refusal:
    """The node keeps its old weights, for this reason."""

    reason: str


@dataclass(frozen=True)
class Unfit:
    """The node keeps its old weights: least squares from what it reads to the target have no finite solution."""

    x: Chunks
    target: Chunks


Solution = Update | Replacement | NewTable | Refusal | Unfit | None
"""None: there is nothing to solve."""


def solve_weights(before: Floats, evidence: Evidence, options: Options, about_zero: bool = False) -> Floats:
    """The weights (blocks, m, d) that the options ask for, beside an intercept or `about_zero` without one.

    NaN where there is no solution.
    """
    if options.bias_only:
        return before
    try:
        w = evidence.solve(before, options.ridge, options.shrink, about_zero)
    except np.linalg.LinAlgError:
        return np.full_like(before, np.nan)
    if options.repair <= 1:
        return w
    return repair_variance(w, evidence.measure_variance(w), evidence.variance(), options.repair)


def solve_without_intercept(before: Floats, weights: Floats, evidence: Evidence, options: Options) -> Floats | None:
    """Weights that do without an intercept; None where an intercept beside `weights` earns the node that adds it.

    It does where the error would be larger without by more than COMPENSATION.intercept_share of what there is.
    """

    def measure(w: Floats) -> float:
        intercept = evidence.mean(1) - np.einsum("bmd,bd->bm", w, evidence.mean())
        return float((evidence.measure_error(w) + intercept**2).sum())

    least = float(evidence.measure_error(weights).sum())
    most = (1 + COMPENSATION.intercept_share) * least
    if measure(weights) <= most:
        return weights
    plain = solve_weights(before, evidence, options, about_zero=True)
    return plain if measure(plain) <= most else None
