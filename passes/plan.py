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


@dataclass(frozen=True)
class UsePlan:
    """`file`: what `--save-plan` wrote, or an .npz with one boolean keep-mask per group label."""

    file: str = require_option("Apply a saved plan (JSON) instead of scoring.", "scoring", name="plan", file=True)
    name: ClassVar[str] = "plan"
    after: ClassVar[tuple[str, ...]] = ("erase", "score")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("plan",)

    @classmethod
    def from_options(cls, options: Options) -> UsePlan | None:
        """Where a plan is given."""
        return cls(**options.fields_of(cls)) if options.plan else None

    def run(self, state: State) -> State:
        """The state with the plan. Raises UsageError when the file or a group in it does not fit the model."""
        path = Path(self.file)
        plan = _load_masks(path) if path.suffix == ".npz" else Plan.load(path)
        plan.masks(state.require_graph())
        return replace(state, plan=plan.merge(state.plan)).add_results(asked={"plan": path.name})


def _load_masks(path: Path) -> Plan:
    """Keep-masks as a plan. Raises UsageError for arrays that are none: numbers may be channels, or shares."""
    masks = {n: np.asarray(a) for n, a in load_npz(path).items()}
    for name, mask in masks.items():
        if mask.dtype != bool:
            raise UsageError(
                f"{path}: '{name}' is an array of {mask.dtype}: expected booleans, True for each channel that stays"
            )
    return Plan(masks)
