"""Products of a value and a matrix: how a node reads the matrix, in one form whatever the operator.

find_matrix(node)         # of x @ W: Matrix(weight=1, bias=0, is_flipped=False); None for any other node
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Matrix:
    """Slots of the matrix and of what is added (0: nothing); `is_flipped`: the matrix is held as [outputs, inputs]."""

    weight: int
    bias: int
    is_flipped: bool


def find_matrix(node: gs.Node) -> Matrix | None:
    """How a node reads the matrix that it multiplies its first input by; None where it does anything else, too."""
    if node.domain not in (None, "", "ai.onnx") or len(node.inputs) < 2:
        return None
    if node.op == "MatMul":
        return Matrix(1, 0, False)
    plain = all(float(node.attrs.get(n, 1.0)) == 1 for n in ("alpha", "beta"))
    if node.op != "Gemm" or node.attrs.get("transA", 0) or not plain:
        return None
    return Matrix(1, 2 if len(node.inputs) > 2 and node.inputs[2].name else 0, bool(node.attrs.get("transB", 0)))


__all__ = ["Matrix", "find_matrix"]
