"""The inputs of a pool that a model is calibrated on: those whose outputs differ most, of many classes.

    kept, told = choose_crops(model, "x", source, count, pool, batch, rng)

Crops of photographs are drawn as recipes, run in chunks and rendered again where they are chosen, so that no pool is
ever held whole.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.calibration.class_probabilities import compute_probabilities
from spa_compiler.calibration.pixel_scale import count_at_once, split_chunks
from spa_compiler.calibration.priors.kinds import Synthetic
from spa_compiler.calibration.priors.photograph_bank import draw_recipes
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.execution.session import open_session
from spa_compiler.ir.model import Model

Array = NDArray[Any]
ROWS_AT_ONCE = 64
"""Crops that are rendered at once."""
LEAST_NOVELTY = 1e-3
"""Share of the largest squared distance that an output has to be away from those chosen before."""


def choose_crops(
    model: Model, name: str, source: Synthetic, count: int, pool: int, batch: int, rng: np.random.Generator
) -> tuple[Array, str]:
    """`count` of `pool` crops of photographs for the input `name`, and how they were chosen."""
    pool = max(pool, count)
    pool += -pool % (batch or 1)
    recipes = draw_recipes(pool, rng)
    session = open_session(model.proto(), model.folder, level=3, threads=1)
    answers, at_once = [], count_at_once(model)
    for i in range(0, pool, step := ROWS_AT_ONCE * max(batch, 1)):
        part = recipes[i : i + step]
        p = compute_probabilities(
            session, split_chunks({name: source.draw(len(part), part)}, batch, at_once), len(part)
        )
        if p is None:
            return source.draw(count, recipes[:count]), "crops as they come: the first output is no vector to choose by"
        answers.append(p)
    rows = choose_different(np.concatenate(answers), count, rng)
    return source.draw(count, recipes[rows]), f"those of {pool} crops whose outputs differ most"


def choose_different(probabilities: Array, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` rows in random order: first those that span most directions of the logarithms, then `choose_balanced`.

    Each is the one that is farthest from the span of those before it (a pivoted Cholesky decomposition of the
    products of all outputs), so that the deep values, which the outputs follow, vary along as many directions as the
    pool has.
    """
    x = np.log(probabilities + 1e-9)
    x -= x.mean(1, keepdims=True)
    x -= x.mean(0)
    left = np.einsum("ij,ij->i", x, x)
    least, chosen = LEAST_NOVELTY * left.max(initial=0), list[int]()
    basis = np.empty((0, x.shape[1]))
    while len(chosen) < count and left.max() > least:
        chosen.append(int(left.argmax()))
        direction = x[chosen[-1]] - basis.T @ (basis @ x[chosen[-1]])
        direction /= np.linalg.norm(direction)
        basis = np.vstack([basis, direction])
        left = np.maximum(left - (x @ direction) ** 2, 0)
        left[chosen] = 0
    others = np.setdiff1d(np.arange(len(x)), chosen)
    more = others[choose_balanced(probabilities[others], count - len(chosen), rng)]
    return rng.permutation(np.concatenate([np.array(chosen, np.int64), more]))


def choose_balanced(probabilities: Array, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` rows in random order: equally many per predicted class, of these the ones that are called confidently."""
    n, label, confidence = len(probabilities), probabilities.argmax(1), probabilities.max(1)
    if not n:
        return np.zeros(0, np.int64)
    least, most = CALIBRATION.confidence_range
    fit = (confidence >= least) & (confidence <= most)
    order = np.lexsort((-confidence, ~fit))
    rank = np.empty(n, np.int64)  # place of each row among those of its class
    for c in np.unique(label):
        mine = order[label[order] == c]
        rank[mine] = np.arange(len(mine))
    cap = math.ceil(count / len(np.unique(label)))
    ranked = np.lexsort((rank, ~fit, rank >= cap))[:count]
    return np.asarray(rng.permutation(ranked), np.int64)


__all__ = ["choose_balanced", "choose_crops", "choose_different"]
