"""normalize: fold shape arithmetic, copy shared constants, and free axes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.errors import UsageError
from spa_compiler.execution.inputs import split_named_entries
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import find_input_sizes
from spa_compiler.pipeline.fields import make_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State


@dataclass(frozen=True)
class Normalize:
    """`input_shape`: entries `name:1,3,224,224` that give symbolic axes a size; a single input needs no name."""

    input_shape: tuple[str, ...] = make_option((), "Sizes for symbolic axes.", "inputs", metavar="[NAME:]1,3,224,224")
    name: ClassVar[str] = "normalize"
    after: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    provides: ClassVar[tuple[str, ...]] = ("model", "folded")

    @classmethod
    def from_options(cls, options: Options) -> Normalize:
        """Part of every pipeline."""
        return cls(**options.fields_of(cls))

    def run(self, state: State) -> State:
        """A model whose axes the rules can read."""
        model, changes = normalize(
            state.model, find_input_sizes(state.model, parse_shapes(self.input_shape, state.model))
        )
        fresh = [n for n in model.notes if n not in state.model.notes]
        before = state.folded or {}  # an exact pass may have edited what was normalised
        return replace(state, model=model, folded={n: k + before.get(n, 0) for n, k in changes.items()}).add_notes(
            *fresh
        )


def parse_shapes(entries: tuple[str, ...], model: Model) -> dict[str, list[int]]:
    """`("x:1,3,224,224",)` as a dictionary. Raises UsageError for anything else."""
    out: dict[str, list[int]] = {}
    for name, sizes, entry in split_named_entries("--input-shape", entries, model):
        try:
            out[name] = [int(s) for s in sizes.split(",")]
        except ValueError as e:
            raise UsageError(f"--input-shape {entry}: expected NAME:1,3,224,224") from e
        if min(out[name]) < 1:
            raise UsageError(f"--input-shape {entry}: sizes are 1 or more")
    return out
