"""Passes that have a budget: which they are, the same with another share to remove, and a budget as a share.

set_ratio(steps, 0.3)           # all passes that take a share, also in parentheses, with this one
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from spa_compiler.analysis.cost import CostModel
from spa_compiler.analysis.cost_kinds import MeasuredCost
from spa_compiler.analysis.cost_registry import find_cost
from spa_compiler.errors import NothingToPrune
from spa_compiler.pipeline.fields import AUTO
from spa_compiler.pipeline.passes import find_inner, replace_inner
from spa_compiler.pipeline.state import Pass, State
from spa_compiler.planning.budget import parse_target
from spa_compiler.planning.kernel_times import UNIT, KernelTimes
from spa_compiler.planning.measured_budget import find_measured_share
from spa_compiler.planning.plan import find_widths


def find_budgeted(steps: Iterable[Pass]) -> list[Pass]:
    """The passes, also in parentheses, that take a share to remove."""
    out = list[Pass]()
    for step in steps:
        out += find_budgeted(find_inner(step))
        out += [step] if can_take_share(step) else []
    return out


def can_take_share(step: Pass) -> bool:
    """Does a pass make a plan for a share that it is told?"""
    names = {f.name for f in fields(step)}  # type: ignore[arg-type]  # every pass is a dataclass
    return {"ratio", "target", "of"} <= names and "plan" in getattr(step, "provides", ())


def has_budget(step: Any) -> bool:
    """Does a pass that takes a share have one?"""
    return step.ratio not in (None, AUTO) or bool(step.target) or bool(getattr(step, "parts", ()))


def set_ratio(steps: Iterable[Pass], ratio: float, of: str = "") -> tuple[Pass, ...]:
    """The passes with another share to remove, of the cost `of` or the one that they name."""
    out = list[Pass]()
    for step in steps:
        if inner := find_inner(step):
            step = replace_inner(step, set_ratio(inner, ratio, of))
        if can_take_share(step):
            step = replace(step, ratio=ratio, target="", **({"of": of} if of else {}))  # type: ignore[type-var]
        out.append(step)
    return tuple(out)


def shorten(steps: Iterable[Pass]) -> Iterable[Pass]:
    """The passes that a trial runs: no proof, and those in parentheses once."""
    for step in steps:
        if inner := find_inner(step):
            yield from shorten(inner)
        elif getattr(step, "provides", ()) != ("proof",):
            yield step


def find_share(
    state: State, target: str, threads: int = 0, known: KernelTimes | None = None
) -> tuple[str, float]:  # fmt: skip
    """An absolute target as the share to remove. Raises NothingToPrune when the dense model already meets it."""
    of, wanted = parse_target(target)
    cost = find_cost(of)
    if known is not None and isinstance(cost, MeasuredCost) and cost.unit == UNIT:
        if wanted >= known.dense_ms:
            raise NothingToPrune(f"--target {target}: the model already takes only {known.dense_ms:.3g} ms there")
        return of, 1 - wanted / known.dense_ms
    if isinstance(cost, MeasuredCost):
        return of, find_measured_share(cost, state.require_graph(), wanted, threads)
    unit = cost.unit
    dense = CostModel(state.require_dense_graph()).total(unit, {})
    if wanted >= dense:
        raise NothingToPrune(f"--target {target}: the model already has only {dense:,.0f} {unit}")
    return of, 1 - wanted / dense


def measure_removed(state: State) -> float:
    """The share of the multiply-accumulates that a plan removes."""
    graph = state.require_graph()
    dense = CostModel(state.require_dense_graph()).total("macs", {})
    return 1 - CostModel(graph).total("macs", find_widths(graph, state.plan)) / dense if dense else 0.0
