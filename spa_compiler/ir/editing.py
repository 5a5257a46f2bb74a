"""Edits of a graph that every rewrite needs: the position of a node, and removal of dead nodes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from spa_compiler.ir.control_flow import is_control, is_marker
from spa_compiler.ir.model import Model


def has_dead(model: Model) -> bool:
    """Is there a node none of whose outputs is read?"""
    wanted = _find_read_names(model)
    return any(not _is_read(n, wanted) for n in model.graph.nodes if not is_marker(n))


def drop_dead(model: Model) -> int:
    """Remove nodes none of whose outputs is read; names that subgraphs capture are read."""
    wanted = _find_read_names(model)
    dead: set[int] = set()
    gone: set[str] = set()  # bodies of control nodes that are dead
    for node in reversed(list(model.graph.nodes)):  # nodes are sorted: one pass from the end is enough
        if (node.attrs["path"] in gone) if is_marker(node) else not _is_read(node, wanted):
            gone.update(node.attrs["paths"] if is_control(node) else ())
            node.inputs.clear()
            node.outputs.clear()
            dead.add(id(node))
    model.graph.nodes[:] = [n for n in model.graph.nodes if id(n) not in dead]
    return len(dead)


def _find_read_names(model: Model) -> set[str]:
    """Names that are read by others than nodes: outputs, and what bodies that are not opened capture."""
    return {t.name for t in model.graph.outputs} | set(model.captured)


def _is_read(node: gs.Node, wanted: set[str]) -> bool:
    return any(t.outputs or t.name in wanted for t in node.outputs)


def find_index(graph: gs.Graph, node: gs.Node) -> int:
    """Position of a node by identity (graphsurgeon compares by content)."""
    return next(i for i, n in enumerate(graph.nodes) if n is node)


def drop_repeats(nodes: list[gs.Node]) -> list[gs.Node]:
    """Each node once, by identity (graphsurgeon compares by content)."""
    return list({id(n): n for n in nodes}.values())
