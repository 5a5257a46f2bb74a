"""Names of a model, those in bodies and functions included, and new names that are none of them.

    names = Names.of(proto)
    names.value("y.shape")      # 'y.shape', or 'y.shape#2' where the file or an earlier call has that
    names.node("y.patch")       # nodes have names of their own: a node may be called like a value

The same calls in the same order give the same names, so that compiling twice gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from spa_compiler.ir.subgraphs import list_subgraphs


class Names:
    """Names of values (initializers among them) and of nodes that are taken; grows with every new one."""

    def __init__(self, values: Iterable[str] = (), nodes: Iterable[str] = ()) -> None:
        self._values, self._nodes, self._is_shared = set(values), set(nodes), False

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> Names:
        """Every name of a model."""
        out = cls()
        for graph in (proto.graph, *(g for t in proto.training_info for g in (t.initialization, t.algorithm))):
            out.add_graph(graph)
        for function in proto.functions:
            out._values |= {*function.input, *function.output}
            out.add_nodes(function.node)
        return out

    def add_graph(self, graph: onnx.GraphProto) -> None:
        """Every name of a graph and of the bodies in it, those of recorded types included: they would be believed."""
        self._copy_sets()
        self._values |= set(find_defined_names(graph))
        self._values |= {v.name for v in (*graph.output, *graph.value_info)}
        for a in graph.quantization_annotation:
            self._values |= {a.tensor_name, *(e.value for e in a.quant_parameter_tensor_names)}
        self.add_nodes(graph.node)

    def add_nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Every name of nodes and of the bodies in them."""
        self._copy_sets()
        for node in nodes:
            self._nodes.add(node.name)
            self._values |= {*node.input, *node.output}
            for body in list_subgraphs(node):
                self.add_graph(body)

    def copy(self) -> Names:
        """The same names; what is made here is not taken there. The sets are shared until one makes a name."""
        out = Names()
        out._values, out._nodes = self._values, self._nodes
        out._is_shared = self._is_shared = True
        return out

    def value(self, wanted: str) -> str:
        """A name for a new value or initializer: `wanted`, with a number behind it where that is taken."""
        self._copy_sets()
        return _take_name(wanted, self._values)

    def node(self, wanted: str) -> str:
        """A name for a new node."""
        self._copy_sets()
        return _take_name(wanted, self._nodes)

    def _copy_sets(self) -> None:
        """Make the sets this object's own before they change."""
        if self._is_shared:
            self._values, self._nodes, self._is_shared = set(self._values), set(self._nodes), False


def _take_name(wanted: str, taken: set[str]) -> str:
    found, k = wanted, 1
    while found in taken:
        k += 1
        found = f"{wanted}#{k}"
    taken.add(found)
    return found


def find_defined_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that a graph gives a value by itself: its inputs, initializers and what its nodes make."""
    yield from (v.name for v in graph.input)
    yield from (t.name for t in graph.initializer)
    yield from (s.values.name for s in graph.sparse_initializer)
    yield from (o for n in graph.node for o in n.output if o)


__all__ = ["Names", "find_defined_names"]
