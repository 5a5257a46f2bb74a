"""Steps of a run: on a terminal a line that lives and a line for each step that is done, elsewhere a line a step.

    with show_progress(["load", "calibrate", "score"], quiet=False) as tell:
        tell("calibrate"); tell("calibrate: photographs")             # step 2 of 3

All of it goes to standard error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import click
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from spa_compiler.execution.item_counts import listen_to_items

LEAST_SHOWN = 1.0
"""Seconds that a step has to take for what is left of it to be guessed."""


@dataclass
class Steps:
    """The steps that are expected, and the one that is being done: `tell` begins one, or says more behind a colon.

    Steps that are left out count as done; one that comes again does not count.
    """

    expected: Sequence[str]
    show: Callable[[str], None]
    finish: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    name: str = ""
    detail: str = ""
    index: int = 0
    began: float = field(default=0.0)

    def tell(self, text: str) -> None:
        """A step, or more of the one that is being done."""
        name, _, self.detail = text.partition(": ")
        if name != self.name or not self.detail:
            self.end()
            self.name, self.began = name, self.clock()
            ahead = list(self.expected[self.index :])
            self.index += ahead.index(name) + 1 if name in ahead else 0
        self.show(self.describe())

    def count(self, done: int, of: int) -> None:
        """So many items of the step are done."""
        spent = self.clock() - self.began
        left = spent * (of - done) / done if spent >= LEAST_SHOWN and done else 0.0
        rest = f", about {format_seconds(left)} left" if left >= LEAST_SHOWN else ""
        self.show(f"{self.describe()}, {done} of {of} ({format_seconds(spent)}{rest})")

    def describe(self) -> str:
        """The step in words."""
        more = f": {self.detail}" if self.detail else ""
        return f"step {self.index} of {len(self.expected)}: {self.name}{more}"

    def end(self) -> None:
        """Put down what the step took."""
        if self.name:
            spent = format_seconds(self.clock() - self.began)
            self.finish(f"step {self.index} of {len(self.expected)}: {self.name}, {spent}")
        self.name = ""


def format_seconds(seconds: float) -> str:
    """Seconds for a reader.

    >>> format_seconds(0.32), format_seconds(17.2), format_seconds(84)
    ('0.3 s', '17 s', '1 min 24 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


@contextmanager
def show_progress(
    expected: Sequence[str], quiet: bool, console: Console | None = None
) -> Iterator[Callable[[str], None]]:
    """Show steps as they come; `expected` are the names of all."""
    console = console or Console(stderr=True)
    if quiet:
        yield lambda text: None
    elif console.is_terminal:
        with console.status("spa-compile", spinner="line") as status:
            yield from _listen(_make_live_steps(expected, console, status))
    else:
        yield from _listen(
            Steps(expected, lambda text: None, lambda text: click.echo(f"spa-compile: {text}", err=True))
        )


def _print_step(text: str) -> None:
    click.echo(f"spa-compile: {text}", err=True)


def _make_live_steps(expected: Sequence[str], console: Console, status: Status) -> Steps:
    def finish(text: str) -> None:
        console.print(f"  {escape(text)}", style="dim", highlight=False)

    return Steps(expected, lambda text: status.update(escape(text)), finish)


def _listen(steps: Steps) -> Iterator[Callable[[str], None]]:
    """Hand out what tells of steps; the last one ends with the run, not with its failure."""
    with listen_to_items(steps.count):
        yield steps.tell
    steps.end()


__all__ = ["Steps", "format_seconds", "show_progress"]
