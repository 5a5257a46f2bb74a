"""The curve of a model: what each budget costs, a row a budget, with what does not depend on the budget done once.

for row in sweep("model.onnx", ratios=[0.3, 0.5], data="photos/"):
    row["ratio"], row["macs"], row["drop"]
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from spa_compiler.analysis.cost_registry import list_table_costs
from spa_compiler.compiler import compile_file
from spa_compiler.errors import BudgetError, NothingToPrune, UsageError
from spa_compiler.pipeline.option_values import OptionsBesideRatio
from spa_compiler.pipeline.options import Options, replace_options
from spa_compiler.pipeline.state import State
from spa_compiler.planning.budget import parse_target

USUAL_RATIOS = (0.1, 0.3, 0.5, 0.7)
"""Shares to remove where nothing is asked for."""
Row = dict[str, Any]


def sweep(
    model: str | os.PathLike[str],
    ratios: Sequence[float] = (),
    targets: Sequence[str] = (),
    folder: str | os.PathLike[str] | None = None,
    **options: Unpack[OptionsBesideRatio],
) -> Iterator[Row]:
    """A row a budget, as they come; models are written to `folder` where one is given. For options see `compile`.

    A row holds `ratio` or `target`, the costs by unit, `latency_ms`, `dense_latency_ms`, `speedup`, `accuracy`,
    `verdict`, `drop` (points), `output`; or `error`, for a budget that is out of reach. Raises UsageError for a budget
    that is none, and what `compile` raises.
    """
    wanted = make_budgets(ratios, targets)
    return sweep_file(Path(model), wanted, Options(**options), None if folder is None else Path(folder))


def make_budgets(ratios: Sequence[float], targets: Sequence[str]) -> list[Row]:
    """Budgets as options; the usual ratios where none is given. Raises UsageError for one that is none."""
    for r in ratios:
        if not 0 <= r < 1:
            raise UsageError(f"--ratios {r:g}: shares to remove are in 0..1 (1 excluded)")
    for t in targets:
        parse_target(t)
    if not ratios and not targets:
        ratios = USUAL_RATIOS
    return [*({"ratio": r} for r in ratios), *({"target": t} for t in targets)]


def sweep_file(
    source: Path, budgets: Sequence[Mapping[str, Any]], options: Options, folder: Path | None
) -> Iterator[Row]:
    """The rows of a file."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, State] = {}
    for budget in budgets:
        target = None if folder is None else folder / f"{source.stem}.{describe_budget(budget)}.onnx"
        chosen = replace_options(options, **budget, dry_run=target is None)
        try:
            report = compile_file(source, target, chosen, known=known).report
        except (BudgetError, NothingToPrune) as e:
            yield {**budget, "error": str(e)}
            continue
        yield {**budget, **make_row(report), "output": None if target is None else str(target)}


def make_row(report: Mapping[str, Any]) -> Row:
    """The columns of a report."""
    times, right = report["latency"], report["accuracy"]
    return {
        **{c.unit: report["compiled"][c.unit] for c in list_table_costs()},
        **{f"{c.unit}_removed": report["reached"].get(c.unit) for c in list_table_costs()},
        "latency_ms": times["compiled_ms"] if times else None,
        "dense_latency_ms": times["dense_ms"] if times else None,
        "speedup": times["dense_ms"] / times["compiled_ms"] if times else None,
        "accuracy": right["compiled"] if right else None,
        "verdict": report["quality"]["verdict"],
        "drop": report["quality"]["drop"],
    }


def describe_budget(budget: Mapping[str, Any]) -> str:
    """A budget in a word, which may be part of a file's name.

    >>> describe_budget({"ratio": 0.3}), describe_budget({"target": "15ms"})
    ('0.3', '15ms')
    """
    return f"{budget['ratio']:g}" if "ratio" in budget else str(budget["target"])


__all__ = ["USUAL_RATIOS", "describe_budget", "make_budgets", "make_row", "sweep", "sweep_file"]
