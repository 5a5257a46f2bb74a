"""Residual branches: the nodes between a contraction and the residual Add that it feeds.

    branch = follow_branch(walk, step)                # None: it feeds no such Add, or something else reads it, too

An error of the contraction reaches the sum times the gain of the branch; what the shortcut lacks, divided by it, is
what compensation asks of the contraction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.algebra.masks import Masks, make_keep_mask
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.interpreter.activation_maps import measure_statistics
from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.interpreter.interpreter import Step, Walk
from spa_compiler.operators.site import Value
from spa_compiler.operators.tables import find_traits
from spa_compiler.rewriting.prune import slice_array
from spa_compiler.statistics.settings import STATISTICS

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Branch:
    """The way of a contraction's output to the residual Add that it feeds, and nothing else reads."""

    sum: str  # output of the Add
    shortcut: str
    gain: Floats  # per output row (or one for all): what the nodes between multiply by

    def has_fitting_gain(self, shape: tuple[int, ...], out: tuple[int, ...]) -> bool:
        """Is the gain one number, or one for each row of an output with these shape and row axes?"""
        return self.gain.size == 1 or (len(out) == 1 and shape[out[0]] == self.gain.size)


def follow_branch(walk: Walk, step: Step, batch_norm: bool = False) -> Branch | None:
    """Follow the output through normalisation, constants and Identity to an Add with another activation.

    `batch_norm`: a BatchNormalization right behind normalises by the statistics of the batch.
    """
    name, gain = step.node.output[0], np.ones(1)
    if walk.bodies.is_inside(step.index):  # what stands in a body is recorded for the runs that reach it only
        return None
    raw = step.outputs[0]
    while len(walk.liveness.readers.get(name, ())) == 1 and walk.liveness.readers_of[name]:
        node = walk.nodes[walk.liveness.readers_of[name][0]]
        others = [n for n in node.input if n and n != name]
        if find_traits(node).arithmetic == "add" and len(others) == 1 and others[0] not in walk.constants:
            return Branch(node.output[0], others[0], gain)
        factor = _find_factor(walk, node, others, raw if batch_norm else None)
        if factor is None:
            return None
        gain, name, raw = gain * factor, node.output[0], None
    return None


def _find_factor(walk: Walk, node: onnx.NodeProto, others: list[str], x: Chunks | None) -> Floats | None:
    """The factor by which a node multiplies its input, per channel; None where it is not such a node."""
    constants = [walk.constants[n].astype(np.float64) for n in others if n in walk.constants]
    traits = find_traits(node)
    if (
        traits.identity
        or traits.dequantizes
        or traits.decides == "step"
        or (traits.arithmetic == "add" and len(constants) == 1)
    ):
        return np.ones(1)
    if traits.norm is not None and traits.norm.is_stored and len(constants) == 4:
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        variance = constants[traits.norm.statistics[1] - 1] if x is None else measure_statistics(x)[1]
        return np.asarray(constants[0] / np.sqrt(variance + epsilon))
    if (
        traits.arithmetic == "multiply"
        and len(constants) == 1
        and constants[0].size == max(constants[0].shape, default=1)
    ):
        return constants[0].ravel()
    return None


def measure_lost_shortcut(
    graph: DependencyGraph, masks: Masks, branch: Branch, output: Value, raw: Chunks, out: tuple[int, ...],
    dense: Chunks | None, compiled: Chunks | None,
) -> Chunks | None:  # fmt: skip
    """The dense shortcut minus the compiled one, divided by the gain of the branch, on the kept channels.

    `raw` are the dense outputs of the contraction, `out` the axes of its rows. None where the shortcut is the same, or
    not known.
    """
    value = graph.values.get(branch.shortcut)
    if dense is None or compiled is None or dense is compiled or value is None or dense[0].shape != raw[0].shape:
        return None
    gain = _invert_gain(branch.gain)
    if branch.gain.size > 1:
        (axis,) = out
        full = np.broadcast_to(branch.gain, (raw[0].shape[axis],))
        gain = _invert_gain(full[make_keep_mask(output.axes[axis], {d: m for d, m in masks.items() if m.ndim == 1})])
        gain = gain.reshape([-1 if k == axis else 1 for k in range(raw[0].ndim)])
    gain = gain.astype(raw[0].dtype)
    return [(slice_array(graph, value, d, masks) - c) * gain for d, c in zip(dense, compiled, strict=True)]


def _invert_gain(gain: Floats) -> Floats:
    """1 / gain, 0 where the branch is all but closed."""
    size = np.abs(gain)
    return np.divide(
        1.0, gain, out=np.zeros_like(gain, np.float64), where=size > STATISTICS.open_share * np.median(size)
    )
