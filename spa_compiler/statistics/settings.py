"""Settings of moments and of their covariances."""

from __future__ import annotations

from dataclasses import dataclass

from spa_compiler.settings import setting


@dataclass(frozen=True)
class StatisticsSettings:
    """Settings of `covariance`, `moments` and `residual_branch`."""

    independent_rows: int = setting(
        16,
        "what the positions of one input are worth when a covariance is shrunk",
        unit="rows an input",
        source="top-1, perplexity",
        chosen_on=("MobileNetV2", "ResNet-20", "GPT-2 (small)"),
        confirmed_on=("CNN_S", "DS_CNN_L", "Llama, Mixtral (small)"),
        rows=("E11", "E12", "E15"),
    )
    grid_rows: int = setting(
        8,
        "the same for positions on a grid, which have more neighbours",
        unit="rows an input",
        source="top-1",
        chosen_on=("MobileNetV2",),
        confirmed_on=("SqueezeNet", "CNN_S", "keras_kws_dscnn", "DS_CNN_L"),
        rows=("E13", "E14"),
    )
    most_shrinkage: float = setting(0.9, "a covariance is never shrunk more", unit="share", rows=("E78",))
    sampled_rows: int = setting(
        20_000,
        "positions of a contraction that are sampled, at least",
        unit="rows",
        source="top-1",
        chosen_on=("ResNet-20 folded",),
        rows=("E71",),
    )
    rows_per_column: int = setting(
        3, "positions of a contraction that are sampled for each column, at least", unit="rows", rows=("E79",)
    )
    open_share: float = setting(
        0.05,
        "what the shortcut lacks is asked of rows whose gain on the branch is larger",
        unit="of the median gain",
        rows=("E80",),
    )


STATISTICS = StatisticsSettings()
