"""Policies: what becomes of the remaining weights once channels are gone.

    @policy(needs="inputs")
    def shift(task: Task) -> tuple[Model, Outcome]: ...       # the model with other weights, and what was not changed

A plain function is a policy that needs weights only. Policies of any distribution are found through the entry points
`spa_compiler.policies`, and chosen by `--compensate NAME`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Literal

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.inputs import Calibration
from spa_compiler.compensation.apply import Outcome
from spa_compiler.compensation.settings import COMPENSATION
from spa_compiler.errors import UsageError
from spa_compiler.ir.model import Model
from spa_compiler.planning.plan import Plan
from spa_compiler.plugins import find_entry_points

USUAL_POLICY = "lockstep"
"""The policy where none is named and weights are updated."""
NO_POLICY = "none"
"""The word for weights that stay slices of the dense ones."""
Needs = Literal["weights", "inputs"]


@dataclass(frozen=True)
class Task:
    """The dense graph, the plan, and the rewritten model whose weights are wanted.

    `inputs` is None where a policy needs weights only, `only` the numbers of the nodes that may change (None: all).
    """

    graph: DependencyGraph
    plan: Plan
    small: Model
    inputs: Calibration | None = None
    ridge: float = COMPENSATION.ridge
    seed: int = 0
    only: frozenset[int] | None = None


Updating = Callable[[Task], tuple[Model, Outcome]]


@dataclass(frozen=True)
class Policy:
    """A way to new weights.

    `needs`: what it is computed from; inputs are drawn or read by calibration. `is_writing_norms`: it also updates
    gains, biases and statistics of normalisations, which `spa verify` takes for damage elsewhere.
    """

    update: Updating
    needs: Needs = "weights"
    is_writing_norms: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.update.__doc__)


def policy(needs: Needs = "weights", is_writing_norms: bool = False) -> Callable[[Updating], Policy]:
    """Make a function a policy that says what it needs and writes."""
    return lambda update: Policy(update, needs, is_writing_norms)


@functools.cache
def find_policy_points() -> dict[str, EntryPoint]:
    """Entry points of policies by name. Raises UsageError when two distributions use one name."""
    return find_entry_points("spa_compiler.policies", "policy")


def list_policy_names() -> list[str]:
    """Names that may be asked for."""
    return [NO_POLICY, *sorted(find_policy_points())]


def find_policy(name: str) -> Policy:
    """A policy by name. Raises UsageError with the names that there are, or why it cannot be loaded."""
    if name not in find_policy_points():
        raise UsageError(f"no policy is called '{name}'; there are {', '.join(sorted(find_policy_points()))}")
    point = find_policy_points()[name]
    try:
        found = point.load()
    except Exception as e:
        raise UsageError(f"the policy '{name}' ({point.value}) cannot be loaded: {e}") from e
    if isinstance(found, Policy):
        return found
    if not callable(found):
        raise UsageError(f"the policy '{name}' ({point.value}) is neither a policy nor a function")
    return Policy(found)
