"""New gains, biases and stored statistics of normalisations, from what they read (or give) in both models.

Two ways, entry by entry of the gain. Statistics: mean and variance that a file holds become such that what is read in
the compiled model is normalised to the mean and deviation that the dense one has there (FedTiny's recalibration; on the
training data it comes to new running statistics). Affine: (a, b) = argmin E (y - a y' - b)^2 goes into gain and bias
(PERP, Zimmer et al. 2023), through zero where a normalisation has no bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.compensation.apply import Replacement
from spa_compiler.compensation.model_pair import ModelPair
from spa_compiler.compensation.options import Options
from spa_compiler.execution.finite import is_finite
from spa_compiler.interpreter.chunks import Affine, Chunks
from spa_compiler.interpreter.interpreter import Step
from spa_compiler.operators.site import Value
from spa_compiler.operators.traits import Norm

Array = NDArray[Any]
Floats = NDArray[np.float64]
Arrange = Callable[[Array], Array]
"""Gives an array (positions, entries of the gain, positions)."""
LEAST_SCALE = 1e-3
"""The least factor by which what is read may be scaled: a variance that is stored stays finite."""


@dataclass
class Rescaling(Replacement):
    """New constants of a normalisation; what it reads becomes scale * x + shift by them, per channel of axis 1."""

    scale: Floats
    shift: Floats

    def compose(self, affine: Affine) -> Affine:
        """The map that takes the place of the normalisation during calibration, behind this one."""
        scale, shift = (v.astype(np.float32) for v in (self.scale, self.shift))
        return Affine(affine.scale * scale, affine.scale * shift + affine.shift)


@dataclass(frozen=True)
class Pairs:
    """Moments of what the compiled model has (x) and of what the dense one has there (t), per entry."""

    mean: tuple[Floats, Floats]
    variance: tuple[Floats, Floats]
    covariance: Floats

    def fit(self, has_shift: bool) -> tuple[Floats, Floats]:
        """(a, b) of the least squares t = a x + b; a = 1 where x does not vary."""
        (mx, mt), (vx, _) = self.mean, self.variance
        if not has_shift:
            square = vx + mx**2
            return _divide(self.covariance + mx * mt, square), np.zeros_like(mx)
        a = _divide(self.covariance, vx)
        return a, mt - a * mx

    def match(self) -> tuple[Floats, Floats]:
        """(a, b) that give a x + b the mean and the deviation of t; a = 1 where either does not vary."""
        (mx, mt), (vx, vt) = self.mean, self.variance
        a = np.where(vt > 0, np.sqrt(_divide(vt, vx)), 1.0)
        return a, mt - a * mx


def _divide(over: Floats, under: Floats) -> Floats:
    """The quotient, 1 where the divisor is all but nothing."""
    live = under > 1e-12 * max(float(under.max(initial=0.0)), 1e-30)
    return np.divide(over, under, out=np.ones_like(over), where=live)


def measure_pairs(x: Chunks, t: Chunks, arrange: Arrange) -> Pairs:
    """Moments over all positions of all chunks, in float64 about the means."""
    both = [[arrange(a).astype(np.float64) for a in (c, d)] for c, d in zip(x, t, strict=True)]
    count = max(sum(a.shape[0] * a.shape[2] for a, _ in both), 1)
    mx, mt = (sum((p[k].sum((0, 2)) for p in both), np.zeros(1)) / count for k in (0, 1))
    centred = [(a - mx[None, :, None], b - mt[None, :, None]) for a, b in both]
    vx, vt, cov = (
        sum((np.einsum("nep,nep->e", p[i], p[j]) for p in centred), np.zeros(1)) / count
        for i, j in ((0, 0), (1, 1), (0, 1))
    )
    return Pairs((mx, mt), (vx, vt), cov)


class NormSolver:
    """Solves normalisations with constant gains, from compiled values to dense ones."""

    def __init__(self, pair: ModelPair, options: Options) -> None:
        self.pair, self.options = pair, options

    def solve(self, mine: Step, theirs: Step, raw: Chunks | None) -> Replacement | None:
        """New constants of a node that is `mine` in the dense model, where it gives `raw`; None where none are due."""
        norm = mine.traits.norm
        if norm is None or not self.can_solve(theirs):
            return None
        site = self.pair.graph.sites[mine.index]
        if norm.is_stored:
            found = self._pair_values(theirs.inputs[0], mine.inputs[0], site.inputs[0])
            return None if found is None else self._solve_stored(theirs, norm, *found)
        if self.options.norms != "affine":
            return None
        self.pair.compiled.execute(theirs)
        y, theirs.outputs = theirs.outputs[0], []
        found = self._pair_values(y, raw, site.first_output)
        return None if found is None else self._solve_affine(theirs, norm, *found)

    def can_solve(self, theirs: Step) -> bool:
        """Are its gain, and what goes with it, constants that nothing else reads?"""
        norm, compiled = theirs.traits.norm, self.pair.compiled
        if norm is None or not self.options.norms or compiled.bodies.is_inside(theirs.index):
            return False
        slots = [norm.gain, *([norm.gain + 1] if norm.centred else []), *norm.statistics]
        names = [theirs.node.input[k] for k in slots if k < len(theirs.node.input) and theirs.node.input[k]]
        is_gained = len(theirs.node.input) > norm.gain and bool(theirs.node.input[norm.gain])
        return is_gained and all(n in compiled.constants and not self.pair.explain_fixed(n) for n in names)

    def _pair_values(self, x: Chunks | None, t: Chunks | None, value: Value | None) -> tuple[Chunks, Chunks] | None:
        """A value of the compiled model and the dense one on the same channels; None where they are not known."""
        if x is None or t is None or value is None or not x or not is_finite(*x, *t):
            return None
        kept = self.pair.slice_chunks(value, t)
        return (x, kept) if all(a.shape == b.shape for a, b in zip(x, kept, strict=True)) else None

    def _read(self, theirs: Step, slot: int) -> Array | None:
        """A constant operand."""
        name = theirs.node.input[slot] if slot < len(theirs.node.input) else ""
        return self.pair.compiled.constants[name] if name else None

    def _solve_stored(self, theirs: Step, norm: Norm, x: Chunks, t: Chunks) -> Replacement | None:
        operands = [self._read(theirs, k) for k in (norm.gain, norm.gain + 1, *norm.statistics)]
        gain, bias, mean, variance = (np.zeros(1) if a is None else a.astype(np.float64) for a in operands)
        epsilon = next((a.f for a in theirs.node.attribute if a.name == "epsilon"), norm.epsilon)
        pairs = measure_pairs(x, t, lambda a: a.reshape(len(a), gain.size, -1))
        slots = (norm.gain, norm.gain + 1) if self.options.norms == "affine" else norm.statistics
        if self.options.norms == "affine":
            a, b = pairs.fit(True)
            root = np.sqrt(variance + epsilon)
            new = a * gain, bias + gain / root * (b + (a - 1) * mean)
        else:
            a, b = pairs.match()
            most = np.sqrt((variance + epsilon) / epsilon) if epsilon > 0 else np.full_like(a, np.inf)
            a = np.clip(a, LEAST_SCALE, most)
            b = pairs.mean[1] - a * pairs.mean[0]
            new = (mean - b) / a, np.maximum((variance + epsilon) / a**2 - epsilon, 0)
        return self._pack(theirs, dict(zip(slots, new, strict=True)), (a, b))

    def _solve_affine(self, theirs: Step, norm: Norm, y: Chunks, t: Chunks) -> Replacement | None:
        gain = self._read(theirs, norm.gain)
        assert gain is not None
        size, shape = gain.size, gain.shape
        if not norm.is_per_channel and any(c.shape[c.ndim - len(shape) :] != shape for c in y):
            return None
        if norm.is_per_channel and y[0].shape[1] % size:
            return None
        a, b = measure_pairs(
            y, t, lambda c: c.reshape((len(c), size, -1) if norm.is_per_channel else (-1, size, 1))
        ).fit(norm.centred)
        new: dict[int, Floats] = {norm.gain: (a * gain.ravel()).reshape(shape)}
        if norm.centred:
            old = self._read(theirs, norm.gain + 1)
            new[norm.gain + 1] = ((0 if old is None else a * old.ravel().astype(np.float64)) + b).reshape(shape)
        return self._pack(theirs, new, None)

    def _pack(self, theirs: Step, new: dict[int, Floats], change: tuple[Floats, Floats] | None) -> Replacement | None:
        """The constants in the type of the gain; None where they would not be finite."""
        gain = self._read(theirs, theirs.traits.norm.gain if theirs.traits.norm else 1)
        assert gain is not None
        constants: dict[int, Array] = {k: v.astype(gain.dtype) for k, v in new.items()}
        if not is_finite(*constants.values()):
            return None
        return Replacement(constants) if change is None else Rescaling(constants, *change)
