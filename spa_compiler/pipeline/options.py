"""Options of the command line, the pipeline that they stand for, and which of them have no effect together.

    pipeline_of(Options(ratio=0.5, criterion="l2"))    # normalize,analyze,erase,score,allocate{ratio=0.5},...
    find_idle(Options(ratio=0.5, criterion="l2", samples=8))         # ["samples"]: nothing is calibrated

Options are the fields of passes (`fields.make_option`) and of Command: each is declared there, with its default, and
nowhere else. A pass says itself whether it is part of the pipeline that options stand for (`from_options`) and behind
which passes it goes (`after`). There is no table of combinations: an option counts when the pipeline without it is
another one, or when what is around the pipeline reads it. Others are refused.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Unpack

from spa_compiler.compensation.policy import NO_POLICY, USUAL_POLICY, find_policy
from spa_compiler.errors import UsageError
from spa_compiler.pipeline.default_order import find_default_passes, sort_by_place
from spa_compiler.pipeline.fields import (
    AUTO,
    DeclaredOption,
    find_text,
    make_data_option,
    make_memory_option,
    make_option,
    make_preprocess_option,
    make_range_option,
    make_seed_option,
    make_threads_option,
    make_times_option,
)
from spa_compiler.pipeline.option_values import OptionAttributes, OptionValues
from spa_compiler.pipeline.passes import Pipeline, find_passes, replace_inner
from spa_compiler.pipeline.python_values import read_value, split_entries
from spa_compiler.pipeline.state import Pass
from spa_compiler.planning.plan_template import has_open_entries
from spa_compiler.planning.scopes import AUTO_SCOPE, find_scope
from spa_compiler.scoring.registry import find_criterion

ALWAYS_HEEDED = ("seed",)
"""Options that a script may give to every run: where they change nothing, a note says so."""


@dataclass(frozen=True)
class Command:
    """Options that belong to no pass, or that are read around the passes, too."""

    pipeline: str = make_option("", "The passes as text; replaces what the other options build.", "scoring")
    with_passes: tuple[str, ...] = make_option(
        (), "One more pass, inserted behind those that it goes after.", "scoring", name="with_passes", flag="--with",
        metavar="PASS{OPTIONS}",
    )  # fmt: skip
    input_range: tuple[str, ...] = make_range_option()
    data: str = make_data_option()
    preprocess: str = make_preprocess_option()
    times: str = make_times_option()
    memory: str = make_memory_option()
    seed: int = make_seed_option()
    threads: int = make_threads_option()
    time_limit: float = make_option(
        0.0, "Seconds after which the work ends with exit 3; 0: none, but ten minutes for one run of the model.",
        "inputs", least=0,
    )  # fmt: skip
    fail_under: tuple[str, ...] = make_option(
        (), "Exit 6 when it is lower: cosine=0.95.", "run", metavar="METRIC=VALUE"
    )
    latency: bool = make_option(True, "Do not measure latency.", "run", flag="--no-latency")
    quality: bool = make_option(
        True, "Do not estimate what the model is worth; fidelity is of noise then.", "run", flag="--no-quality"
    )
    dry_run: bool = make_option(False, "Do everything but write the model.", "run")


def find_declared() -> Mapping[str, DeclaredOption]:
    """All options by name, in the order of the passes that read them last."""
    return _collect_declared(tuple(find_passes()))


@functools.cache
def _collect_declared(names: tuple[str, ...]) -> Mapping[str, DeclaredOption]:
    out: dict[str, DeclaredOption] = {}
    kinds: list[tuple[str, type[Any]]] = [(k.name, k) for k in find_default_passes(names)]
    kinds.append(("", Command))
    for owner, kind in kinds:
        for own in _find_options(owner, kind):
            before = out.pop(own.name, None)
            if before and (before.kind, before.default, before.shown) != (own.kind, own.default, own.shown):
                both = ", ".join([*(repr(n) for n in before.owners if n), repr(owner)])
                raise UsageError(f"the passes {both} declare {own.flag} differently: one option has one meaning")
            owners = {**(before.owners if before else {}), **own.owners}
            out[own.name] = DeclaredOption(own.name, own.kind, own.default, own.shown, owners)
    return out


def _find_options(owner: str, kind: type[Any]) -> Iterator[DeclaredOption]:
    hints = typing.get_type_hints(kind)
    for f in fields(kind):
        if shown := find_text(f):
            default = f.default if shown.start is None else shown.start
            yield DeclaredOption(shown.name or f.name, hints[f.name], default, shown, {owner: f.name})


class Options(OptionAttributes):
    """Everything the command line can say, as attributes; what is not given has its default. Immutable.

    Raises TypeError for a name that no pass and no command declares, UsageError for a value that it cannot have.
    """

    def __init__(self, **values: Unpack[OptionValues]) -> None:
        declared = find_declared()
        if unknown := sorted(set(values) - set(declared)):
            raise TypeError(f"no option is called {', '.join(unknown)}; there are {', '.join(declared)}")
        split: dict[str, Any] = {}
        for n, v in values.items():
            split |= split_entries(declared[n], v)
        read = {n: read_value(declared[n], v) for n, v in split.items()}
        self.__dict__["given"] = {n: v for n, v in read.items() if v != declared[n].default}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in find_declared():
            raise AttributeError(name)
        return self.__dict__["given"].get(name, find_declared()[name].default)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"options are immutable: replace_options gives others ({name})")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.__dict__["given"].items())))

    def __repr__(self) -> str:
        return f"Options({', '.join(f'{n}={v!r}' for n, v in self.__dict__['given'].items())})"

    def fields_of(self, kind: type[Any], *names: str) -> dict[str, Any]:
        """Fields of a pass (these, or all) whose options were given, for its constructor."""
        out: dict[str, Any] = {}
        for own in _find_options(kind.name, kind):
            if field_name := own.owners[kind.name]:
                value, wanted = getattr(self, own.name), not names or field_name in names
                of_pass = next(f.default for f in fields(kind) if f.name == field_name)
                out |= {field_name: value} if wanted and value != of_pass else {}
        return out

    def is_pruning(self) -> bool:
        """Do they choose channels by score, under a budget?"""
        return not self.plan and (self.has_own_ratios() or bool(self.target or self.ratio) or self.is_searching())

    def has_own_ratios(self) -> bool:
        """Do some groups have ratios of their own?"""
        return bool(self.parts or self.group_ratio or self.layer_ratio)

    def is_searching(self) -> bool:
        """Do they leave it open how much goes?"""
        return bool(self.max_drop) or self.ratio == AUTO

    def is_scored(self) -> bool:
        """Do scores choose channels, under a budget or where a plan leaves that open?"""
        return self.is_pruning() or (bool(self.plan) and has_open_entries(self.plan))

    def is_calibrating(self) -> bool:
        """Is there a budget, and a criterion that reads moments? Then what is left is compensated, too."""
        reads = bool(self.ratio or self.target or self.has_own_ratios() or self.max_drop) and not self.plan
        return reads and find_criterion(self.criterion).needs == "moments"

    def is_scored_by_moments(self) -> bool:
        """Are channels scored here, and by moments?"""
        scored = self.is_calibrating() or (bool(self.plan) and self.is_scored())
        return scored and not self.scores and find_criterion(self.criterion).needs == "moments"

    def is_shared_by_inputs(self) -> bool:
        """Do groups share the budget by what is measured on inputs?"""
        return self.is_pruning() and self.scope != AUTO_SCOPE and find_scope(self.scope).needs == "inputs"

    def find_policy(self) -> str:
        """How the remaining weights are updated; a plan gives slices unless something else is asked for."""
        return self.compensate or (USUAL_POLICY if self.is_calibrating() else NO_POLICY)

    def is_compensated(self) -> bool:
        """Are the remaining weights updated by what inputs show?"""
        return self.find_policy() != NO_POLICY and find_policy(self.find_policy()).needs == "inputs"


def replace_options(o: Options, **values: Any) -> Options:
    """Options with some of them replaced."""
    return Options(**{**o.__dict__["given"], **values})


def pipeline_of(o: Options) -> Pipeline:
    """The pipeline that these options stand for. Raises UsageError when they do not say how much should go."""
    steps, added = _base_pipeline(o), list[Pass]()
    for text in o.with_passes:
        for step in Pipeline.parse(text).passes:
            steps = steps.insert(step, frozenset(added))
            added.append(step)
    return steps


def _base_pipeline(o: Options) -> Pipeline:
    """The pipeline without the passes that are put into it."""
    if o.pipeline:
        if o.target or o.plan or o.parts or o.ratio is not None:
            raise UsageError("--pipeline already says what is removed: leave out --ratio, --target and --plan")
        return Pipeline.parse(o.pipeline)
    if o.target and o.ratio is not None:
        raise UsageError("--ratio and --target both set the budget: give one of them")
    if o.plan and (o.target or o.ratio is not None):
        raise UsageError("--plan already says what is removed: leave out --ratio and --target")
    if o.is_searching() and o.parts:
        raise UsageError(f"--ratio {o.parts[0]}: a search looks for the share of the whole model: give one of them")
    if o.plan and o.parts:
        raise UsageError("--plan already says what is removed: leave out --ratio and --target")
    if o.max_drop and (o.plan or o.ratio == AUTO):
        raise UsageError(f"--max-drop and {'--plan' if o.plan else '--ratio auto'} both say what is removed: give one")
    if not o.target and o.ratio is None and not o.plan and not o.max_drop and not o.has_own_ratios():
        raise UsageError("no budget: give --ratio 0.5, --max-drop 1%, --target 1.2GMACs or --plan FILE.json")
    return Pipeline(tuple(choose_passes(o)))


def choose_passes(o: Options) -> list[Pass]:
    """The passes that say they are part of the pipeline, in order."""
    found = (kind.from_options(o) for kind in find_default_passes(tuple(find_passes())))
    out: list[Pass] = []
    for step in sort_by_place(step for step in found if step is not None):
        out = _wrap(step, out)
    return out


def _wrap(step: Pass, before: list[Pass]) -> list[Pass]:
    """The passes with one more, which takes those into its parentheses that come after what it `wraps` is there."""
    field_name = getattr(step, "wraps", "")
    if not field_name:
        return [*before, step]
    first, inner = Pipeline(tuple(before)).split(field_name)
    return [*first.passes, replace_inner(step, inner.passes)]


def make_front_end(o: Options) -> Pipeline:
    """The first of these passes, up to the one that gives a dependency graph."""
    steps = choose_passes(o)
    return Pipeline(tuple(steps[: 1 + next(k for k, s in enumerate(steps) if "graph" in getattr(s, "provides", ()))]))


def _find_outer_options(o: Options) -> set[str]:
    """Options that are read by what measures the compiled file, whatever the passes are."""
    names = {f.name for f in fields(Command)} - ({"preprocess"} if not o.data else set())
    return names if o.latency or not o.data else names - {"seed", "input_range"}


def list_given(o: Options) -> list[str]:
    """Names of the options that are not at their defaults."""
    return [n for n in find_declared() if n in o.__dict__["given"]]


def find_idle(o: Options) -> list[str]:
    """Options that were given and change nothing. Raises UsageError as `pipeline_of` does."""
    steps = pipeline_of(o)

    def has_effect(name: str) -> bool:
        value = getattr(o, name)
        own = find_declared()[name]
        others = [own.default, *own.shown.switch, *([not value] if isinstance(value, bool) else [])]
        return any(_is_different(replace_options(o, **{name: other}), steps) for other in others)

    return [n for n in list_given(o) if n not in _find_outer_options(o) and not has_effect(n)]


def _is_different(o: Options, steps: Pipeline) -> bool:
    try:
        return pipeline_of(o) != steps
    except UsageError:  # without this option the others say too little
        return True


def report_idle(names: Iterable[str], runs: str, lenient: bool = False) -> list[str]:
    """Notes about options that change nothing in what `runs`. Raises UsageError unless scripts may always give them."""
    flags = {n: find_declared()[n].flag for n in names}
    if refused := [flag for n, flag in flags.items() if not lenient and n not in ALWAYS_HEEDED]:
        raise UsageError(f"{', '.join(refused)}: has no effect where {runs}; leave it out")
    return [f"{flag} has no effect where {runs}" for flag in flags.values()]
