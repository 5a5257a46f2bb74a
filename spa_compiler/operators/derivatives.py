"""The derivative of each operator by its inputs, given the one by its output: vector-Jacobian products as nodes.

Weights are constants: nothing goes back into them. What has no row here is Unknown (`reverse_mode`).
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from spa_compiler.ir.names import Names
from spa_compiler.operators import build
from spa_compiler.operators.build import Call
from spa_compiler.operators.contraction import read_attributes

Array = NDArray[Any]
NUMBERS_READ = {"Shape": 0, "Size": 0, "CastLike": 1}
"""Operators that look at the numbers of so many first inputs only."""


class Unknown(Exception):
    """An operator whose derivative is not known here."""


class DerivativeNodes(ABC):
    """Nodes of a forward graph with static shapes, and those of a derivative that rules make of them."""

    def __init__(
        self,
        nodes: Sequence[onnx.NodeProto],
        constants: Mapping[str, Array],
        shapes: Mapping[str, Sequence[int]],
        source: str,
        opset: int,
        names: Names | None = None,
    ) -> None:
        self.nodes, self.constants, self.shapes, self.source = nodes, constants, shapes, source
        self.opset = opset  # of the forward nodes
        self.made: list[onnx.NodeProto] = []
        self.tables: list[onnx.TensorProto] = []
        self.names = Names(constants) if names is None else names.copy()  # of the model that the nodes are of
        self.names.add_nodes(nodes)
        self.live = {source}  # what depends on it
        for node in nodes:
            if not self.live.isdisjoint(node.input[: NUMBERS_READ.get(node.op_type)]):
                self.live |= {n for n in node.output if n}

    @abstractmethod
    def run(self, graph: onnx.GraphProto, feed: Mapping[str, Array]) -> Array:
        """The first output of a small graph of the forward nodes' opset."""

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """A new node: the name of its (last) output."""
        names = [self.names.value(f"spa.grad.{len(self.made)}.{k}") for k in range(outputs)]
        self.made.append(helper.make_node(kind, inputs, names, **attributes))
        return names[-1]

    def put(self, call: Call[str]) -> str:
        """A new node of one output: its name."""
        return self.op(call.op, *call.inputs, **call.attributes)

    def number(self, values: Any, dtype: type = np.float32) -> str:
        """A new constant."""
        name = self.names.value(f"spa.grad.c{len(self.tables)}")
        self.tables.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def shape(self, name: str) -> list[int]:
        """Static shape of a value. Raises Unknown where it has none."""
        if name in self.constants:
            return list(self.constants[name].shape)
        if name not in self.shapes:
            raise Unknown(f"the shape of '{name}' is not known")
        return list(self.shapes[name])

    def constant(self, name: str) -> Array:
        """The numbers of a constant. Raises Unknown where it is made at run time."""
        if name not in self.constants:
            raise Unknown(f"'{name}' is made at run time")
        return self.constants[name]

    def reshape(self, value: str, like: Sequence[int]) -> str:
        """Reshape to these sizes."""
        return self.put(build.reshape(value, self.number(like, np.int64)))

    def sum_to_shape(self, value: str, shape: Sequence[int], like: Sequence[int]) -> str:
        """Sum over the axes along which an operand of shape `like` was broadcast to `shape`."""
        if list(shape) == list(like):
            return value
        lead = len(shape) - len(like)
        axes = [k for k in range(len(shape)) if k < lead or (like[k - lead] == 1 and shape[k] != 1)]
        return self.reshape(self.op("ReduceSum", value, self.number(axes, np.int64)), like)


Derivatives = dict[int, str]
"""By input slot the name of the derivative by that input."""
DerivativeRule = Callable[[DerivativeNodes, onnx.NodeProto, str], Derivatives]


def _read_window(node: onnx.NodeProto, rank: int, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, pads and dilations. Raises Unknown for automatic padding and rounding up."""
    a = read_attributes(node)
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or a.get("ceil_mode"):
        raise Unknown(f"{node.op_type} with automatic padding")
    return list(a.get("strides", [1] * rank)), list(a.get("pads", [0] * 2 * rank)), list(a.get("dilations", [1] * rank))


def _transpose_convolution(tape: DerivativeNodes, node: onnx.NodeProto, given: str, w: Array, group: int) -> str:
    """The derivative by a convolution's input: the transposed convolution with the same weights (o, i / group, ...)."""
    x, y, kernel = tape.shape(node.input[0])[2:], tape.shape(node.output[0])[2:], w.shape[2:]
    strides, pads, dilations = _read_window(node, len(kernel), kernel)
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    if all(s == 1 for s in strides):  # a plain convolution, for which kernels are fast
        turned = np.flip(w.reshape(group, -1, *w.shape[1:]).swapaxes(1, 2), tuple(range(3, 3 + len(kernel))))
        turned = turned.reshape(-1, w.shape[0] // group, *kernel)
        inner = [r - p for r, p in zip(reach * 2, pads, strict=True)]
        if min(inner) < 0:
            raise Unknown("a convolution padded by more than it reaches")
        return tape.op("Conv", given, tape.number(turned), group=group, pads=inner, dilations=dilations)
    rank = len(kernel)
    extra = [x[k] - ((y[k] - 1) * strides[k] - pads[k] - pads[k + rank] + reach[k] + 1) for k in range(rank)]
    return tape.op(
        "ConvTranspose", given, tape.number(w), group=group, strides=strides, pads=pads, dilations=dilations,
        output_padding=extra,
    )  # fmt: skip


def _conv(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    return {
        0: _transpose_convolution(
            tape, node, given, tape.constant(node.input[1]), read_attributes(node).get("group", 1)
        )
    }


def _average_pool(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    """A depthwise convolution with equal weights."""
    a, channels = read_attributes(node), tape.shape(node.input[0])[1]
    kernel = list(a["kernel_shape"])
    if any(a.get("pads", [0])) and not a.get("count_include_pad"):
        raise Unknown("AveragePool that counts no padding")
    w = np.full((channels, 1, *kernel), 1 / math.prod(kernel), np.float32)
    return {0: _transpose_convolution(tape, node, given, w, channels)}


def _max_pool(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    """To where the largest were found."""
    shape = tape.shape(node.input[0])
    if read_attributes(node).get("storage_order"):
        raise Unknown("MaxPool that counts columns first")
    index = tape.op("MaxPool", node.input[0], outputs=2, **read_attributes(node))
    zeros = tape.op("ConstantOfShape", tape.number([math.prod(shape)], np.int64))
    flat = [tape.reshape(v, [-1]) for v in (index, given)]
    return {0: tape.reshape(tape.op("ScatterElements", zeros, *flat, axis=0, reduction="add"), shape)}


def _global_average(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    shape = tape.shape(node.input[0])
    each = tape.op("Mul", given, tape.number(1 / math.prod(shape[2:])))
    return {0: tape.op("Expand", each, tape.number(shape, np.int64))}


def _reduce_mean(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    shape, a = tape.shape(node.input[0]), read_attributes(node)
    named = tape.constant(node.input[1]).tolist() if len(node.input) > 1 and node.input[1] else a.get("axes")
    if not named and a.get("noop_with_empty_axes"):
        return {0: given}
    axes = {k % len(shape) for k in named or range(len(shape))}
    kept = [1 if k in axes else n for k, n in enumerate(shape)]
    each = tape.op("Mul", tape.reshape(given, kept), tape.number(1 / math.prod(shape[k] for k in axes)))
    return {0: tape.op("Expand", each, tape.number(shape, np.int64))}


def _batch_norm(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    """As it is at inference: a factor per channel."""
    scale, variance = (tape.constant(node.input[k]).astype(np.float64) for k in (1, 4))
    factor = scale / np.sqrt(variance + read_attributes(node).get("epsilon", 1e-5))
    rank = len(tape.shape(node.input[0]))
    return {0: tape.op("Mul", given, tape.number(factor.reshape([-1 if k == 1 else 1 for k in range(rank)])))}


def _sum(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    shape = tape.shape(node.output[0])
    return {k: tape.sum_to_shape(given, shape, tape.shape(n)) for k, n in enumerate(node.input) if n in tape.live}


def _sub(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    found = _sum(tape, node, given)
    return {k: tape.op("Neg", d) if k else d for k, d in found.items()}


def _mul(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    shape = tape.shape(node.output[0])
    both = {k: tape.op("Mul", given, node.input[1 - k]) for k in (0, 1) if node.input[k] in tape.live}
    return {k: tape.sum_to_shape(d, shape, tape.shape(node.input[k])) for k, d in both.items()}


def _div(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    if node.input[1] in tape.live:
        raise Unknown("Div by what depends on the input")
    shape = tape.shape(node.output[0])
    return {0: tape.sum_to_shape(tape.op("Div", given, node.input[1]), shape, tape.shape(node.input[0]))}


def _relu(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    return {0: tape.op("Mul", given, tape.op("Sign", node.output[0]))}


def _leaky(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    slope = tape.number(read_attributes(node).get("alpha", 0.01))
    return {0: tape.op("Mul", given, _choose_slope(tape, node.input[0], slope))}


def _choose_slope(tape: DerivativeNodes, x: str, slope: str) -> str:
    """1 where x is positive, else the slope."""
    more = tape.op(
        "Mul", _as_number(tape, tape.op("Greater", x, tape.number(0.0))), tape.op("Sub", tape.number(1.0), slope)
    )
    return tape.op("Add", more, slope)


def _as_number(tape: DerivativeNodes, flags: str) -> str:
    """1 where it is true, else 0: a product with it takes a quarter of the time of a Where."""
    return tape.op("Cast", flags, to=onnx.TensorProto.FLOAT)


def _clip(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    """Where the input is inside, neither bound included."""
    sides = [
        tape.op(kind, node.input[0], node.input[k])
        for k, kind in ((1, "Greater"), (2, "Less"))
        if k < len(node.input) and node.input[k]
    ]
    if not sides:
        return {0: given}
    inside = functools.reduce(lambda a, b: tape.op("And", a, b), sides)
    return {0: tape.op("Mul", given, _as_number(tape, inside))}


def _sigmoid(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    y = node.output[0]
    return {0: tape.op("Mul", given, tape.op("Mul", y, tape.op("Sub", tape.number(1.0), y)))}


def _softplus(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    return {0: tape.op("Mul", given, tape.op("Sigmoid", node.input[0]))}


def _prelu(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    return {0: tape.op("Mul", given, _choose_slope(tape, node.input[0], node.input[1]))}


def _tanh(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    y = node.output[0]
    return {0: tape.op("Mul", given, tape.op("Sub", tape.number(1.0), tape.op("Mul", y, y)))}


def _ramp(tape: DerivativeNodes, node: onnx.NodeProto) -> tuple[str, float]:
    """Where a HardSigmoid rises, and how steeply."""
    a = {"alpha": 0.2, "beta": 0.5} | read_attributes(node)
    inside = [
        tape.op(kind, node.input[0], tape.number((edge - a["beta"]) / a["alpha"]))
        for kind, edge in (("Greater", 0.0), ("Less", 1.0))
    ]
    return tape.op("And", *inside), a["alpha"]


def _hard_sigmoid(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    inside, slope = _ramp(tape, node)
    return {0: tape.op("Mul", given, tape.op("Mul", _as_number(tape, inside), tape.number(slope)))}


def _hard_swish(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    """X / 3 + 1 / 2 between -3 and 3, then 1."""
    x = node.input[0]
    slope = tape.op("Add", tape.op("Mul", x, tape.number(1 / 3)), tape.number(0.5))
    above = tape.op("Greater", x, tape.number(3.0))
    inside = tape.op("Xor", tape.op("Greater", x, tape.number(-3.0)), above)
    slope = tape.op("Add", tape.op("Mul", slope, _as_number(tape, inside)), _as_number(tape, above))
    return {0: tape.op("Mul", given, slope)}


def _concat(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    axis = read_attributes(node)["axis"]
    sizes = tape.number([tape.shape(n)[axis] for n in node.input], np.int64)
    tape.op("Split", given, sizes, outputs=len(node.input), axis=axis)
    return dict(enumerate(tape.made[-1].output))


def _transpose(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    rank = len(tape.shape(node.input[0]))
    order = read_attributes(node).get("perm", list(range(rank))[::-1])
    return {0: tape.op("Transpose", given, perm=np.argsort(order).tolist())}


def _reshape_back(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    return {0: tape.reshape(given, tape.shape(node.input[0]))}


def _pass_back(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    return {0: given}


def _scatter_back(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    """Slice, Gather and Pad: back to where each element came from, found by doing it to the places of one row.

    A box of them is cut out and padded, anything else is picked one by one, which takes a multiple of the time.
    """
    (rows, *inner), size = tape.shape(node.input[0]), tape.shape(node.output[0])
    places = np.arange(1, math.prod(inner) + 1, dtype=np.int64).reshape(1, *inner)
    found = _run_alone(tape, node, places)
    if size[0] != rows or found.shape != (1, *size[1:]):
        raise Unknown(f"{node.op_type} along the first axis")
    if (before := _find_margins(places, found)) is not None:
        return {0: _put_box_back(tape, given, size[1:], before, inner)}
    if len(np.unique(found[found > 0])) < np.count_nonzero(found):
        raise Unknown(f"{node.op_type} that takes an element twice")
    at = np.zeros(places.size + 1, np.int64)
    at[found.ravel()] = np.arange(1, found.size + 1)
    nothing = tape.number(np.zeros((rows, 1)))
    source = tape.op("Concat", nothing, tape.reshape(given, [rows, -1]), axis=1)
    return {0: tape.reshape(tape.op("Gather", source, tape.number(at[1:], np.int64), axis=1), [rows, *inner])}


def _find_margins(places: Array, found: Array) -> list[int] | None:
    """How far what was taken stands from the start of each axis, negative where 0 stands before it; None: no box."""
    hit = np.flatnonzero(found)
    if not hit.size:
        return None
    first = np.unravel_index(int(hit[0]), found.shape)
    before = [int(i - k) for i, k in zip(np.unravel_index(found[first] - 1, places.shape), first, strict=True)][1:]
    expected = np.zeros_like(found)
    spans = [(max(0, -b), min(n, m - b)) for b, n, m in zip(before, found.shape[1:], places.shape[1:], strict=True)]
    inner = tuple(slice(a + b, z + b) for b, (a, z) in zip(before, spans, strict=True))
    expected[(slice(None), *(slice(*s) for s in spans))] = places[(slice(None), *inner)]
    return before if np.array_equal(expected, found) else None


def _put_box_back(tape: DerivativeNodes, given: str, size: list[int], before: list[int], inner: list[int]) -> str:
    """The derivative by the entries of a box, rows of one size, at its margins in rows of another; 0 around it."""
    behind = [m - n - b for m, n, b in zip(inner, size, before, strict=True)]
    axes = [k + 1 for k in range(len(inner)) if before[k] < 0 or behind[k] < 0]
    if axes:
        starts, ends = [max(0, -before[k - 1]) for k in axes], [size[k - 1] + min(0, behind[k - 1]) for k in axes]
        given = tape.op("Slice", given, *(tape.number(a, np.int64) for a in (starts, ends, axes)))
    pads = [0, *(max(0, b) for b in before), 0, *(max(0, b) for b in behind)]
    return tape.op("Pad", given, tape.number(pads, np.int64)) if any(pads) else given


def _run_alone(tape: DerivativeNodes, node: onnx.NodeProto, places: Array) -> Array:
    """The result of a node on the numbers of places; Pad fills with place 0."""
    if read_attributes(node).get("mode", b"constant") != b"constant":
        raise Unknown("Pad that repeats its input")
    fill = node.input[2] if node.op_type == "Pad" and len(node.input) > 2 else ""
    feed = {n: tape.constant(n) for n in node.input[1:] if n and n != fill}
    names = [node.input[0], *(n if n in feed else "" for n in node.input[1:])]
    alone = helper.make_node(node.op_type, names, node.output[:1], **read_attributes(node))
    given = helper.make_tensor_value_info(node.input[0], onnx.TensorProto.INT64, places.shape)
    tables = [numpy_helper.from_array(a, n) for n, a in feed.items()]
    graph = helper.make_graph([alone], "alone", [given], [onnx.ValueInfoProto(name=node.output[0])], tables)
    return tape.run(graph, {node.input[0]: places})


def _differentiate_matmul(tape: DerivativeNodes, node: onnx.NodeProto, given: str) -> Derivatives:
    """An activation times a constant matrix."""
    if node.input[1] in tape.live or len(tape.shape(node.input[1])) != 2:
        raise Unknown("a product of two activations")
    a = read_attributes(node)
    if a.get("transA"):
        raise Unknown("Gemm with its input transposed")
    w = tape.constant(node.input[1]).astype(np.float32) * np.float32(a.get("alpha", 1.0))
    return {0: tape.op("MatMul", given, tape.number(w if a.get("transB") else w.T))}


DERIVATIVES: dict[str, DerivativeRule] = {
    "Conv": _conv, "BatchNormalization": _batch_norm, "MatMul": _differentiate_matmul, "Gemm": _differentiate_matmul,
    "AveragePool": _average_pool, "MaxPool": _max_pool, "GlobalAveragePool": _global_average,
    "ReduceMean": _reduce_mean,
    "Add": _sum, "Sum": _sum, "Sub": _sub, "Mul": _mul, "Div": _div,
    "Relu": _relu, "LeakyRelu": _leaky, "Clip": _clip, "Sigmoid": _sigmoid, "Tanh": _tanh,
    "PRelu": _prelu, "Softplus": _softplus,
    "HardSigmoid": _hard_sigmoid, "HardSwish": _hard_swish,
    "Concat": _concat, "Transpose": _transpose, "Split": _pass_back,
    "Slice": _scatter_back, "Gather": _scatter_back, "Pad": _scatter_back,
    "Reshape": _reshape_back, "Flatten": _reshape_back, "Squeeze": _reshape_back, "Unsqueeze": _reshape_back,
    "Identity": _pass_back, "Dropout": _pass_back,
}  # fmt: skip
"""Rules for the derivatives by an operator's inputs, given the one by its output."""


def _join(tape: DerivativeNodes, node: onnx.NodeProto, given: Sequence[str | None]) -> str:
    """The derivatives by the parts of a Split as one; parts that nothing reads have none."""
    parts = [g or tape.number(np.zeros(tape.shape(n))) for g, n in zip(given, node.output, strict=True)]
    return tape.put(build.concat(parts, read_attributes(node).get("axis", 0)))


JOINED_DERIVATIVES: dict[str, Callable[[DerivativeNodes, onnx.NodeProto, Sequence[str | None]], str]] = {"Split": _join}
"""Operators of several outputs: one derivative of those by each, which their rule is given."""
