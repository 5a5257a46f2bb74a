"""Types of all options, made by `python -m tools.option_values` from the passes that declare them.

A pass of a plug-in may declare more: they are given as `**{"name": value}`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Path = str | os.PathLike[str]
Patterns = str | Sequence[str] | Mapping[str, Any]
"""One text as on the command line, a list of such, or a dictionary of what stands before and behind the sign."""


class OptionsBesideRatio(TypedDict, total=False):
    """Values that `compile` takes by name; not given: the default."""

    input_shape: Patterns
    """Sizes for symbolic axes."""
    calib: Any
    """Inputs to calibrate on: synthetic, one kind of it (photographs, tokens, ...), a folder of pictures, sounds,
    texts or arrays, one such file (.npz), or script.py:name (a function, a generator, a reader).
    """
    samples: int
    """Calibration inputs; 0: what memory allows."""
    matching: float
    """Work of matching drawn pictures to what BatchNormalization holds, in times of the default."""
    criterion: str
    """How channels are scored; `spa passes` lists them. 0.5*l2+obspa blends several."""
    scores: Path
    """Scores from an .npz: an array per group (name or label), or per weight in its shape."""
    parts: Patterns
    """Shares of the cost of parts of the model, by node or weight: --ratio 'unet/*=0.35'."""
    of: str
    """The cost that the ratio is a share of."""
    target: str
    """The same as an absolute number: 1.2GMACs, 8Mparams, 20MB or 15ms."""
    scope: str
    """How groups share the budget: they compete by error per cost (global), the plan of least error is looked for
    (exact), all lose the same share (uniform), or shares that weights (erk, pq, magnitude) or inputs tell
    (similarity, angle, sensitivity); `spa passes` lists them. auto follows the criterion.
    """
    align: int
    """Widths in multiples of N; auto: what the kernels of --device need."""
    device: str
    """Where the model is going to run: widths fill its kernels. host: a machine like this one."""
    min_keep: int
    """Channels that every group keeps at least."""
    max_group_ratio: float
    """Most that one group may lose."""
    exclude: Patterns
    """Leave groups alone: a shell pattern of names, weights, nodes, or operators (type:Conv)."""
    include: Patterns
    """Prune these groups only (patterns as for --exclude)."""
    group_ratio: Patterns
    """A ratio of their own for some groups, also a larger one."""
    layer_ratio: Patterns
    """Share of the weights that contractions lose, by node or weight: widths follow by least squares."""
    plan: Path
    """Apply a saved plan (JSON), or one written by hand: widths, shares and thresholds by pattern, which scores fill
    in (docs/budgets.md).
    """
    allow_unproven: bool
    """Exit 0 although nothing that the proof sees depends on some groups."""
    compensate: bool | str | None
    """How the remaining weights absorb what was removed: none (--no-compensate), or a policy that `spa passes`
    lists; without a name lockstep (least squares). Default: lockstep where the criterion calibrates (obspa,
    flap) and no --plan is given, else none.
    """
    max_drop: str
    """Remove as much as the metric may lose, in points: measured with --data and labels, else estimated."""
    pipeline: str
    """The passes as text; replaces what the other options build."""
    with_passes: Patterns
    """One more pass, inserted behind those that it goes after."""
    input_range: Patterns
    """Range of an input's values."""
    data: Any
    """Inputs with labels: accuracy before and after. A folder or a file as for --calib; labels are an array y, or
    the sub-folder of a file.
    """
    preprocess: Patterns
    """How --calib and --data become inputs: resize, crop, scale, mean, std, order (RGB, BGR), layout (NCHW, NHWC) of
    pictures, rate of sounds; values are (v * scale - mean) / std. Default: found from the model.
    """
    times: Path
    """Milliseconds of another machine: what `spa times` has measured there. Budgets, gates and the report are then
    of that machine.
    """
    memory: str
    """Memory for calibration; a model with a value that takes more is refused."""
    seed: int
    """Seed of every random choice."""
    threads: int
    """Threads of onnxruntime; 0: one per core."""
    time_limit: float
    """Seconds after which the work ends with exit 3; 0: none, but ten minutes for one run of the model."""
    fail_under: Patterns
    """Exit 6 when it is lower: cosine=0.95."""
    latency: bool
    """Do not measure latency."""
    quality: bool
    """Do not estimate what the model is worth; fidelity is of noise then."""
    dry_run: bool
    """Do everything but write the model."""


class OptionValues(OptionsBesideRatio, total=False):
    """Values that `Options` takes."""

    ratio: float | Mapping[str, float] | Sequence[float | str] | str | Literal["auto"] | None


class OptionAttributes:
    """Attributes of `Options`."""

    input_shape: tuple[str, ...]
    calib: str
    samples: int
    matching: float
    criterion: str
    scores: str
    ratio: float | str | None
    parts: tuple[str, ...]
    of: str
    target: str
    scope: str
    align: int
    device: str
    min_keep: int
    max_group_ratio: float
    exclude: tuple[str, ...]
    include: tuple[str, ...]
    group_ratio: tuple[str, ...]
    layer_ratio: tuple[str, ...]
    plan: str
    allow_unproven: bool
    compensate: str
    max_drop: str
    pipeline: str
    with_passes: tuple[str, ...]
    input_range: tuple[str, ...]
    data: str
    preprocess: str
    times: str
    memory: str
    seed: int
    threads: int
    time_limit: float
    fail_under: tuple[str, ...]
    latency: bool
    quality: bool
    dry_run: bool
