"""score: one importance per channel of every group, by a criterion or from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.weight_slices import find_spoiled_weights
from spa_compiler.datasets.arrays import load_npz
from spa_compiler.errors import UsageError
from spa_compiler.execution.finite import ignore_overflow
from spa_compiler.execution.parallel import limit_threads
from spa_compiler.pipeline.fields import make_option, make_seed_option
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.planning.scores import NotedScores, Scores, check_scores, map_tensor_scores
from spa_compiler.scoring.rank_correction import raise_low_rank
from spa_compiler.scoring.registry import find_criterion


@dataclass(frozen=True)
class Score:
    """`find_criterion` by name; `file`: an .npz with one array per group instead.

    Where the calibration inputs are a guess (tabular data), magnitude stands in for obspa.
    """

    criterion: str = make_option(
        "l2", "How channels are scored; `spa passes` lists them. 0.5*l2+obspa blends several.", "scoring",
        start="obspa",
    )  # fmt: skip
    seed: int = make_seed_option()
    file: str = make_option(
        "",
        "Scores from an .npz: an array per group (name or label), or per weight in its shape.",
        "scoring",
        name="scores",
        file=True,
    )
    name: ClassVar[str] = "score"
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    provides: ClassVar[tuple[str, ...]] = ("scores",)

    @property
    def after(self) -> tuple[str, ...]:
        """Passes that it goes after: scores of a file need no calibration."""
        return ("analyze", "erase") if self.file else ("analyze", "erase", "calibrate")

    @classmethod
    def from_options(cls, options: Options) -> Score | None:
        """Where there is a budget, or a plan that leaves to scores which channels stay."""
        if not options.is_scored():
            return None
        return cls(**options.fields_of(cls, *(("file",) if options.scores else ("criterion", "seed"))))

    def run(self, state: State) -> State:
        """Scores of every group; groups that a file leaves out are not cut."""
        graph = state.require_graph()
        if self.file:
            if self.criterion != Score.criterion:
                raise UsageError("score: a file of scores is a criterion: give it without criterion")
            scores, idle = load_scores(state, Path(self.file))
            notes = [f"--scores: no group cuts {', '.join(idle[:3])}{', ...' if len(idle) > 3 else ''}"] if idle else []
            return replace(state, scores=scores, scores_are_errors=False).add_notes(*notes)
        inputs, chosen, name = state.calibration, find_criterion(self.criterion), self.criterion
        if inputs is not None and inputs.is_guessed and chosen.stand_in:
            chosen, name = find_criterion(chosen.stand_in), chosen.stand_in
        with limit_threads(), ignore_overflow():
            found = chosen(graph, state.moments, np.random.default_rng(self.seed))
            scores = check_scores(graph, found, f"the criterion '{name}'")
            if chosen.raises_hidden and inputs is not None and inputs.has_low_rank and state.moments is not None:
                scores = raise_low_rank(graph, state.moments, NotedScores(scores, find_fallbacks(found)))
        notes = [*describe_spoiled(graph), *describe_fallbacks(find_fallbacks(found))]
        if name != self.criterion:
            what = "magnitude (l2)" if name == "l2" else name
            notes.append(
                f"the graph does not tell what its inputs are: {what} scores the channels instead of {self.criterion}; "
                "give real inputs with --calib"
            )
        return replace(state, scores=scores, scores_are_errors=chosen.scores_are_errors).add_notes(*notes)


def find_fallbacks(scores: Scores) -> dict[str, str]:
    """Groups that a criterion has scored by their weights for want of anything better, and why."""
    return scores.notes if isinstance(scores, NotedScores) else {}


def describe_fallbacks(notes: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each reason why groups are scored by their weights."""
    for reason in dict.fromkeys(notes.values()):
        labels = [n for n, r in notes.items() if r == reason]
        few = ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")
        groups = "1 group is" if len(labels) == 1 else f"{len(labels)} groups are"
        yield f"{groups} scored by weights alone ({few}): {reason}; other inputs may do (--calib, --input-range)"


def describe_spoiled(graph: DependencyGraph) -> Iterator[str]:
    """A sentence about weights that hold NaN or infinite values."""
    if names := find_spoiled_weights(graph):
        few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        yield f"{len(names)} weights hold NaN or infinite values ({few}): channels that have some are kept first"


def load_scores(state: State, path: Path) -> tuple[Scores, list[str]]:
    """Scores by group label, and weights that no group cuts.

    Raises UsageError for an unknown name, a wrong shape or a file that is no .npz.
    """
    graph = state.require_graph()
    found, idle = map_tensor_scores(graph, state.require_dense_graph(), load_npz(path), str(path))
    return check_scores(graph, found, str(path)), idle
