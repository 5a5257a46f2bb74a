"""The directions that residual streams use: mean products of the rows that their norms give, on drawn inputs.

measure_products(graph, find_streams(graph, graph.groups), feeds)     # {"embed:0": (D, D)}
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.normed_streams import Stream
from spa_compiler.calibration.inputs import draw_unselected
from spa_compiler.calibration.sample_budget import count_affordable
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.errors import UsageError
from spa_compiler.execution.parallel import limit_threads
from spa_compiler.execution.session import add_outputs, list_outputs, open_session, run_session
from spa_compiler.verification.feeds import Feed, Ranges

Floats = NDArray[np.float64]


def draw_stream_inputs(graph: DependencyGraph, ranges: Ranges) -> list[Feed]:
    """As many inputs as tell the directions of a stream, fewer where the model is large.

    They are the same in every run, so that a saved plan is of the same channels again.
    Raises UsageError where nothing says what the inputs of the model are.
    """
    found = draw_unselected(graph, ranges=ranges)
    if found.is_guessed or found.apart is None:
        raise UsageError("the graph does not say what its inputs are")
    affordable = count_affordable(graph, work=CALIBRATION.stream_work)
    return found.apart(min(CALIBRATION.stream_inputs, max(affordable, CALIBRATION.least_stream_inputs)))


def measure_products(graph: DependencyGraph, streams: Sequence[Stream], feeds: Sequence[Feed]) -> dict[str, Floats]:
    """Mean products (D, D) by label of the group, of all norms and positions alike; rows that are not finite are none.

    Raises ModelError where the model does not run.
    """
    places = {n.value: graph.values[n.value] for s in streams for n in s.norms}
    session = open_session(add_outputs(graph.model.proto(), list(places)), graph.model.folder)
    sums = {s.group.label: np.zeros((s.group.size, s.group.size)) for s in streams}
    count = dict.fromkeys(sums, 0)
    with limit_threads():
        for feed in feeds:
            found = dict(zip(list_outputs(session), run_session(session, feed), strict=True))
            for s in streams:
                for norm in s.norms:
                    rows = normalise(found[norm.value].reshape(-1, s.group.size), norm.is_centred)
                    sums[s.group.label] += rows.T @ rows
                    count[s.group.label] += len(rows)
    return {k: v / max(count[k], 1) for k, v in sums.items()}


def normalise(x: NDArray[np.floating], is_centred: bool | None) -> Floats:
    """Rows [n, D] of length sqrt(D), without their mean where the norm takes it off; those of nothing are left out.

    None: they are normed already.
    """
    rows: Floats = x[np.isfinite(x).all(1)].astype(np.float64)
    if is_centred is None:
        return rows
    rows = rows - rows.mean(1, keepdims=True) if is_centred else rows
    length = np.sqrt((rows**2).mean(1, keepdims=True))
    live = length[:, 0] > 0
    return np.asarray(rows[live] / length[live])


__all__ = ["draw_stream_inputs", "measure_products", "normalise"]
