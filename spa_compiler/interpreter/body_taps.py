"""Control nodes with further outputs, which carry out what the contractions in their bodies read and give.

    bodies = BodyIndex(model)
    node, taps = bodies.node(bodies.around[index], {})    # an outermost control node, with an output more for each tap

A tap carries a value out of its body, through every control node around it: a Loop or a Scan stacks it round by round,
an If gives it from the branch that runs and nothing from the other. What lies in a branch that a Loop or a Scan repeats
is not recorded: its rounds cannot be stacked.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from spa_compiler.ir.control_flow import DOMAIN, Chain, find_body_paths, find_chains, nest_bodies
from spa_compiler.ir.model import Model
from spa_compiler.operators.tables import find_traits

Array = NDArray[Any]
OUTPUT_SLOT = -1


@dataclass(frozen=True)
class Span:
    """Nodes from the first marker of an outermost control node to that node itself."""

    start: int
    end: int


@dataclass(frozen=True)
class Tap:
    """A recorded value: input `slot` of a contraction, or its OUTPUT."""

    index: int
    slot: int
    name: str  # of the control node's output
    rounds: int  # loops around it: axes in front of its own
    merged: bool  # may rounds be taken for more rows of the first axis?

    def chunks(self, array: Array) -> list[Array]:
        """The value of one run, round by round; empty where it was not reached."""
        if array.size == 0 or not self.rounds:
            return [array] if array.size else []
        flat = array.reshape(-1, *array.shape[self.rounds :])
        return [flat.reshape(-1, *flat.shape[2:])] if self.merged and flat.ndim > 2 else list(flat)


class BodyIndex:
    """The flat nodes of a model, and where control nodes are among them."""

    def __init__(self, model: Model) -> None:
        self.model, self.nodes = model, model.flat()
        self.lies, self.paths = find_chains(model.graph.nodes), [find_body_paths(n) for n in model.graph.nodes]
        self.kinds = {n.attrs["path"]: n.attrs["kind"] for n in model.graph.nodes if n.domain == DOMAIN}
        self.constants = set(model.constants())
        self.around: dict[int, Span] = {}
        start = None
        for i, (node, chain) in enumerate(zip(self.nodes, self.lies, strict=True)):
            start = i if node.domain == DOMAIN and not chain and start is None else start
            if start is not None and self.paths[i] and node.domain != DOMAIN and not chain:
                span = Span(start, i)
                self.around |= dict.fromkeys(range(start, i + 1), span)
                start = None

    def node(self, span: Span, added: Mapping[str, Array]) -> tuple[onnx.NodeProto, list[Tap]]:
        """The control node with taps as further outputs; `added` is added to what nodes give, by name."""
        return _TappedNode(self, span, added).build()

    def count_rounds(self, chain: Chain) -> int | None:
        """Loops around a node; None where what it gives cannot be stacked."""
        kinds = [self.kinds[p] for p in chain]
        loops = [k != "If" for k in kinds]
        return sum(loops) if loops == sorted(loops) else None

    def find_activations(self, node: onnx.NodeProto) -> list[int]:
        """Input slots of a contraction with a constant that the constant does not take."""
        if not find_traits(node).is_linear or len(node.input) < 2:
            return []
        fixed = [n in self.constants for n in node.input[:2]]
        return [fixed.index(False)] if sum(fixed) == 1 else []


class _TappedNode:
    """One control node while it is put together."""

    def __init__(self, index: BodyIndex, span: Span, added: Mapping[str, Array]) -> None:
        self.index, self.added = index, added
        reach = range(span.start, span.end + 1)
        self.nodes = [onnx.NodeProto.FromString(index.nodes[i].SerializeToString()) for i in reach]
        self.lies, self.paths = [index.lies[i] for i in reach], [index.paths[i] for i in reach]
        self.first = span.start
        self.frames = {p: copy.deepcopy(f) for p, f in index.model.bodies.items()}
        self.taps: list[Tap] = []
        self.more: dict[str, list[str]] = {}  # path -> further results of a body
        self.kinds: dict[str, int] = {}  # element types of these
        self.names = index.model.names.copy()
        self.outside: dict[str, str] = {}  # further result -> what the control node around it calls that
        self.fresh: list[tuple[int, Chain, onnx.NodeProto]] = []  # nodes to insert: before which one, and where it lies

    def build(self) -> tuple[onnx.NodeProto, list[Tap]]:
        """The node and its taps."""
        for k, (node, chain) in enumerate(zip(self.nodes, self.lies, strict=True)):
            slots, rounds = self.index.find_activations(node), self.index.count_rounds(chain)
            if slots and chain and rounds is not None:
                self._tap(k, slots[0], node.input[slots[0]], rounds)
                self._tap(k, OUTPUT_SLOT, node.output[0], rounds)
            if node.output and node.output[0] in self.added:
                self._add(k, node)
        self._lift()
        for at, chain, node in sorted(self.fresh, key=lambda f: f[0], reverse=True):  # of equal ones, the last is first
            self.nodes.insert(at, node)
            self.lies.insert(at, chain)
            self.paths.insert(at, ())
        graph = onnx.GraphProto(node=self.nodes, value_info=self.index.model.header.graph.value_info)
        nest_bodies(graph, self.lies, self.paths, self.frames, {}, self.names)
        return graph.node[0], self.taps

    def _add(self, k: int, node: onnx.NodeProto) -> None:
        """Add a constant to what a node gives."""
        name = node.output[0]
        node.output[0], added = self.names.value(f"{name}.before"), self.names.value(f"{name}.added")
        value = numpy_helper.from_array(self.added[name])
        self.fresh.append((k + 1, self.lies[k], helper.make_node("Add", [node.output[0], added], [name])))
        self.fresh.append((k + 1, self.lies[k], helper.make_node("Constant", [], [added], value=value)))

    def _tap(self, k: int, slot: int, source: str, rounds: int) -> None:
        """Carry a value to the outside of the outermost control node."""
        node, chain = self.nodes[k], self.lies[k]
        name = self.names.value(f"tap{self.first + k}.{slot}")
        self.fresh.append((k + (slot == OUTPUT_SLOT), chain, helper.make_node("Identity", [source], [name])))
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        left = node.input[0] in self.index.constants
        shapes = self.index.model.shapes
        for path in reversed(chain):
            self.more.setdefault(path, []).append(name)
            self.kinds[name] = shapes.kind.get(source, 0) if shapes is not None else 0
            self.outside[name] = self.names.value(f"{name}'")
            name = self.outside[name]
        self.taps.append(Tap(self.first + k, slot, name, rounds, not turned and not left))

    def _lift(self) -> None:
        """Write the further results into frames and control nodes."""
        for k, (control, paths) in enumerate(zip(self.nodes, self.paths, strict=True)):
            if control.domain == DOMAIN or not any(p in self.more for p in paths):
                continue
            names = [list(self.more.get(p, ())) for p in paths]
            every = [n for row in names for n in row]
            sizes = [len(self.frames[p].output) for p in paths]
            given = list(control.input)
            kept, results = given[: len(given) - sum(sizes)], given[len(given) - sum(sizes) :]
            for p, mine, size in zip(paths, names, sizes, strict=True):
                part = [n if n in mine else self._make_placeholder(p, n, k) for n in every]
                self.frames[p].output.extend(self._declare_type(n) for n in part)
                kept, results = [*kept, *results[:size], *part], results[size:]
            control.input[:] = kept
            control.output.extend(self.outside[n] for n in every)
            for a in control.attribute:
                if a.name in ("scan_output_axes", "scan_output_directions"):
                    a.ints.extend([0] * len(every))

    def _declare_type(self, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self.kinds.get(name) or onnx.TensorProto.FLOAT, None)

    def _make_placeholder(self, path: str, name: str, k: int) -> str:
        """The placeholder that the other branch gives for a tap."""
        kind = self.kinds[name] or onnx.TensorProto.FLOAT
        value = numpy_helper.from_array(np.zeros(0, helper.tensor_dtype_to_np_dtype(kind)))
        self.kinds[empty := self.names.value(f"{name}.none")] = kind
        self.fresh.append((k, (*self.lies[k], path), helper.make_node("Constant", [], [empty], value=value)))
        return empty
