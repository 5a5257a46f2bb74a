"""Channels that are zero under a mean of squares go exactly: the mean is still of all that there were.

    model = keep_statistics(graph, masks)     # before these channels are removed by `rewriting.prune`

With K of D channels left a mean is D/K times as large where the others were zero: behind a mean the factor K/D makes up
for it, and where one operator does all, x / sqrt(E x^2 + e) gain, its gain is sqrt(D/K) times as large and e D/K
(PAT, masked residual channels under RMS norms). Where the mean is subtracted, zeros do not stay zeros.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import helper

from spa_compiler.algebra.expr import Expr
from spa_compiler.algebra.masks import Masks, count_kept, is_cut
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.ir.model import Model
from spa_compiler.operators.site import Site
from spa_compiler.rewriting.node_editor import NodeEditor


def keep_statistics(graph: DependencyGraph, masks: Masks) -> Model | None:
    """A copy of the analysed model that computes the same once the channels that are off in `masks` are gone.

    None where a gain is computed.
    """
    model = graph.model.copy()
    constants = model.constants()
    for site, node in zip(graph.sites, list(model.graph.nodes), strict=True):
        share = math.prod(_find_share(scope.env[n], masks) for scope in site.scopes for n in scope.stats)
        if share == 1:
            continue
        norm, dtype = site.traits.norm, _find_dtype(model, site)
        if norm is None:
            NodeEditor(model, node).divide_output(np.array(1 / share, dtype))
            continue
        gain = constants.get(node.inputs[norm.gain].name)
        if gain is None:
            return None
        larger = np.asarray(model.array(gain)).astype(np.float64) / np.sqrt(share)
        node.attrs["epsilon"] = float(site.attrs.get("epsilon", norm.epsilon)) / share
        node.inputs[norm.gain] = model.new_constant(f"{gain.name}.{node.outputs[0].name}", larger.astype(dtype))
    return model


def _find_share(e: Expr, masks: Masks) -> float:
    """The share of an axis that is left."""
    return count_kept(e, masks) / e.size if is_cut(e, masks) else 1.0


def _find_dtype(model: Model, site: Site) -> Any:
    kind = model.shapes.kind.get(site.x().name, 0) if model.shapes is not None else 0
    return helper.tensor_dtype_to_np_dtype(kind or onnx.TensorProto.FLOAT)


__all__ = ["keep_statistics"]
