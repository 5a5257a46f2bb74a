"""Passes and pipelines: one immutable State goes down the line, and a pipeline has a text form.

    Pipeline.parse("normalize,score{criterion=l2},allocate{ratio=0.5},remove").run(State.of(load("m.onnx")))

A pass is a frozen dataclass whose fields are its options and whose `run(state) -> state` is short and calls the
library. Passes are found through the entry-point group `spa_compiler.passes`, ours like anybody's.
"""

from __future__ import annotations

import functools
import json
import re
import time
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Protocol

from spa_compiler.criteria import Scores
from spa_compiler.errors import SpaError, UsageError
from spa_compiler.graph import DependencyGraph
from spa_compiler.model import Model
from spa_compiler.plan import Plan


@dataclass(frozen=True)
class State:
    """What a pass gets and gives. `results` collects what the report shows, by pass."""

    source: Model
    model: Model
    graph: DependencyGraph | None = None
    calibration: Any = None
    moments: Any = None
    scores: Scores = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    pruned: Model | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda text: None

    @classmethod
    def of(cls, model: Model, progress: Callable[[str], None] | None = None) -> State:
        """The state before the first pass."""
        return cls(model, model, progress=progress or (lambda text: None))

    def analyzed(self) -> DependencyGraph:
        """The dependency graph. Raises UsageError when no pass has made one."""
        if self.graph is None:
            raise UsageError("this pass needs an analysed model: put `normalize` before it")
        return self.graph

    def note(self, **results: Any) -> State:
        """The state with more results."""
        return replace(self, results={**self.results, **results})


class Pass(Protocol):
    """A step of the compiler. `name` is what it is called in a pipeline's text."""

    name: ClassVar[str]

    def run(self, state: State) -> State:
        """The state after this step. Raises SpaError; never changes the state it is given."""
        ...


@functools.cache
def available() -> dict[str, EntryPoint]:
    """Entry points of passes by name. Raises UsageError when two distributions use one name."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group="spa_compiler.passes"):
        if point.name in found and found[point.name].value != point.value:
            raise UsageError(f"two distributions define the pass '{point.name}': {found[point.name].value}, {point.value}")
        found[point.name] = point
    return found


def pass_type(name: str) -> type[Any]:
    """The class of a pass. Raises UsageError with the names that there are."""
    if name not in available():
        raise UsageError(f"no pass is called '{name}'; there are {', '.join(sorted(available()))}")
    found: type[Any] = available()[name].load()
    return found


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; itself a pass."""

    passes: tuple[Pass, ...]
    name: ClassVar[str] = "pipeline"

    def run(self, state: State) -> State:
        """Run every pass and take its time; an error names the pass that it came from."""
        for step in self.passes:
            start = time.perf_counter()
            state.progress(step.name)
            try:
                state = step.run(state)
            except SpaError as e:
                e.add_note(f"in pass {text_of(step)}")
                raise
            spent = state.seconds.get(step.name, 0.0) + time.perf_counter() - start
            state = replace(state, seconds={**state.seconds, step.name: spent})
        return state

    def __str__(self) -> str:
        return ",".join(text_of(p) for p in self.passes)

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Read the text form. Raises UsageError that shows where it stops making sense."""
        return cls(tuple(_build(name, options) for name, options in _split(text)))


PASS = re.compile(r"\s*([A-Za-z_][\w-]*)\s*(\{)?")
OPTION = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*("(?:[^"\\]|\\.)*"|[^,{}"]*?)\s*([,}])')
PLAIN = re.compile(r"[\w.:/*?\[\]%+|-]*\Z")


def _split(text: str) -> list[tuple[str, dict[str, str]]]:
    out, at = [], 0
    while at < len(text):
        found = PASS.match(text, at)
        if found is None:
            raise UsageError(f"pipeline: expected a pass at '{text[at : at + 20]}'")
        at, options = found.end(), {}
        closed = found[2] is None
        if not closed and text[at : at + 1] == "}":
            at, closed = at + 1, True
        while not closed:
            option = OPTION.match(text, at)
            if option is None:
                raise UsageError(f"pipeline: expected key=value in {found[1]}{{...}} at '{text[at : at + 20]}'")
            options[option[1]] = json.loads(option[2]) if option[2].startswith('"') else option[2]
            at, closed = option.end(), option[3] == "}"
        out.append((found[1], options))
        rest = text[at:].lstrip()
        if rest and not rest.startswith(","):
            raise UsageError(f"pipeline: expected ',' before '{rest[:20]}'")
        at = len(text) - len(rest) + 1 if rest else len(text)
    return out


def _build(name: str, options: dict[str, str]) -> Pass:
    kind = pass_type(name)
    hints = typing.get_type_hints(kind)
    known = {f.name: hints[f.name] for f in fields(kind)}
    unknown = set(options) - set(known)
    if unknown:
        raise UsageError(f"pass '{name}' has no option {sorted(unknown)}; it has {sorted(known)}")
    made: Pass = kind(**{k: _value(f"{name}.{k}", v, known[k]) for k, v in options.items()})
    return made


def _value(where: str, text: str, kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float, str):
            return kind(text)
        if typing.get_origin(kind) is tuple:
            return tuple(text.split("|")) if text else ()
    except (KeyError, ValueError) as e:
        raise UsageError(f"pipeline: {where}={text!r} is not a {getattr(kind, '__name__', kind)}") from e
    raise UsageError(f"pipeline: {where} cannot be given as text")


def text_of(step: Pass) -> str:
    """A pass as text: its name and the options that differ from their defaults."""
    shown = []
    for f in fields(step):  # type: ignore[arg-type]  # every pass is a dataclass
        value = getattr(step, f.name)
        if value != f.default:
            text = str(value).lower() if isinstance(value, bool) else "|".join(value) if isinstance(value, tuple) else str(value)
            shown.append(f"{f.name}={text if PLAIN.match(text) else json.dumps(text)}")
    return f"{step.name}{{{','.join(shown)}}}" if shown else step.name
