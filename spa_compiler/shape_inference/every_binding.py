"""Facts about every value at every size: types whose axes are sizes, and the numbers that follow no symbol.

    general = evaluate_general(model, inputs, at)      # `at`: facts under one binding (`evaluator.evaluate`)
    general.values["n"]      # numbers that are the same for every binding: these may be folded
    general.axes("y")        # (2*N, 16, "T"): sizes of the axes
    general.table("s")       # an array of numbers and sizes, or None

Nothing is concluded from numbers that were equal twice. A number is one because it follows from constants alone, by
data flow, or because exact arithmetic of sizes (`algebra.sizes`) leaves no symbol in it. What is not followed stays
open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from spa_compiler.algebra import sizes
from spa_compiler.algebra.sizes import Size
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import is_telling
from spa_compiler.operators import size_tables
from spa_compiler.operators.facts import RANKED_BY, UNFOLDED
from spa_compiler.operators.size_formulas import Found, Operands, find_sizes, has_formula
from spa_compiler.shape_inference.control_flow import Flow
from spa_compiler.shape_inference.environment import Facts

Array = NDArray[Any]


@dataclass
class General(Facts):
    """Facts that hold for every binding. The names of dims in `types` are keys of `sizes`, not of the file."""

    tables: dict[str, Array] = field(default_factory=dict)  # values that follow a symbol: arrays of sizes
    sizes: dict[str, Size] = field(default_factory=dict)
    keys: dict[Size, str] = field(default_factory=dict)
    demands: list[tuple[Size, Size]] = field(default_factory=list)  # sizes that are equal where the model runs
    positions: dict[str, Any] = field(default_factory=dict)  # value -> its `operators.positions.Index`, once asked for

    def axes(self, name: str) -> tuple[Size, ...] | None:
        """Sizes of a value's axes, or None where its rank is not known."""
        t = self.types.get(name)
        if t is None or not t.HasField("tensor_type") or not t.tensor_type.HasField("shape"):
            return None
        return tuple([self._size(name, k, d) for k, d in enumerate(t.tensor_type.shape.dim)])

    def _size(self, name: str, axis: int, d: onnx.TensorShapeProto.Dimension) -> Size:
        if d.HasField("dim_value"):
            return int(d.dim_value)
        return self.sizes[d.dim_param] if d.dim_param in self.sizes else sizes.make_unknown_size(name, axis)

    def table(self, name: str) -> Array | None:
        """The known entries of a small value."""
        found = self.values.get(name)
        return found if found is not None else self.tables.get(name)

    def type_of(self, element: int, axes: Sequence[Size]) -> onnx.TypeProto:
        """A tensor type with these sizes."""
        return helper.make_tensor_type_proto(element, [s if isinstance(s, int) else self.key(s) for s in axes])

    def key(self, size: Size) -> str:
        """The name of a size in types."""
        if size not in self.keys:
            self.keys[size] = f"?{len(self.keys)}"
            self.sizes[self.keys[size]] = size
        return self.keys[size]


Evaluate = Callable[[onnx.NodeProto, list[Array | None]], list[Array] | None]
"""Runs a node on numbers."""
Observe = Callable[[onnx.NodeProto, dict[str, onnx.TypeProto]], dict[str, onnx.TypeProto]]
"""Gives the types of what a node makes that is no operator of ONNX."""
ByNode = tuple[Evaluate, Observe, Callable[[gs.Node], onnx.NodeProto]]
"""Numbers and types of one node, and the node as protobuf."""


def evaluate_general(
    model: Model,
    inputs: Mapping[str, Sequence[Size]],
    at: Facts,
    binding: Mapping[str, int],
    by_node: ByNode,
) -> General:
    """One pass over the nodes. `inputs`: the sizes of the graph inputs; `at`: facts under `binding`."""
    if is_same_everywhere(inputs, at) and not any(n in at.values for n in model.defaults):
        return General(types=at.types, values=at.values, why=at.why)
    return GeneralPass(model, at, binding, by_node).run(inputs)


def is_same_everywhere(inputs: Mapping[str, Sequence[Size]], at: Facts) -> bool:
    """Do facts under one binding hold for every one: no input has a symbol, and every shape follows from theirs?"""
    fixed = all(isinstance(s, int) for axes in inputs.values() for s in axes)
    return fixed and not at.observed and all(at.shape(n) is not None for n in at.types)


class GeneralPass:
    """The state of one pass."""

    def __init__(self, model: Model, at: Facts, binding: Mapping[str, int], by_node: ByNode) -> None:
        self.model, self.at, self.binding, self.by_node = model, at, binding, by_node
        self.evaluate, self.observe, self.proto_of = by_node
        self.general = General()
        self.imports = list(model.header.opset_import)
        self.numbers: dict[Size, int | None] = {}
        self.declared: dict[str, onnx.TypeProto] = {}
        self.flow = Flow(self.general.types, self.general.values, self.general.why)

    def assume(self, assumed: Mapping[str, Array]) -> GeneralPass:
        """A pass that begins with what this one found, and with numbers of some values."""
        other = GeneralPass(self.model, self.at, self.binding, self.by_node)
        for kind in ("types", "values", "tables", "sizes", "keys"):
            getattr(other.general, kind).update(getattr(self.general, kind))
        other.general.values.update(assumed)
        return other

    def run(self, inputs: Mapping[str, Sequence[Size]], declared: bool = True) -> General:
        """Visit every node; `declared`: are the types believed that the file has for what has no schema?"""
        general = self.general
        for name, axes in inputs.items():
            t = self.at.types[name]
            fixed = not t.HasField("tensor_type") or all(isinstance(s, int) for s in axes)
            general.types[name] = t if fixed else general.type_of(t.tensor_type.elem_type, axes)
        for name in self.model.constants():
            general.types[name] = self.at.types[name]
            if name in self.at.values:
                general.values[name] = self.at.values[name]
        for name in (n for n in self.model.defaults if n in self.at.types):
            general.types[name] = self.at.types[name]
        known = {name for axes in inputs.values() for size in axes for name in sizes.find_size_symbols(size)}
        self.declared = dict(self.find_declarations(known)) if declared else {}
        for node in self.model.graph.nodes:
            self.step(node)
        return general

    def step(self, node: gs.Node) -> None:
        if not self.flow.step(node):
            self.visit(node)

    def find_declarations(self, known: Collection[str]) -> Iterator[tuple[str, onnx.TypeProto]]:
        """The types that the file records for inner values; names of dims that the inputs do not have say nothing.

        Where inputs have symbols numbers say nothing either: exporters leave the sizes of their example there.
        """
        graph = self.model.header.graph
        for vi in (*graph.value_info, *graph.output):
            if vi.type.tensor_type.elem_type and vi.type.tensor_type.HasField("shape"):
                t = onnx.TypeProto.FromString(vi.type.SerializeToString())
                for d in t.tensor_type.shape.dim:
                    size = sizes.parse_size(d.dim_param) if d.dim_param else d.dim_value
                    if is_telling(d.dim_param) and all(s in known for s in sizes.find_size_symbols(size)):
                        d.dim_param = self.general.key(size)
                    elif d.dim_param or known:
                        d.Clear()
                yield vi.name, t

    def visit(self, node: gs.Node) -> None:
        outputs = [t.name for t in node.outputs if t.name]
        names = [t.name for t in node.inputs]
        if not outputs:
            return
        if node.op in ("Shape", "Size") and self.measure(node, names[0], outputs[0]):
            return
        if self.is_settled(names) and not any(o in self.at.observed for o in outputs):
            self.take_over(outputs)
            return
        proto = self.proto_of(node)
        self.infer(proto, names)
        self.compute(proto, names, outputs)

    def is_settled(self, names: Sequence[str]) -> bool:
        """Is everything that a node reads the same for every binding, as far as it is known at all?"""
        g, at = self.general, self.at
        return all(
            n in at.types and n not in g.tables and g.types.get(n) is at.types[n]
            and g.values.get(n) is at.values.get(n)
            and (at.shape(n) is not None or not at.types[n].HasField("tensor_type"))
            for n in names if n
        )  # fmt: skip

    def take_over(self, outputs: Sequence[str]) -> None:
        for o in outputs:
            if o in self.at.types:
                self.general.types[o] = self.at.types[o]
            if o in self.at.values:
                self.general.values[o] = self.at.values[o]

    def measure(self, node: gs.Node, name: str, output: str) -> bool:
        """Shape and Size: the sizes of a value as a table."""
        axes = self.general.axes(name)
        if axes is None:
            return False
        start, end = node.attrs.get("start", 0), node.attrs.get("end")
        entries = list(axes[start:end])
        table = np.empty(len(entries), object)
        table[:] = entries
        if node.op == "Size":
            table = np.empty((), object)
            table[()] = sizes.multiply_all(axes)
        self.know(output, size_tables.simplify(table, np.dtype(np.int64)), np.dtype(np.int64))
        return True

    def know(self, name: str, table: Array, dtype: np.dtype[Any]) -> None:
        """Record what is known of a value's entries; its shape is fixed."""
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        if size_tables.is_table(table):
            self.general.tables[name] = table
        else:
            before = self.at.values.get(name)
            same = before is not None and before.shape == table.shape and bool(np.array_equal(before, table))
            self.general.values[name] = before if same and before is not None else table
        t = self.at.types.get(name)
        fixed = helper.make_tensor_type_proto(kind, list(table.shape))
        self.general.types[name] = t if t is not None and t == fixed else fixed

    def compute(self, proto: onnx.NodeProto, names: Sequence[str], outputs: Sequence[str]) -> None:
        """Record what a node gives of tables: where it reads nothing else, and the shape of what it makes is fixed."""
        tables = [self.general.table(n) if n else None for n in names]
        if not names or any(n and t is None for n, t in zip(names, tables, strict=True)):
            return
        like = [self.find_example(o) for o in outputs]
        if len(outputs) != len(proto.output) or any(v is None or v.size > size_tables.SIZE_LIMIT for v in like):
            return
        foreign = proto.domain not in ("", "ai.onnx") or any(a.HasField("g") for a in proto.attribute)
        if foreign or proto.op_type in UNFOLDED:
            return
        known = [v for v in like if v is not None]
        for o, table, v in zip(
            outputs, size_tables.apply_node(proto, tables, known, self.evaluate), known, strict=True
        ):
            self.know(o, self.refute(o, table, v) if o in self.at.values else table, v.dtype)

    def find_example(self, name: str) -> Array | None:
        """An array of the shape and type of a value whose shape is fixed: what it is at this binding, where known."""
        axes, found = self.general.axes(name), self.at.values.get(name)
        if axes is None or not all(isinstance(s, int) for s in axes):
            return None
        if found is not None:
            return found if found.shape == axes else None
        element = self.general.types[name].tensor_type.elem_type
        fixed = [int(str(s)) for s in axes]
        if element not in TABLE_TYPES or math.prod(fixed) > size_tables.SIZE_LIMIT:
            return None
        return np.zeros(fixed, helper.tensor_dtype_to_np_dtype(element))

    def refute(self, name: str, table: Array, value: Array) -> Array:
        """Entries that are another number at this binding than was computed are not followed."""
        if not size_tables.is_table(table):
            return table if np.array_equal(table, value) else make_unknown_table(name, value)
        out = table.copy()
        for k, (entry, number) in enumerate(zip(table.ravel(), value.ravel(), strict=True)):
            if sizes.is_size(entry) and not isinstance(entry, bool):
                found = self.find_number(entry)
                if found is not None and found != number:
                    out.ravel()[k] = sizes.make_atom("entry", ((name,), k))
        return out

    def find_number(self, size: Size) -> int | None:
        return sizes.compute_value(size, self.binding, self.numbers)

    def infer(self, proto: onnx.NodeProto, names: Sequence[str]) -> None:
        """Types with sizes: by onnx, by a formula where that says nothing, and a size of its own for the rest."""
        g = self.general
        types = {n: g.types[n] for n in names if n in g.types}
        data = {n: numpy_helper.from_array(g.values[n]) for n in names if n in g.values and g.values[n].size <= 4096}
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        try:
            schema = onnx.defs.get_schema(proto.op_type, self.model.opset.get(domain, 1), domain)
            got = onnx.shape_inference.infer_node_outputs(
                schema, proto, types, data, opset_imports=self.imports, ir_version=self.model.header.ir_version
            )
        except onnx.shape_inference.InferenceError:
            got = {}
        except Exception:  # no schema: another domain, or an operator that ONNX has given up
            got = self.observe(proto, types)
            got = {o: got.get(o) or self.declared[o] for o in proto.output if o in got or o in self.declared}
        formula = self.apply_formula(proto, names)
        ranked = self.has_rank(proto, names)
        for k, o in enumerate(proto.output):
            if o:
                self.settle(o, got.get(o), formula[k] if k < len(formula) else None, ranked)

    def has_rank(self, proto: onnx.NodeProto, names: Sequence[str]) -> bool:
        """Does what a node makes have the rank that it has at this binding for every one?

        What it reads has, and the vector that says which axes there are is as long.
        """
        tensors = [n for n in names if n in self.general.types and self.general.types[n].HasField("tensor_type")]
        axes = {n: self.general.axes(n) for n in tensors}
        if any(a is None for a in axes.values()):
            return False
        slot = RANKED_BY.get(proto.op_type)
        if slot is None:
            return True
        if len(names) <= slot or not names[slot]:
            return any(a.name in ("axes", "shape") for a in proto.attribute)
        return all(isinstance(size, int) for size in axes.get(names[slot]) or ())

    def apply_formula(self, proto: onnx.NodeProto, names: Sequence[str]) -> list[Found]:
        if proto.domain not in ("", "ai.onnx") or not has_formula(proto.op_type):
            return []
        first = self.at.shape(proto.output[0])
        axes = [self.general.axes(n) if n else None for n in names]
        tables = [self.general.table(n) if n else None for n in names]
        rank, opset = len(first) if first is not None else 0, self.model.opset.get("", 1)
        operands = Operands(proto, axes, tables, rank, opset, self.general.demands)
        try:
            return find_sizes(operands)
        except (LookupError, TypeError, ValueError, ZeroDivisionError):
            return []

    def settle(self, name: str, inferred: onnx.TypeProto | None, formula: Found | None, ranked: bool) -> None:
        """Put the type of an output together, axis by axis. `ranked`: has it the same rank for every binding?"""
        g, known = self.general, self.at.types.get(name)
        element = (inferred or known or onnx.TypeProto()).tensor_type.elem_type
        if not element or (known is not None and not known.HasField("tensor_type")):
            if known is not None and not known.HasField("tensor_type"):
                g.types[name] = known
            return
        shape = self.at.shape(name)
        told = inferred is not None and inferred.tensor_type.HasField("shape")
        dims = inferred.tensor_type.shape.dim if inferred is not None and told else None
        rank = len(dims) if dims is not None else len(formula) if formula is not None else None
        if rank is None and shape is not None and ranked:
            rank = len(shape)
        if rank is None:
            g.types[name] = helper.make_tensor_type_proto(element, None)
            return
        axes: list[Size] = []
        for k in range(rank):
            d = dims[k] if dims is not None else None
            size: Size | None = None
            if d is not None and d.HasField("dim_value"):
                size = d.dim_value
            elif d is not None and d.dim_param in g.sizes:
                size = g.sizes[d.dim_param]
            elif formula is not None and len(formula) == rank:
                size = formula[k]
            number = shape[k] if shape is not None and len(shape) == rank else None
            if size is None or (number is not None and self.find_number(size) not in (None, number)):
                size = sizes.make_unknown_size(name, k)
            axes.append(size)
        t = self.at.types.get(name)
        made = g.type_of(element, axes)
        g.types[name] = t if t is not None and t == made else made


def make_unknown_table(name: str, value: Array) -> Array:
    """A table of entries of which nothing is known."""
    table = np.empty(value.size, object)
    table[:] = [sizes.make_atom("entry", ((name,), k)) for k in range(value.size)]
    return table.reshape(value.shape)


TABLE_TYPES = frozenset((onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT))
"""Element types of shape arithmetic."""

__all__ = ["General", "GeneralPass", "evaluate_general"]
