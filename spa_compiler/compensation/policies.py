"""The policies that run the dense and the compiled model side by side."""

from __future__ import annotations

from typing import Any

from spa_compiler.compensation.apply import Outcome
from spa_compiler.compensation.lockstep import compensate_weights
from spa_compiler.compensation.options import Options
from spa_compiler.compensation.policy import Task, policy
from spa_compiler.errors import UsageError
from spa_compiler.execution.parallel import limit_threads
from spa_compiler.ir.model import Model


def run_side_by_side(task: Task, **how: Any) -> tuple[Model, Outcome]:
    """The model that `lockstep` makes with these options. Raises UsageError without inputs."""
    given = task.inputs
    if given is None:
        raise UsageError("compensate needs inputs and a rewritten model: put `calibrate` and `remove` before it")
    options = Options(task.ridge, given.adjust, late=given.late, seed=task.seed, only=task.only, **how)
    with limit_threads():
        return compensate_weights(task.graph, task.plan.masks(task.graph), task.small, given.feeds, options)


@policy(needs="inputs")
def lockstep(task: Task) -> tuple[Model, Outcome]:
    """Least squares from compiled inputs to dense outputs, node by node (OSSCAR, Meng et al. 2024)."""
    return run_side_by_side(task)


@policy(needs="inputs")
def bias(task: Task) -> tuple[Model, Outcome]:
    """Only biases: what removed channels added on average (FLAP, An et al. 2024, eq. 6)."""
    return run_side_by_side(task, bias_only=True)


@policy(needs="inputs", is_writing_norms=True)
def norm(task: Task) -> tuple[Model, Outcome]:
    """Only means and variances of BatchNormalization, estimated again (FedTiny, Huang et al. 2023)."""
    return run_side_by_side(task, contractions=False, norms="statistics")


@policy(needs="inputs", is_writing_norms=True)
def affine(task: Task) -> tuple[Model, Outcome]:
    """Only gains of normalisations, and biases: (a, b) = argmin E (y - a y' - b)^2 (PERP, Zimmer et al. 2023)."""
    return run_side_by_side(task, bias_only=True, norms="affine")
