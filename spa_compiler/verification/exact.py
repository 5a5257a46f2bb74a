"""Proof of exact passes: the model after a pass that claims to change no output is compared with the one before.

    prove_same("fold", before, graph)     # 2e-07; raises VerificationError that names the pass and the first value

Both are run at the sizes of the analysis and at others, and compared as `source` compares the file with its graph.
"""

from __future__ import annotations

from dataclasses import replace

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import ModelError, VerificationError
from spa_compiler.ir.model import Model
from spa_compiler.verification.comparison import choose_tolerance
from spa_compiler.verification.feeds import Ranges, draw_inputs
from spa_compiler.verification.replay import list_taps
from spa_compiler.verification.runs import Side
from spa_compiler.verification.sizes import count_macs, list_analysis_sizes, list_proof_sizes
from spa_compiler.verification.source import SourcePair

MOST_EXACT_SIZES = 3
"""Sizes beside those of the analysis that are run."""


class ModelPair(SourcePair):
    """The models before and after a pass, opened once."""

    def __init__(self, step: str, graph: DependencyGraph, before: Model, limit: float) -> None:
        self.step, after = step, graph.model
        names = [*(t.name for t in after.graph.outputs), *list_taps(after)]
        dense = Side(after.proto(), after.folder, names, f"the model after pass '{step}'")
        super().__init__(graph, replace(before, path=before.folder / f"before {step}"), dense, limit)

    def _write_message(self, where: str, what: str) -> str:
        return (
            f"pass '{self.step}' says that it changes no output, and the model after it does not give what the model "
            f"before it gave{where}: {what}; nothing was written. Leave the pass out"
        )


def prove_same(step: str, before: Model, graph: DependencyGraph, seed: int = 0, ranges: Ranges | None = None) -> float:
    """The largest error of the model after a pass, by its graph, as a share of the scale of its index.

    Raises VerificationError that names the pass and the first value that differs, or says that nothing could be run.
    """
    try:
        pair = ModelPair(step, graph, before, choose_tolerance(graph))
    except ModelError as e:
        raise VerificationError(f"pass '{step}': the model after it does not run: {e}; nothing was written") from e
    errors: list[float | None] = []
    others = list_proof_sizes(before, count_macs(graph))[:MOST_EXACT_SIZES]
    for k, sizes in enumerate([*list_analysis_sizes(before), *list_analysis_sizes(before), *others]):
        feed = draw_inputs(before, sizes, seed + k, ranges)
        where = ", ".join(f"{n}={size}" for n, size in sizes.items())
        errors.append(pair.compare(feed, f" at {where}" if where else ""))
    if all(e is None for e in errors):
        raise VerificationError(f"pass '{step}': the model before it does not run, so nothing is shown of its edit")
    return max(e for e in errors if e is not None)
