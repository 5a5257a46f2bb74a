"""One node on its own: its outputs for given numbers, and the types of its outputs for given types.

compute_node(proto, values, versions)          # by onnxruntime, or by what gives exactly the same
infer_types(proto, types, versions)       # onnxruntime's inference, for operators of its own: symbols stay symbols
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from spa_compiler.execution.session import open_quiet_session
from spa_compiler.operators.facts import is_exact_in_reference

REPEATED_ELEMENTS, REMEMBERED_RESULTS = 4096, 2048
"""Elements up to which the result of a node is remembered with its operands, and how many results are."""
OLDEST_IR = 4
"""For models of one node: initializers are no inputs, and any runtime reads it."""
Array = NDArray[Any]
Versions = tuple[tuple[str, int], ...]
Operand = tuple[np.dtype[Any], tuple[int, ...], bytes]


def versions_of(imports: Sequence[onnx.OperatorSetIdProto]) -> Versions:
    """Opsets as a key."""
    return tuple((o.domain, o.version) for o in imports)


def compute_node(proto: onnx.NodeProto, operands: Sequence[Array | None], versions: Versions) -> list[Array] | None:
    """The outputs of a node of ONNX whose inputs are these numbers; None where it cannot be run."""
    if proto.domain not in ("", "ai.onnx"):
        return None
    plain = onnx.NodeProto(op_type=proto.op_type, domain=proto.domain, attribute=proto.attribute)
    used: list[Array] = []
    for operand in operands:
        at = next((k for k, u in enumerate(used) if u is operand), None)
        if operand is not None and at is None:
            at = len(used)
            used.append(operand)
        plain.input.append("" if operand is None else f"x{at}")
    plain.output.extend(f"y{k}" if o else "" for k, o in enumerate(proto.output))
    if sum(v.size for v in used) > REPEATED_ELEMENTS:
        return _run_node(plain, versions, used)
    key = plain.SerializeToString(), versions, tuple((v.dtype, v.shape, v.tobytes()) for v in used)
    if key in _results:
        got = _results[key]
    else:
        got = _run_node(plain, versions, used)
        if sum(a.size for a in got or []) > REPEATED_ELEMENTS:
            return got
        if len(_results) >= REMEMBERED_RESULTS:
            _results.clear()
        _results[key] = got
    return [a.copy() for a in got] if got is not None else None


_results: dict[tuple[bytes, Versions, tuple[Operand, ...]], list[Array] | None] = {}
"""Results of nodes: exporters write the same shape arithmetic down in every block."""


def _run_node(proto: onnx.NodeProto, versions: Versions, values: list[Array]) -> list[Array] | None:
    """Run one node, whose inputs are called x0, x1, ..."""
    kinds = [helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for v in values]
    try:
        one = _make_model(proto, dict(zip((f"x{k}" for k in range(len(kinds))), kinds, strict=True)), versions)
        exact = is_exact_in_reference(proto, values)
        evaluator = ReferenceEvaluator(one) if exact else open_quiet_session(one.SerializeToString())
        with np.errstate(all="ignore"):
            got = evaluator.run(None, {f"x{k}": v for k, v in enumerate(values)})
    except Exception:  # neither has all operators for all types; inference is the fallback
        return None
    arrays = [np.asarray(a) for a in got]
    if any(a.dtype.kind not in "biuf" for a in arrays):
        return None
    found = iter(arrays)
    return [next(found) if o else np.zeros(0) for o in proto.output]


def _make_model(proto: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], versions: Versions) -> onnx.ModelProto:
    """A model of one node."""
    inputs = [onnx.ValueInfoProto(name=n, type=t) for n, t in types.items()]
    graph = helper.make_graph([proto], "one", inputs, [onnx.ValueInfoProto(name=o) for o in proto.output if o])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*v) for v in versions], ir_version=OLDEST_IR)


def infer_types(
    proto: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], versions: Versions
) -> dict[str, onnx.TypeProto]:
    """Types of a node's outputs by onnxruntime's own inference; those that it cannot tell are left out."""
    used = dict.fromkeys(n for n in proto.input if n)
    if any(n not in types for n in used):
        return {}
    try:
        session = open_quiet_session(_make_model(proto, {n: types[n] for n in used}, versions).SerializeToString(), 0)
    except Exception:  # another runtime's operator
        return {}
    elements = {n: t.tensor_type.elem_type for n, t in types.items()}
    out = {}
    for found in session.get_outputs():
        kind = ELEMENT_TYPES.get(found.type, next(iter(elements.values()), 0))
        if found.shape:
            out[found.name] = helper.make_tensor_type_proto(kind, found.shape)
    return out


ELEMENT_TYPES = {
    "tensor(float)": onnx.TensorProto.FLOAT, "tensor(float16)": onnx.TensorProto.FLOAT16,
    "tensor(double)": onnx.TensorProto.DOUBLE, "tensor(int64)": onnx.TensorProto.INT64,
    "tensor(int32)": onnx.TensorProto.INT32, "tensor(int8)": onnx.TensorProto.INT8,
    "tensor(uint8)": onnx.TensorProto.UINT8, "tensor(bool)": onnx.TensorProto.BOOL,
    "tensor(bfloat16)": onnx.TensorProto.BFLOAT16,
}  # fmt: skip
"""Element types by their names in onnxruntime."""
