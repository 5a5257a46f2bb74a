"""A graph that is drawn block by block, with symbolic sizes, as an exporter would write it.

    d = Draft(seed)
    x = d.add_input("x", (d.draw_size("N", 2), 3, d.draw_size("H", 16), d.draw_size("W", 16)))
    y = x.become(d.op("Conv", x, d.weight(8, 3, 1, 1)), 8, at=1)
    d.add_output(y)
    d.model()

A size is a number, or the name of a symbol. How a run-time shape is written (with Gather, with Slice, with `start` and
`end`; as 0, as -1) is drawn, too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

T = TypeVar("T")
Array = np.ndarray[Any, Any]
Size = int | str
WIDTHS = (4, 6, 8, 12, 16)
OPSETS = (13, 14, 15, 16, 17, 17, 18, 18, 20, 21)
IR = {8: 4, 9: 4, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
FAR = (1 << 63) - 1
FAR32 = (1 << 31) - 1
POOLS = {
    "N": (2, 1, 3, 5), "P": (3, 1, 5, 9), "n": (5, 3, 9, 11), "H": (17, 31, 23, 40, 13), "W": (19, 37, 22, 29, 11),
    "T": (7, 3, 13, 1, 19), "L": (101, 163, 77, 240, 51),
}  # fmt: skip
"""Sizes of a symbol, by the first letter of its name, at which a written file is run; few that an analysis chooses."""


@dataclass(frozen=True)
class Value:
    """A value of the graph: its name and the sizes of its axes; a size that is not known is a name that occurs once."""

    name: str
    axes: tuple[Size, ...]

    def become(self, name: str, size: Size | None = None, at: int = -1) -> Value:
        """Another value of these axes; `size` replaces the one of axis `at`."""
        axes = list(self.axes)
        if size is not None:
            axes[at] = size
        return Value(name, tuple(axes))

    @property
    def rank(self) -> int:
        return len(self.axes)

    def width(self, at: int) -> int:
        """The size of an axis that is a number."""
        size = self.axes[at]
        assert isinstance(size, int)
        return size


@dataclass(frozen=True)
class Input:
    """How an input is drawn: floats are normal, or in low..high where that is given; integers are in low..high."""

    axes: tuple[Size, ...]
    kind: str = "float32"
    low: float | None = None
    high: float | None = None

    def draw(self, sizes: dict[str, int], rng: np.random.Generator) -> Array:
        """An array at these sizes."""
        shape = [evaluate(a, sizes) for a in self.axes]
        if self.kind == "bool":
            return rng.random(shape) < 0.7
        if self.kind.startswith("int"):
            return rng.integers(int(self.low or 0), int(self.high or 0) + 1, shape).astype(self.kind)
        if self.low is not None:
            return rng.uniform(self.low, self.high, shape).astype(self.kind)
        return rng.standard_normal(shape).astype(self.kind)


def evaluate(size: Size, sizes: dict[str, int]) -> int:
    """The number that a size is; a name may be a sum, like `P + T`."""
    if isinstance(size, int):
        return size
    return sum(int(part) if part.isdigit() else sizes[part] for part in size.split(" + "))


@dataclass
class Draft:
    """Nodes and constants so far, and everything random about them."""

    seed: str
    half: bool = False
    rng: random.Random = field(init=False)
    numbers: np.random.Generator = field(init=False)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    inputs: dict[str, Input] = field(default_factory=dict)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    exact: bool = True
    """False: an operator mixes channels in a way of which the oracle knows no masked form; only shapes are compared."""
    made: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.numbers = np.random.default_rng(self.rng.randrange(1 << 30))
        self.opset = self.pick(OPSETS)
        self.shape_style = self.pick(["gather", "slice", "ends"] if self.opset >= 15 else ["gather", "slice"])
        self.constant_nodes = self.chance(0.15)
        self.symbolic = self.pick([0.0, 0.5, 0.8, 1.0])
        self.prefix = self.pick(["", "/block/", "model.", "onnx::"])

    # chance ---

    def pick(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def draw_width(self) -> int:
        """Channels of a hidden value."""
        return self.pick(WIDTHS)

    def draw_size(self, symbol: str, static: int) -> Size:
        """A symbol or a number."""
        return symbol if self.chance(self.symbolic) else static

    # nodes and constants ---

    def name_value(self, text: str = "v") -> str:
        """A new name."""
        self.made += 1
        return f"{self.prefix}{text}{self.made}"

    def ops(self, kind: str, *inputs: Value | str, count: int = 1, domain: str = "", **attributes: Any) -> list[str]:
        """A node; the names of its outputs."""
        names = [i if isinstance(i, str) else i.name for i in inputs]
        outs = [self.name_value(kind.lower()) for _ in range(count)]
        name = attributes.pop("node", f"{kind}_{self.made}")
        self.nodes.append(helper.make_node(kind, names, outs, name=name, domain=domain, **attributes))
        return outs

    def op(self, kind: str, *inputs: Value | str, domain: str = "", **attributes: Any) -> str:
        """A node of one output."""
        return self.ops(kind, *inputs, domain=domain, **attributes)[0]

    def constant(self, array: Array, name: str = "c") -> str:
        """An initializer, or a Constant."""
        tensor = numpy_helper.from_array(np.asarray(array, order="C"), self.name_value(name))
        if self.constant_nodes:
            self.nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        else:
            self.constants.append(tensor)
        return tensor.name

    def weight(self, *shape: int, fan: int = 0, name: str = "w") -> str:
        """Random floats that keep the scale of what they are multiplied with."""
        scale = 1 / math.sqrt(fan or max(1, math.prod(shape[1:]) if len(shape) > 1 else 4))
        return self.floats(scale * self.numbers.standard_normal(shape), name)

    def positive(self, *shape: int, name: str = "var") -> str:
        """Random floats in 0.5..1.5."""
        return self.floats(self.numbers.uniform(0.5, 1.5, shape), name)

    def floats(self, array: Any, name: str = "f") -> str:
        """A constant of the graph's float type."""
        return self.constant(np.asarray(array, np.float16 if self.half else np.float32), name)

    def ints(self, *values: int, kind: str = "int64") -> str:
        """A vector of integers."""
        return self.constant(np.array(values, kind), "i")

    def index(self, value: int) -> str:
        """One integer without axes."""
        return self.constant(np.array(value, np.int64), "i")

    @property
    def float_type(self) -> int:
        return int(TensorProto.FLOAT16 if self.half else TensorProto.FLOAT)

    # sizes and shapes ---

    def size(self, x: Value, at: int) -> str:
        """The size of an axis at run time, as a vector of one entry."""
        if self.shape_style == "ends":
            return self.op("Shape", x, start=at, end=at + 1)
        shape = self.op("Shape", x)
        if self.shape_style == "slice":
            return self.op("Slice", shape, self.ints(at), self.ints(at + 1), self.ints(0))
        return self.unsqueeze(self.op("Gather", shape, self.index(at)), 0)

    def entry(self, x: Value, at: int, place: int) -> int | str:
        """The size of an axis as an entry of a shape at `place`: a number, 0, or computed at run time."""
        size = x.axes[at]
        fits = [size] if isinstance(size, int) else []
        if place == at:
            fits.append(0)
        if not fits or self.chance(0.3 + 0.3 * (not isinstance(size, int))):
            return self.size(x, at)
        return self.pick(fits)

    def name_size(self) -> str:
        """The name of a size that nothing else has."""
        self.made += 1
        return f"d{self.made}"

    def can_say(self, size: Size) -> bool:
        """May an input have this size: a number, or one that another input has."""
        return isinstance(size, int) or any(size in i.axes for i in self.inputs.values())

    def leave_open(self, *entries: int | str) -> list[int | str]:
        """The entries of a shape, one of them perhaps -1."""
        given = list(entries)
        if -1 not in given and self.chance(0.5):
            given[self.rng.randrange(len(given))] = -1
        return given

    def times(self, size: int | str, factor: int) -> int | str:
        """An entry of a shape, multiplied."""
        return size * factor if isinstance(size, int) else self.op("Mul", size, self.ints(factor))

    def shape(self, *entries: int | str) -> str:
        """A shape: a constant where all entries are numbers."""
        if all(isinstance(e, int) for e in entries):
            return self.ints(*(e for e in entries if isinstance(e, int)))
        return self.op("Concat", *(self.ints(e) if isinstance(e, int) else e for e in entries), axis=0)

    def reshape(self, x: Value, entries: Sequence[int | str], axes: Sequence[Size]) -> Value:
        """Reshape; `axes` is what comes out. Zeros are only right where the entry copies the axis of its place."""
        return Value(self.op("Reshape", x, self.shape(*entries)), tuple(axes))

    def transpose(self, x: Value, *perm: int) -> Value:
        return Value(self.op("Transpose", x, perm=perm), tuple(x.axes[p] for p in perm))

    def slice(self, x: Value, at: int, start: int, end: int, size: Size, step: int = 1) -> Value:
        """A Slice along one axis; operands are int32 or int64, and may name all axes."""
        kind = self.pick(["int64", "int64", "int32"])
        far = FAR32 if kind == "int32" else FAR
        end = min(end, far)
        parts: list[list[int]] = [[start], [end], [at], [step]]
        if step == 1 and self.chance(0.3):  # all axes, as tf2onnx does
            rest = [k for k in range(x.rank) if k != at]
            parts = [[start, *(0 for _ in rest)], [end, *(far for _ in rest)], [at, *rest], [1] * x.rank]
        given = [self.ints(*p, kind=kind) for p in parts]
        return x.become(self.op("Slice", x, *given[: 4 if step != 1 or self.chance(0.5) else 3]), size, at)

    def unsqueeze(self, x: Value | str, *axes: int) -> str:
        return self.op("Unsqueeze", x, self.ints(*axes))

    def squeeze(self, x: Value | str, *axes: int) -> str:
        return self.op("Squeeze", x, self.ints(*axes))

    def reduce(self, kind: str, x: Value | str, *axes: int, keep: bool = True, **attributes: Any) -> str:
        """A reduction, in the form of the opset."""
        if self.opset >= 18 or kind == "ReduceSum":
            return self.op(kind, x, self.ints(*axes), keepdims=int(keep), **attributes)
        return self.op(kind, x, axes=axes, keepdims=int(keep), **attributes)

    def split(self, x: Value, sizes: Sequence[int], at: int) -> list[Value]:
        """A Split into pieces of these sizes, or the same as Slices."""
        if self.chance(0.25):
            ends = np.cumsum([0, *sizes]).tolist()
            return [self.slice(x, at, ends[k], ends[k + 1], s) for k, s in enumerate(sizes)]
        given = [] if len(set(sizes)) == 1 and self.opset < 18 and self.chance(0.5) else [self.ints(*sizes)]
        names = self.ops("Split", x, *given, count=len(sizes), axis=at)
        return [x.become(n, s, at) for n, s in zip(names, sizes, strict=True)]

    def concat(self, values: Sequence[Value], at: int, size: Size) -> Value:
        return values[0].become(self.op("Concat", *values, axis=at), size, at)

    # bodies ---

    @contextmanager
    def body(self) -> Iterator[onnx.GraphProto]:
        """Draw a body: what is drawn inside becomes its nodes; constants are in it or outside, by chance."""
        graph, nodes, constants = onnx.GraphProto(name=self.name_value("body")), self.nodes, self.constants
        inside = self.chance(0.5)
        self.nodes = []
        if inside:
            self.constants = []
        yield graph
        graph.node.extend(self.nodes)
        self.nodes = nodes
        if inside:
            graph.initializer.extend(self.constants)
            self.constants = constants

    def describe(
        self, name: str, kind: int | None = None, axes: Sequence[Size | None] | None = None
    ) -> onnx.ValueInfoProto:
        """A value with its type, and its shape where that is given."""
        return helper.make_tensor_value_info(name, self.float_type if kind is None else kind, axes)

    # ends ---

    def add_input(
        self, name: str, axes: Sequence[Size], kind: str = "", low: float | None = None, high: float | None = None
    ) -> Value:  # fmt: skip
        """An input of the graph; a float where no kind is given."""
        self.inputs[name] = Input(tuple(axes), kind or ("float16" if self.half else "float32"), low, high)
        return Value(name, tuple(axes))

    def add_output(self, x: Value, kind: int | None = None) -> None:
        """An output of the graph; its sizes are said or not, its rank is."""
        axes: Sequence[Size | None] = x.axes if self.chance(0.7) else [None] * x.rank
        self.outputs.append(self.describe(x.name, kind, axes))

    def apply(self, blocks: Sequence[Callable[[Draft, Value], Value]], x: Value, most: int) -> Value:
        """Up to `most` blocks, at least one."""
        for _ in range(self.rng.randint(1, most)):
            block = self.pick(blocks)
            self.tags.append(block.__name__)
            x = block(self, x)
        return x

    def model(self) -> onnx.ModelProto:
        """The model."""
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(i.kind)), i.axes)
            for n, i in self.inputs.items()
        ]
        graph = helper.make_graph(self.nodes, "drawn", inputs, self.outputs, self.constants)
        domains = sorted({n.domain for n in self.nodes if n.domain} | {f.domain for f in self.functions})
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, OTHER.get(d, 1)) for d in domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR[self.opset], functions=self.functions)
        model.producer_name = self.pick(["pytorch", "tf2onnx", "", "skl2onnx"])
        return model


OTHER = {"ai.onnx.ml": 3, "com.microsoft": 1}
