"""Passes and criteria that come from outside: what a plugin needs, and no more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from spa_compiler import DependencyGraph, Plan, State
from spa_compiler.analysis.channel_index import find_owners
from spa_compiler.compensation.apply import Outcome
from spa_compiler.compensation.policy import Task
from spa_compiler.ir.model import Model, make_constant
from spa_compiler.planning.scopes import ScopeInputs
from spa_compiler.scoring.criterion import criterion
from spa_compiler.scoring.obs import find_readers
from spa_compiler.statistics.moments import Moments


@dataclass(frozen=True)
class EveryOther:
    """Keep every `step`-th channel of every group."""

    step: int = 2
    name: ClassVar[str] = "every_other"
    after: ClassVar[tuple[str, ...]] = ("erase", "normalize")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("plan",)

    def run(self, state: State) -> State:
        """The state with such a plan."""
        groups = state.require_graph().groups
        keep = {g.label: np.broadcast_to(np.arange(g.size) % self.step == 0, g.shape) for g in groups}
        return replace(state, plan=Plan(keep).merge(state.plan)).add_notes("every other channel went")


@dataclass(frozen=True)
class FoldScale:
    """Multiply a scale into the rows of the weight behind it; `factor` other than 1 is a mistake on purpose."""

    factor: float = 1.0
    name: ClassVar[str] = "fold_scale"
    after: ClassVar[tuple[str, ...]] = ("normalize",)
    requires: ClassVar[tuple[str, ...]] = ("folded",)
    provides: ClassVar[tuple[str, ...]] = ("model",)
    exact: ClassVar[bool] = True

    def run(self, state: State) -> State:
        """The state with the edited model; the same state where there is no such scale."""
        model = state.model.copy()
        for node in [n for n in model.graph.nodes if n.op == "Mul"]:
            value, scale = node.inputs
            reader = node.outputs[0].outputs[0]
            weight = reader.inputs[1]
            folded = self.factor * scale.values[:, None] * weight.values
            reader.inputs = [value, model.new_constant(f"{weight.name}_folded", folded.astype(np.float32))]
            node.outputs.clear()
            model.graph.nodes.remove(node)
            return replace(state, model=model)
        return state


@criterion(needs="moments", scores_are_errors=True)
def spread(graph: DependencyGraph, moments: Moments | None, rng: np.random.Generator) -> dict[str, Any]:
    """Channels that vary more on the calibration inputs matter more."""
    assert moments is not None and moments.of, "it is calibrated for whoever needs moments"
    out: dict[str, Any] = {}
    for g in graph.groups:
        out[g.label] = np.zeros(g.shape)
        for m in find_readers(moments, g):
            for covariance, channels in zip(m.covariance, m.channels, strict=True):
                where = find_owners(g, m.axis)[channels]
                np.add.at(out[g.label].reshape(-1, g.size)[0], where[where >= 0], np.diag(covariance)[where >= 0])
    return out


def position(graph: DependencyGraph, moments: Any, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """Later channels matter more."""
    return {g.label: np.broadcast_to(np.arange(g.size, dtype=np.float64), g.shape) for g in graph.groups}


def share_by_size(view: ScopeInputs) -> dict[str, float]:
    """Larger groups lose more."""
    return {g.label: float(g.size) for g in view.graph.groups}


def scale_up(task: Task) -> tuple[Model, Outcome]:
    """Weights that read a group grow by what it has lost, as dropout has it."""
    model, outcome = task.small.copy(), Outcome()
    constants = model.constants()
    for g in task.graph.groups:
        for m in (m for m in g.members if m.role == "in" and g.label in task.plan.keep):
            grown = model.array(constants[m.value]) * np.float32(g.size / task.plan.count_kept(g))
            constants[m.value]._values = make_constant(m.value, grown)._values
            outcome.solved += 1
    return model, outcome
