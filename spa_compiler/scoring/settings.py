"""Settings of scores by moments."""

from __future__ import annotations

from dataclasses import dataclass

from spa_compiler.settings import setting


@dataclass(frozen=True)
class ScoringSettings:
    """Settings of `obs` and `rank_correction`."""

    ridge: float = setting(
        0.01,
        "what is added to the diagonal of H before it is inverted: a constant channel stays free",
        unit="of each entry",
        rows=("E76",),
    )
    ridge_floor: float = setting(1e-5, "what is added to it besides", unit="of the mean entry", rows=("E76",))
    residual_weight: float = setting(
        3.0,
        "weight of the error of a residual stream: what it loses no later contraction can write again",
        unit="times",
        source="top-1",
        chosen_on=("ResNet-20",),
        confirmed_on=("ResNet-56 (no effect)",),
        rows=("E43",),
    )
    single_channels: int = setting(
        64, "groups of up to so many channels lose one at a time", unit="channels", rows=("E77",)
    )
    round_share: int = setting(
        32, "wider groups lose one of so many that are left before all are scored again", unit="channels", rows=("E77",)
    )
    shortlist: int = setting(
        3, "of so many times the channels of a round each is scored again after the one before it", unit="times",
        source="top-1", rows=("E104",),
    )  # fmt: skip
    known_share: float = setting(
        1 / 8,
        "share of its directions from which the error of a group is believed; below, it grows as the share falls",
        unit="share",
        source="top-1",
        chosen_on=("MobileNetV2",),
        confirmed_on=("SqueezeNet", "vit_ibp", "LMFRNet", "two more ViTs"),
        rows=("E28", "E30"),
    )


SCORING = ScoringSettings()
