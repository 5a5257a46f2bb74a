"""Two graphs side by side, without running them: is a compiled file what a plan makes of its source, but for weights?

    compare_structure(expected, compiled).solved       # {"fc.weight": 0.12}: weights that the file has otherwise
    compare_structure(expected, compiled, strict=True)     # no weight may be otherwise by more than a tolerance

Both are walked from their outputs to their inputs, node beside node; what nodes and values are called inside does not
matter. Operators, attributes, wires, and the types and shapes of all constants have to agree, and so have the numbers
of every constant that compensation never writes: sizes, positions, tables, statistics, scales. What it writes (weights
of contractions, cells and experts, biases, an Add behind a product that has none) may have other numbers, and so
may operands of normalisations where a policy updates them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.errors import VerificationError
from spa_compiler.ir.control_flow import is_marker
from spa_compiler.ir.model import Model, describe_node, find_element_type
from spa_compiler.ir.reader import from_proto
from spa_compiler.operators.build import is_sum
from spa_compiler.operators.tables import find_traits
from spa_compiler.operators.traits import Traits
from spa_compiler.verification.comparison import measure_difference

SOLVED_TYPES = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    }
)
"""Element types of numbers that least squares may write."""
OWN_NAMES = frozenset({"path", "paths", "unread"})
"""Attributes of open bodies that hold names."""


@dataclass
class Structure:
    """Two graphs that agree: how many constants are equal bit for bit, and where the others are.

    `solved`: constants of the compiled file with other numbers, and how far they are off (infinite where there is
    nothing to compare with); `added`: biases that the expected graph does not have.
    """

    nodes: int = 0
    equal: int = 0
    solved: dict[str, float] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)

    @property
    def is_same(self) -> bool:
        """Is every weight the same, bit for bit, and none added?"""
        return not self.solved and not self.added


@dataclass(frozen=True)
class Place:
    """Where a value is read.

    `solvable`: compensation may write a constant there, `integers`: one that is dequantised; `optional`: it is a bias
    that need not be there.
    """

    text: str
    solvable: bool = False
    integers: bool = False
    optional: bool = False


def reopen(proto: onnx.ModelProto, source: Model) -> Model:
    """A model that was made from `source`, as it is when it is read from a file."""
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    return from_proto(out, source.path)


def compare_structure(expected: Model, compiled: Model, strict: bool = False, norms: bool = False) -> Structure:
    """The differences between the numbers of two graphs that are the same otherwise.

    `strict`: nothing may have been added behind the expected graph; `norms`: gains, biases and statistics of
    normalisations may have been updated, too. Raises VerificationError that names the first place
    where they are not the same.
    """
    return _Walk(expected, compiled, strict, norms).run()


class _Walk:
    """Pairs of values that have to mean the same, from the outputs on."""

    def __init__(self, expected: Model, compiled: Model, strict: bool, norms: bool) -> None:
        self.models, self.strict, self.norms = (expected, compiled), strict, norms
        self.protos = tuple({id(n): p for n, p in zip(m.graph.nodes, m.flat(), strict=True)} for m in self.models)
        self.found = Structure()
        self.partner: dict[str, str] = {}
        self.nodes: dict[int, int] = {}
        self.moving = find_moving(expected)
        self.left: list[tuple[gs.Tensor, gs.Tensor, Place]] = []

    def run(self) -> Structure:
        """Raises VerificationError."""
        expected, compiled = self.models
        self._compare_interface([t.name for t in expected.graph.outputs], [t.name for t in compiled.graph.outputs])
        self._compare_defaults()
        for a, b in zip(expected.graph.outputs, compiled.graph.outputs, strict=True):
            self.left.append((a, b, Place(f"the output '{a.name}'")))
        while self.left:
            self._pair(*self.left.pop())
        return self.found

    @staticmethod
    def _compare_interface(wanted: list[str], names: list[str]) -> None:
        if wanted != names:
            raise VerificationError(f"the structure differs: the outputs are {names}, expected {wanted}")

    def _compare_defaults(self) -> None:
        expected, compiled = self.models
        for name in sorted({*expected.defaults, *compiled.defaults}):
            if name not in expected.defaults or name not in compiled.defaults:
                raise VerificationError(
                    f"the structure differs: only one of the models has a default of input '{name}'"
                )
            if not is_equal(expected.default_array(name), compiled.default_array(name)):
                raise VerificationError(f"the structure differs: the default of input '{name}' has other numbers")

    def _pair(self, a: gs.Tensor, b: gs.Tensor, place: Place) -> None:
        """Note that two values have to mean the same, and what follows from that."""
        if a.name and isinstance(a, gs.Variable) and self.partner.get(a.name) == b.name:
            return
        if isinstance(a, gs.Constant) or isinstance(b, gs.Constant):
            self._pair_constants(a, b, place)
            return
        if not a.name and place.solvable and place.optional and not self.strict and self._is_dequantised(b):
            self.found.added.append(b.name)  # a bias of integers
            return
        if not a.inputs or not b.inputs:
            if a.name != b.name or a.inputs or b.inputs:
                self._refuse(place, f"reads {_describe(b)}, expected {_describe(a)}")
            return
        inner = None if self.strict else self._find_before_bias(a, b, place)
        if inner is not None:
            self.left.append((a, inner, place))
            return
        if self.partner.setdefault(a.name, b.name) != b.name:
            self._refuse(place, f"reads {_describe(b)}, and elsewhere '{self.partner[a.name]}' in its place")
        self._pair_nodes(a, b, place)

    def _find_before_bias(self, a: gs.Tensor, b: gs.Tensor, place: Place) -> gs.Tensor | None:
        """The value before an Add of a constant that compensation has put behind it, or None."""
        node, wanted = b.inputs[0], a.inputs[0]
        if not is_sum(node):
            return None
        constants = [t for t in node.inputs if isinstance(t, gs.Constant)]
        others = [t for t in node.inputs if not isinstance(t, gs.Constant)]
        behind = self._find_traits(0, wanted).is_contraction or place.optional
        if len(constants) != 1 or len(others) != 1 or not behind:
            return None
        if is_sum(wanted) and others[0].name != a.name:
            return None
        self._check_solvable(constants[0], Place(place.text, True))
        self.found.added.append(constants[0].name)
        return others[0]

    def _pair_constants(self, a: gs.Tensor, b: gs.Tensor, place: Place) -> None:
        if not a.name and place.integers and isinstance(b, gs.Constant) and not self.models[1].array(b).any():
            return  # a zero point of 0 is none
        if not isinstance(a, gs.Constant):
            free = place.solvable and not self.strict and (place.optional or a.name != "")
            if not isinstance(b, gs.Constant) or not free:
                self._refuse(place, f"reads {_describe(b)}, expected {_describe(a)}")
            self._check_solvable(b, place)
            if a.name:
                self.found.solved[b.name] = math.inf
            else:
                self.found.added.append(b.name)
            return
        if not isinstance(b, gs.Constant):
            self._refuse(place, f"reads {_describe(b)}, expected {_describe(a)}")
        widened = place.solvable and place.optional and not self.strict and _is_spread(a, b)
        if find_element_type(a) != find_element_type(b) or not (widened or tuple(a.shape) == tuple(b.shape)):
            self._refuse(place, f"reads the constant '{b.name}' of {_describe_type(b)}, expected {_describe_type(a)}")
        mine, theirs = self.models[0].array(a), self.models[1].array(b)
        if is_equal(mine, theirs):
            self.found.equal += 1
            return
        self._check_solvable(b, place)
        self.found.solved[b.name] = measure_difference(theirs, np.broadcast_to(mine, theirs.shape)).error

    def _check_solvable(self, b: gs.Constant, place: Place) -> None:
        """Raise VerificationError where compensation never writes such a constant."""
        if not place.solvable or not (place.integers or find_element_type(b) in SOLVED_TYPES):
            self._refuse(
                place, f"reads the constant '{b.name}' of {_describe_type(b)} with other numbers than expected"
            )

    def _pair_nodes(self, a: gs.Tensor, b: gs.Tensor, place: Place) -> None:
        one, other = a.inputs[0], b.inputs[0]
        slots = [next(k for k, t in enumerate(n.outputs) if t is v) for n, v in ((one, a), (other, b))]
        if self.nodes.get(id(one)) == id(other) and slots[0] == slots[1]:
            return
        if id(one) in self.nodes or slots[0] != slots[1] or len(one.outputs) != len(other.outputs):
            self._refuse(place, f"reads {_describe(b)}, expected {_describe(a)}")
        if (one.op, one.domain or "") != (other.op, other.domain or ""):
            self._refuse(place, f"reads {_describe(b)}, expected {_describe(a)}")
        self.nodes[id(one)] = id(other)
        self.found.nodes += 1
        self._compare_attributes(one, other)
        for k in range(max(len(one.inputs), len(other.inputs))):
            x, y = (n.inputs[k] if k < len(n.inputs) else gs.Variable.empty() for n in (one, other))
            if x.name or y.name:
                self.left.append((x, y, self._describe_slot(one, k, place)))

    def _describe_slot(self, node: gs.Node, k: int, outer: Place) -> Place:
        """Input `k` of a node of the expected graph, whose output is read at `outer`."""
        text, traits = f"{node.op} '{describe_node(node)}'", self._find_traits(0, node)
        if k < len(node.inputs) and node.inputs[k].name in self.moving:
            return Place(text, optional=traits.is_contraction and k > 1)
        if outer.solvable:  # a weight that is computed from constants
            return Place(text, True, outer.integers or traits.dequantizes)
        if traits.is_contraction or traits.lookup:
            return Place(text, not traits.is_quantized, optional=traits.is_contraction and k > 1)
        if (
            self.norms
            and traits.norm is not None
            and traits.norm.gain <= k <= max(traits.norm.gain + 1, *traits.norm.statistics, 0)
        ):
            return Place(text, True, optional=k == traits.norm.gain + 1 and not traits.norm.is_stored)
        beside = [t.inputs[0] for t in node.inputs if t.inputs and t.name in self.moving]
        return Place(text, is_sum(node) and any(self._find_traits(0, n).is_contraction for n in beside))

    def _compare_attributes(self, one: gs.Node, other: gs.Node) -> None:
        mine, theirs = (self._read_attributes(k, n) for k, n in enumerate((one, other)))
        for name in sorted({*mine, *theirs}):
            if mine.get(name) != theirs.get(name) and not self._is_bias_factor(one, other, name):
                raise VerificationError(
                    f"the structure differs: {other.op} '{describe_node(other)}' has another {name} than "
                    f"{one.op} '{describe_node(one)}'"
                )

    def _read_attributes(self, which: int, node: gs.Node) -> dict[str, bytes]:
        out = {}
        for a in self.protos[which][id(node)].attribute:
            plain = onnx.AttributeProto()
            plain.CopyFrom(a)
            plain.doc_string = ""
            if plain.HasField("t"):
                plain.t.name = plain.t.doc_string = ""
            if a.name not in OWN_NAMES:
                out[a.name] = plain.SerializeToString(deterministic=True)
        return out

    def _is_bias_factor(self, one: gs.Node, other: gs.Node, name: str) -> bool:
        """Is this a factor of 0 before a bias, which becomes 1 where a bias is written?"""
        biased = not self.strict and self._find_traits(0, one).bias > 0
        return biased and one.attrs.get(name) == 0.0 and other.attrs.get(name, 1.0) == 1.0

    def _is_dequantised(self, b: gs.Tensor) -> bool:
        """Is it made of constants by one node of the compiled graph that dequantises them?"""
        node = b.inputs[0] if b.inputs else None
        if node is None or not self._find_traits(1, node).dequantizes:
            return False
        return all(isinstance(t, gs.Constant) for t in node.inputs)

    def _find_traits(self, which: int, node: gs.Node) -> Traits:
        return find_traits(self.protos[which][id(node)])

    def _refuse(self, place: Place, what: str) -> NoReturn:
        raise VerificationError(f"the structure differs: {place.text} {what}")


def find_moving(model: Model) -> frozenset[str]:
    """Values that may differ from run to run or from round to round: all but constants and what they alone decide."""
    moving = {t.name for t in model.graph.inputs}
    for node in model.graph.nodes:
        if is_marker(node) or not node.inputs or any(t.name in moving for t in node.inputs):
            moving.update(t.name for t in node.outputs)
    return frozenset(moving - {""})


def is_equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Are two arrays the same, bit for bit?"""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _is_spread(a: gs.Constant, b: gs.Constant) -> bool:
    """Can a bias be written out in the shape of another one?"""
    try:
        return np.broadcast_shapes(a.shape, b.shape) == tuple(b.shape)
    except ValueError:
        return False


def _describe(t: gs.Tensor) -> str:
    """A value in messages: what gives it."""
    if isinstance(t, gs.Constant):
        return f"the constant '{t.name}'"
    if t.inputs:
        return f"'{t.name}' of {t.inputs[0].op} '{describe_node(t.inputs[0])}'"
    return f"the input '{t.name}'" if t.name else "nothing"


def _describe_type(t: gs.Constant) -> str:
    kind = onnx.TensorProto.DataType.Name(find_element_type(t)).lower()
    return f"{kind}{list(t.shape)}"


def list_worst(found: Structure) -> list[tuple[str, float]]:
    """Constants with other numbers, those that are farthest off first."""
    return sorted(found.solved.items(), key=lambda pair: (-pair[1], pair[0]))
