"""What is fed to models that are compared: every check draws its inputs here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.model import Model
from spa_compiler.runtime import index_limits, random_inputs

VARIATIONS = 6
"""Kinds of inputs that `vary_inputs` knows."""
Array = NDArray[Any]
Feed = dict[str, Array]
Ranges = Mapping[str, tuple[float, float]]


def draw_inputs(model: Model, sizes: Mapping[str, int], seed: int, ranges: Ranges | None = None) -> Feed:
    """Inputs of the model at these sizes of its symbols.

    Ids are drawn so that few repeat: a row of a table that no id names is not compared.
    """
    rng = np.random.default_rng(seed)
    feed = random_inputs(model, dict(sizes), rng, ranges)
    for name, limit in index_limits(model, sizes, fixed=True).items():
        array = feed.get(name)
        if array is not None and name not in (ranges or {}) and array.dtype.kind in "iu" and array.size and limit > 0:
            every = np.resize(rng.permutation(limit), array.size)
            feed[name] = every.reshape(array.shape).astype(array.dtype)
    return feed


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
    return feed | {n: vary(feed[n]).astype(feed[n].dtype) for n in free}
