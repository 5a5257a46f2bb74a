"""A smaller case that fails in the same way: fewer options, fewer nodes, fewer outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import onnx

from tools.fuzz.cases import MODEL, Case

Fails = Callable[[Case], bool]
PLUMBING = {
    "Shape",
    "Gather",
    "Constant",
    "Unsqueeze",
    "Squeeze",
    "Concat",
    "Identity",
    "Slice",
    "Cast",
    "Add",
    "Mul",
    "Relu",
    "MatMul",
    "Transpose",
}
"""Operators that are in nearly every graph, and left out where kinds are told apart."""


def minimise(case: Case, fails: Fails, attempts: int) -> Case:
    """The smallest case that was found with so many runs."""
    left = attempts
    shrunk = True
    while shrunk and left > 0:
        shrunk = False
        for smaller in (*drop_options(case), *drop_nodes(case)):
            if left <= 0:
                break
            left -= 1
            if fails(smaller):
                case, shrunk = smaller, True
                break
    return case


def drop_options(case: Case) -> Iterator[Case]:
    """The case without one of its options."""
    starts = [k for k, w in enumerate(case.argv) if w.startswith("-") and not w[1:2].isdigit()]
    for a, b in zip(starts, [*starts[1:], len(case.argv)], strict=True):
        if case.argv[a] not in (
            "-o",
            "--threads",
            "--save-plan",
            "-v",
            "--criterion",
            "--no-latency",
            "--no-quality",
            "--ratio",
            "--align",
        ):
            yield dataclasses.replace(case, argv=case.argv[:a] + case.argv[b:])


def drop_nodes(case: Case) -> Iterator[Case]:
    """The case with one node taken out, its input in place of its output; or with an output less."""
    if case.kind in ("bytes", "hostile", "zoo"):
        return
    try:
        model = onnx.ModelProto.FromString(case.files[MODEL])
    except Exception:  # protobuf's own error has moved between modules
        return
    if len(model.graph.output) > 1:
        for k in range(len(model.graph.output)):
            copy = onnx.ModelProto.FromString(case.files[MODEL])
            del copy.graph.output[k]
            yield replace_model(case, copy)
    for k in reversed(range(len(model.graph.node))):
        node = model.graph.node[k]
        if node.op_type == "Constant" or not node.input or len(node.output) != 1:
            continue
        for source in [i for i in node.input if i][:2]:
            copy = onnx.ModelProto.FromString(case.files[MODEL])
            del copy.graph.node[k]
            old = node.output[0]
            if any(o.name == old for o in copy.graph.output):
                continue
            for n in copy.graph.node:
                n.input[:] = [source if i == old else i for i in n.input]
            yield replace_model(case, copy)


def replace_model(case: Case, model: onnx.ModelProto) -> Case:
    """The case with another model, of which what nothing reads is gone."""
    remove_unread(model.graph)
    return dataclasses.replace(case, files={**case.files, MODEL: model.SerializeToString()})


def list_reads(graph: onnx.GraphProto) -> set[str]:
    """Values that nodes read, in bodies too."""
    out = {o.name for o in graph.output}
    for n in graph.node:
        out |= set(n.input)
        for a in n.attribute:
            for g in [a.g, *a.graphs]:
                out |= list_reads(g)
    return out


def remove_unread(graph: onnx.GraphProto) -> None:
    """Take out nodes and constants that nothing reads."""
    while True:
        read = list_reads(graph)
        dead = [n for n in graph.node if not any(o in read for o in n.output)]
        if not dead:
            break
        for n in dead:
            graph.node.remove(n)
    for t in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(t)


def name_operators(case: Case) -> str:
    """The operators of a model but for those that are everywhere."""
    try:
        model = onnx.ModelProto.FromString(case.files[MODEL])
    except Exception:  # as above
        return ""
    return " ".join(sorted({n.op_type for n in model.graph.node} - PLUMBING))
