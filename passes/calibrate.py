"""calibrate: inputs for the dense model, synthetic or given, and the moments that they leave."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from spa_compiler.algebra.expr import Dim, atoms
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.inputs import Calibration, real, synthetic
from spa_compiler.calibration.priors.kinds import KINDS
from spa_compiler.errors import UsageError
from spa_compiler.execution.inputs import parse_ranges
from spa_compiler.execution.parallel import linear_algebra
from spa_compiler.interpreter.activation_maps import Adjust
from spa_compiler.pipeline.fields import input_range_option, option, seed_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import Json, State
from spa_compiler.statistics.moments import Moments, collect

SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([KMG]?)B?\s*\Z", re.IGNORECASE)
SCALES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Calibrate:
    """`source`: synthetic, a kind of synthetic input, FILE.npz, DIR or script.py:function; `samples` 0: what fits.

    `stored` leaves BatchNormalization's stored statistics as they are (the baseline that the default is measured
    against); otherwise synthetic inputs are normalised by the statistics of their batch. `moments` = false takes inputs
    only.
    """

    source: str = option(
        "synthetic",
        "Inputs to calibrate on: synthetic, one kind of it (photographs, tokens, ...), FILE.npz, a folder of them "
        "or script.py:function.",
        "calibration", name="calib", metavar="SOURCE",
    )  # fmt: skip
    samples: int = option(0, "Calibration inputs; 0: what memory allows.", "calibration", least=0)
    memory: str = option("2GB", "Memory for calibration.", "calibration")
    seed: int = seed_option()
    input_range: tuple[str, ...] = input_range_option()
    stored: bool = False
    moments: bool = True
    name: ClassVar[str] = "calibrate"
    after: ClassVar[tuple[str, ...]] = ("erase",)
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("calibration", "moments")

    @classmethod
    def chosen(cls, options: Options) -> Calibrate | None:
        """Where the criterion or the compensation reads inputs; moments only where channels are scored by them."""
        scored = options.is_scored_by_moments()
        if not scored and not options.is_compensated():
            return None
        return cls(**options.fields_of(cls), moments=scored)

    def run(self, state: State) -> State:
        """The state with inputs and, unless they are not wanted, moments of every contraction that may be cut."""
        graph = state.analyzed()
        if not graph.groups:
            return state
        found = self.inputs(state)
        inputs: dict[str, Json] = {"inputs": found.source, "samples": found.samples, "synthetic": found.synthetic}
        state = replace(state, calibration=found).note(calibration=inputs)
        if not self.moments:
            return state
        state.progress(f"calibrate: {found.source}")
        with linear_algebra(graph):
            moments = collect(graph, found.feeds, found.adjust, seed=self.seed, late=found.late)
        names, moments = whole(graph, moments)
        if names:
            few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            text = f"{len(names)} contractions inside bodies ({few}) are not calibrated: weights score what they read"
            state = state.remark(text)
        inputs |= {"moments": len(moments.of), "missed": moments.missed}
        return replace(state, moments=moments).note(calibration=inputs)

    def inputs(self, state: State) -> Calibration:
        """Inputs as asked for. Raises UsageError for a source or a memory that makes no sense."""
        graph, memory = state.analyzed(), parse_size(self.memory)
        kind = "" if self.source == "synthetic" else self.source
        if kind and kind not in KINDS:
            if not Path(kind).exists() and not set(kind) & set("./"):
                known = ", ".join(KINDS)
                raise UsageError(f"--calib {kind}: no file or folder, and no kind of synthetic input ({known})")
            return real(graph, kind, self.samples, memory)
        found = synthetic(graph, self.seed, self.samples, memory, parse_ranges(self.input_range, state.source), kind)
        return replace(found, adjust=Adjust()) if self.stored else found


def whole(graph: DependencyGraph, moments: Moments) -> tuple[list[str], Moments]:
    """Contractions inside bodies that left no moments, and the moments of channels that none of them reads.

    Half of the story is worse than none: the state of a recurrence would be judged by what it gives to the outside.
    """
    live = {d for g in graph.groups for d in g.dims}
    names: list[str] = []
    blind: set[Dim] = set()
    for k, site in enumerate(graph.sites):
        read = {d for s in site.scopes for n in s.contracted() if n in s.env for d in atoms(s.env[n])} & live
        if site.path and site.traits.is_contraction and read and k not in moments.of:
            names.append(site.name)
            blind |= read
    return names, replace(moments, of={k: m for k, m in moments.of.items() if not m.contracted & blind})


def parse_size(text: str) -> int:
    """`2GB` in bytes. Raises UsageError for anything else."""
    found = SIZE.match(text)
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"--memory {text}: expected a size like 2GB or 500MB")
    return int(float(found[1]) * SCALES[found[2].upper()])
