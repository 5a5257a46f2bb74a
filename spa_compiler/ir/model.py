"""A model: its graph (onnx-graphsurgeon), constants, names, and the parts of the file that stay as they are.

    model = load("m.onnx")          # checked, external data not read yet
    model.array("conv1.weight")     # a numpy array, read when asked for
    write(model.proto(), model.folder, "out.onnx")

onnx-graphsurgeon holds the nodes and edges. What it cannot carry (types of inputs and outputs, node metadata, model
version, functions, defaults of inputs) stays in protobuf beside it and is put back by `proto()`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from spa_compiler.algebra.sizes import Size
from spa_compiler.errors import ModelError
from spa_compiler.ir.control_flow import Bodies, Homes, find_body_paths, find_chains, nest_bodies
from spa_compiler.ir.external_data import read_tensor
from spa_compiler.ir.initializers import (
    Default,
    list_inputs,
)
from spa_compiler.ir.memory import USUAL_BYTES
from spa_compiler.ir.names import Names
from spa_compiler.ir.snapshots import Snapshot
from spa_compiler.ir.subgraphs import WEIGHT_TYPES, find_body_weights

G_LOGGER.severity = G_LOGGER.CRITICAL  # what it would only warn about is carried over here
Array = NDArray[Any]
WHOLE_TYPES = frozenset((onnx.TensorProto.INT32, onnx.TensorProto.INT64))
"""Element types of axes, bounds, counts and sizes."""


@dataclass(frozen=True)
class Shapes:
    """Sizes of every value for one binding of the symbols, and which axes follow a symbol."""

    shape: dict[str, tuple[int, ...]]
    dynamic: dict[str, tuple[bool, ...]]
    sizes: dict[str, tuple[int, int]]  # symbol -> its size in the two bindings
    kind: dict[str, int] = field(default_factory=dict)  # ONNX element types
    why: dict[str, str] = field(default_factory=dict)  # why a value has no shape, where that is known
    axes: dict[str, tuple[Size, ...]] = field(default_factory=dict)  # sizes that hold for every binding
    entries: dict[str, tuple[int | None, ...]] = field(default_factory=dict)  # of values that follow a symbol in part
    ties: dict[str, Size] = field(default_factory=dict)  # symbols that have to be what an expression of others is


@dataclass
class Model:
    """A graph in which the bodies of control nodes lie open (`control_flow`), and the rest of its file."""

    graph: gs.Graph
    header: onnx.ModelProto  # everything but nodes and initializers
    origin: dict[str, onnx.NodeProto]  # first output -> the node as it was read
    path: Path
    captured: dict[str, onnx.TensorProto | None]  # names that subgraphs read from outside, with their initializers
    shapes: Shapes | None = None
    notes: list[str] = field(default_factory=list)
    external: frozenset[str] = frozenset()  # files of external data, relative to the model's folder
    bodies: Bodies = field(default_factory=dict)  # path -> what a body is without nodes and weights
    homes: Homes = field(default_factory=dict)  # weight -> the body that holds it in the file, or ""
    sparse: tuple[onnx.SparseTensorProto, ...] = ()  # initializers that the file holds sparse; here they are dense
    files: Snapshot = field(default_factory=Snapshot)  # the file and its external data, as they were when it was read
    names: Names = field(default_factory=Names)  # every name that the model uses: new ones come from here
    defaults: dict[str, Default] = field(default_factory=dict)  # inputs that a run may leave out: no constants here
    memory: int = USUAL_BYTES  # that a value may take
    copies: dict[str, str] = field(
        default_factory=dict
    )  # constant that `constant_sharing.untie_constants` made -> what it copies

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def opset(self) -> dict[str, int]:
        """Version by domain; the default domain is ''."""
        return {("" if o.domain == "ai.onnx" else o.domain): o.version for o in self.header.opset_import}

    def copy(self) -> Model:
        """The same model with a graph of its own; constants are shared until they are replaced."""
        out = replace(self, graph=self.graph.copy(), notes=list(self.notes))
        out.names, out.copies = self.names.copy(), dict(self.copies)
        return out

    def new_value(self, wanted: str, dtype: Any = None, shape: Any = None) -> gs.Variable:
        """A value under a name that nothing else in the model has: `wanted`, or that and a number."""
        return gs.Variable(self.names.value(wanted), dtype, shape)

    def new_constant(self, wanted: str, values: Array) -> gs.Constant:
        """A constant under such a name."""
        return make_constant(self.names.value(wanted), values)

    def new_node(
        self, op: str, wanted: str, attrs: dict[str, Any], inputs: list[gs.Tensor], outputs: list[gs.Tensor],
        domain: str | None = None,
    ) -> gs.Node:  # fmt: skip
        """A node under a name that no other node has."""
        return gs.Node(op, self.names.node(wanted), attrs, inputs, outputs, domain=domain)

    def constants(self) -> dict[str, gs.Constant]:
        """Initializers of the main graph by name."""
        return {n: t for n, t in self.graph.tensors().items() if isinstance(t, gs.Constant)}

    def inner_weights(self) -> list[onnx.TensorProto]:
        """Weights that only graphs inside nodes read that are not opened."""
        held = self.constants()
        outer = [t for n, t in self.captured.items() if t is not None and n not in held]
        out = [t for t in outer if t.dims and t.data_type in WEIGHT_TYPES]
        for node in self.graph.nodes:
            origin = self.origin.get(node.outputs[0].name) if node.outputs else None
            if origin is not None and origin.op_type == node.op:
                out += find_body_weights(origin)
        return out

    def default_weights(self) -> list[onnx.TensorProto]:
        """Defaults of graph inputs that count as parameters."""
        return [d.tensor for d in self.defaults.values() if d.tensor.dims and d.tensor.data_type in WEIGHT_TYPES]

    def default_array(self, name: str) -> Array:
        """The value of a graph input that a run leaves out; external data is read from the model's folder."""
        return self.numbers(self.defaults[name].tensor)

    def default_numbers(self, most: int, more: Collection[str] = ()) -> dict[str, Array]:
        """Whole numbers that a run may leave out, and those of `more` names, of up to so many elements."""
        held = {n: d.tensor for n, d in self.defaults.items() if d.tensor.data_type in WHOLE_TYPES or n in more}
        return {n: self.default_array(n) for n, t in held.items() if math.prod(t.dims) <= most}

    def array(self, tensor: gs.Constant) -> Array:
        """The values of a constant; not cached, external data is read from the model's folder."""
        values = tensor._values
        if not isinstance(values, LazyValues):
            return np.asarray(values)
        return self.numbers(values.tensor)

    def numbers(self, tensor: onnx.TensorProto) -> Array:
        """The values of a tensor of this model."""
        try:
            return read_tensor(tensor, self.folder)
        except ModelError as e:
            raise ModelError(f"{self.path}: initializer '{tensor.name}' {e}") from e

    def proto(self) -> onnx.ModelProto:
        """The model as protobuf; external tensors keep pointing into `folder`."""
        out = onnx.ModelProto()
        out.CopyFrom(self.header)
        out.graph.node.extend(self.flat())
        for tensor in self.constants().values():
            out.graph.initializer.append(OnnxExporter.export_tensor_proto(tensor))
        held = {t.name for t in out.graph.initializer}
        out.graph.initializer.extend(t for n, t in self.captured.items() if t is not None and n not in held)
        if self.bodies:
            whole = self.external or out.ir_version < 4  # external data, and named inputs: in the main graph only
            homes = {t.name: "" for t in out.graph.initializer} if whole else self.homes
            nodes = self.graph.nodes
            nest_bodies(
                out.graph,
                find_chains(nodes),
                [find_body_paths(n) for n in nodes],
                self.bodies,
                homes,
                self.names.copy(),
            )
        list_inputs(out, self.defaults)
        return out

    def flat(self) -> list[onnx.NodeProto]:
        """The nodes as they lie open, markers and control nodes among them."""
        return [self._node(n) for n in self.graph.nodes]

    def _node(self, node: gs.Node) -> onnx.NodeProto:
        """A node with everything of the original that graphsurgeon does not hold."""
        origin = self.origin.get(node.outputs[0].name) if node.outputs else None
        if origin is None or origin.op_type != node.op:
            fresh: onnx.NodeProto = OnnxExporter.export_node(node)
            return fresh
        out = onnx.NodeProto()
        out.CopyFrom(origin)
        del out.input[:], out.output[:]
        if out.name != node.name:
            out.name = node.name
        out.input.extend(t.name for t in node.inputs)
        out.output.extend(t.name for t in node.outputs)
        if not _has_attributes(out, node.attrs):
            self._write_attributes(out, OnnxExporter.export_node(node), node.attrs)
        return out

    @staticmethod
    def _write_attributes(out: onnx.NodeProto, fresh: onnx.NodeProto, attrs: Mapping[str, Any]) -> None:
        carried = {a.name for a in out.attribute if _is_carried(a)}
        kept = [a for a in out.attribute if a.name in carried or a.name in attrs]
        changed = {a.name: a for a in fresh.attribute if a.name not in carried}
        del out.attribute[:]
        out.attribute.extend(changed.pop(a.name, a) for a in kept)
        out.attribute.extend(changed.values())


def _has_attributes(node: onnx.NodeProto, attrs: Mapping[str, Any]) -> bool:
    """Are the numbers among the attributes of a node these already, and is none missing?"""
    numbers = {a.name: a for a in node.attribute if not _is_carried(a)}
    carried = {a.name for a in node.attribute} - numbers.keys()
    return attrs.keys() - carried == numbers.keys() and all(_is_value(a, attrs[n]) for n, a in numbers.items())


def _is_value(a: onnx.AttributeProto, value: Any) -> bool:
    if a.type in (a.INT, a.FLOAT):
        return type(value) is (int if a.type == a.INT else float) and value == (a.i if a.type == a.INT else a.f)
    return isinstance(value, list) and value == list(a.ints if a.type == a.INTS else a.floats) and bool(value)


def _is_carried(a: onnx.AttributeProto) -> bool:
    """Attributes that stay as they were read: subgraphs, tensors, types, and bytes that graphsurgeon would decode."""
    return a.type not in (a.INT, a.INTS, a.FLOAT, a.FLOATS)


def make_constant(name: str, values: Array) -> gs.Constant:
    """A graph constant that holds its protobuf form, so that every element type of ONNX survives."""
    return gs.Constant(name, LazyValues(numpy_helper.from_array(np.asarray(values, order="C"), name)))


def find_element_type(t: gs.Constant) -> int:
    """ONNX element type of a constant."""
    values = t._values
    if isinstance(values, np.ndarray):  # graphsurgeon loads what it has been asked for
        return int(onnx.helper.np_dtype_to_tensor_dtype(values.dtype))
    return int(values.tensor.data_type)


def describe_node(node: gs.Node) -> str:
    """The name of a node in messages: its own, or that of its first output."""
    return str(node.name or (node.outputs[0].name if node.outputs else node.op))
