"""Fields of passes that are options of the command line, too: declared once, with their default and what help says.

ratio: float | None = option(None, "Share to remove.", topic="budget")    # in a pass: a field, and --ratio
seed: int = seed_option()                                                        # one option that several passes read
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Topic = Literal["budget", "scoring", "calibration", "inputs", "proof", "run"]
KEY = "option"


@dataclass(frozen=True)
class Shown:
    """How a field looks on the command line.

    `name` is its option where that is called otherwise; `word` stands for the default there; `start` is the command's
    default where that of the pass must stay what it was for texts that were written before.
    """

    help: str
    topic: Topic
    name: str = ""
    flag: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    file: bool = False
    word: str = ""
    unit: str = ""
    start: int | float | str | None = None


def option(default: T, help: str, topic: Topic, **shown: Any) -> T:  # noqa: A002  # the word of click
    """A field with a default that is an option of the command line."""
    made: T = field(default=default, metadata={KEY: Shown(help, topic, **shown)})
    return made


def needed(help: str, topic: Topic, **shown: Any) -> Any:  # noqa: A002
    """A text without a default; its pass is in the pipeline only where the option is given."""
    return field(metadata={KEY: Shown(help, topic, start="", **shown)})


def shown_of(f: Field[Any]) -> Shown | None:
    """How a field looks on the command line; None where it can be given in a pipeline's text only."""
    found = f.metadata.get(KEY)
    return found if isinstance(found, Shown) else None


def seed_option() -> int:
    """The seed of everything that is drawn."""
    return option(0, "Every random choice follows it.", "inputs", least=0)


def threads_option() -> int:
    """Threads of onnxruntime."""
    return option(0, "Threads of onnxruntime; 0: one per core.", "inputs", least=0)


def input_range_option() -> tuple[str, ...]:
    """Entries `name:low,high` that inputs stay in."""
    return option((), "Range of an input's values.", "inputs", metavar="[NAME:]LO,HI")


def exclude_option() -> tuple[str, ...]:
    """Groups that are left alone."""
    return option((), "Leave groups alone, by label, weight or node.", "budget", metavar="PATTERN")


def include_option() -> tuple[str, ...]:
    """The only groups that may be pruned."""
    return option((), "Prune these groups only.", "budget", metavar="PATTERN")


def min_keep_option() -> int:
    """Channels that stay in every group."""
    return option(1, "Channels that every group keeps at least.", "budget", least=1)
