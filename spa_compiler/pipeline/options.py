"""What the command line can say, the pipeline that it stands for, and which options change nothing in a combination.

    pipeline_of(Options(ratio=0.5, criterion="l2"))    # normalize,erase,score{criterion=l2},allocate{ratio=0.5},...
    idle(Options(ratio=0.5, criterion="l2", samples=8))         # ["samples"]: nothing is calibrated

There is no table of combinations: an option counts when the pipeline without it is another one, or when what is around
the pipeline reads it. Others are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from spa_compiler.errors import UsageError
from spa_compiler.pipeline.passes import Pipeline, make

CALIBRATED = ("obspa", "flap")
"""Criteria that score by moments."""
ALWAYS = ("seed",)
"""Options that a script may give to every run: where they change nothing, a note says so."""


@dataclass(frozen=True)
class Options:
    """Everything the command line can say; `pipeline` replaces what the others would build."""

    ratio: float | None = None
    of: str = "macs"
    target: str = ""
    scope: str = "auto"
    align: int = 0
    min_keep: int = 1
    max_group_ratio: float = 0.9
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    group_ratio: tuple[str, ...] = ()
    criterion: str = "obspa"
    calib: str = "synthetic"
    samples: int = 0
    memory: str = "2GB"
    compensate: bool | None = None  # None: where the criterion calibrates anyway
    scores: str = ""
    plan: str = ""
    input_shape: tuple[str, ...] = ()
    input_range: tuple[str, ...] = ()
    seed: int = 0
    pipeline: str = ""
    data: str = ""
    threads: int = 0
    fail_under: tuple[str, ...] = ()
    dry_run: bool = False
    latency: bool = True
    allow_unproven: bool = False

    def scored(self) -> bool:
        """Are channels scored here, and by moments?"""
        return self.informed() and not self.scores and not self.plan

    def informed(self) -> bool:
        """Does the criterion calibrate? Then what is left is compensated, too, whoever chose what goes."""
        return self.criterion in CALIBRATED and bool(self.ratio or self.target or self.plan or self.group_ratio)


def _given(o: Options, *names: str) -> dict[str, Any]:
    """Options that differ from their defaults."""
    defaults = {f.name: f.default for f in fields(Options)}
    return {n: getattr(o, n) for n in names if getattr(o, n) != defaults[n]}


def pipeline_of(o: Options) -> Pipeline:
    """The pipeline that these options stand for. Raises UsageError when they do not say how much should go."""
    if o.pipeline:
        if o.target or o.plan or o.ratio is not None:
            raise UsageError("a pipeline says what goes: give it without --ratio, --target and --plan")
        return Pipeline.parse(o.pipeline)
    if o.target and o.ratio is not None:
        raise UsageError("--ratio and --target say the same thing: give one of them")
    if o.plan and (o.target or o.ratio is not None):
        raise UsageError("a plan says what goes: give it without --ratio and --target")
    if not o.target and o.ratio is None and not o.plan:
        raise UsageError("say how much should go: --ratio 0.5, --target 1.2GMACs or --plan FILE.json")
    steps = [make("normalize", **_given(o, "input_shape"))]
    steps.append(make("erase", **({} if o.plan else _given(o, "exclude", "include", "min_keep"))))
    compensates = o.informed() if o.compensate is None else o.compensate
    calibrate = []
    if o.scored() or compensates:
        inputs = _given(o, "samples", "memory", "seed", "input_range")
        source = {"source": o.calib} if o.calib != "synthetic" else {}
        calibrate = [make("calibrate", **source, **inputs, **({} if o.scored() else {"moments": False}))]
    if o.plan:
        steps += [make("plan", file=o.plan), *calibrate]
    elif o.target or o.ratio or o.group_ratio:
        score = {"file": o.scores} if o.scores else {"criterion": o.criterion, **_given(o, "seed")}
        limits = ("scope", "align", "min_keep", "max_group_ratio", "exclude", "include", "group_ratio", "threads")
        budget = _given(o, "target" if o.target else "of", "ratio", *limits)
        both = [*calibrate, make("score", **score)]  # a file of scores is read first
        steps += [*(both[::-1] if o.scores else both), make("allocate", **budget)]
    else:
        steps += calibrate
    steps += [make("remove"), make("verify", **_given(o, "seed", "input_range", "allow_unproven"))]
    return Pipeline((*steps, *([make("compensate"), make("protect")] if compensates else [])))


def _around(o: Options) -> set[str]:
    """Options that are read by what measures the compiled file, whatever the passes are."""
    drawn = {"seed", "input_range"} if o.latency or not o.data else set()
    return {"pipeline", "data", "threads", "fail_under", "dry_run", "latency"} | drawn


def given(o: Options) -> list[str]:
    """Names of the options that are not at their defaults."""
    return [f.name for f in fields(Options) if getattr(o, f.name) != f.default]


def idle(o: Options) -> list[str]:
    """Options that were given and change nothing. Raises UsageError as `pipeline_of` does."""
    steps, defaults = pipeline_of(o), Options()

    def counts(name: str) -> bool:
        value = getattr(o, name)
        others = [getattr(defaults, name), *([not value] if isinstance(value, bool) else [])]
        return any(_differs(replace(o, **{name: other}), steps) for other in others)

    return [n for n in given(o) if n not in _around(o) and not counts(n)]


def _differs(o: Options, steps: Pipeline) -> bool:
    try:
        return pipeline_of(o) != steps
    except UsageError:  # without this option the others say too little
        return True


def heeded(names: Iterable[str], runs: str, lenient: bool = False) -> list[str]:
    """Notes about options that change nothing in what `runs`. Raises UsageError unless scripts may always give them."""
    flags = {n: "--" + n.replace("_", "-") for n in names}
    if refused := [flag for n, flag in flags.items() if not lenient and n not in ALWAYS]:
        raise UsageError(f"{', '.join(refused)}: changes nothing here, where {runs}; leave it out")
    return [f"{flag} changes nothing here, where {runs}" for flag in flags.values()]
