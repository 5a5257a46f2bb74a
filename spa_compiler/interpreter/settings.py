"""Settings of what calibration does to values."""

from __future__ import annotations

from dataclasses import dataclass

from spa_compiler.settings import setting


@dataclass(frozen=True)
class InterpreterSettings:
    """Settings of `activation_maps`."""

    live_share: float = setting(
        0.1,
        "a channel is live whose deviation is larger: only those are pulled",
        unit="of the median deviation",
        rows=("E81",),
    )
    least_positions: int = setting(
        8, "a batch has statistics that has more positions of each channel", unit="positions", rows=("E81",)
    )


INTERPRETER = InterpreterSettings()
