"""One node of a model, run on its own by onnxruntime."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from spa_compiler.execution.parallel import map_parallel
from spa_compiler.execution.session import open_quiet_session

Array = NDArray[Any]
Row = dict[str, Array]
"""Values that a node reads in one run, by name."""
SMALL_ARRAY = 64
"""Elements up to which a constant may be an operator's setting, which some kernels want to know before they run."""
PARALLEL_ELEMENTS = 1 << 12
"""Elements that a node reads from which its runs are worth a thread."""


class NodeRunner:
    """Runs single nodes of a model, once for each row of what they read."""

    def __init__(self, opsets: Sequence[onnx.OperatorSetIdProto], ir_version: int) -> None:
        self.opsets, self.version = list(opsets), max(ir_version, 4)

    def run(
        self, node: onnx.NodeProto, rows: Sequence[Row], constants: Collection[str], results: Sequence[str]
    ) -> list[list[Array]]:
        """The node's outputs row by row: those called `results`, and None for the others.

        `constants` are names that have the same value in all rows. Raises what onnxruntime raises.
        """
        if not rows:
            return []
        session = self._open_session(node, rows, constants)  # not kept: its arena would outlive the only run
        wanted = [i.name for i in session.get_inputs()]

        def run_row(row: Row) -> list[Array]:
            got = dict(zip(results, session.run(results, {n: row[n] for n in wanted}), strict=True))
            return [got.get(n) for n in node.output]  # type: ignore[misc]

        is_large = sum(map(_count_elements, rows[0].values())) > PARALLEL_ELEMENTS
        return list(map_parallel(run_row, rows) if is_large else map(run_row, rows))

    def _open_session(
        self, node: onnx.NodeProto, rows: Sequence[Row], constants: Collection[str]
    ) -> ort.InferenceSession:
        stored = {n: a for n, a in rows[0].items() if n in constants and (a.size <= SMALL_ARRAY or a.dtype.kind != "f")}
        inputs = [_declare_input(n, [r[n] for r in rows]) for n in rows[0] if n not in stored]
        outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
        tensors = [onnx.numpy_helper.from_array(np.asarray(a, order="C"), n) for n, a in stored.items()]
        graph = helper.make_graph([node], "node", inputs, outputs, tensors)
        proto = helper.make_model(graph, opset_imports=self.opsets, ir_version=self.version)
        return open_quiet_session(proto.SerializeToString(), level=1, threads=1)


def _count_elements(value: Array | list[Array]) -> int:
    """Elements of an array, or of all arrays of a sequence."""
    return sum(a.size for a in value) if isinstance(value, list) else int(value.size)


def _declare_input(name: str, arrays: list[Array]) -> onnx.ValueInfoProto:
    """An input of any size, also a sequence; of whole numbers (the sizes of a Resize) shape inference asks how many
    there are. Raises LookupError for sequences all of which are empty.
    """  # fmt: skip
    first = arrays[0]
    if isinstance(first, list):
        dtypes = [a.dtype for row in arrays for a in row]
        if not dtypes:
            raise LookupError("sequences without entries tell no type")
        return helper.make_tensor_sequence_value_info(name, helper.np_dtype_to_tensor_dtype(dtypes[0]), None)
    counted = first.ndim == 1 and first.dtype.kind in "iu" and len({a.size for a in arrays}) == 1
    sizes = list(first.shape) if counted else [None] * first.ndim
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(first.dtype), sizes)
