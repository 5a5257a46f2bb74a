"""score: one importance per channel of every group, by a criterion or from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.weight_slices import spoiled_weights
from spa_compiler.calibration.inputs import Calibration
from spa_compiler.errors import UsageError
from spa_compiler.execution.finite import quiet
from spa_compiler.execution.parallel import linear_algebra
from spa_compiler.pipeline.state import State
from spa_compiler.planning.scores import Noted, Scores, check_scores
from spa_compiler.scoring.rank_correction import doubted
from spa_compiler.scoring.registry import criterion
from spa_compiler.verification.dataset import load_npz


@dataclass(frozen=True)
class Score:
    """`criterion` by name; `file`: an .npz with one array per group label instead.

    Where the calibration inputs are a guess (tabular data), magnitude stands in for obspa.
    """

    criterion: str = "l2"
    seed: int = 0
    file: str = ""
    name: ClassVar[str] = "score"

    def run(self, state: State) -> State:
        """Scores of every group; groups that a file leaves out are not cut."""
        graph = state.analyzed()
        if self.file:
            if self.criterion != Score.criterion:
                raise UsageError("score: a file of scores is a criterion: give it without criterion")
            return replace(state, scores=load_scores(graph, Path(self.file))).note(criterion=self.file)
        inputs = state.calibration if isinstance(state.calibration, Calibration) else None
        guessed, hidden = inputs is not None and inputs.guessed, inputs is not None and inputs.doubted
        name = "l2" if guessed and self.criterion == "obspa" else self.criterion
        with linear_algebra(graph), quiet():
            found = criterion(name)(graph, state.moments, np.random.default_rng(self.seed))
            scores = check_scores(graph, found, f"the criterion '{name}'")
            if name == "obspa" and hidden and state.moments is not None:
                scores = doubted(graph, state.moments, Noted(scores, find_fallbacks(found)))
        notes = [*describe_spoiled(graph), *describe_fallbacks(find_fallbacks(found))]
        if name != self.criterion:
            notes.append("what the inputs are is a guess: magnitude (l2) chooses the channels, not obspa; see --calib")
        if notes:
            state = state.note(notes=[*state.results.get("notes", []), *notes])
        return replace(state, scores=scores).note(criterion=name)


def find_fallbacks(scores: Scores) -> dict[str, str]:
    """Groups that a criterion has scored by their weights for want of anything better, and why."""
    return scores.notes if isinstance(scores, Noted) else {}


def describe_fallbacks(notes: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each reason why groups are scored by their weights."""
    for reason in dict.fromkeys(notes.values()):
        labels = [n for n, r in notes.items() if r == reason]
        few = ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")
        groups = "1 group is" if len(labels) == 1 else f"{len(labels)} groups are"
        yield f"{groups} scored by weights alone ({few}): {reason}; other inputs may do (--calib, --input-range)"


def describe_spoiled(graph: DependencyGraph) -> Iterator[str]:
    """A sentence about weights that hold NaN or infinite values."""
    if names := spoiled_weights(graph):
        few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        yield f"{len(names)} weights hold NaN or infinite values ({few}): channels that have some are kept first"


def load_scores(graph: DependencyGraph, path: Path) -> Scores:
    """Scores by group label. Raises UsageError for an unknown label, a wrong shape or a file that is no .npz."""
    return check_scores(graph, load_npz(path), str(path))
