"""Sizes of every value, by partial evaluation under two bindings of the symbols.

Each symbolic input axis is bound twice, to two different sizes. Node by node, onnx's own inference gives types, and
whatever depends on shapes and constants only is evaluated. What is equal under both bindings does not depend on a
symbol: it is a constant (head counts, windows, sqrt(d)) and is folded; an axis that differs is dynamic. This replaces
the shape arithmetic of every exporter without one rule per operator, and takes about 0.1 ms a node.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from spa_compiler.errors import ModelError
from spa_compiler.facts import Facts
from spa_compiler.flow import Flow
from spa_compiler.model import Model, Shapes, element_type
from spa_compiler.nesting import chains, is_marker
from spa_compiler.subgraphs import subgraphs
from spa_compiler.symbols import input_sizes, input_types, symbols

SMALL = 1 << 16
"""Elements up to which a value is evaluated: shape arithmetic, tables and masks, not weights."""
RUN_LIMIT = 1 << 26
"""Elements of one input up to which a node is run on its own, to see the shape of what it makes."""
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
KEPT = RANDOM | {"QuantizeLinear", "DequantizeLinear", "Dropout"}  # never folded: chance, or the storage format
BY_DATA = {"NonZero", "NonMaxSuppression", "Compress", "Unique"}
"""What these find depends on data: how much, only a run of the whole model shows."""
SLOW = {"GatherND", "ScatterND", "ScatterElements", "GatherElements"}
"""What onnx's reference implementation does number by number, in Python, and a runtime exactly the same."""
LEVELS = (
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
)
OLDEST_IR = 4
"""For models of one node: initializers are no inputs, and any runtime reads it."""
REPEATED, REMEMBERED = 4096, 2048
"""Elements up to which the result of a node is remembered with its operands, and how many results are."""
Array = NDArray[Any]
Versions = tuple[tuple[str, int], ...]
Operand = tuple[np.dtype[Any], tuple[int, ...], bytes]


def evaluate(model: Model, sizes: dict[str, int], base: Facts | None = None) -> Facts:
    """One pass over the nodes: types, and the values that depend on shapes and constants only.

    `base`: facts of the same model under another binding, or before a rewrite. What is the same there is not done
    again.
    """
    facts = Facts(declared=_declared(model, sizes), base=base)
    for name, t in [*input_types(model, sizes).items(), *((n, d.info.type) for n, d in model.defaults.items())]:
        facts.type_is(name, t)
    for name, tensor in model.constants().items():
        if facts.same_constant(name, tensor._values):
            continue
        kind = element_type(tensor)
        facts.types[name] = helper.make_tensor_type_proto(kind, list(tensor.shape))
        if int(np.prod(tensor.shape, dtype=np.int64)) <= SMALL and kind != onnx.TensorProto.STRING:
            facts.values[name] = model.array(tensor)
    imports = list(model.header.opset_import)
    flow = Flow(facts.types, facts.values, facts.why)
    for node in model.graph.nodes:
        errors = len(facts.errors)
        if not flow.step(node):
            _step(model, node, facts, imports)
        if flow.tentative:
            facts.doubts += facts.errors[errors:] if flow.possible else []
            del facts.errors[errors:]
    return facts.release()


def _declared(model: Model, sizes: dict[str, int]) -> dict[str, onnx.TypeProto]:
    """The types that the file records for inner values, with symbols replaced by sizes; unknown sizes stay open."""
    out = {}
    for vi in (*model.header.graph.value_info, *model.header.graph.output):
        if vi.type.HasField("tensor_type"):
            out[vi.name] = onnx.TypeProto.FromString(vi.type.SerializeToString())
            for d in out[vi.name].tensor_type.shape.dim:
                if d.dim_param in sizes:
                    d.dim_value = sizes[d.dim_param]
    return out


def _step(model: Model, node: gs.Node, facts: Facts, imports: list[onnx.OperatorSetIdProto]) -> None:
    names = [t.name for t in node.inputs]
    proto = model.origin.get(node.outputs[0].name) if node.outputs else None
    if proto is None or proto.op_type != node.op or list(proto.input) != names:
        proto = OnnxExporter.export_node(node)
    if facts.repeat(proto, names):
        return
    wrong = len(facts.errors) + len(facts.doubts)
    if not _given(node, proto, names, facts, imports) and not _infer(model, proto, names, facts, imports):
        return
    if proto.output and len(facts.errors) + len(facts.doubts) == wrong:
        facts.settled[proto.output[0]] = proto


def _given(
    node: gs.Node, proto: onnx.NodeProto, names: list[str], facts: Facts, imports: list[onnx.OperatorSetIdProto]
) -> bool:
    """The outputs of a node that depend on shapes and constants only; False for any other."""
    if node.op == "Shape" and (shape := facts.shape(names[0])) is not None:
        start, end = node.attrs.get("start", 0), node.attrs.get("end")
        _know(facts, [t.name for t in node.outputs], [np.array(shape[start:end], np.int64)])
        return True
    known = bool(names) and all(not n or n in facts.values for n in names) and node.op not in KEPT
    if known and not any(isinstance(a, gs.Graph) for a in node.attrs.values()):
        got = _compute(proto, names, facts, imports)
        if got is not None:
            _know(facts, [t.name for t in node.outputs], got)
            return True
    return False


def _know(facts: Facts, names: list[str], values: list[Array]) -> None:
    for name, value in zip(names, values, strict=False):
        if name:
            facts.value_is(name, value, SMALL)


def _compute(
    proto: onnx.NodeProto, names: list[str], facts: Facts, imports: list[onnx.OperatorSetIdProto]
) -> list[Array] | None:
    """The outputs of a node whose inputs are known, by onnx's reference implementation; None where it has none."""
    used = list(dict.fromkeys(n for n in names if n))
    growing = proto.op_type in ("ConstantOfShape", "Expand", "Tile", "Range")
    if proto.domain not in ("", "ai.onnx") or (growing and _is_large(proto, facts)):
        return None
    plain = onnx.NodeProto(op_type=proto.op_type, domain=proto.domain, attribute=proto.attribute)
    plain.input.extend(f"x{used.index(n)}" if n else "" for n in names)
    plain.output.extend(f"y{k}" if o else "" for k, o in enumerate(proto.output))
    versions = tuple((o.domain, o.version) for o in imports)
    values = [facts.values[n] for n in used]
    if sum(v.size for v in values) > REPEATED:
        return _evaluated(plain, versions, values)
    key = plain.SerializeToString(), versions, tuple((v.dtype, v.shape, v.tobytes()) for v in values)
    if key not in _results:
        got = _evaluated(plain, versions, values)
        if sum(a.size for a in got or []) > REPEATED:
            return got
        if len(_results) >= REMEMBERED:
            _results.clear()
        _results[key] = got
    return [a.copy() for a in found] if (found := _results[key]) is not None else None


_results: dict[tuple[bytes, Versions, tuple[Operand, ...]], list[Array] | None] = {}
"""What nodes gave: exporters write the same shape arithmetic down in every block."""


def _evaluated(proto: onnx.NodeProto, versions: Versions, values: list[Array]) -> list[Array] | None:
    """Run one node, whose inputs are called x0, x1, ..., with onnx's reference implementation (SLOW: a runtime)."""
    kinds = [helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for v in values]
    inputs = [onnx.ValueInfoProto(name=f"x{k}", type=t) for k, t in enumerate(kinds)]
    graph = helper.make_graph([proto], "one", inputs, [onnx.ValueInfoProto(name=o) for o in proto.output if o])
    try:
        imports = [helper.make_opsetid(*v) for v in versions]
        one = helper.make_model(graph, opset_imports=imports, ir_version=OLDEST_IR)
        slow = proto.op_type in SLOW and sum(v.size for v in values) > REPEATED
        evaluator = quiet_session(one.SerializeToString()) if slow else ReferenceEvaluator(one)
        with np.errstate(all="ignore"):
            got = evaluator.run(None, {f"x{k}": v for k, v in enumerate(values)})
    except Exception:  # the reference implementation is not complete; inference is the fallback
        return None
    arrays = [np.asarray(a) for a in got]
    if any(a.dtype.kind not in "biuf" for a in arrays):
        return None
    found = iter(arrays)
    return [next(found) if o else np.zeros(0) for o in proto.output]


def _is_large(proto: onnx.NodeProto, facts: Facts) -> bool:
    """Would the node make something big out of something small? Sizes are checked before memory is taken."""
    values = [facts.values[n] for n in proto.input if n]
    if proto.op_type == "Range":
        start, limit, delta = (float(v.ravel()[0]) for v in values)
        return delta == 0 or abs(limit - start) / abs(delta) > SMALL
    sizes = values[0 if proto.op_type == "ConstantOfShape" else 1]
    grown = float(np.prod(np.maximum(sizes.astype(float), 0)))
    return grown * (values[0].size if proto.op_type == "Tile" else 1) > SMALL


def _infer(
    model: Model, proto: onnx.NodeProto, names: list[str], facts: Facts, imports: list[onnx.OperatorSetIdProto]
) -> bool:
    """Types by onnx's inference; whether they follow from the node and its inputs alone."""
    by_schema = True
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    types = {n: facts.types[n] for n in names if n in facts.types}
    small = [n for n in names if n in facts.values and facts.values[n].size <= 4096]
    data = {n: numpy_helper.from_array(facts.values[n]) for n in small}
    try:
        schema = onnx.defs.get_schema(proto.op_type, model.opset.get(domain, 1), domain)
        got = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=imports, ir_version=model.header.ir_version
        )
    except onnx.shape_inference.InferenceError as e:
        facts.errors.append(f"{proto.op_type} '{proto.name or proto.output[0]}': {e}")
        return False
    except Exception:  # no schema: another domain, or an operator that ONNX has given up
        by_schema = False
        got = {o: facts.declared[o] for o in proto.output if o in facts.declared}
    for name, t in (got or {}).items():
        if name and t.tensor_type.elem_type:
            facts.type_is(name, t)
            dims = t.tensor_type.shape.dim
            if any(d.HasField("dim_value") and d.dim_value <= 0 for d in dims):
                facts.doubts.append(f"'{name}' of {proto.op_type} '{proto.name}' would be empty")
    if any(o and facts.shape(o) is None for o in proto.output) and not subgraphs(proto):
        _observe(model, proto, names, facts, imports)
    if proto.op_type == "Reshape":
        _check_reshape(proto, facts)
    return by_schema


def _observe(
    model: Model, proto: onnx.NodeProto, names: list[str], facts: Facts, imports: list[onnx.OperatorSetIdProto]
) -> None:
    """Shapes that inference cannot tell are read off two runs of this node alone, if they agree."""
    used = list(dict.fromkeys(n for n in names if n))
    if any((s := facts.shape(n)) is None or math.prod(s) > RUN_LIMIT for n in used):
        return
    if proto.op_type in BY_DATA:
        return
    inputs = [onnx.ValueInfoProto(name=n, type=facts.types[n]) for n in used]
    outputs = [o for o in proto.output if o]
    graph = helper.make_graph([proto], "one", inputs, [onnx.ValueInfoProto(name=o) for o in outputs])
    one = helper.make_model(graph, opset_imports=imports, ir_version=max(model.header.ir_version, 4))
    known = {n: facts.values[n] for n in used if n in facts.values}
    made_up = [{n: _filled(facts.types[n], k + side) for k, n in enumerate(used, 1)} for side in (0, 1)]
    try:
        session = quiet_session(one.SerializeToString())
        runs = [session.run(None, {**feed, **known}) for feed in (made_up if len(known) < len(used) else made_up[:1])]
    except Exception:  # the whole model is asked later, and says what is wrong
        return
    for name, *got in zip(outputs, *runs, strict=True):
        shapes = {a.shape if isinstance(a, np.ndarray) and a.dtype.kind in "biuf" else None for a in got}
        if len(shapes) == 1 and None not in shapes:  # else it depends on what was made up
            kind = helper.np_dtype_to_tensor_dtype(got[0].dtype)
            facts.type_is(name, helper.make_tensor_type_proto(kind, got[0].shape))


def _filled(t: onnx.TypeProto, number: int) -> Array:
    shape = [d.dim_value for d in t.tensor_type.shape.dim]
    return np.full(shape, number, helper.tensor_dtype_to_np_dtype(t.tensor_type.elem_type))


def random_array(t: onnx.TypeProto, rng: np.random.Generator, limit: int = 2) -> Array:
    """A normal (or below `limit`, for integers) array of a static tensor type."""
    shape = [d.dim_value for d in t.tensor_type.shape.dim]
    if math.prod(shape) > 1 << 31:
        raise ModelError(f"an input of shape {shape} is too large to be made up")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(t.tensor_type.elem_type))
    if dtype.kind in "iub":
        return np.asarray(rng.integers(0, 2 if dtype.kind == "b" else max(limit, 1), shape)).astype(dtype)
    return np.asarray(rng.normal(size=shape)).astype(dtype)


def quiet_session(
    source: bytes | str, level: int = 1, threads: int = 1, folder: str = "", exact: bool = False
) -> ort.InferenceSession:
    """A CPU session that prints nothing; `level` 0 to 3 is how much onnxruntime may optimise.

    `exact`: products of integers do not overflow, which those of signed weights do on some processors (from level 2).
    """
    options = ort.SessionOptions()
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[level]
    if folder:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _check_reshape(proto: onnx.NodeProto, facts: Facts) -> None:
    """Shape inference accepts a Reshape whose sizes do not fit: exporters write batch 1 under a symbolic N."""
    x, y = facts.shape(proto.input[0]), facts.shape(proto.output[0])
    if x is not None and y is not None and np.prod(x, dtype=np.int64) != np.prod(y, dtype=np.int64):
        facts.errors.append(f"Reshape '{proto.name or proto.output[0]}' cannot make {list(y)} of {list(x)}")


def recorded(model: Model, first: Facts, second: Facts, sizes: dict[str, tuple[int, int]]) -> Shapes:
    """Shapes of every value that has a rank and sizes under both bindings, and which axes differ."""
    shape: dict[str, tuple[int, ...]] = {}
    dynamic: dict[str, tuple[bool, ...]] = {}
    for name, tensor in model.constants().items():
        shape[name], dynamic[name] = tuple(tensor.shape), (False,) * len(tensor.shape)
    for name in first.types:
        a = b = first.shape(name)
        if first.types[name] is not second.types.get(name):
            b = second.shape(name)
        if a is not None and b is not None and len(a) == len(b):
            shape[name] = a
            dynamic[name] = tuple(x != y for x, y in zip(a, b, strict=True))
    kinds = {n: t.tensor_type.elem_type for n, t in first.types.items()}
    return Shapes(shape, dynamic, sizes, kinds, {**second.why, **first.why})


def missing(model: Model, facts: Facts) -> list[str]:
    """Values of the main graph that have no static shape: onnxruntime is asked for these."""
    nodes = model.graph.nodes
    outside = [n for n, chain in zip(nodes, chains(nodes), strict=True) if not chain and not is_marker(n)]
    return [t.name for n in outside for t in n.outputs if t.name and facts.shape(t.name) is None]


def completed(facts: Facts, arrays: dict[str, Array]) -> Facts:
    """Facts with the shapes of values that were read off one run."""
    types = dict(facts.types)
    for name, a in arrays.items():
        types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
    return replace(facts, types=types)


__all__ = ["Facts", "completed", "evaluate", "input_sizes", "input_types", "missing", "quiet_session", "random_array"]
__all__ += ["recorded", "symbols"]
