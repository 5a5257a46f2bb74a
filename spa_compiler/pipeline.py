"""Passes and pipelines: one immutable State goes down the line, and a pipeline has a text form.

    Pipeline.parse("normalize,score{criterion=l2},allocate{ratio=0.5},remove").run(State.of(load("m.onnx")))
    Pipeline((make("normalize"), make("score", criterion="l2")))      # the same, from objects; str() gives the text

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
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib.metadata import EntryPoint
from typing import Any, ClassVar, Protocol

from spa_compiler.criteria import Scores
from spa_compiler.errors import SpaError, UsageError
from spa_compiler.graph import DependencyGraph
from spa_compiler.interrupts import check
from spa_compiler.model import Model
from spa_compiler.plan import Plan
from spa_compiler.plugins import found_in


@dataclass(frozen=True)
class State:
    """What a pass gets and gives. `results` collects what the report shows, by pass; `done` is what has been run."""

    source: Model
    model: Model
    graph: DependencyGraph | None = None
    calibration: Any = None
    moments: Any = None
    scores: Scores = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    erased: Plan = field(default_factory=Plan)
    pruned: Model | None = None
    done: tuple[Pass, ...] = ()
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
    return found_in("spa_compiler.passes", "pass")


def pass_type(name: str) -> type[Any]:
    """The class of a pass. Raises UsageError with the names that there are."""
    if name not in available():
        raise UsageError(f"no pass is called '{name}'; there are {', '.join(sorted(available()))}")
    found: type[Any] = available()[name].load()
    return found


def make(name: str, **options: Any) -> Pass:
    """A pass with these options. Raises UsageError with the names that there are, or the option that is missing."""
    kind = pass_type(name)
    known = [f.name for f in fields(kind)]
    if unknown := sorted(set(options) - set(known)):
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise UsageError(f"pass '{name}' has no option {', '.join(unknown)}; {has}")
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [n for n in needed if n not in options]:
        raise UsageError(f"pass '{name}' needs {', '.join(missing)}")
    made: Pass = kind(**options)
    return made


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; itself a pass."""

    passes: tuple[Pass, ...]
    name: ClassVar[str] = "pipeline"

    def run(self, state: State) -> State:
        """Run every pass and take its time; an error names the pass that it came from.

        Raises KeyboardInterrupt between passes where the command was told to stop.
        """
        for step in self.passes:
            check()
            start = time.perf_counter()
            state.progress(step.name)
            try:
                state = step.run(state)
            except SpaError as e:
                e.add_note(f"in pass {text_of(step)}")
                raise
            spent = state.seconds.get(step.name, 0.0) + time.perf_counter() - start
            done = state.done if isinstance(step, Pipeline) else (*state.done, step)  # its passes have said so
            state = replace(state, seconds={**state.seconds, step.name: spent}, done=done)
        return state

    def split(self, name: str) -> tuple[Pipeline, Pipeline]:
        """What comes before the first pass of this name, and the rest; all is rest where there is none."""
        at = next((i for i, p in enumerate(self.passes) if p.name == name), 0)
        return Pipeline(self.passes[:at]), Pipeline(self.passes[at:])

    def __str__(self) -> str:
        return ",".join(text_of(p) for p in self.passes)

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Read the text form. Raises UsageError that shows where it stops making sense."""
        return cls(tuple(_build(name, options) for name, options in _split(text)))


PASS = re.compile(r"\s*([A-Za-z_][\w-]*)\s*(\{)?")
OPTION = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*("(?:[^"\\]|\\.)*"|[^,{}"]*?)\s*([,}])')
PLAIN = re.compile(r"[\w.:/*?\[\]%+|-]+\Z")
ENTRY = re.compile(r"(?:\\.|[^|\\])+", re.DOTALL)


def _split(text: str) -> list[tuple[str, dict[str, str]]]:
    """Names and options as written. Raises UsageError that shows where it stops making sense."""
    out: list[tuple[str, dict[str, str]]] = []
    at = 0
    while not out or at < len(text):
        found = PASS.match(text, at)
        if found is None:
            raise UsageError(f"pipeline: expected the name of a pass at '{text[at : at + 20]}'")
        options, at = _options(found[1], text, found.end()) if found[2] else ({}, found.end())
        out.append((found[1], options))
        rest = text[at:].lstrip()
        if rest and not rest.startswith(","):
            raise UsageError(f"pipeline: expected ',' before '{rest[:20]}'")
        if rest == ",":
            raise UsageError("pipeline: expected the name of a pass after the last ','")
        at = len(text) - len(rest) + 1 if rest else len(text)
    return out


def _options(name: str, text: str, at: int) -> tuple[dict[str, str], int]:
    """What stands between the braces, and where they end."""
    options: dict[str, str] = {}
    closed = text[at:].lstrip().startswith("}")
    if closed:
        return options, text.index("}", at) + 1
    while not closed:
        option = OPTION.match(text, at)
        if option is None:
            raise UsageError(f"pipeline: expected key=value in {name}{{...}} at '{text[at : at + 20]}'")
        if option[1] in options:
            raise UsageError(f"pipeline: {name}{{...}} says {option[1]} twice")
        options[option[1]] = _unquoted(option[2])
        at, closed = option.end(), option[3] == "}"
    return options, at


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError as e:
        raise UsageError(f"pipeline: {text} is not a JSON string: {e}") from e


def _build(name: str, options: dict[str, str]) -> Pass:
    hints = typing.get_type_hints(pass_type(name))
    return make(name, **{k: _value(f"{name}.{k}", v, hints[k]) if k in hints else v for k, v in options.items()})


def _value(where: str, text: str, kind: Any) -> Any:
    """The text of an option as its type. Raises UsageError for anything else."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float, str):
            return kind(text)
        if typing.get_origin(kind) is tuple:
            return tuple(re.sub(r"\\(.)", r"\1", part) for part in ENTRY.findall(text))
    except (KeyError, ValueError) as e:
        raise UsageError(f"pipeline: {where}={text!r} is not a {getattr(kind, '__name__', kind)}") from e
    raise UsageError(f"pipeline: {where} cannot be given as text")


def text_of(step: Pass) -> str:
    """A pass as text: its name and the options that differ from their defaults."""
    if isinstance(step, Pipeline):
        return str(step)
    shown = []
    for f in fields(step):  # type: ignore[arg-type]  # every pass is a dataclass
        value = getattr(step, f.name)
        if value != f.default:
            text = _text(value)
            shown.append(f"{f.name}={text if PLAIN.match(text) else json.dumps(text)}")
    return f"{step.name}{{{','.join(shown)}}}" if shown else step.name


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "|".join(re.sub(r"([|\\])", r"\\\1", str(part)) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
