"""The results of solving a node: new weights, or why it keeps its old ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.compensation.apply import Replacement, Update
from spa_compiler.compensation.options import Options
from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.statistics.covariance import Floats, Gram, estimate_shrinkage, repair_variance, solve_least_squares

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


def solve_weights(before: Floats, gram: Gram, options: Options) -> Floats:
    """The weights (blocks, m, d) that the options ask for; NaN where there is no solution."""
    if options.bias_only:
        return before
    covariance = gram.covariance()
    shrink = estimate_shrinkage(covariance, gram.rows()) if options.shrink else 0.0
    try:
        w = solve_least_squares(before, covariance, gram.cross(), options.ridge, shrink)
    except np.linalg.LinAlgError:
        return np.full_like(before, np.nan)
    return repair_variance(w, covariance, gram.variance(), options.repair)
