"""The two models that run side by side."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from spa_compiler.algebra.masks import Masks
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.interpreter.chunks import Chunks
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.operators.site import Value
from spa_compiler.operators.tables import find_traits
from spa_compiler.rewriting.prune import slice_array


@dataclass(frozen=True)
class ModelPair:
    """The dense and the compiled model while both run node by node, and the plan that makes one of the other."""

    graph: DependencyGraph
    masks: Masks
    dense: Walk
    compiled: Walk

    @functools.cached_property
    def dequantized_weights(self) -> frozenset[str]:
        """Weights that are stored as integers."""
        return frozenset(n for node in self.compiled.nodes if find_traits(node).dequantizes for n in node.output)

    def slice_chunks(self, value: Value, chunks: Chunks) -> Chunks:
        """A value of the dense model on the channels that stay."""
        return [slice_array(self.graph, value, c, self.masks) for c in chunks]

    def explain_fixed(self, weight: str) -> str:
        """Why a weight must stay as it is, or ''."""
        if len(self.compiled.liveness.readers[weight]) > 1:
            return "its weight is read elsewhere, too"
        if weight in self.dequantized_weights or self.compiled.constants[weight].dtype.kind != "f":
            return "its weight is stored as integers"
        return ""
