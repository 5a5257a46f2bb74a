"""Milliseconds of the nodes of a file, as onnxruntime's own profile has them.

times = profile_nodes(open_profiled, feed, "the model")        # [NodeTime("conv1", "Conv", 0.12), ...]
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from spa_compiler.execution.session import run_session
from spa_compiler.verification.feeds import Feed

SUFFIX = "_kernel_time"
"""How the profile ends the name of a node whose kernel ran."""
BLOCKED = "_nchwc"
"""How it ends the name of a value whose channels lie in blocks."""
LEAST_RECORDED, MOST_RECORDED, RECORDED_SECONDS = 3, 20, 0.4
"""Runs of one model that are recorded, and how long they may take once the least are there."""


@dataclass(frozen=True)
class NodeTime:
    """Milliseconds of a node as onnxruntime runs it: what it is called, and its operator there."""

    name: str
    op: str
    ms: float


@dataclass(frozen=True)
class Owner:
    """Of a value: the operator that gives it, and the layer that it comes from by nodes that are none."""

    op: str
    contraction: str


def profile_nodes(open_profiled: Callable[[str], ort.InferenceSession], feed: Feed, what: str) -> list[NodeTime]:
    """The nodes of one run after onnxruntime's own optimisation; each with the median of some runs.

    `open_profiled` opens the model with a profile whose file begins so. Raises ModelError where it does not run.
    """
    with tempfile.TemporaryDirectory(prefix="spa-profile-") as folder:
        session = open_profiled(str(Path(folder) / "run"))
        run_session(session, feed, what)
        stop = time.perf_counter() + RECORDED_SECONDS
        runs = 1
        while runs <= LEAST_RECORDED or (runs <= MOST_RECORDED and time.perf_counter() < stop):
            session.run(None, feed)
            runs += 1
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith(SUFFIX):
            called = event["name"][: -len(SUFFIX)], str(event.get("args", {}).get("op_name", ""))
            times[called].append(event["dur"] / 1e3)
    return [NodeTime(*called, _find_middle(found[len(found) // runs :])) for called, found in times.items()]


def _find_middle(times: Sequence[float]) -> float:
    return sorted(times)[len(times) // 2] if times else 0.0


def sum_by_contraction(
    times: Iterable[NodeTime], contractions: Sequence[str], owners: Mapping[str, Owner]
) -> tuple[dict[str, float], float]:
    """Milliseconds by layer, and those of nodes that belong to none.

    onnxruntime calls a node that it fused by a node that went into it, or by the value that it gives in their place.

    >>> owners = {"relu1": Owner("Relu", "conv1"), "pool": Owner("AveragePool", "conv1")}
    >>> times = [NodeTime("relu1_nchwc", "Conv", 2.0), NodeTime("pool", "AveragePool", 0.5)]
    >>> sum_by_contraction([*times, NodeTime("fc", "Gemm", 1.0)], ["conv1", "fc"], owners)
    ({'conv1': 2.0, 'fc': 1.0}, 0.5)
    """
    found, rest = dict.fromkeys(contractions, 0.0), 0.0
    known = sorted(contractions, key=len, reverse=True)
    for node in times:
        contraction = _find_contraction(node, found, known, owners)
        if contraction is None:
            rest += node.ms
        else:
            found[contraction] += node.ms
    return found, rest


def _find_contraction(
    node: NodeTime, contractions: Collection[str], by_length: Sequence[str], owners: Mapping[str, Owner]
) -> str | None:
    if node.name in contractions:
        return node.name
    owner = owners.get(node.name) or owners.get(node.name.removesuffix(BLOCKED))
    if owner is not None:
        return owner.contraction if owner.op != node.op else None
    return next((n for n in by_length if n and n in node.name), None)


__all__ = ["NodeTime", "Owner", "profile_nodes", "sum_by_contraction"]
