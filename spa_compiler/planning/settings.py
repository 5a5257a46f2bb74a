"""Settings of plans: how an allocation searches, and when a plan is made again."""

from __future__ import annotations

from dataclasses import dataclass

from spa_compiler.settings import setting


@dataclass(frozen=True)
class PlanningSettings:
    """Settings of `allocation` and `width_ladder`, and of the pass `protect`."""

    most_group_share: float = setting(
        0.9,
        "most that one group may lose, where nobody says otherwise",
        unit="of its channels",
        source="top-1",
        chosen_on=("ResNet-20",),
        rows=("E45",),
    )
    lookahead: int = setting(6, "stairs of a group that are compared for its next step", unit="stairs", rows=("E89",))
    worth_factor: float = setting(1.2, "error that an exact budget is worth", unit="times", rows=("E89",))
    least_explained: float = setting(
        0.5, "a plan that explains less of the dense outputs is made again", unit="of the variance", rows=("E90",)
    )
    similarity_amplitude: float = setting(
        0.5,
        "by how much the block that changes its input most loses less",
        unit="of the mean share",
        source="cosine",
        chosen_on=("digits_vit",),
        rows=("E103",),
    )
    scope_inputs: int = setting(64, "inputs on which scopes measure, or a chunk more", unit="inputs", rows=("E103",))
    protect_rounds: int = setting(2, "how often it is made again, at most", unit="plans", rows=("E90",))
    protect_strength: float = setting(
        3.0, "by how much the scores of a group are raised that lost everything", unit="times themselves", rows=("E90",)
    )
    protect_inputs: int = setting(
        64, "inputs on which outputs are explained, or a chunk more", unit="inputs", rows=("E90",)
    )


PLANNING = PlanningSettings()
