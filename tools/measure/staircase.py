"""Measure how the time of a chain of convolutions depends on its width: the staircase behind `--align auto`.

    python -m tools.measure.staircase --side 28 --widths 64,62,60,56,48,40,32

Six equal operators in a row, one thread, median of `--runs`; relative to the first width.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from spa_compiler.execution.session import open_quiet_session
from spa_compiler.planning.device import find_host

DEPTH = 6


def chain(kind: str, width: int, side: int) -> bytes:
    """A model of DEPTH operators from `width` to `width` channels."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for k in range(DEPTH):
        kernel = (
            (width, width, 3, 3) if kind == "conv3" else (width, width, 1, 1) if kind == "conv1" else (width, width)
        )
        values = (rng.normal(size=kernel) / width**0.5 / 3).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{k}"))
        pads = {"pads": [1, 1, 1, 1]} if kind == "conv3" else {}
        op = "MatMul" if kind == "matmul" else "Conv"
        nodes.append(helper.make_node(op, [f"x{k}", f"w{k}"], [f"x{k + 1}"], **pads))
    shape = [side * side, width] if kind == "matmul" else [1, width, side, side]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x0", f"x{DEPTH}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def median_ms(source: bytes, shape: list[int], runs: int) -> float:
    """Median milliseconds of one run, one thread."""
    session = open_quiet_session(source, 3, threads=1)
    feed = {"x0": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    times = []
    for _ in range(runs + 3):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times[3:]))


def main() -> None:
    """Print one row a kind and width."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--widths", default="64,62,60,56,50,48,40,36,33,32")
    parser.add_argument("--kinds", default="conv3,conv1,matmul")
    parser.add_argument("--runs", type=int, default=60)
    given = parser.parse_args()
    widths = [int(w) for w in given.widths.split(",")]
    print(f"convolution block of this machine: {find_host().convolution}")
    print("| operator | " + " | ".join(map(str, widths)) + " |\n|" + "---|" * (len(widths) + 1))
    for kind in given.kinds.split(","):
        row = []
        for w in widths:
            shape = [given.side**2, w] if kind == "matmul" else [1, w, given.side, given.side]
            row.append(median_ms(chain(kind, w, given.side), shape, given.runs))
        print(f"| {kind} | " + " | ".join(f"{t / row[0]:.2f}" for t in row) + " |")


if __name__ == "__main__":
    main()
