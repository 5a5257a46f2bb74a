"""Columns of `spa inspect --criterion NAME --calib X`: what training left in every group.

mean, zeros, PQ index    of the scores of its units: their mean, the share that is 0, how uneven they are (SAP)
not 0, never             how often its units are not 0 behind a rectifier on the inputs; how many never are
zero weights, N:M        the share of its weights that are 0, and the pattern that they follow
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.sparsity import find_pattern, list_group_weights, measure_zeros
from spa_compiler.ir.memory import parse_bytes
from spa_compiler.ir.reader import load
from spa_compiler.pipeline.options import (
    Options,
    choose_passes,
    list_given,
    make_front_end,
    replace_options,
    report_idle,
)
from spa_compiler.pipeline.passes import Pipeline
from spa_compiler.pipeline.state import Pass, State
from spa_compiler.planning.weight_shares import PQIndex
from spa_compiler.statistics.nonzero_rates import measure_rates

Columns = dict[str, dict[str, Any]]
USUAL_CRITERION = "l2"
"""The criterion where only inputs are given."""
WANTED = frozenset({"calibration", "scores"})
"""Fields of the state that passes give which the columns are made of."""
READ_OPTIONS = frozenset({"samples", "preprocess", "input_range", "matching", "seed"})
"""Options that are about inputs."""


def find_columns(source: Path, criterion: str | None, calib: str | None, options: Options) -> Columns:
    """The columns of every group by label. Raises UsageError for a criterion or inputs that make no sense."""
    state = Pipeline(tuple(choose_steps(criterion, calib, options))).run(
        State.of(load(source, parse_bytes("--memory", options.memory)))
    )
    graph, given = state.require_graph(), state.calibration
    rates = {} if given is None else measure_rates(graph, given.feeds, given.adjust, given.late)
    return {
        g.label: describe_scores(state.scores[g.label])
        | describe_rates(rates.get(g.label))
        | describe_weights(graph, g.label)
        for g in graph.groups
    }


def choose_steps(criterion: str | None, calib: str | None, options: Options) -> Iterator[Pass]:
    """The passes of a compile that find graph, inputs and scores. Raises UsageError for options that none reads."""
    more = {} if calib is None else {"calib": calib}
    asked = replace_options(
        options, ratio=0.5, criterion=criterion or USUAL_CRITERION, compensate=calib is not None, **more
    )
    found = [s for s in choose_passes(asked) if not WANTED.isdisjoint(getattr(s, "provides", ()))]
    if not any("calibration" in s.provides for s in found):
        report_idle([n for n in list_given(options) if n in READ_OPTIONS], "nothing is calibrated")
    yield from make_front_end(options).passes
    yield from found


def describe_scores(scores: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Mean, share of zeros and PQ index of scores."""
    return {
        "score_mean": float(scores.mean()),
        "score_zeros": float((scores == 0).mean()),
        "pq_index": PQIndex().compute_index(np.abs(scores).ravel()),
    }


def describe_rates(rates: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    """The mean rate of numbers that are not 0, that of every unit, and how many units never are."""
    if rates is None:
        return {"nonzero_rate": None, "nonzero_rates": None, "dead_units": None}
    return {
        "nonzero_rate": float(rates.mean()), "nonzero_rates": rates.tolist(), "dead_units": int((rates == 0).sum()),
    }  # fmt: skip


def describe_weights(graph: DependencyGraph, label: str) -> dict[str, Any]:
    """The share of zeros among the weights, and the N:M pattern of each that has one."""
    weights = list_group_weights(graph, graph.group(label))
    patterns = {n: find_pattern(a) for n, a in weights.items()}
    return {
        "weight_zeros": measure_zeros(weights),
        "patterns": {n: f"{p[0]}:{p[1]}" for n, p in patterns.items() if p is not None},
    }


def add_columns(
    found: dict[str, Any], source: Path, criterion: str | None, calib: str | None, options: Options
) -> None:
    """Put the columns into the groups of an inspection; nothing where neither is asked for."""
    if criterion is None and calib is None:
        report_idle([n for n in list_given(options) if n in READ_OPTIONS], "neither --criterion nor --calib is given")
        return
    columns = find_columns(source, criterion, calib, options)
    found["criterion"] = criterion or USUAL_CRITERION
    for group in found["groups"]:
        group |= columns[group["label"]]


def make_score_table(found: Mapping[str, Any]) -> Table:
    """One row a group."""
    names = (f"mean {found['criterion']}", "zeros", "PQ index", "not 0", "never", "zero weights", "N:M")
    table = Table(Column("group", overflow="fold"), *names, box=None)
    for g in found["groups"]:
        table.add_row(*map(Text, (g["name"], *format_row(g))))
    return table


def format_row(group: Mapping[str, Any]) -> Iterator[str]:
    """The columns of a group as text; '' for what was not measured."""
    yield f"{group['score_mean']:.3g}"
    yield f"{group['score_zeros']:.1%}"
    yield f"{group['pq_index']:.3f}"
    yield "" if group["nonzero_rate"] is None else f"{group['nonzero_rate']:.1%}"
    yield "" if group["dead_units"] is None else str(group["dead_units"])
    yield f"{group['weight_zeros']:.1%}"
    yield ", ".join(sorted(set(group["patterns"].values())))
