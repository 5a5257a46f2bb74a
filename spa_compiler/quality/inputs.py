"""Inputs to judge a compiled model by: the best that there are, and a word for how much they tell.

given     real inputs of the caller that calibration did not use
used      real inputs of the caller that it did use, where there are no others
drawn     inputs of the bank or the prior that suits the graph, others than those of calibration, in no way chosen by
          the dense model: confident ones tell nothing, a model that has lost ten points still agrees on them
foreign   the same where calibration used inputs of the caller: the model was fitted to others than these
guessed   drawn ones where nothing says what the inputs are
noise     where nothing else can be drawn
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.inputs import Calibration, draw_unselected
from spa_compiler.calibration.sample_budget import count_affordable, count_inputs, take_first
from spa_compiler.errors import SpaError
from spa_compiler.verification.feeds import Feed, Ranges
from spa_compiler.verification.fidelity import draw_feeds

Array = NDArray[Any]
InputKind = Literal["given", "used", "drawn", "foreign", "guessed", "noise"]
MOST_INPUTS, FEWEST_INPUTS = 256, 48
"""256 tell an agreement of 95 % within 1.4 points; below 48 an estimate is worth little."""
MOST_WORK = 1e11
"""Multiply-accumulates that the dense model may take to be judged beside the compiled one: some seconds of a core."""
FAR_SCALE = 4.0
"""Times that deviations differ, or deviations between means, from which scales are not the same: customary ones are
twice apart, or fifty times."""
MOST_OUTPUT_BYTES = 1 << 27
"""Outputs of one model that are kept in memory."""


@dataclass(frozen=True)
class JudgedInputs:
    """Inputs for both models, a phrase that says what they are, and how much they tell.

    `reason`: why they tell nothing, where that is so.
    """

    feeds: Sequence[Feed]
    source: str
    kind: InputKind
    reason: str = ""

    @property
    def samples(self) -> int:
        """How many there are."""
        return count_inputs(self.feeds)


def choose_inputs(
    graph: DependencyGraph, calibration: Calibration | None, seed: int, ranges: Ranges | None
) -> JudgedInputs:
    """The most telling inputs there are, up to the number that time and memory allow.

    Drawn ones tell more than given ones that calibration used: on those the update has made both models alike.
    """
    count, used = count_judged(graph), None
    if calibration is not None and not calibration.synthetic:
        if calibration.apart is not None and (apart := calibration.apart(count)):
            return _describe(apart, "given", "given")
        used = _describe(take_first(calibration.feeds, count), "used", "given")
    drawn, is_guessed = _draw_apart(graph, None if used else calibration, seed, ranges, count)
    if used and (is_guessed or not drawn):
        return used
    if drawn:
        drawn = match_scale(drawn, used.feeds) if used else drawn
        return _describe(drawn, "guessed" if is_guessed else "foreign" if used else "drawn", "drawn")
    return draw_noise(graph, seed, ranges, "only noise could be drawn as inputs")


def _draw_apart(
    graph: DependencyGraph, calibration: Calibration | None, seed: int, ranges: Ranges | None, count: int
) -> tuple[list[Feed], bool]:
    """Drawn inputs, of the source of a calibration where it has more, and whether their kind is a guess."""
    try:
        found = calibration if calibration and calibration.apart else draw_unselected(graph, seed, ranges)
        return (found.apart(count) if found.apart else []), found.is_guessed
    except SpaError:  # a prior that asks for what this model does not have
        return [], False


def draw_noise(
    graph: DependencyGraph, seed: int, ranges: Ranges | None, reason: str = "not estimated, with --no-quality"
) -> JudgedInputs:
    """Random numbers, which show whether outputs are the same and tell nothing of what they are worth."""
    words = "random inputs in their ranges" if ranges else "random normal inputs"
    return JudgedInputs(draw_feeds(graph.model, seed, ranges), words, "noise", reason)


def match_scale(drawn: Sequence[Feed], given: Sequence[Feed]) -> list[Feed]:
    """Drawn inputs at the scale of the given ones, where it was taken to be quite another."""
    out = [dict(f) for f in drawn]
    for name in set(out[0] if out else ()) & set(given[0] if given else ()):
        wanted, found = (np.concatenate([np.ravel(f[name]) for f in feeds]) for feeds in (given, drawn))
        if wanted.dtype.kind != "f" or not wanted.size or not found.size:
            continue
        (mean, std), (own, spread) = (_measure(x) for x in (wanted, found))
        near = 1 / FAR_SCALE <= spread / max(std, 1e-30) <= FAR_SCALE and abs(mean - own) <= FAR_SCALE * std
        if not near and spread > 0:
            for f in out:
                f[name] = np.asarray((f[name] - own) / spread * std + mean, f[name].dtype)  # 0-d stays an array
    return out


def _measure(x: Array) -> tuple[float, float]:
    """Mean and deviation; the squares of half floats are beyond the largest one."""
    return float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))


def count_judged(graph: DependencyGraph) -> int:
    """How many inputs both models are run on."""
    values = [graph.values[t.name] for t in graph.model.graph.outputs if t.name in graph.values]
    bytes_each = sum(8 * math.prod(v.shape[1:]) for v in values)
    fitting = MOST_OUTPUT_BYTES // max(bytes_each, 1)
    return int(min(MOST_INPUTS, max(FEWEST_INPUTS, count_affordable(graph, work=MOST_WORK)), max(fitting, 4)))


def _describe(feeds: Sequence[Feed], kind: InputKind, word: str) -> JudgedInputs:
    found = JudgedInputs(feeds, "", kind)
    which = "that calibration used, too" if kind == "used" else "that calibration did not use"
    reason = {
        "guessed": "the graph does not say what its inputs are",
        "used": "calibration used all inputs that were given, and there are no classes to compare",
    }.get(kind, "")
    return JudgedInputs(feeds, f"{found.samples} {word} inputs {which}", kind, reason)


__all__ = ["InputKind", "JudgedInputs", "choose_inputs", "count_judged", "draw_noise", "match_scale"]
