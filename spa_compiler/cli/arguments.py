"""Options of the command line, made from the fields that declare them (`pipeline.fields`), and read back as Options."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from spa_compiler.errors import UsageError
from spa_compiler.pipeline.fields import DeclaredOption, Topic
from spa_compiler.pipeline.options import Options, find_declared

if typing.TYPE_CHECKING:
    NumberOrWordType = click.ParamType[float | str]
else:  # generic since click 8.4
    NumberOrWordType = click.ParamType

FILE = click.Path(path_type=Path)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def make_topic_options(topic: Topic, leave_out: tuple[str, ...] = ()) -> list[Decorator]:
    """The options of a topic, in the order of the passes."""
    return [
        make_option(d)
        for d in find_declared().values()
        if d.shown.topic == topic and d.name not in leave_out and not d.shown.hidden
    ]


def make_named_option(name: str) -> Decorator:
    """One option by its name."""
    return make_option(find_declared()[name])


def make_option(own: DeclaredOption) -> Decorator:
    """A declared option as click has it."""
    shown, plain = own.shown, find_plain_type(own.kind)
    common: dict[str, Any] = {"help": shown.help}
    if plain is bool:  # given, it says the opposite of the default
        return click.option(
            own.flag,
            own.name,
            is_flag=True,
            flag_value=not own.default,
            default=own.default,
            show_default=False,
            **common,
        )
    if shown.metavar:
        common["metavar"] = shown.metavar
    if shown.switch:
        kind = find_value_type(own, plain)
        return click.option(own.flag, own.name, cls=SwitchOption, switch=shown.switch, type=kind, **common)
    if plain is tuple:
        return click.option(own.flag, own.name, multiple=True, **common)
    if shown.file:
        return click.option(own.flag, own.name, type=FILE, **common)
    if shown.entries:  # values of the form PATTERN=R are those of another option
        words = _NumberOrWord([str(w) for w in shown.choices], entries=True)  # type: ignore[union-attr]
        return click.option(own.flag, own.name, multiple=True, type=words, **common)
    default = shown.word or own.default
    return click.option(
        own.flag, own.name, type=find_value_type(own, plain), default=default, show_default=default not in (None, ""),
        **common,
    )  # fmt: skip


def find_plain_type(kind: Any) -> type[Any]:
    """`tuple` for a tuple of texts, `float` for a float or None."""
    parts = [a for a in typing.get_args(kind) if a is not type(None)]
    found: type[Any] = typing.get_origin(kind) if typing.get_origin(kind) is tuple else parts[0] if parts else kind
    return found


class SwitchOption(click.Option):
    """An option with a value that may be left out, and which --no-NAME sets, too."""

    def __init__(self, *args: Any, switch: tuple[str, str], **given: Any) -> None:
        super().__init__(*args, **given)
        self.switch = switch

    def spell_out(self, text: str, following: str | None) -> str:
        """A word of the command line with its value, if it is this option; `following` is the word behind it."""
        flag, (alone, without) = self.opts[0], self.switch
        if text == f"--no-{flag.removeprefix('--')}":
            return f"{flag}={without}"
        words = self.type.choices if isinstance(self.type, click.Choice) else ()
        return f"{flag}={alone}" if text == flag and following not in words else text


def spell_out_switches(params: Sequence[click.Parameter], args: Sequence[str]) -> list[str]:
    """Arguments in which every option that can be given without a value has one."""
    end = args.index("--") if "--" in args else len(args)
    out = list(args)
    for own in (p for p in params if isinstance(p, SwitchOption)):
        out[:end] = [own.spell_out(text, args[k + 1] if k + 1 < end else None) for k, text in enumerate(out[:end])]
    return out


class _FiniteRange(click.FloatRange):
    """Numbers between two bounds: NaN is between all of them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number of a text; a usage error for one that is none."""
        found = float(super().convert(value, param, ctx))
        return found if math.isfinite(found) else self.fail(f"{value} is not a finite number.", param, ctx)


class _NumberOrWord(NumberOrWordType):
    """A number, also in percent, or one of some words, or an entry PATTERN=R."""

    name = "number"

    def __init__(self, words: Sequence[str], entries: bool = False) -> None:
        self.words, self.entries = words, entries

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """The number of a text, or the word; a usage error for anything else."""
        if value in self.words or (self.entries and "=" in str(value)):
            return str(value)
        text = str(value)
        try:
            return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            return self.fail(f"{text!r} is neither a number nor {' or '.join(self.words)}.", param, ctx)


def find_value_type(own: DeclaredOption, plain: type[Any]) -> Any:
    """The type by which click checks a value."""
    shown = own.shown
    if plain is float and shown.choices and not callable(shown.choices):
        return _NumberOrWord(shown.choices)
    if shown.choices:
        return click.Choice(list(shown.choices() if callable(shown.choices) else shown.choices))
    if shown.word:
        return str
    if shown.least is not None or shown.most is not None:
        if plain is not int:
            return _FiniteRange(shown.least, shown.most)
        least, most = (None if bound is None else int(bound) for bound in (shown.least, shown.most))
        return click.IntRange(least, most)
    return plain


def read_options(values: Mapping[str, Any]) -> Options:
    """Command-line values as Options. Raises UsageError for a number that is none."""
    return Options(**dict(_read(find_declared()[n], v) for n, v in values.items() if n in find_declared()))


def make_options(given: Mapping[str, Any]) -> Options:
    """The same where keep-masks may be given, which are a plan. Raises UsageError for both."""
    if given.get("mask"):
        if given["plan"]:
            raise UsageError("--plan and --mask both say which channels stay: give one of them")
        given = {**given, "plan": given["mask"]}
    return read_options(given)


def _read(own: DeclaredOption, value: Any) -> tuple[str, Any]:
    """The name and the value of an option; the default where nothing was given."""
    if own.shown.file:
        return own.name, str(value) if value else ""
    if own.shown.entries:
        return own.name, value or own.default
    if own.shown.word:
        return own.name, _read_number(own, str(value))
    return own.name, own.default if value is None else value


def _read_number(own: DeclaredOption, text: str) -> Any:
    if text == own.shown.word:
        return own.default
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"{own.flag} {text}: expected {own.shown.word} or a number of {own.shown.unit}")
    return int(text)


def add_options(*groups: Sequence[Callable[..., Any]]) -> Decorator:
    """A decorator that gives a command these options."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(list(_iterate_all(groups))):
            command = option(command)
        return command

    return add


def _iterate_all(groups: Sequence[Sequence[Callable[..., Any]]]) -> Iterator[Callable[..., Any]]:
    for group in groups:
        yield from group
