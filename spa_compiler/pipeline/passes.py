"""Passes and pipelines: an immutable State goes from pass to pass, and a pipeline has a text form.

    Pipeline.parse("normalize,score{criterion=l2},allocate{ratio=0.5},remove").run(State.of(load("m.onnx")))
    Pipeline((make_pass("normalize"), make_pass("score", criterion="l2")))  # the same, from objects; str() gives the
                                                                            # text

A pass is a frozen dataclass whose fields are its options and whose `run(state) -> state` is short and calls the
library. Passes are found through the entry-point group `spa_compiler.passes`, ours like anybody's.
"""

from __future__ import annotations

import functools
import json
import re
import time
import typing
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, dataclass, fields, replace
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

from spa_compiler.errors import SpaError, UsageError, VerificationError
from spa_compiler.execution.interrupts import check_stop
from spa_compiler.ir.model import Model
from spa_compiler.pipeline.state import Pass, State
from spa_compiler.pipeline.text import PLAIN_PATTERN, WrittenPass, parse_value, split_text
from spa_compiler.plugins import find_entry_points
from spa_compiler.verification.exact import prove_same

INNER_FIELD = "inner"
"""The field of a pass that holds the passes in its parentheses."""
READING_FIELDS = ("folded", "graph")
"""Fields that are made again after an exact pass has edited the model."""
ALWAYS_PROVIDED = frozenset({"source", "model", "plan", "erased"})
"""Fields that a state has before any pass."""


@functools.cache
def find_passes() -> dict[str, EntryPoint]:
    """Entry points of passes by name. Raises UsageError when two distributions use one name."""
    return find_entry_points("spa_compiler.passes", "pass")


def find_pass_type(name: str) -> type[Any]:
    """The class of a pass. Raises UsageError with the names that there are."""
    if name not in find_passes():
        raise UsageError(f"no pass is called '{name}'; there are {', '.join(sorted(find_passes()))}")
    found: type[Any] = find_passes()[name].load()
    return found


def can_hold_passes(kind: Any) -> bool:
    """Can a pass have others in parentheses, which it runs?"""
    return any(f.name == INNER_FIELD for f in fields(kind))


def find_option_fields(kind: Any) -> list[Field[Any]]:
    """Fields that are options in a text: all but the passes in parentheses."""
    return [f for f in fields(kind) if f.name != INNER_FIELD]


def find_inner(step: Pass) -> tuple[Pass, ...]:
    """The passes that a pass runs."""
    found: tuple[Pass, ...] = getattr(step, INNER_FIELD, ())
    return found


def replace_inner(step: Pass, inner: tuple[Pass, ...]) -> Pass:
    """The pass with others in its parentheses."""
    made: Pass = replace(step, **{INNER_FIELD: inner})  # type: ignore[type-var]  # every pass is a dataclass
    return made


def make_pass(name: str, **options: Any) -> Pass:
    """A pass with these options. Raises UsageError with the names that there are, or the option that is missing."""
    kind = find_pass_type(name)
    known = [f.name for f in find_option_fields(kind)]
    if INNER_FIELD in options and not can_hold_passes(kind):
        raise UsageError(f"pass '{name}' holds no passes: write it without (...)")
    if unknown := sorted(set(options) - {INNER_FIELD, *known}):
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise UsageError(f"pass '{name}' has no option {', '.join(unknown)}; {has}")
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [n for n in needed if n not in options]:
        raise UsageError(f"pass '{name}' needs {', '.join(missing)}")
    made: Pass = kind(**options)
    return made


def find_requirements(step: Pass) -> tuple[str, ...]:
    """Fields of the state that a pass requires; nothing where it does not say."""
    return getattr(step, "requires", ())


def iterate_deep(steps: Iterable[Pass]) -> Iterator[Pass]:
    """Passes in the order in which they end: those in the parentheses of a pass before it."""
    for step in steps:
        yield from iterate_deep(find_inner(step))
        yield step


def is_automatic(kind: type[Any], field_name: str) -> bool:
    """Is a pass put into a pipeline where this field is required and nothing provides it?"""
    return getattr(kind, "automatic", False) and field_name in getattr(kind, "provides", ())


def find_providers(field_name: str) -> list[str]:
    """Names of the passes that provide a field of the state."""
    return sorted(n for n in find_passes() if field_name in getattr(find_pass_type(n), "provides", ()))


def is_exact(step: Pass) -> bool:
    """Does a pass say that it edits the model without changing its function?"""
    return bool(getattr(step, "exact", False))


def _check_unread(step: Pass, before: list[Pass]) -> None:
    """Raise UsageError where a pass edits the graph by which an earlier one has planned."""
    read = next((p for p in before if "graph" in find_requirements(p) and not is_exact(p)), None)
    if read is not None:
        raise UsageError(
            f"pass '{step.name}' edits the graph that pass '{read.name}' reads: put it before `{read.name}`"
        )


def _find_last_provider(field_name: str, before: list[Pass]) -> Pass:
    """The pass, with its options, that gave a field of the state last; a new one where there is none."""
    own = [p for p in before if field_name in getattr(p, "provides", ()) and not is_exact(p)]
    if own:
        return own[-1]
    made: Pass = find_pass_type(find_providers(field_name)[0])()
    return made


def _take_edit(step: Pass, before: State, after: State) -> State:
    """The state after an exact pass, to be proven once its graph is there; as it was where the graph is the same."""
    if after.model is before.model or _serialize_content(after.model) == _serialize_content(before.model):
        return replace(after, model=before.model)
    edits, first = (*before.edits, step.name), before.unedited or before.graph
    return replace(after, graph=None, proven=before.model, edits=edits, unedited=first, before_edit=before)


def read_again(state: State, model: Model, step: str) -> State:
    """The state with a model that the pass `step` edited, normalised and analysed as before; nothing is proven."""
    edits, first = (*state.edits, step), state.unedited or state.graph
    state = replace(state, model=model, graph=None, edits=edits, unedited=first)
    for name in READING_FIELDS:
        state = _find_last_provider(name, [*state.done]).run(state)
    return replace(state, proven=state.model)


def _is_known(step: Pass, state: State) -> bool:
    """Has a pass that reads the model read this one? An exact pass before it may have found nothing to edit."""
    given = set(getattr(step, "provides", ()))
    is_reading = bool(given & {*READING_FIELDS}) and given <= {"model", *READING_FIELDS}
    return is_reading and step in state.done and state.graph is not None and state.graph.model is state.model


def _prove_edit(state: State) -> State:
    """The state with the edit of an exact pass proven; as it was before, with a note, where it is wrong and only helps.

    Numbers that are huge beside others may be rounded to something else, of which nobody can be told to leave a pass
    out that is part of every run. Raises VerificationError that names the pass.
    """
    if state.proven is None or state.graph is None or state.proven is state.model:
        return state
    step, start = state.edits[-1], time.perf_counter()
    try:
        prove_same(step, state.proven, state.graph, state.seed, state.ranges)
    except VerificationError as e:
        if state.before_edit is None or not getattr(find_pass_type(step), "optional", False):
            raise
        note = f"what pass '{step}' would have edited stays as it is: {e}"
        return replace(state.before_edit, done=state.done, seconds=state.seconds).add_notes(note)
    spent = state.seconds.get(step, 0.0) + time.perf_counter() - start
    return replace(state, proven=state.model, before_edit=None, seconds={**state.seconds, step: spent})


def _serialize_content(model: Model) -> bytes:
    content: bytes = model.proto().SerializeToString(deterministic=True)
    return content


def _check_requirements(step: Pass, there: set[str]) -> None:
    """Raise UsageError where something that a pass requires is not there."""
    for missing in [n for n in find_requirements(step) if n not in there]:
        names = " or ".join(f"`{n}`" for n in find_providers(missing))
        raise UsageError(f"pass '{step.name}' needs the {missing} of an earlier pass: put {names or 'one'} before it")


def _take_options(step: Pass, given: Pass) -> Pass:
    """The pass with the options of another of its kind, those that are not at their defaults."""
    options = {f.name: (getattr(given, f.name), f.default) for f in find_option_fields(type(step))}
    made: Pass = replace(step, **{n: v for n, (v, usual) in options.items() if v != usual})  # type: ignore[type-var]
    return made


def _exchange(steps: Iterable[Pass], step: Pass) -> tuple[Pass, ...]:
    """Passes with this one in the place of the one of its name, wherever it lies."""
    return tuple(
        step if p.name == step.name else replace_inner(p, _exchange(inner, step)) if (inner := find_inner(p)) else p
        for p in steps
    )


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; itself a pass."""

    passes: tuple[Pass, ...]
    name: ClassVar[str] = "pipeline"

    requires: ClassVar[tuple[str, ...]] = ()
    provides: ClassVar[tuple[str, ...]] = ()

    def run(self, state: State) -> State:
        """Run every pass and take its time; an error names the pass that it came from.

        Raises UsageError before anything is run where a pass lacks what another one provides, KeyboardInterrupt
        between passes where the command was told to stop.
        """
        for step in self.complete(state.find_provided()).passes:
            check_stop()
            if _is_known(step, state):
                continue
            start, before = time.perf_counter(), sum(state.seconds.values())
            state.progress(step.name)
            try:
                state = _take_edit(step, state, step.run(state)) if is_exact(step) else step.run(state)
            except SpaError as e:
                e.add_note(f"in pass {format_pass(step)}")
                raise
            own = time.perf_counter() - start - (sum(state.seconds.values()) - before)  # passes in it say theirs
            spent = state.seconds.get(step.name, 0.0) + own
            state = replace(state, seconds={**state.seconds, step.name: spent}, done=(*state.done, step))
            if "graph" in getattr(step, "provides", ()):
                state = _prove_edit(state)
                state = step.run(state) if state.graph is None else state  # an edit was undone
        return state

    def complete(self, provided: frozenset[str] = ALWAYS_PROVIDED) -> Pipeline:
        """The pipeline with the passes in it that need no options and provide what others require.

        `provided`: fields of the state that are there before. Raises UsageError that names the pass that lacks
        something and one that provides it.
        """
        there, out = set(provided), list[Pass]()
        for step in self.iterate_flat():
            if out and step == out[-1] and getattr(step, "automatic", False):
                continue  # it has been put in already
            for missing in [n for n in find_requirements(step) if n not in there]:
                made = next((k() for k in map(find_pass_type, sorted(find_passes())) if is_automatic(k, missing)), None)
                if made is not None:
                    _check_requirements(made, there)
                    out.append(made)
                    there.update(made.provides)
            _check_requirements(step, there)
            if inner := find_inner(step):
                step = replace_inner(step, Pipeline(inner).complete(frozenset(there)).passes)
                there.update(n for p in iterate_deep(find_inner(step)) for n in getattr(p, "provides", ()))
            out.append(step)
            there.update(getattr(step, "provides", ()))
            if is_exact(step):
                _check_unread(step, out[:-1])
                out += [_find_last_provider(n, out) for n in READING_FIELDS]
                there.update(READING_FIELDS)
        return Pipeline(tuple(out))

    def resolve(self) -> Pipeline:
        """The pipeline with what passes read from the machine among their options, where they say so (`resolve`).

        Its text makes the same file on another machine.
        """
        out = list[Pass]()
        for step in self.iterate_flat():
            if inner := find_inner(step):
                step = replace_inner(step, Pipeline(inner).resolve().passes)
            own = getattr(step, "resolve", None)
            out.append(own() if own is not None else step)
        return Pipeline(tuple(out))

    def settle(self, state: State) -> Pipeline:
        """The pipeline with what passes have found out in its place, where they say so (`settle`), after it has run.

        Its text makes the same file without looking for it again.
        """
        own = ((step, getattr(step, "settle", None)) for step in self.iterate_flat())
        return Pipeline(
            tuple(Pipeline(tuple(step if made is None else made(state) for step, made in own)).iterate_flat())
        )

    def iterate_flat(self) -> Iterator[Pass]:
        """The passes, also those of pipelines that are among them."""
        for step in self.passes:
            yield from step.iterate_flat() if isinstance(step, Pipeline) else (step,)

    def insert(self, step: Pass, added: frozenset[Pass] = frozenset()) -> Pipeline:
        """The pipeline with a pass where its `after` says: behind the last of these passes, and those `added` there.

        One that is here takes the options that are not at their defaults. Raises UsageError where it does not say,
        where none of them is here, and where it is here already, as it is or just added.
        """
        steps, names = list(self.iterate_flat()), getattr(step, "after", ())
        wraps = getattr(step, "wraps_from", "")
        same = [p for p in iterate_deep(steps) if p.name == step.name]
        if same:
            changed = _take_options(same[0], step)
            if changed == same[0] or find_inner(same[0]) or any(p.name == step.name for p in added):
                raise UsageError(f"--with {step.name}: the pipeline has this pass: {self}")
            return Pipeline(_exchange(steps, changed))
        if not names:
            raise UsageError(f"--with {step.name}: the pass does not say what it goes after (`after`); give --pipeline")
        if wraps and not find_inner(step):
            first, inner = self.split(wraps, made=True)
            return Pipeline((*first.passes, replace_inner(step, inner.passes)))
        at = max((k for k, p in enumerate(steps) if p.name in names), default=None)
        if at is None:
            for k, holder in enumerate(steps):
                if any(p.name in names for p in iterate_deep(find_inner(holder))):
                    inner = Pipeline(find_inner(holder)).insert(step, added)
                    return Pipeline((*steps[:k], replace_inner(holder, inner.passes), *steps[k + 1 :]))
            raise UsageError(f"--with {step.name}: goes after {' or '.join(names)}, which the pipeline lacks: {self}")
        while at + 1 < len(steps) and steps[at + 1] in added:
            at += 1
        return Pipeline((*steps[: at + 1], step, *steps[at + 1 :]))

    def split(self, required: str, made: bool = False) -> tuple[Pipeline, Pipeline]:
        """The passes before the first one that requires a field of the state (`made`: or provides it), and the rest."""
        steps = tuple(self.iterate_flat())

        def has_field(step: Pass) -> bool:
            read = required in find_requirements(step)
            return read or (made and required in getattr(step, "provides", ()))

        at = next((i for i, p in enumerate(steps) if any(map(has_field, iterate_deep((p,))))), 0)
        return Pipeline(steps[:at]), Pipeline(steps[at:])

    def find_index(self, provided: str) -> int | None:
        """Where the last pass stands that provides a field of the state; None where there is none."""
        return max(
            (i for i, p in enumerate(iterate_deep(self.iterate_flat())) if provided in getattr(p, "provides", ())),
            default=None,
        )

    def __str__(self) -> str:
        return ",".join(format_pass(p) for p in self.passes)

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Read the text form. Raises UsageError that shows where it stops making sense."""
        return cls(tuple(_build(written) for written in split_text(text)))


def _build(written: WrittenPass) -> Pass:
    name, options, inner = written
    hints = typing.get_type_hints(find_pass_type(name))
    values = {k: parse_value(f"{name}.{k}", v, hints[k]) if k in hints else v for k, v in options.items()}
    if INNER_FIELD in options:
        raise UsageError(f"pass '{name}' has no option {INNER_FIELD}; passes stand in parentheses")
    return make_pass(name, **values, **({} if inner is None else {INNER_FIELD: tuple(map(_build, inner))}))


def format_pass(step: Pass) -> str:
    """A pass as text: its name and the options that differ from their defaults."""
    if isinstance(step, Pipeline):
        return str(step)
    shown = []
    for f in find_option_fields(step):
        value = getattr(step, f.name)
        if value != f.default:
            text = _format_value(value)
            shown.append(f"{f.name}={text if PLAIN_PATTERN.match(text) else json.dumps(text)}")
    inner = f"({Pipeline(find_inner(step))})" if find_inner(step) else ""
    return (f"{step.name}{{{','.join(shown)}}}" if shown else step.name) + inner


def _format_value(value: Any) -> str:
    if isinstance(value, tuple):
        return "|".join(re.sub(r"([|\\])", r"\\\1", str(part)) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
