"""Fields of passes that are also options of the command line: declared once, with default and help text.

ratio: float | None = make_option(None, "Share to remove.", topic="budget")    # in a pass: a field, and --ratio
seed: int = make_seed_option()                                                     # one option that several passes read
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field
from typing import Any, Literal, TypeVar

from spa_compiler.ir.memory import USUAL_MEMORY

T = TypeVar("T")
Topic = Literal["budget", "scoring", "calibration", "inputs", "proof", "run"]
METADATA_KEY = "option"
AUTO = "auto"
"""The share to remove where it is to be found."""


@dataclass(frozen=True)
class OptionText:
    """How a field looks on the command line.

    `name` is its option where that is called otherwise; `choices` are the values that it may have, or a function that
    lists them where they are registered; `word` stands for the default there; `start` is the command's
    default where that of the pass must stay what it was for texts that were written before. `entries` is the option
    that takes values of the form PATTERN=R that are given under this one, which has no flag of its own (`hidden`).
    `switch`: values of an option that is given without one, and as --no-NAME; True and False in Python.
    """

    help: str
    topic: Topic
    name: str = ""
    flag: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] | Callable[[], Iterable[str]] = ()
    least: float | None = None
    most: float | None = None
    file: bool = False
    word: str = ""
    unit: str = ""
    start: int | float | str | None = None
    entries: str = ""
    hidden: bool = False
    switch: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeclaredOption:
    """An option: the field that it is of every pass in `owners`, its type, its default and how it is shown."""

    name: str
    kind: Any
    default: Any
    shown: OptionText
    owners: Mapping[str, str]

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        return self.shown.flag or "--" + self.name.replace("_", "-")


def make_option(default: T, help: str, topic: Topic, **shown: Any) -> T:  # noqa: A002  # the word of click
    """A field with a default that is an option of the command line."""
    made: T = field(default=default, metadata={METADATA_KEY: OptionText(help, topic, **shown)})
    return made


def require_option(help: str, topic: Topic, **shown: Any) -> Any:  # noqa: A002
    """A text without a default; its pass is in the pipeline only where the option is given."""
    return field(metadata={METADATA_KEY: OptionText(help, topic, start="", **shown)})


def find_text(f: Field[Any]) -> OptionText | None:
    """How a field looks on the command line; None where it can be given in a pipeline's text only."""
    found = f.metadata.get(METADATA_KEY)
    return found if isinstance(found, OptionText) else None


def make_ratio_option() -> float | str | None:
    """The share to remove; `auto` is for the pass that looks for it."""
    return make_option(
        None, "Share to remove, 0 to 1: --ratio 0.5 halves the MACs; auto: as much as goes before the drop begins to "
        "grow faster; PATTERN=R: the share of the cost of the nodes that it names, repeatable, beside it or alone.",
        "budget", choices=(AUTO,), entries="parts",
    )  # fmt: skip


def make_data_option() -> str:
    """Inputs of the caller that the result is judged by."""
    return make_option(
        "", "Inputs with labels: accuracy before and after. A folder or a file as for --calib; labels are an array y, "
        "or the sub-folder of a file.", "inputs", file=True,
    )  # fmt: skip


def make_seed_option() -> int:
    """The seed of everything that is drawn."""
    return make_option(0, "Seed of every random choice.", "inputs", least=0)


def make_threads_option() -> int:
    """Threads of onnxruntime."""
    return make_option(0, "Threads of onnxruntime; 0: one per core.", "inputs", least=0)


def make_times_option() -> str:
    """Times of kernels, measured on the machine where the model is going to run."""
    return make_option(
        "", "Milliseconds of another machine: what `spa times` has measured there. Budgets, gates and the report are "
        "then of that machine.", "budget", file=True,
    )  # fmt: skip


def make_memory_option() -> str:
    """The memory of calibration, and that of one value of the model."""
    return make_option(
        USUAL_MEMORY, "Memory for calibration; a model with a value that takes more is refused.", "inputs"
    )


def make_range_option() -> tuple[str, ...]:
    """Entries `name:low,high` that inputs stay in."""
    return make_option((), "Range of an input's values.", "inputs", metavar="[NAME:]LO,HI")


def make_preprocess_option() -> str:
    """How pictures, sounds and arrays that are given become inputs (`datasets.preprocess`)."""
    return make_option(
        "", "How --calib and --data become inputs: resize, crop, scale, mean, std, order (RGB, BGR), layout (NCHW, "
        "NHWC) of pictures, rate of sounds; values are (v * scale - mean) / std. Default: found from the model.",
        "inputs", metavar="KEY=VALUE,...",
    )  # fmt: skip


def make_exclude_option() -> tuple[str, ...]:
    """Groups that are left alone."""
    return make_option(
        (),
        "Leave groups alone: a shell pattern of names, weights, nodes, or operators (type:Conv).",
        "budget",
        metavar="PATTERN",
    )


def make_include_option() -> tuple[str, ...]:
    """The only groups that may be pruned."""
    return make_option((), "Prune these groups only (patterns as for --exclude).", "budget", metavar="PATTERN")


def make_min_keep_option() -> int:
    """Channels that stay in every group."""
    return make_option(1, "Channels that every group keeps at least.", "budget", least=1)
