"""plan: take a saved plan (JSON) or keep-masks (.npz) instead of scoring and allocating."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from spa_compiler.datasets.arrays import load_npz
from spa_compiler.errors import UsageError
from spa_compiler.pipeline.fields import require_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import Plan
from spa_compiler.planning.plan_template import PlanTemplate, load_template


@dataclass(frozen=True)
class UsePlan:
    """`file`: what `--save-plan` wrote, a template (`plan_template`), or an .npz with a keep-mask per group."""

    file: str = require_option(
        "Apply a saved plan (JSON), or one written by hand: widths, shares and thresholds by pattern, which scores "
        "fill in (docs/budgets.md).", "scoring", name="plan", file=True,
    )  # fmt: skip
    name: ClassVar[str] = "plan"
    after: ClassVar[tuple[str, ...]] = ("analyze", "basis", "erase", "score")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("plan",)

    @classmethod
    def from_options(cls, options: Options) -> UsePlan | None:
        """Where a plan is given."""
        return cls(**options.fields_of(cls)) if options.plan else None

    def run(self, state: State) -> State:
        """The state with the plan. Raises UsageError when the file or a group in it does not fit the model."""
        path = Path(self.file)
        graph = state.require_graph()
        plan = _load_masks(path) if path.suffix == ".npz" else self._fill_in(state, load_template(path))
        plan = plan.use_labels(graph)
        plan.masks(graph)
        return replace(state, plan=plan.merge(state.plan)).add_results(asked={"plan": path.name})

    def _fill_in(self, state: State, template: PlanTemplate) -> Plan:
        """The plan that a file comes to by the scores that there are."""
        if template.has_gaps and not state.scores:
            raise UsageError(f"{self.file}: widths, shares and thresholds need scores: put `score` before `plan`")
        return template.resolve(state.require_graph(), state.scores, state.plan)


def _load_masks(path: Path) -> Plan:
    """Keep-masks as a plan. Raises UsageError for arrays that are none: numbers may be channels, or shares."""
    masks = {n: np.asarray(a) for n, a in load_npz(path).items()}
    for name, mask in masks.items():
        if mask.dtype != bool:
            raise UsageError(
                f"{path}: '{name}' is an array of {mask.dtype}: expected booleans, True for each channel that stays"
            )
    return Plan(masks)
