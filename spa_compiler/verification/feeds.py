"""Inputs for models that are compared: every check draws its inputs here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.execution.index_limits import find_count_limits
from spa_compiler.execution.index_ranges import IdRange, find_index_ranges
from spa_compiler.execution.input_ranges import InputFacts
from spa_compiler.execution.inputs import Recipe, draw_random_inputs
from spa_compiler.ir.model import Model

VARIATIONS = 6
"""Kinds of inputs that `vary_inputs` knows."""
FEW_ROWS, BATCH_COUNTS = 2, (2, 1, 3, 5, 4, 7, 6, 0)
"""Up to how many whole numbers stand alone, and what they are in turn."""
Array = NDArray[Any]
Feed = dict[str, Array]
Ranges = Mapping[str, tuple[float, float]]


def draw_inputs(
    model: Model, sizes: Mapping[str, int], seed: int, ranges: Ranges | None = None, recipe: Recipe | None = None,
    facts: Mapping[str, InputFacts] | None = None,
) -> Feed:  # fmt: skip
    """Inputs of the model at these sizes of its symbols.

    Ids are drawn so that few repeat, from one seed to the next neither: a row of a table that no id names is not
    compared. Whole numbers that stand alone (a length, how many to keep) differ from seed to seed, with 1 among them.
    """
    feed = draw_random_inputs(model, dict(sizes), np.random.default_rng(seed), ranges, recipe, facts)
    for name, (least, limit) in _find_ids(model, sizes, feed, ranges).items():
        array, count = feed[name], limit - least
        every = least + np.roll(np.random.default_rng(count).permutation(count), -seed * array.size % count)
        feed[name] = np.resize(every, array.size).reshape(array.shape).astype(array.dtype)
    fixed, most = {*find_index_ranges(model, sizes), *(ranges or {})}, find_count_limits(model)
    for name, array in feed.items():
        if name not in fixed and array.dtype.kind in "iu" and array.ndim < 2 and 0 < array.size <= FEW_ROWS:
            count = BATCH_COUNTS[seed % len(BATCH_COUNTS)]
            feed[name] = np.full_like(array, min(max(count, 1), most[name]) if name in most else count)
    return feed


def count_draws(model: Model, sizes: Mapping[str, int], feed: Feed, ranges: Ranges | None = None) -> int:
    """How many feeds of consecutive seeds it takes to name every row of every table."""
    limits = _find_ids(model, sizes, feed, ranges)
    return max((-((least - limit) // feed[n].size) for n, (least, limit) in limits.items()), default=1)


def _find_ids(model: Model, sizes: Mapping[str, int], feed: Feed, ranges: Ranges | None) -> dict[str, IdRange]:
    """Inputs that hold ids: the lowest, and what all are below."""
    limits = find_index_ranges(model, sizes, fixed=True)
    whole = {n for n, a in feed.items() if a.dtype.kind in "iu" and a.size and n not in (ranges or {})}
    return {n: ids for n, ids in limits.items() if n in whole and ids[1] > ids[0]}


def vary_inputs(feed: Feed, kind: int, seed: int, ranges: Ranges | None = None) -> Feed:
    """Other inputs of the same shapes, for models that the first ones leave silent: positive, large, small, sparse.

    Inputs whose range was given stay as they are.
    """
    rng = np.random.default_rng([seed, kind])

    def vary(a: Array) -> Array:
        return [
            np.abs(a), 10 * a, rng.uniform(0, 1, a.shape), 0.1 * a, 1 + 0.1 * a, a * (rng.random(a.shape) < 0.5)
        ][kind % VARIATIONS]  # fmt: skip

    free = [n for n, a in feed.items() if a.dtype.kind == "f" and n not in (ranges or {})]
    return feed | {n: np.asarray(vary(feed[n]), feed[n].dtype) for n in free}
