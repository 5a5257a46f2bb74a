"""Affine maps on activations while a model is calibrated on synthetic inputs; the written model has none of them.

affine = Adjust(batch_norm=True).of(walk, step)
walk.finish(step, affine)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.execution.finite import is_finite
from spa_compiler.interpreter.chunks import Affine, Chunks, map_chunks
from spa_compiler.interpreter.interpreter import Step, Walk
from spa_compiler.interpreter.settings import INTERPRETER
from spa_compiler.operators.tables import find_traits

Array = NDArray[Any]


@dataclass(frozen=True)
class Adjust:
    """The changes of the dense model's values during calibration on synthetic inputs, one affine map per node.

    `batch_norm`: every BatchNormalization normalises by the statistics of the batch, so that its output has mean beta
    and deviation |gamma|, as on the training data (docs: data-free inputs). `shrink`: where BatchNormalization was
    folded, the log deviations of a convolution that feeds a ReLU are pulled towards their mean over the live channels.
    """

    batch_norm: bool = False
    shrink: float = 0.0

    def of(self, walk: Walk, step: Step) -> Affine | None:
        """The map for the first output of this node, which is run where its output is what the map depends on."""
        x = step.inputs[0] if step.inputs else None
        if walk.bodies.is_inside(step.index):
            return None
        if step.is_normalised and self.batch_norm and x is not None and _is_wide(x):
            gamma, beta = (np.asarray(c[0], np.float64) for c in step.inputs[1:3] if c is not None)
            epsilon = next((a.f for a in step.node.attribute if a.name == "epsilon"), 1e-5)
            mean, variance = measure_statistics(x)
            if not is_finite(mean, variance):  # what the file says is better than nothing
                return None
            scale = gamma / np.sqrt(variance + epsilon)
            return Affine(scale.astype(np.float32), (beta - scale * mean).astype(np.float32))
        if (
            step.traits.is_linear
            and step.traits.kernel == "convolution"
            and self.shrink > 0
            and is_rectified(walk, step.node.output[0])
        ):
            walk.execute(step)
            y = step.outputs[0]
            found = None if y is None else measure_statistics(y)
            return shrink_deviations(*found, self.shrink) if found is not None and is_finite(*found) else None
        return None


def is_rectified(walk: Walk, name: str) -> bool:
    """Is a value read by nothing but a Relu, or a Clip from zero upwards (Relu6)?"""
    if len(walk.liveness.readers.get(name, ())) != 1 or not walk.liveness.readers_of[name]:
        return False
    node = walk.nodes[walk.liveness.readers_of[name][0]]
    traits = find_traits(node)
    if traits.rectifies or traits.zero != "clip":
        return traits.rectifies
    low = [a.f for a in node.attribute if a.name == "min"]
    low += [float(np.max(walk.constants[n])) for n in node.input[1:2] if n in walk.constants]
    return low == [0.0]


def _is_wide(x: Chunks) -> bool:
    """More than one position per channel: there are statistics to take."""
    return x[0].ndim >= 2 and sum(a.size for a in x) > INTERPRETER.least_positions * x[0].shape[1]


def measure_statistics(x: Chunks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance per channel (axis 1) over all chunks."""
    x = [a for a in x if a.size]  # a Loop that runs no round gives none
    if not x:
        return np.zeros(0), np.zeros(0)
    total, count = np.zeros((2, x[0].shape[1])), sum(a.size // a.shape[1] for a in x)
    for sums in map_chunks(_sum_channels, x):
        total += sums
    mean = total[0] / count
    return mean, np.maximum(total[1] / count - mean**2, 0)


def _sum_channels(a: Array) -> NDArray[np.float64]:
    """Sum and sum of squares per channel, (2, channels)."""
    flat = a.reshape(len(a) * a.shape[1], -1).astype(np.float32, copy=False)
    both = flat.sum(1), np.einsum("ip,ip->i", flat, flat)
    return np.stack([v.reshape(-1, a.shape[1]).sum(0, dtype=np.float64) for v in both])


def shrink_deviations(mean: Array, variance: Array, strength: float) -> Affine:
    """Log s <- (1 - strength) log s + strength * mean over the live channels; the means stay."""
    deviation = np.sqrt(variance)
    live = deviation > INTERPRETER.live_share * np.median(deviation)
    scale = np.ones_like(deviation)
    if live.any():
        log = np.log(deviation[live])
        scale[live] = np.exp(strength * (log.mean() - log))
    return Affine(scale.astype(np.float32), (mean - scale * mean).astype(np.float32))
