"""The outputs that a proof compares, and decisions: operators whose result jumps where two numbers are nearly equal.

    names = list_compared(graph)                              # outputs, and what detections are chosen from
    given = list_decisions(graph)                               # what decisions give
    proto = replay_decisions(model.proto(), {name: array})    # the model that takes these as inputs instead of deciding

Rounding may exchange two detections whose scores are nearly equal, and then nothing that follows agrees; a number that
lies between two steps of a quantisation may become either. What decides is compared, and what follows is compared after
decisions that were taken once: the same proof, link by link.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra.expr import is_frozen
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.ir.model import Model
from spa_compiler.operators import tables
from spa_compiler.operators.traits import Traits


def list_taps(model: Model) -> list[str]:
    """Per graph output the value to compare: the output, or what comes before a final squashing function."""
    out = []
    for tensor in model.graph.outputs:
        at = tensor
        while at.inputs and find_traits(at.inputs[0]).reorders:
            at = at.inputs[0].inputs[0]
        squashed = at.inputs and find_traits(at.inputs[0]).squashes and at.inputs[0].inputs[0].inputs
        out.append(at.inputs[0].inputs[0].name if squashed else tensor.name)
    return list(dict.fromkeys(out))


def find_traits(node: gs.Node) -> Traits:
    """The traits of a node's operator."""
    return tables.find_rule(node.domain or "", node.op) or tables.NO_ROW


def list_compared(graph: DependencyGraph, later: bool = False) -> list[str]:
    """The taps, and what detections are chosen from: a threshold may leave none of them to compare.

    `later`: also what is chosen from after an earlier choice, which is the same only if that one was, and what is
    quantised: of these a plan keeps some (`prune.find_kept`).
    """
    chosen: set[str] = set()
    found = []
    for node, site in zip(graph.model.graph.nodes, graph.sites, strict=True):
        if site.path:  # what a body decides is compared by what the model gives
            continue
        after = any(t.name in chosen for t in node.inputs)
        if site.traits.decides == "choice":
            found += [t.name for t in node.inputs if t.inputs and (later or t.name not in chosen)]
        if after or site.traits.decides == "choice":
            chosen |= {t.name for t in node.outputs}
    fixed = [n for n in found if _has_fixed_shape(graph, n)]
    steps = [n.inputs[0].name for n in _find_steps(graph)] if later else []
    return list(dict.fromkeys([*list_taps(graph.model), *fixed, *steps]))


def list_decisions(graph: DependencyGraph) -> list[str]:
    """Outputs of decisions outside of bodies: choices whose shape no plan can change, and steps."""
    outputs = {t.name for t in graph.model.graph.outputs}
    pairs = zip(graph.model.graph.nodes, graph.sites, strict=True)
    nodes = [n for n, s in pairs if s.traits.decides == "choice" and not s.path]
    kept = [
        n for n in nodes if all(_has_fixed_shape(graph, t.name) and t.name not in outputs for t in n.outputs if t.name)
    ]
    return [t.name for n in [*kept, *_find_steps(graph)] for t in n.outputs if t.name]


def _find_steps(graph: DependencyGraph) -> list[gs.Node]:
    """Nodes outside of bodies that quantise what other nodes made, where that and what they give have known axes.

    They decide for every number on its own: channels that a plan removes have no part in it.
    """
    left = {t.name for t in graph.model.graph.outputs}
    found = []
    for node, site in zip(graph.model.graph.nodes, graph.sites, strict=True):
        names = {t.name for t in node.outputs if t.name}
        if site.traits.decides == "step" and not site.path and node.inputs[0].inputs and not names & left:
            known = {node.inputs[0].name, *names} <= graph.values.keys()
            found += [node] if known else []
    return found


def _has_fixed_shape(graph: DependencyGraph, name: str) -> bool:
    return name in graph.values and all(is_frozen(a) for a in graph.values[name].axes)


def replay_decisions(proto: onnx.ModelProto, given: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """The model that takes these values as inputs; the nodes that give them are gone. The proto is changed in place."""
    left = [n for n in proto.graph.node if not any(o in given for o in n.output)]
    del proto.graph.node[:]
    proto.graph.node.extend(left)
    for name, array in given.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, [None] * array.ndim))
    known = [v for v in proto.graph.value_info if v.name not in given]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(known)
    return proto
