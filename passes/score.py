"""score: one importance per channel of every group, by a criterion or from a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from spa_compiler.calibration import Calibration
from spa_compiler.criteria import Scores, criterion
from spa_compiler.data import load_npz
from spa_compiler.doubt import doubted
from spa_compiler.errors import UsageError
from spa_compiler.graph import DependencyGraph
from spa_compiler.pipeline import State
from spa_compiler.threads import linear_algebra


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
        with linear_algebra(graph):
            scores = criterion(name)(graph, state.moments, np.random.default_rng(self.seed))
            if name == "obspa" and hidden and state.moments is not None:
                scores = doubted(graph, state.moments, scores)
        if name != self.criterion:
            text = "what the inputs are is a guess: magnitude (l2) chooses the channels, not obspa; see --calib"
            state = state.note(notes=[*state.results.get("notes", []), text])
        return replace(state, scores=scores).note(criterion=name)


def load_scores(graph: DependencyGraph, path: Path) -> Scores:
    """Scores by group label. Raises UsageError for an unknown label, a wrong shape or a file that is no .npz."""
    try:
        found = {n: np.asarray(a, np.float64) for n, a in load_npz(path).items()}
    except ValueError as e:
        raise UsageError(f"{path}: the scores are not numbers: {e}") from e
    for label, scores in found.items():
        if scores.shape != (wanted := graph.group(label).shape):
            raise UsageError(f"{path}: group '{label}' has shape {list(wanted)}, the scores have {list(scores.shape)}")
        if not np.isfinite(scores).all():
            raise UsageError(f"{path}: the scores of '{label}' are not finite")
    return found
