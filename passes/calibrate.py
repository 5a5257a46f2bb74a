"""calibrate: draw or load inputs for the dense model, and measure the moments of what contractions read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from spa_compiler.calibration.inputs import Calibration, draw_calibration
from spa_compiler.calibration.priors.kinds import KINDS
from spa_compiler.calibration.user_inputs import load_calibration
from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.errors import UsageError
from spa_compiler.execution.inputs import parse_ranges
from spa_compiler.execution.parallel import limit_threads
from spa_compiler.interpreter.activation_maps import Adjust
from spa_compiler.ir.memory import parse_bytes
from spa_compiler.pipeline.fields import (
    make_memory_option,
    make_option,
    make_preprocess_option,
    make_range_option,
    make_seed_option,
)
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import Json, State, find_given
from spa_compiler.statistics.moments import collect_moments, exclude_unmeasured


@dataclass(frozen=True)
class Calibrate:
    """`source`: synthetic, a kind of synthetic input, a file, a folder or script.py:name; `samples` 0: what fits.

    `stored` leaves BatchNormalization's stored statistics as they are (the baseline that the default is measured
    against); otherwise synthetic inputs are normalised by the statistics of their batch. `moments` = false takes inputs
    only.
    """

    source: str = make_option(
        "synthetic",
        "Inputs to calibrate on: synthetic, one kind of it (photographs, tokens, ...), a folder of pictures, sounds, "
        "texts or arrays, one such file (.npz), or script.py:name (a function, a generator, a reader).",
        "calibration", name="calib", metavar="SOURCE",
    )  # fmt: skip
    samples: int = make_option(0, "Calibration inputs; 0: what memory allows.", "calibration", least=0)
    memory: str = make_memory_option()
    seed: int = make_seed_option()
    input_range: tuple[str, ...] = make_range_option()
    preprocess: str = make_preprocess_option()
    matching: float = make_option(
        1.0, "Work of matching drawn pictures to what BatchNormalization holds, in times of the default.",
        "calibration", least=0,
    )  # fmt: skip
    stored: bool = False
    moments: bool = True
    name: ClassVar[str] = "calibrate"
    after: ClassVar[tuple[str, ...]] = ("analyze", "erase")
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("calibration", "moments")

    @classmethod
    def from_options(cls, options: Options) -> Calibrate | None:
        """Where criterion, scope or compensation read inputs; moments only where channels are scored by them."""
        scored = options.is_scored_by_moments()
        if not scored and not options.is_compensated() and not options.is_shared_by_inputs():
            return None
        made = cls(**options.fields_of(cls), moments=scored)
        return made if made.is_given() else replace(made, preprocess="")  # which drawn inputs have no use for

    def run(self, state: State) -> State:
        """The state with inputs and, unless they are not wanted, moments of every contraction that may be cut."""
        graph = state.require_graph()
        if not graph.groups:
            return state
        found = self.inputs(state)
        inputs: dict[str, Json] = {"inputs": found.source, "samples": found.samples, "synthetic": found.synthetic}
        inputs |= {"given": found.summary} if found.summary else {}
        state = replace(state, calibration=found).add_results(calibration=inputs).add_notes(*found.notes)
        if not self.moments:
            return state
        state.progress(f"calibrate: {found.source}")
        with limit_threads():
            moments = collect_moments(graph, found.feeds, found.adjust, seed=self.seed, late=found.late)
        names, moments = exclude_unmeasured(graph, moments)
        if names:
            few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            text = f"{len(names)} contractions inside bodies ({few}) have no statistics: weights score what they read"
            state = state.add_notes(text)
        inputs |= {"moments": len(moments.of), "missed": moments.missed}
        return replace(state, moments=moments).add_results(calibration=inputs)

    def is_given(self) -> bool:
        """Does somebody give the inputs? Else they are drawn."""
        return self.source != "synthetic" and self.source not in KINDS

    def inputs(self, state: State) -> Calibration:
        """Inputs as asked for. Raises UsageError for a source or a memory that makes no sense."""
        graph, memory, said = (
            state.require_graph(),
            parse_bytes("--memory", self.memory),
            parse_preprocess(self.preprocess),
        )
        ranges = parse_ranges(self.input_range, state.source)
        if self.is_given():
            return load_calibration(graph, self.find_given(state), self.samples, memory, said, ranges, self.source)
        if self.preprocess:
            raise UsageError(f"--preprocess {self.preprocess}: nothing is given that it could be done to: see --calib")
        kind = "" if self.source == "synthetic" else self.source
        found = draw_calibration(graph, self.seed, self.samples, memory, ranges, kind, self.matching)
        return replace(found, adjust=Adjust()) if self.stored else found

    def find_given(self, state: State) -> object:
        """A path, script.py:name, or the object that was given in Python under this name."""
        given = find_given("--calib", self.source, state.given)
        if not isinstance(given, str):
            return given
        if not Path(self.source).exists() and not set(self.source) & set("./"):
            known = ", ".join(KINDS)
            raise UsageError(f"--calib {self.source}: no file or folder, and no kind of synthetic input ({known})")
        return self.source
