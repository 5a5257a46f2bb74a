"""Processor time of reading, normalising and analysing models as they grow: `python -m tools.measure.linearity`.

Prints the table of docs/linearity.md. Each kind of model is made in several sizes; time over size is what should not
grow.
"""

from __future__ import annotations

import gc
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import spa_compiler
from spa_compiler.analysis.dependency_graph import analyze
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.ir.reader import from_proto

WIDTH = 8
RNG = np.random.default_rng(0)
HEAD = """# Time of the analysis

Processor time of `normalize` and `analyze`, and of a whole `compile` by `l2`, as models grow, by
`python -m tools.measure.linearity > docs/linearity.md` (`--large`: ten times the sizes besides). Time for each
node (or member) should not grow with their number.

| model | size | normalize, s | analyze, s | both, ms for each of the size | groups | compile, s | ms for each |
|---|---|---|---|---|---|---|---|"""


def make_model(nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.generic]]) -> onnx.ModelProto:
    """A model from x [N, WIDTH] to y [N, WIDTH]."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", WIDTH]) for n in ("x", "y"))
    tensors = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, "grown", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def fill(*shape: int) -> NDArray[np.float32]:
    """Weights, no two alike."""
    return RNG.uniform(0.05, 0.2, shape).astype(np.float32)


def make_chain(size: int) -> onnx.ModelProto:
    """One group with as many members as nodes."""
    names = ["x", *(f"v{k}" for k in range(size - 1)), "y"]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names[1:-1])]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["v0"]),
        *nodes,
        helper.make_node("MatMul", [names[-2], "o"], ["y"]),
    ]
    return make_model(nodes, {"w": fill(WIDTH, WIDTH), "o": fill(WIDTH, WIDTH)})


def make_layers(size: int) -> onnx.ModelProto:
    """A group for every second node."""
    half = size // 2
    names = ["x", *(f"r{k}" for k in range(half - 1)), "y"]
    nodes = []
    for k in range(half):
        nodes.append(helper.make_node("MatMul", [names[k], f"w{k}"], [f"a{k}"]))
        nodes.append(helper.make_node("Relu", [f"a{k}"], [names[k + 1]]))
    return make_model(nodes, {f"w{k}": fill(WIDTH, WIDTH) for k in range(half)})


def make_concat(size: int) -> onnx.ModelProto:
    """An axis that so many groups make up."""
    nodes = [helper.make_node("MatMul", ["x", f"w{k}"], [f"a{k}"]) for k in range(size)]
    nodes.append(helper.make_node("Concat", [f"a{k}" for k in range(size)], ["c"], axis=1))
    nodes.append(helper.make_node("MatMul", ["c", "o"], ["y"]))
    return make_model(nodes, {f"w{k}": fill(WIDTH, 4) for k in range(size)} | {"o": fill(4 * size, WIDTH)})


def make_split(size: int) -> onnx.ModelProto:
    """An axis that is cut into so many parts."""
    parts = [f"p{k}" for k in range(size)]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Split", ["a", "sizes"], parts, axis=1),
        helper.make_node("Sum", parts, ["t"]),
        helper.make_node("MatMul", ["t", "o"], ["y"]),
    ]
    sizes = np.full(size, 2, np.int64)
    return make_model(nodes, {"w": fill(WIDTH, 2 * size), "o": fill(2, WIDTH), "sizes": sizes})


KINDS: dict[str, tuple[Callable[[int], onnx.ModelProto], tuple[int, ...]]] = {
    "nodes and members of one group": (make_chain, (1_000, 3_000, 10_000)),
    "nodes, a group for every second": (make_layers, (1_000, 3_000, 10_000)),
    "MatMuls into one Concat": (make_concat, (312, 1_250)),
    "parts of one Split": (make_split, (512, 2_048)),
}
"""How a kind of model is made, and the sizes that are measured."""


def measure(make: Callable[[int], onnx.ModelProto], size: int) -> tuple[float, float, int, float]:
    """Seconds of processor time of `normalize` and `analyze`, the number of groups, and seconds of a whole compile."""
    proto = make(size)
    gc.collect()
    start = time.process_time()
    model, _ = normalize(from_proto(proto, Path("grown.onnx")))
    between = time.process_time()
    graph = analyze(model)
    seconds = time.process_time() - between
    start_whole = time.process_time()
    spa_compiler.compile(proto, ratio=0.3, criterion="l2", latency=False, allow_unproven=True)
    return between - start, seconds, len(graph.groups), time.process_time() - start_whole


def main() -> None:
    """Print the table."""
    print(HEAD)
    for kind, (make, sizes) in KINDS.items():
        for size in (*sizes, *([10 * sizes[-1]] if "--large" in sys.argv else [])):
            first, second, groups, whole = measure(make, size)
            each, more = 1e3 * (first + second) / size, 1e3 * whole / size
            told = f"{first:.2f} | {second:.2f} | {each:.2f} | {groups:,} | {whole:.1f} | {more:.1f}"
            print(f"| {kind} | {size:,} | {told} |", flush=True)


if __name__ == "__main__":
    main()
