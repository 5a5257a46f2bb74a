"""Rewrites that change nothing about a model's results and make its axes free: before the algebra sees the graph.

- `bypass`: whoever reads the Identity of a constant reads the constant.
- `untie`: a small constant that several nodes share is shared for its value, not for its meaning: one copy per use.
- `retie`: the reverse, for the file that is written.
- `permutations`: a chain of Reshape and Transpose that only permutes one axis (a channel shuffle) becomes a Gather.
- `selection_first`: Linear -> Reshape(.. 3 h d) -> Transpose -> pick on the digit 3 (fused qkv) becomes a Slice of the
  linear output and the chain without that digit, so that q, k and v have sizes of their own. What treats every number
  alike (a scale, QuantizeLinear) may stand anywhere in between: it is done after the pick.
- `drop_dead`: nodes that nobody reads.

Every function changes the graph it is given and returns how much it changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.digits import find_permutation
from spa_compiler.general import General
from spa_compiler.model import Model, element_type
from spa_compiler.nesting import is_control, is_marker
from spa_compiler.rules.core import UNARY
from spa_compiler.sizes import Size, product

ROW_MAJOR = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity")
CHAIN_LIMIT = 6
POINTWISE = frozenset([*UNARY, "QuantizeLinear", "DequantizeLinear", "Add", "Div", "Mul", "Sub"])
Axes = tuple[Size, ...]


def drop_dead(model: Model) -> int:
    """Remove nodes none of whose outputs is read; names that subgraphs capture are read."""
    wanted = {t.name for t in model.graph.outputs} | set(model.captured)
    dead: set[int] = set()
    gone: set[str] = set()  # bodies of control nodes that are dead
    for node in reversed(list(model.graph.nodes)):  # nodes are sorted: one pass from the end is enough
        read = any(t.outputs or t.name in wanted for t in node.outputs)
        if (node.attrs["path"] in gone) if is_marker(node) else not read:
            gone.update(node.attrs["paths"] if is_control(node) else ())
            node.inputs.clear()
            node.outputs.clear()
            dead.add(id(node))
    model.graph.nodes[:] = [n for n in model.graph.nodes if id(n) not in dead]
    return len(dead)


def index_of(graph: gs.Graph, node: gs.Node) -> int:
    """Position of a node by identity (graphsurgeon compares by content)."""
    return next(i for i, n in enumerate(graph.nodes) if n is node)


def bypass(model: Model) -> int:
    """Exporters share equal constants through Identity: the readers get the constant itself."""
    made = 0
    kept = {t.name for t in model.graph.outputs} | set(model.captured)
    for node in model.graph.nodes:
        if node.op == "Identity" and isinstance(node.inputs[0], gs.Constant) and node.outputs[0].name not in kept:
            for user in unique(node.outputs[0].outputs):
                for i in [i for i, t in enumerate(user.inputs) if t is node.outputs[0]]:
                    user.inputs[i] = node.inputs[0]
            made += 1
    return made


def untie(model: Model) -> int:
    """One copy per use of every shared constant that has at most one axis longer than 1, or one value only."""
    made = 0
    for name, tensor in model.constants().items():
        if len(tensor.outputs) < 2 or name in model.captured or not _small(model, tensor):
            continue
        values = model.array(tensor)
        if all(n.op == "Slice" for n in tensor.outputs):  # gates picked from one bias: what it means
            continue
        slots = [(n, i) for n in unique(tensor.outputs) for i, t in enumerate(n.inputs) if t is tensor]
        for k, (node, i) in enumerate(slots[1:], 1):
            copy = node.inputs[i] = model.new_constant(f"{name}.use{k}", values)
            model.copies[copy.name] = name
            made += 1
    return made


def untie_zeros(model: Model) -> int:
    """One ConstantOfShape per use: the zero state of every recurrent operator is its own."""
    return sum(_untie_node(model, node) for node in [n for n in model.graph.nodes if n.op == "ConstantOfShape"])


def retie(model: Model) -> int:
    """Readers of a copy that `untie` made read the original again where both hold the same; returns how many went.

    For the file: a plan that cut one use and not the other leaves them apart.
    """
    made = 0
    constants = model.constants()
    for name, copy in constants.items():
        original = constants.get(model.copies.get(name, ""))
        if original is None or name in model.captured or element_type(original) != element_type(copy):
            continue
        if original.shape == copy.shape and model.array(original).tobytes() == model.array(copy).tobytes():
            for user in unique(copy.outputs):
                for i in [i for i, t in enumerate(user.inputs) if t is copy]:
                    user.inputs[i] = original
            made += 1
    return made


def _untie_node(model: Model, node: gs.Node) -> int:
    out = node.outputs[0]
    slots = [(n, i) for n in unique(out.outputs) for i, t in enumerate(n.inputs) if t is out]
    for k, (user, i) in enumerate(slots[1:], 1):
        copy = model.new_value(f"{out.name}.use{k}", out.dtype, out.shape)
        user.inputs[i] = copy
        fresh = model.new_node(node.op, f"{node.name or out.name}.use{k}", dict(node.attrs), list(node.inputs), [copy])
        model.graph.nodes.insert(index_of(model.graph, node), fresh)
    return max(len(slots) - 1, 0)


def unique(nodes: list[gs.Node]) -> list[gs.Node]:
    """Each node once, by identity (graphsurgeon compares by content)."""
    return list({id(n): n for n in nodes}.values())


def _small(model: Model, tensor: gs.Constant) -> bool:
    if sum(d > 1 for d in tensor.shape) <= 1:
        return True
    if math.prod(tensor.shape) > 1 << 16:
        return False
    values = model.array(tensor)
    return bool((values == values.ravel()[0]).all()) if values.size else True


def permutations(model: Model, general: General) -> int:
    """Chains that permute one axis become Gather, where they do so for every binding of the symbols."""
    made = 0
    done: set[int] = set()
    for node in list(model.graph.nodes):
        if node.op not in ROW_MAJOR or id(node) in done or general.axes(node.inputs[0].name) is None:
            continue
        chain = _chain(model, node, general)
        found = find_permutation(chain, general) if any(n.op == "Transpose" for n in chain) else None
        if found is not None:
            _to_gather(model, chain, *found)
            done |= {id(n) for n in chain}
            made += 1
    return made


def _chain(model: Model, node: gs.Node, general: General) -> list[gs.Node]:
    """The longest single-use chain from `node` that comes back to the shape it started from."""
    source, outputs = node.inputs[0], {t.name for t in model.graph.outputs} | set(model.captured)
    chain, at = [node], node
    while len(chain) < CHAIN_LIMIT:
        y = at.outputs[0]
        users = y.outputs
        if y.name in outputs or len(users) != 1 or users[0].op not in ROW_MAJOR or users[0].inputs[0] is not y:
            break
        at = users[0]
        chain.append(at)
    while chain and general.axes(chain[-1].outputs[0].name) != general.axes(source.name):
        chain.pop()
    return chain


def _to_gather(model: Model, chain: list[gs.Node], axis: int, order: Any) -> None:
    source, result = chain[0].inputs[0], chain[-1].outputs[0]
    at = index_of(model.graph, chain[0])
    for n in chain:
        n.inputs.clear()
        n.outputs.clear()
    dead = {id(n) for n in chain}
    model.graph.nodes[:] = [n for n in model.graph.nodes if id(n) not in dead]
    index = model.new_constant(f"{result.name}.order", order)
    name = f"{chain[0].name or result.name}.order"
    gather = model.new_node("Gather", name, {"axis": axis}, [source, index], [result])
    model.graph.nodes.insert(at, gather)


@dataclass(frozen=True)
class Pick:
    """A node that picks runs of one digit: (start, length) per output; `drop`: the digit disappears."""

    axis: int
    runs: list[tuple[int, int]]
    drop: bool


def _pick(model: Model, node: gs.Node, axes: Mapping[str, Axes]) -> Pick | None:
    """What a node picks of an axis of fixed size; None for anything else."""
    small = {i: t for i, t in enumerate(node.inputs) if isinstance(t, gs.Constant) and math.prod(t.shape) < 64}
    known = {i: model.array(t).ravel() for i, t in small.items()}
    x = axes.get(node.inputs[0].name) if node.inputs else None
    if x is None or any(t.name not in axes for t in node.outputs):
        return None
    given = [i for i in range(1, len(node.inputs)) if node.inputs[i].name]
    single = node.op == "Slice" and len(node.inputs) > 3 and all(i in known for i in given) and known[1].size == 1
    if not single and node.op == "Slice":
        return None
    axis = int(known[3][0] if node.op == "Slice" else node.attrs.get("axis", 0)) % len(x)
    size = x[axis]
    if not isinstance(size, int):
        return None
    if node.op == "Gather":
        one = 1 in known and known[1].size == 1
        return Pick(axis, [(int(known[1][0]) % size, 1)], len(node.inputs[1].shape) == 0) if one else None
    lengths = [s for s in (axes[t.name][axis] for t in node.outputs) if isinstance(s, int)]
    if node.op == "Split" and len(lengths) == len(node.outputs):
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        return Pick(axis, list(zip(starts, lengths, strict=True)), False)
    if node.op == "Slice" and lengths and (4 not in known or known[4][0] == 1):
        start = min(max(int(known[1][0]) + (size if known[1][0] < 0 else 0), 0), size)
        return Pick(axis, [(start, lengths[0])], False)
    return None


def selection_first(model: Model, axes: Mapping[str, Axes]) -> int:
    """Pick from the linear output instead of from a digit of its reshaped and transposed form.

    `axes`: the sizes of values' axes that hold for every binding.
    """
    made = 0
    for node in list(model.graph.nodes):
        pick = _pick(model, node, axes) if node.op in ("Gather", "Split", "Slice") else None
        if pick is None or not node.inputs[0].inputs:
            continue
        turned, after = _pointwise(node.inputs[0])
        if not turned.inputs:
            continue
        before = turned.inputs[0]
        turn = before if before.op == "Transpose" else None
        perm = (turn.attrs.get("perm") if turn is not None else None) or list(range(len(axes[node.inputs[0].name])))
        if turn is not None and "perm" not in turn.attrs:
            perm = perm[::-1]
        shaped, between = _pointwise(turn.inputs[0]) if turn is not None else (turned, [])
        grid = shaped.inputs[0] if shaped.inputs else before
        known = grid.op == "Reshape" and {grid.inputs[0].name, grid.outputs[0].name} <= axes.keys()
        if not known or not isinstance(grid.inputs[0], gs.Variable):
            continue
        order = [int(p) for p in perm]
        made += _select(model, node, pick, grid, order, turn is not None, [*between, *after], axes)
    if made:
        drop_dead(model)
    return made


def _pointwise(tensor: gs.Variable) -> tuple[gs.Variable, list[gs.Node]]:
    """Up through what treats every number alike: the tensor before it, and those nodes in their order."""
    found: list[gs.Node] = []
    while tensor.inputs and tensor.inputs[0].op in POINTWISE:
        moving = [t for t in tensor.inputs[0].inputs if not isinstance(t, gs.Constant) and t.name]
        fixed = [t for t in tensor.inputs[0].inputs if isinstance(t, gs.Constant)]
        if len(moving) != 1 or any(math.prod(t.shape) != 1 for t in fixed):
            break
        found.insert(0, tensor.inputs[0])
        tensor = moving[0]
    return tensor, found


def _again(model: Model, nodes: list[gs.Node], x: gs.Variable, out: gs.Variable) -> list[gs.Node]:
    """Copies of pointwise nodes, one after the other, from x to out; every copy has its own constants (`untie`)."""
    made: list[gs.Node] = []
    for k, n in enumerate(nodes):
        y = out if k == len(nodes) - 1 else model.new_value(f"{out.name}.again{k}", n.outputs[0].dtype)
        inputs = [x if isinstance(t, gs.Variable) and t.name else t for t in n.inputs]
        for i, t in enumerate(n.inputs):
            if isinstance(t, gs.Constant):
                inputs[i] = model.new_constant(f"{y.name}.operand{i}", model.array(t))
        made.append(model.new_node(n.op, f"{out.name}.again{k}", dict(n.attrs), inputs, [y], n.domain))
        x = y
    return made


def _select(
    model: Model, node: gs.Node, pick: Pick, grid: gs.Node, perm: list[int], turned: bool, late: list[gs.Node],
    axes: Mapping[str, Axes],
) -> bool:  # fmt: skip
    """Rewrite one pick; False where the digit is not the major digit of one axis of the linear output."""
    x, xs, parts = grid.inputs[0], axes[grid.inputs[0].name], axes[grid.outputs[0].name]
    digit = perm[pick.axis]
    many, before = parts[digit], product(parts[:digit])
    lengths = [(k, s) for k, s in enumerate(xs) if isinstance(s, int) and product(xs[:k]) == before]
    axis, length = next(((k, s) for k, s in lengths if isinstance(many, int) and s > many), (0, 0))
    if not length or not isinstance(many, int) or length % many:
        return False
    moving = [not isinstance(s, int) for s in parts]
    if sum(moving) > 1:  # Reshape has one -1 only
        return False
    unit = length // many
    at = index_of(model.graph, node)
    fresh: list[gs.Node] = []
    for out, (start, taken) in zip(list(node.outputs), pick.runs, strict=True):
        target = [taken if i == digit else s if isinstance(s, int) else -1 for i, s in enumerate(parts)]
        order = list(perm)
        if pick.drop:
            target.pop(digit)
            order = [p - (p > digit) for p in perm if p != digit]
        end = model.new_value(f"{out.name}.moved", x.dtype) if late else out
        out.inputs.clear()
        run = start * unit, (start + taken) * unit
        fresh += _chain_of(model, end, x, axis, run, target, order if turned else None)
        fresh += _again(model, late, end, out)
    node.inputs.clear()
    del model.graph.nodes[at]
    model.graph.nodes[at:at] = fresh
    return True


def _chain_of(
    model: Model, out: gs.Variable, x: gs.Variable, axis: int, run: tuple[int, int], target: list[int],
    order: list[int] | None,
) -> list[gs.Node]:  # fmt: skip
    """Slice, Reshape and, where `order` is given, Transpose, that make `out` from `x`."""
    name = out.name

    def ints(what: str, values: list[int]) -> gs.Constant:
        return model.new_constant(f"{name}.{what}", np.array(values, np.int64))

    part = model.new_value(f"{name}.part")
    operands = [x, ints("starts", [run[0]]), ints("ends", [run[1]]), ints("axes", [axis])]
    out.inputs.clear()
    shaped = model.new_value(f"{name}.shaped") if order is not None else out
    nodes = [
        model.new_node("Slice", f"{name}.part", {}, operands, [part]),
        model.new_node("Reshape", f"{name}.shaped", {}, [part, ints("shape", target)], [shaped]),
    ]
    if order is not None:
        nodes.append(model.new_node("Transpose", f"{name}.turned", {"perm": order}, [shaped], [out]))
    return nodes
