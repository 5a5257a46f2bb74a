"""The two models that run side by side."""

from __future__ import annotations

from dataclasses import dataclass

from spa_compiler.algebra.masks import Masks
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.compensation.quantized_weights import (
    READ_TWICE,
    STORED,
    Grid,
    explain_quantized,
    find_grid,
    list_quantizing,
)
from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.operators.site import Value
from spa_compiler.rewriting.prune import slice_array


@dataclass(frozen=True)
class ModelPair:
    """The dense and the compiled model while both run node by node, and the plan that makes one of the other."""

    graph: DependencyGraph
    masks: Masks
    dense: Walk
    compiled: Walk

    def slice_chunks(self, value: Value, chunks: Chunks) -> Chunks:
        """A value of the dense model on the channels that stay."""
        return [slice_array(self.graph, value, c, self.masks) for c in chunks]

    def explain_fixed(self, weight: str) -> str:
        """Why a weight must stay as it is, or ''."""
        if self.is_shared(weight):
            return READ_TWICE
        if chain := list_quantizing(self.compiled, weight):
            return explain_quantized(chain)
        return STORED if self.compiled.constants[weight].dtype.kind != "f" else ""

    def find_grid(self, weight: str) -> Grid | str | None:
        """The grid of a weight that nothing else reads, None where it has none, or why it has to stay as it is."""
        if chain := list_quantizing(self.compiled, weight):
            return READ_TWICE if self.is_shared(weight) else find_grid(self.compiled, chain)
        return self.explain_fixed(weight) or None

    def is_shared(self, weight: str) -> bool:
        """Is a weight read more than once?"""
        return len(self.compiled.liveness.readers[weight]) > 1
