"""Which values are still read: who reads each of them, and after which node it may be dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from spa_compiler.ir.subgraphs import find_free_names, list_subgraphs


class Liveness:
    """Says who reads each value of a graph, and which values no later node reads.

    `ends`: nodes inside bodies, and the control node until which what they read may be asked for again.
    """

    def __init__(self, nodes: Sequence[onnx.NodeProto], outputs: Iterable[str], ends: Mapping[int, int]) -> None:
        self.reads = [list_reads(n) for n in nodes]
        self.readers: dict[str, list[str]] = {}  # operators that read each value; '' reads a graph output
        self.readers_of: dict[str, list[int]] = {}  # indices of the nodes
        for i, (node, names) in enumerate(zip(nodes, self.reads, strict=True)):
            for n in names:
                self.readers.setdefault(n, []).append(node.op_type)
                self.readers_of.setdefault(n, []).append(i)
        for n in outputs:
            self.readers.setdefault(n, []).append("")
            self.readers_of.setdefault(n, [])
        self._results = [list(n.output) for n in nodes]
        self._last = {n: ends.get(i, i) for i, names in enumerate(self.reads) for n in names}
        self._dropped: dict[int, list[str]] = {}  # what may be dropped after each node
        for name, i in self._last.items():
            self._dropped.setdefault(i, []).append(name)

    def add_read(self, index: int, name: str) -> None:
        """A node reads a further value."""
        self.reads[index].append(name)
        self._last[name] = index

    def keep(self, name: str, by: str) -> None:
        """Drop a value not before another one that is read later."""
        end = max(self._last.get(name, -1), self._last.get(by, -1))
        for names in self._dropped.values():
            names[:] = [n for n in names if n != name]
        self._last[name] = end
        self._dropped.setdefault(end, []).append(name)

    def list_dead(self, index: int) -> list[str]:
        """Values that nobody reads after this node."""
        unread = [n for n in self._results[index] if n not in self._last]
        return [*self._dropped.get(index, ()), *unread]


def list_reads(node: onnx.NodeProto) -> list[str]:
    """Values that a node reads, those that its bodies capture among them."""
    captured = [n for body in list_subgraphs(node) for n in sorted(find_free_names(body))]
    return list(dict.fromkeys([*(n for n in node.input if n), *captured]))
