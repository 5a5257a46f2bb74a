"""Branches that no successful run takes: their results have a rank that an operator after them refuses.

    paths = find_untaken(model, general, (first, second))     # paths of such branches

TorchScript writes `x.squeeze(2)` as an If: x without the axis where its size is 1, else x as it is. A size decides. But
an LSTM after it takes three axes and no other number: every run that succeeds took the branch that leaves three.

This is a proof: the operator runs wherever the If does, and an output follows from it; onnxruntime fails for that rank,
too (`is_refusing_rank`); and the rank follows from constants, declared inputs and the branch alone (`evaluator.prove`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from spa_compiler.ir.control_flow import Chain, find_chains, is_control, is_marker
from spa_compiler.ir.model import Model
from spa_compiler.operators.facts import is_refusing_rank
from spa_compiler.shape_inference import evaluator
from spa_compiler.shape_inference.control_flow import find_condition
from spa_compiler.shape_inference.environment import Facts
from spa_compiler.shape_inference.every_binding import General, GeneralPass

CASE_DEPTH = 3
"""How many other Ifs are tried both ways: of squeezes in a row, none may decide alone."""
SHAPE_OPERATORS = frozenset(("Shape", "Size"))
"""Operators that read no numbers: onnxruntime skips what makes these numbers where it knows the shape."""


def has_refused_rank(node: gs.Node, general: General) -> bool:
    """Does this operator fail for the ranks of its first inputs?"""
    x, w = [*(_find_rank(t, general) for t in node.inputs[:2]), None, None][:2]
    return is_refusing_rank(node, x, w)


def find_untaken(model: Model, general: General, sides: Sequence[Facts]) -> set[str]:
    """Paths of branches that are never taken. `sides`: facts under bindings; what is taken there is taken."""
    nodes = model.graph.nodes
    if not any(
        _is_open(n, general) and any(None in r or r[0] != r[1] for r in _find_branch_ranks(n, general)) for n in nodes
    ):
        return set()
    graph, found = _Graph(model), set()
    proven = evaluator.prove(model, sides[0])
    for k, node in enumerate(nodes):
        if _is_open(node, general) and _is_rank_choice(node, proven.general):
            cond, paths = node.inputs[0].name, node.attrs["paths"]
            never = [side for side in (True, False) if is_refused(graph, proven, k, {cond: side})]
            if len(never) == 1 and all(find_condition(facts.values, cond) is not never[0] for facts in sides):
                found.add(paths[not never[0]])
    return found


def is_refused(
    graph: _Graph, proven: GeneralPass, k: int, assumed: Mapping[str, bool], depth: int = CASE_DEPTH
) -> bool:
    """Does no run succeed in which node k, an If, runs, and these conditions are so?"""
    around = graph.find_conditions(graph.chains[k])
    if any(around.get(name, side) is not side for name, side in assumed.items()):
        return True
    axes = {name: proven.general.axes(name) for name in {**around, **assumed}}
    numbers = {n: np.full(a, {**around, **assumed}[n]) for n, a in axes.items() if a in ((), (1,))}
    if not numbers.keys() >= assumed.keys():
        return False
    case = _Case(graph, graph.chains[k], proven.assume(numbers))
    others: list[str] = []
    refused: set[int] = set()
    for j in case.visit_readers(k, set(numbers)):
        node = graph.nodes[j]
        if has_refused_rank(node, case.general):
            refused.add(j)
        elif _is_open(node, case.general) and _is_rank_choice(node, case.general):
            others.append(node.inputs[0].name)
    if refused and not refused.isdisjoint(case.find_needed()):
        return True
    return bool(others) and depth > 0 and all(
        is_refused(graph, proven, k, {**assumed, others[0]: side}, depth - 1) for side in (True, False)
    )  # fmt: skip


def _is_open(node: gs.Node, general: General) -> bool:
    """Is this an If of which it is not known what it takes?"""
    return is_control(node) and node.op == "If" and find_condition(general.values, node.inputs[0].name) is None


def _is_rank_choice(node: gs.Node, general: General) -> bool:
    return any(None not in pair and pair[0] != pair[1] for pair in _find_branch_ranks(node, general))


def _find_branch_ranks(node: gs.Node, general: General) -> list[tuple[int | None, int | None]]:
    """Ranks of the results of both branches of an If, output by output."""
    found = [_find_rank(t, general) for t in node.inputs[1:]]
    return list(zip(found[: len(node.outputs)], found[len(node.outputs) :], strict=True))


def _find_rank(t: gs.Tensor, general: General) -> int | None:
    axes = general.axes(t.name)
    return None if axes is None else len(axes)


class _Graph:
    """The nodes of a flat graph, and where they lie."""

    def __init__(self, model: Model) -> None:
        self.nodes = list(model.graph.nodes)
        self.outputs = {t.name for t in model.graph.outputs}
        self.chains = find_chains(self.nodes)
        self.begins = {n.attrs["path"]: k for k, n in enumerate(self.nodes) if is_marker(n)}

    def find_marker(self, path: str) -> gs.Node:
        return self.nodes[self.begins[path]]

    def find_round(self, chain: Chain) -> Chain:
        """The bodies around a body as far as the innermost Loop or Scan, whose rounds may differ."""
        kinds = [self.find_marker(p).attrs["kind"] for p in chain]
        return chain[: max((k + 1 for k, kind in enumerate(kinds) if kind != "If"), default=0)]

    def find_conditions(self, chain: Chain) -> dict[str, bool]:
        """The values of the conditions of the Ifs around a body while it runs."""
        markers = [m for m in map(self.find_marker, chain) if m.attrs["kind"] == "If"]
        return {m.inputs[0].name: not m.attrs["branch"] for m in markers}


class _Case:
    """Facts about runs in which one body runs and some conditions are known."""

    def __init__(self, graph: _Graph, own: Chain, there: GeneralPass) -> None:
        self.graph, self.own, self.there, self.general = graph, own, there, there.general

    def visit_readers(self, k: int, told: set[str]) -> Iterator[int]:
        """Visit what reads the values that are told, and what reads that; gives those that are sure to run.

        As far as the end of the round in which node k, an If, runs: what was found before holds in every round, and
        what is told in this one only.
        """
        graph, own = self.graph, self.own
        around = graph.find_round(own)
        first = graph.begins[graph.nodes[k].attrs["paths"][0]]
        self.there.flow.resume([graph.find_marker(p) for p in own])
        for j, (node, chain) in enumerate(zip(graph.nodes, graph.chains, strict=True)):
            border = is_marker(node) or is_control(node)
            if j < first and (border or own[: len(chain)] != chain):
                continue
            if chain[: len(around)] != around and j > first:
                return
            read = any(t.name in told for t in node.inputs)
            if read or border:
                self.there.step(node)
            if read:
                told.update(t.name for t in node.outputs if t.name)
                if self.is_run(chain):
                    yield j

    def is_run(self, chain: Chain) -> bool:
        """Does this body run? Those around the If do, and branches that are known to be taken."""
        same = next((k for k, (a, b) in enumerate(zip(chain, self.own, strict=False)) if a != b), len(self.own))
        return all(
            m.attrs["kind"] == "If"
            and find_condition(self.general.values, m.inputs[0].name) is (m.attrs["branch"] == 0)
            for m in map(self.graph.find_marker, chain[same:])
        )

    def find_needed(self) -> set[int]:
        """Positions of nodes that are sure to run, and from which an output follows."""
        found: set[int] = set()
        wanted, entered = set(self.graph.outputs), set[str]()
        for k in range(len(self.graph.nodes) - 1, -1, -1):
            node = self.graph.nodes[k]
            if is_marker(node):
                wanted.update(t.name for t in node.inputs if node.attrs["path"] in entered)
            elif any(t.name in wanted for t in node.outputs) and self.is_run(self.graph.chains[k]):
                found.add(k)
                if is_control(node):
                    entered.update(node.attrs["paths"])
                    wanted |= self.find_given_values(node, wanted)
                elif node.op not in SHAPE_OPERATORS:
                    wanted.update(t.name for t in node.inputs)
        return found

    def find_given_values(self, node: gs.Node, wanted: set[str]) -> set[str]:
        """Values that a body which is sure to run gives to those outputs of its control node that are wanted."""
        names, paths, count = [t.name for t in node.inputs], node.attrs["paths"], len(node.outputs)
        if node.op != "If":
            return set(names) if paths[0] in self.own else set()
        taken = find_condition(self.general.values, names[0])
        results = [] if taken is None else names[1 : 1 + count] if taken else names[1 + count :]
        return {r for r, t in zip(results, node.outputs, strict=False) if t.name in wanted}


__all__ = ["find_untaken", "has_refused_rank", "is_refused"]
