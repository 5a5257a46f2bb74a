"""The number of calibration inputs that memory and time allow, and the node from which the last of them join.

planned, pool = plan_samples(graph, samples=0, memory=2 * 10**9)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.cost import CostModel
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.pixel_scale import split_chunks
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.interpreter.deferred_inputs import Late

Array = NDArray[Any]
Feed = dict[str, Array]
MOST_MACS = 4e11
"""Multiply-accumulates that all inputs together may take in one pass over the dense model."""


@dataclass(frozen=True)
class SampleBudget:
    """How many inputs are kept, and with how many of them a pass starts: the rest joins at node `at`."""

    kept: int
    start: int
    at: int = 0

    def limit(self, most: int) -> SampleBudget:
        """The same for at most so many inputs."""
        start = min(self.start, most)
        return SampleBudget(min(self.kept, most), start, self.at if start < min(self.kept, most) else 0)

    def split_feeds(self, inputs: Mapping[str, Array], batch: int) -> tuple[list[Feed], Late | None]:
        """The inputs in chunks (of the model's fixed `batch`), and which of these start, where not all do."""
        feeds = split_chunks(inputs, batch, self.start)
        if not self.at or not feeds:
            return feeds, None
        return feeds, Late(max(1, self.start // len(next(iter(feeds[0].values())))), self.at)


def count_inputs(feeds: Sequence[Feed]) -> int:
    """Inputs in these chunks; a feed of scalars is one."""
    return sum(max((len(a) for a in f.values() if a.ndim), default=1) for f in feeds)


def take_first(feeds: Sequence[Feed], count: int) -> list[Feed]:
    """The first chunks, of `count` inputs or a few more."""
    out: list[Feed] = []
    for feed in feeds:
        if count_inputs(out) >= count:
            break
        out.append(feed)
    return out


def plan_samples(
    graph: DependencyGraph, samples: int, memory: int, longer: float = 1.0, most: int = CALIBRATION.table_inputs
) -> tuple[SampleBudget, int]:
    """Inputs to keep, `most` at most, and how many to draw; they are `longer` than those of the analysis."""
    spatial = any(s.traits.is_convolution and not s.traits.is_quantized for s in graph.sites)
    wanted, most_runs = (
        samples or min(CALIBRATION.picture_inputs if spatial else CALIBRATION.table_inputs, most),
        count_affordable(graph, longer),
    )
    start = min(wanted, max(CALIBRATION.least_inputs, min(count_fitting(graph, memory, longer), most_runs)))
    pool = max(samples, start, min(CALIBRATION.pool_factor * start, most_runs))
    more = samples or min(wanted, pool // CALIBRATION.chosen_one_of)
    return plan_late_samples(graph, start, more, memory / longer, bool(samples)), pool


def plan_given_samples(
    graph: DependencyGraph, given: int, samples: int, memory: int, longer: float = 1.0
) -> SampleBudget:
    """How many of the inputs that somebody gives are taken; each takes `longer` times what it does in the analysis."""
    fitting = count_fitting(graph, memory, longer)
    start = min(samples or CALIBRATION.table_inputs, max(CALIBRATION.least_inputs, fitting))
    wanted = samples or min(CALIBRATION.table_inputs, max(start, count_affordable(graph, longer)))
    return plan_late_samples(graph, min(start, given), min(wanted, given), memory / longer, bool(samples))


def plan_late_samples(
    graph: DependencyGraph, start: int, wanted: int, memory: float, exactly: bool = False
) -> SampleBudget:
    """`start` inputs, and `wanted` from the node on from which there is room for them: see `Late`.

    Where the graph is narrow few positions of each input are left, and more inputs tell more. Inputs of loops and
    branches do not join. Where there is no such node, all start if `exactly` so many are asked for.
    """
    if wanted <= start:
        return SampleBudget(start, start)
    after = np.maximum.accumulate(np.array(measure_alive_bytes(graph), np.float64)[::-1])[
        ::-1
    ]  # the widest place from each node on
    at = 0 if any(s.path for s in graph.sites) else int(np.argmax(after * wanted <= memory / 2))
    return SampleBudget(wanted, start, at) if at or exactly else SampleBudget(start, start)


def count_fitting(graph: DependencyGraph, memory: int, longer: float = 1.0) -> int:
    """Inputs that fit into half of the memory where the graph is widest."""
    return int(memory / 2 / max(max(measure_alive_bytes(graph), default=0) * longer, 1))


def count_affordable(graph: DependencyGraph, longer: float = 1.0, work: float = 0.0) -> int:
    """Inputs that may be run through the dense model in time: with so many multiply-accumulates in all, or WORK."""
    return int((work or MOST_MACS) / (max(CostModel(graph).total("macs", {}), 1.0) * longer))


def measure_alive_bytes(graph: DependencyGraph) -> list[int]:
    """Bytes of the values of one input that are alive at each node: float32, dense and compiled together."""
    last = {v.name: i for i, s in enumerate(graph.sites) for v in s.inputs if v is not None}
    batch = next((v for s in graph.sites[:1] for v in s.inputs if v is not None and not v.constant), None)
    now, out = 0, []
    ends: dict[int, int] = {}
    per = max(1, batch.shape[0]) if batch is not None and batch.shape else 1
    for i, site in enumerate(graph.sites):
        for v in site.outputs:
            if v is not None and not v.constant:
                size = 8 * math.prod(v.shape) // per
                now += size
                ends[last.get(v.name, i)] = ends.get(last.get(v.name, i), 0) + size
        out.append(now)
        now -= ends.pop(i, 0)
    return out
