"""Settings of compensation."""

from __future__ import annotations

from dataclasses import dataclass

from spa_compiler.settings import setting


@dataclass(frozen=True)
class CompensationSettings:
    """Settings of `solvers` and `neuron_merging`."""

    ridge: float = setting(
        0.02,
        "strength of the ridge towards the old weights",
        unit="of the mean diagonal entry",
        source="top-1",
        chosen_on=("ResNet-20", "ResNet-20 folded"),
        rows=("E46", "E72"),
    )
    most_repair: float = setting(
        1.0,
        "factor by which the deviation of an output row may be restored; 1: not at all",
        unit="times",
        source="top-1",
        chosen_on=("ResNet-20",),
        rows=("E46",),
    )
    intercept_share: float = setting(
        0.05,
        "an intercept is added behind a product that has none where the error would grow by more without",
        unit="of the error",
        source="nodes; cosine of the outputs",
        chosen_on=("Llama (small, exported, untrained)",),
        confirmed_on=("tf2onnx attention, ViT optimised by onnxruntime (both untrained)",),
        rows=("E105",),
    )
    merge_ridge: float = setting(
        1e-6,
        "strength of the ridge towards nothing with which removed channels are made up of kept ones",
        unit="of the mean diagonal entry",
        source="top-1",
        chosen_on=("digits_resnet", "digits_vit"),
        confirmed_on=("digits_mobilenet", "digits_gru", "ResNet-20", "ResNet-20 folded"),
        rows=("E109",),
    )


COMPENSATION = CompensationSettings()
