"""Sizes of every value, by partial evaluation under a binding of the symbols.

Each symbolic input axis is bound to a size. Node by node, onnx's own inference gives types, and whatever depends on
shapes and constants only is evaluated; it takes about 0.1 ms a node. Numbers under one binding show the structure of a
model. What holds for every binding (what may be folded, which axes follow a symbol) is told by `every_binding`, which
does the same with sizes in place of numbers: `generalize`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from spa_compiler.algebra.sizes import Size, compute_value, make_unknown_size, parse_size
from spa_compiler.execution.session import open_quiet_session
from spa_compiler.execution.single_node import compute_node, infer_types, versions_of
from spa_compiler.ir.control_flow import find_chains, is_control, is_marker
from spa_compiler.ir.memory import check_bytes
from spa_compiler.ir.model import Model, Shapes, find_element_type
from spa_compiler.ir.subgraphs import list_subgraphs
from spa_compiler.ir.symbols import Ties, find_input_axes, is_telling, make_input_types, substitute
from spa_compiler.operators import build
from spa_compiler.operators.facts import KEEPS_ENTRIES, SHAPED_BY_VALUE, SIZED_BY_DATA, UNFOLDED, can_grow
from spa_compiler.operators.shape_uses import find_shaping_defaults
from spa_compiler.shape_inference.control_flow import Flow
from spa_compiler.shape_inference.environment import Facts, Shape, find_static_shape
from spa_compiler.shape_inference.every_binding import ByNode, General, GeneralPass, evaluate_general

SMALL_VALUE = 1 << 16
"""Elements up to which a value is evaluated: shape arithmetic, tables and masks, not weights."""
KNOWN_ENTRIES = 64
"""Entries up to which an operand is followed one by one: bounds, pads and shapes."""
RUN_ELEMENTS = 1 << 26
"""Elements of one input up to which a node is run on its own, to see the shape of what it makes."""
Array = NDArray[Any]


def evaluate(model: Model, sizes: dict[str, int], base: Facts | None = None) -> Facts:
    """One pass over the nodes: types, and the values that depend on shapes and constants only.

    `base`: facts of the same model under another binding, or before a rewrite. What is the same there is not done
    again.
    """
    facts = Facts(declared=_read_declared(model, sizes), base=base)
    _record_inputs(model, sizes, facts)
    for name, tensor in model.constants().items():
        if facts.take_constant(name, tensor._values):
            continue
        kind = find_element_type(tensor)
        facts.types[name] = helper.make_tensor_type_proto(kind, list(tensor.shape))
        if int(np.prod(tensor.shape, dtype=np.int64)) <= SMALL_VALUE and kind != onnx.TensorProto.STRING:
            facts.values[name] = model.array(tensor)
    imports = list(model.header.opset_import)
    flow = Flow(facts.types, facts.values, facts.why)
    for node in model.graph.nodes:
        errors = len(facts.errors)
        if not flow.step(node):
            _visit_node(model, node, facts, imports)
        elif is_control(node):  # rounds that are stacked
            for t in (t for t in node.outputs if t.name in facts.types):
                _check_size(model, f"{node.op} '{node.name}' makes '{t.name}'", facts.types[t.name])
        if flow.is_tentative:
            facts.warnings += facts.errors[errors:] if flow.is_possible else []
            del facts.errors[errors:]
    return facts.release()


def _record_inputs(model: Model, sizes: dict[str, int], facts: Facts) -> None:
    """Record the types of graph inputs. Axes, bounds, counts and scales that have a default are what it is."""
    for name, t in [*make_input_types(model, sizes).items(), *((n, d.info.type) for n, d in model.defaults.items())]:
        _check_size(model, f"there is an input '{name}'", t)
        facts.record_type(name, t)
    for name, value in model.default_numbers(SMALL_VALUE, find_shaping_defaults(model)).items():
        facts.record_value(name, value, SMALL_VALUE)


def _read_declared(model: Model, sizes: dict[str, int]) -> dict[str, onnx.TypeProto]:
    """The types that the file records for inner values, with symbols replaced by sizes; unknown sizes stay open."""
    out = {}
    for vi in (*model.header.graph.value_info, *model.header.graph.output):
        if vi.type.HasField("tensor_type"):
            out[vi.name] = onnx.TypeProto.FromString(vi.type.SerializeToString())
            for d in out[vi.name].tensor_type.shape.dim:
                number = compute_value(parse_size(d.dim_param), sizes) if is_telling(d.dim_param) else None
                if number is not None:
                    d.dim_value = number
    return out


def proto_of(model: Model, node: gs.Node) -> onnx.NodeProto:
    """A node as protobuf: as it was read where it still is so."""
    found = model.origin.get(node.outputs[0].name) if node.outputs else None
    if found is None or found.op_type != node.op or list(found.input) != [t.name for t in node.inputs]:
        found = OnnxExporter.export_node(node)
    return found


def generalize(model: Model, at: Facts, binding: dict[str, int], ties: Ties | None = None) -> General:
    """Facts that hold for every binding (only for those that meet `ties`, where given), from the facts under one."""
    axes = find_input_axes(model)
    if ties:
        axes = {name: tuple(substitute(size, ties) for size in row) for name, row in axes.items()}
    return evaluate_general(model, axes, at, binding, _make_node_functions(model))


def prove(model: Model, at: Facts) -> GeneralPass:
    """Facts that follow from constants and from the declarations of the graph inputs, and from nothing else.

    `generalize` takes the rank of a value that nothing tells from the binding; here it stays open.
    """
    given = {*model.constants(), *model.defaults, *find_input_axes(model)} & {*at.types}
    made = {t.name for n in model.graph.nodes for t in n.outputs}
    values = {n: v for n, v in at.values.items() if n in given and n not in model.defaults}
    bare = Facts(types={n: at.types[n] for n in given}, values=values, observed=made)
    found = GeneralPass(model, bare, {}, _make_node_functions(model))
    found.run(find_input_axes(model), declared=False)
    return found


def _make_node_functions(model: Model) -> ByNode:
    versions = versions_of(model.header.opset_import)
    return (
        lambda proto, values: compute_node(proto, values, versions),
        lambda proto, types: infer_types(proto, types, versions),
        lambda node: proto_of(model, node),
    )


def _visit_node(model: Model, node: gs.Node, facts: Facts, imports: list[onnx.OperatorSetIdProto]) -> None:
    names, proto = [t.name for t in node.inputs], proto_of(model, node)
    if facts.take_node(proto, names):
        return
    wrong = len(facts.errors) + len(facts.warnings)
    if not _evaluate_node(model, node, names, facts, imports) and not _infer(model, proto, names, facts, imports):
        return
    if proto.output and len(facts.errors) + len(facts.warnings) == wrong:
        facts.stable_nodes[proto.output[0]] = proto


def _evaluate_node(
    model: Model, node: gs.Node, names: list[str], facts: Facts, imports: list[onnx.OperatorSetIdProto]
) -> bool:
    """The outputs of a node that depend on shapes and constants only; False for any other."""
    if node.op == "Shape" and (shape := facts.shape(names[0])) is not None:
        start, end = node.attrs.get("start", 0), node.attrs.get("end")
        _record_values(facts, [t.name for t in node.outputs], [np.array(shape[start:end], np.int64)])
        return True
    known = bool(names) and all(not n or n in facts.values for n in names) and node.op not in UNFOLDED
    if known and not any(isinstance(a, gs.Graph) for a in node.attrs.values()):
        got = _compute(model, proto_of(model, node), names, facts, imports)
        if got is not None:
            _record_values(facts, [t.name for t in node.outputs], got)
            return True
    return False


def _record_values(facts: Facts, names: list[str], values: list[Array]) -> None:
    for name, value in zip(names, values, strict=False):
        if name:
            facts.record_value(name, value, SMALL_VALUE)


def _compute(
    model: Model, proto: onnx.NodeProto, names: list[str], facts: Facts, imports: list[onnx.OperatorSetIdProto]
) -> list[Array] | None:
    """The outputs of a node whose inputs are known; None where they would be large or it cannot be run."""
    if proto.domain not in ("", "ai.onnx"):
        return None
    if can_grow(proto.op_type, [facts.values[n] for n in proto.input if n], SMALL_VALUE):  # before memory is taken
        shapes = _find_made(model, proto, names, facts, imports)
        if any(math.prod(s) > SMALL_VALUE for s in shapes if s is not None):
            return None
        if proto.op_type in SHAPED_BY_VALUE and (not shapes or None in shapes):
            return None
    return compute_node(proto, [facts.values[n] if n else None for n in names], versions_of(imports))


def _infer(
    model: Model, proto: onnx.NodeProto, names: list[str], facts: Facts, imports: list[onnx.OperatorSetIdProto]
) -> bool:
    """Types by onnx's inference; whether they follow from the node and its inputs alone."""
    by_schema = True
    try:
        got = _infer_by_schema(model, proto, names, facts, imports)
    except onnx.shape_inference.InferenceError as e:
        if all(n in facts.types for n in names if n):
            facts.errors.append(f"{proto.op_type} '{proto.name or proto.output[0]}': {e}")
            return False
        by_schema, got = False, {}  # it was not told what the node reads: a sequence, an unknown operator's output
    except Exception:  # no schema: another domain, or an operator that ONNX has given up
        by_schema = False
        got = {o: facts.declared[o] for o in proto.output if o in facts.declared}
    for name, t in (got or {}).items():
        if name and t.tensor_type.elem_type:
            _check_size(model, f"{proto.op_type} '{proto.name or proto.output[0]}' makes '{name}'", t)
            facts.record_type(name, t)
            dims = t.tensor_type.shape.dim
            if any(d.HasField("dim_value") and d.dim_value < 0 for d in dims):
                what = f"{proto.op_type} '{proto.name or proto.output[0]}'"
                facts.errors.append(f"{what} cannot make '{name}' of {[d.dim_value for d in dims]}")
            elif any(d.HasField("dim_value") and d.dim_value == 0 for d in dims):
                facts.warnings.append(f"'{name}' of {proto.op_type} '{proto.name}' would be empty")
    if any(o and facts.shape(o) is None for o in proto.output) and not list_subgraphs(proto):
        _observe(model, proto, names, facts, imports)
    if proto.op_type in KEEPS_ENTRIES:
        _check_entries(proto, facts)
    return by_schema


def _infer_by_schema(
    model: Model, proto: onnx.NodeProto, names: list[str], facts: Facts, imports: list[onnx.OperatorSetIdProto]
) -> dict[str, onnx.TypeProto]:
    """Types of what a node makes. Raises InferenceError where it refuses its inputs, others where it has no schema."""
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    types = {n: facts.types[n] for n in names if n in facts.types}
    small = [n for n in names if n in facts.values and facts.values[n].size <= 4096]
    data = {n: numpy_helper.from_array(facts.values[n]) for n in small}
    schema = onnx.defs.get_schema(proto.op_type, model.opset.get(domain, 1), domain)
    return dict(
        onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=imports, ir_version=model.header.ir_version
        )
    )


def _find_made(
    model: Model, proto: onnx.NodeProto, names: list[str], facts: Facts, imports: list[onnx.OperatorSetIdProto]
) -> list[Shape | None]:
    """Shapes of what a node makes, as far as they are known before it is run."""
    try:
        got = _infer_by_schema(model, proto, names, facts, imports)
    except Exception:  # `_infer` says what is wrong
        return []
    return [find_static_shape(t) for t in got.values()]


def _check_size(model: Model, what: str, t: onnx.TypeProto) -> None:
    """Raise OversizeError for a value that takes more memory than it may."""
    shape = find_static_shape(t)
    if shape is not None:
        check_bytes(what, t.tensor_type.elem_type, shape, model.memory)


def _observe(
    model: Model, proto: onnx.NodeProto, names: list[str], facts: Facts, imports: list[onnx.OperatorSetIdProto]
) -> None:
    """Shapes that inference cannot tell are read off two runs of this node alone, if they agree."""
    used = list(dict.fromkeys(n for n in names if n))
    if any((s := facts.shape(n)) is None or math.prod(s) > RUN_ELEMENTS for n in used):
        return
    if proto.op_type in SIZED_BY_DATA:
        return
    telling = [names[k] for k in SHAPED_BY_VALUE.get(proto.op_type, ()) if k < len(names) and names[k]]
    for n in (n for n in telling if n in facts.values and facts.values[n].dtype.kind == "i"):
        shape = np.maximum(facts.values[n].ravel(), 1).tolist()
        check_bytes(f"{proto.op_type} '{proto.name or proto.output[0]}' is told by '{n}' to make a value",
                    onnx.TensorProto.INT8, shape, model.memory)  # fmt: skip
    inputs = [onnx.ValueInfoProto(name=n, type=facts.types[n]) for n in used]
    outputs = [o for o in proto.output if o]
    graph = helper.make_graph([proto], "one", inputs, [onnx.ValueInfoProto(name=o) for o in outputs])
    one = helper.make_model(graph, opset_imports=imports, ir_version=max(model.header.ir_version, 4))
    known = {n: facts.values[n] for n in used if n in facts.values}
    made_up = [{n: _fill_array(facts.types[n], k + side) for k, n in enumerate(used, 1)} for side in (0, 1)]
    try:
        session = open_quiet_session(one.SerializeToString())
        runs = [session.run(None, {**feed, **known}) for feed in (made_up if len(known) < len(used) else made_up[:1])]
    except Exception:  # the whole model is asked later, and says what is wrong
        return
    if any(n not in facts.values for n in telling):
        facts.observed |= set(outputs)
    tensors = {o.name for o in session.get_outputs() if o.type.startswith("tensor")}
    for name, *got in zip(outputs, *runs, strict=True):
        if name not in tensors:  # an optional tensor comes out as an array, too
            continue
        shapes = {a.shape if isinstance(a, np.ndarray) and a.dtype.kind in "biuf" else None for a in got}
        if len(shapes) == 1 and None not in shapes:  # else it depends on what was made up
            kind = helper.np_dtype_to_tensor_dtype(got[0].dtype)
            facts.record_type(name, helper.make_tensor_type_proto(kind, got[0].shape))


def _fill_array(t: onnx.TypeProto, number: int) -> Array:
    shape = [d.dim_value for d in t.tensor_type.shape.dim]
    return np.full(shape, number, helper.tensor_dtype_to_np_dtype(t.tensor_type.elem_type))


def _check_entries(proto: onnx.NodeProto, facts: Facts) -> None:
    """Shape inference accepts a Reshape whose sizes do not fit: exporters write batch 1 under a symbolic N."""
    x, y = facts.shape(proto.input[0]), facts.shape(proto.output[0])
    if x is not None and y is not None and np.prod(x, dtype=np.int64) != np.prod(y, dtype=np.int64):
        facts.errors.append(f"{proto.op_type} '{proto.name or proto.output[0]}' cannot make {list(y)} of {list(x)}")


def record_shapes(
    model: Model, first: Facts, second: Facts, general: General, sizes: dict[str, tuple[int, int]]
) -> Shapes:
    """Shapes of every value that has a rank, and which axes follow a symbol or what is only known at run time."""
    shape: dict[str, tuple[int, ...]] = {}
    dynamic: dict[str, tuple[bool, ...]] = {}
    axes: dict[str, tuple[Size, ...]] = {}
    for name, tensor in model.constants().items():
        shape[name], dynamic[name] = tuple(tensor.shape), (False,) * len(tensor.shape)
    for name in first.types:
        a, found = first.shape(name), general.axes(name)
        if name in shape or a is None or (second.shape(name) is not None and len(second.shape(name) or ()) != len(a)):
            continue
        if found is None and name in first.observed:
            found = tuple(make_unknown_size(name, k) for k in range(len(a)))
        if found is not None and len(found) == len(a):
            shape[name], axes[name] = a, found
            dynamic[name] = tuple(not isinstance(s, int) for s in found)
    kinds = {n: t.tensor_type.elem_type for n, t in first.types.items()}
    why = {**general.why, **second.why, **first.why}
    return Shapes(shape, dynamic, sizes, kinds, why, axes, _find_entries(model, general, shape))


def _find_entries(
    model: Model, general: General, shape: dict[str, tuple[int, ...]]
) -> dict[str, tuple[int | None, ...]]:
    """Integers of small operands that are known for every binding in part only."""
    out = {}
    for node in model.graph.nodes:  # what stands beside sizes of which nothing is known
        length = shape.get(node.outputs[0].name, ()) if build.is_concat(node) else ()
        found = tuple(e for t in node.inputs for e in _list_entries(model, t, shape)) if len(length) == 1 else ()
        if length == (len(found),):
            out[node.outputs[0].name] = found
    for name, table in general.tables.items():
        if table.size <= KNOWN_ENTRIES:
            known = [e if isinstance(e, int) and not isinstance(e, bool) else None for e in table.ravel()]
            out[name] = tuple(known)
    return out


def _list_entries(model: Model, part: gs.Tensor, shape: dict[str, tuple[int, ...]]) -> list[int | None]:
    """The entries of a part of a shape: of a constant they are known."""
    count = math.prod(part.shape if isinstance(part, gs.Constant) else shape.get(part.name, ()))
    if not isinstance(part, gs.Constant) or count > KNOWN_ENTRIES or np.dtype(part.dtype).kind != "i":
        return [None] * min(count, KNOWN_ENTRIES + 1)
    return [int(e) for e in model.array(part).ravel()]


def find_missing(model: Model, facts: Facts) -> list[str]:
    """Values of the main graph that have no static shape: onnxruntime is asked for these."""
    nodes = model.graph.nodes
    outside = [n for n, chain in zip(nodes, find_chains(nodes), strict=True) if not chain and not is_marker(n)]
    return [t.name for n in outside for t in n.outputs if t.name and facts.shape(t.name) is None]


def complete_facts(facts: Facts, arrays: dict[str, Array]) -> Facts:
    """Facts with the shapes of values that were read off one run."""
    types = dict(facts.types)
    for name, a in arrays.items():
        types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
    return replace(facts, types=types, observed=facts.observed | set(arrays))
