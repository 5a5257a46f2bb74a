"""Bodies of If, Loop and Scan as parts of one flat graph, and back.

    bodies, homes = flatten_bodies(proto.graph, opset, names)  # in place: what lies in a body becomes part of the graph
    nest_bodies(graph, lies, paths, bodies, homes, names)        # the reverse, in place

In the flat form a body stands between a marker, which gives the body's inputs, and the control node, which reads what
the body gives. So a body's values have axes like any other, what it captures is simply read, and analysis, rewrite and
reference see one list of nodes:

    h, y = Scan(h0, x) <body = (s, t) => (g, o) { ... }>

    _, s, t = Body(h0, x) <path = "scan/body">   ...the body's nodes...   h, y = Scan(s, g, o) <paths = ["scan/body"]>

Names stay, but for those that two bodies share: these get the path of their body in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from spa_compiler.ir.names import Names, find_defined_names
from spa_compiler.ir.subgraphs import list_subgraphs, rename_values


def find_scan_axes(inputs: int, attrs: Mapping[str, Any]) -> dict[int, int]:
    """Which of a Scan's inputs it runs along, and the axis of each (negative ones as they are)."""
    count = int(attrs.get("num_scan_inputs", 1))
    axes = attrs.get("scan_input_axes") or [0] * count
    return {inputs - count + k: int(a) for k, a in enumerate(axes)}


DOMAIN = "spa_compiler.body"
CONTROL = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}
NOTE_ATTRIBUTES = ("paths", "states", "unread")
"""Attributes that a control node has in the flat form only."""
SCAN_SINCE = 9
"""Before this opset Scan had a batch axis of its own: it is not opened."""
Bodies = dict[str, onnx.GraphProto]
Homes = dict[str, str]
Chain = tuple[str, ...]
"""Paths of the bodies that a node lies in, the outermost first."""


def is_marker(node: gs.Node) -> bool:
    """Does the body of a control node begin here?"""
    return bool(node.domain == DOMAIN)


def is_control(node: gs.Node) -> bool:
    """Is this an If, a Loop or a Scan whose bodies are open?"""
    return node.op in CONTROL and "paths" in node.attrs


def find_chains(nodes: Iterable[gs.Node]) -> list[Chain]:
    """Which bodies each node of a flat graph lies in; markers and control nodes lie outside their own."""
    out: list[Chain] = []
    inside: list[str] = []
    for node in nodes:
        if is_control(node) or (is_marker(node) and node.attrs["branch"]):
            inside.pop()
        out.append(tuple(inside))
        if is_marker(node):
            inside.append(node.attrs["path"])
    return out


def find_body_paths(node: gs.Node) -> Chain:
    """The path of the body that begins at a marker, or those of a control node's bodies."""
    if is_marker(node):
        return (node.attrs["path"],)
    return tuple(node.attrs["paths"]) if is_control(node) else ()


def flatten_bodies(graph: onnx.GraphProto, opset: int, names: Names) -> tuple[Bodies, Homes]:
    """Open every body that can be; changes the graph. `names` are all of its model.

    Gives what bodies are without nodes and weights, and in which of them (or outside: "") the file holds each weight.
    """
    if not any(_can_open(n, opset) for n in graph.node):
        return {}, {}
    flat = _Flat(graph, opset, names)
    nodes = list(flat.nodes(graph.node, {}, ""))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(flat.initializers)
    graph.sparse_initializer.extend(flat.sparse)
    graph.value_info.extend(flat.infos.values())
    return flat.bodies, flat.homes


def _can_open(node: onnx.NodeProto, opset: int) -> bool:
    """Is this a control node whose inputs and outputs fit its bodies?"""
    wanted = CONTROL.get(node.op_type, ()) if node.domain in ("", "ai.onnx") else ()
    bodies = {a.name: a.g for a in node.attribute if a.HasField("g")}
    if not wanted or set(bodies) != set(wanted) or not node.output:
        return False
    counts = [(len(_list_formals(bodies[n])), len(bodies[n].output)) for n in wanted]
    if node.op_type == "If":
        return len(node.input) == 1 and all(c == (0, len(node.output)) for c in counts)
    inputs, outputs = counts[0]
    if node.op_type == "Loop":
        return len(node.input) == inputs >= 2 and outputs - 1 == len(node.output) >= inputs - 2
    states = inputs - _count_scanned(node)
    return opset >= SCAN_SINCE and len(node.input) == inputs and 0 <= states <= outputs == len(node.output)


def _count_scanned(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 1)


def _list_formals(body: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Inputs of a body; before IR version 4 its initializers were among them."""
    held = {t.name for t in body.initializer}
    return [v for v in body.input if v.name not in held]


class _Flat:
    """Collects what lies in bodies while nodes are written in one line."""

    def __init__(self, graph: onnx.GraphProto, opset: int, names: Names) -> None:
        self.opset, self.names = opset, names
        self.used = {
            *find_defined_names(graph),
            *_find_closed_names(graph, opset),
        }  # no opened body may keep these for itself
        self.bodies: Bodies = {}
        self.homes: Homes = dict.fromkeys(_find_weight_names(graph), "")
        self.initializers: list[onnx.TensorProto] = []
        self.sparse: list[onnx.SparseTensorProto] = []
        self.infos: dict[str, onnx.ValueInfoProto] = {}

    def nodes(self, nodes: Iterable[onnx.NodeProto], scope: dict[str, str], prefix: str) -> Iterator[onnx.NodeProto]:
        """The nodes of a graph with those of its bodies; `scope` says what names are called here."""
        for node in nodes:
            if _can_open(node, self.opset):
                yield from self._open_bodies(node, scope, prefix)
            else:
                yield rename_values(node, scope)

    def _open_bodies(self, node: onnx.NodeProto, scope: dict[str, str], prefix: str) -> Iterator[onnx.NodeProto]:
        bodies = {a.name: a.g for a in node.attribute if a.HasField("g")}
        control = onnx.NodeProto()
        control.CopyFrom(node)
        plain = [a for a in node.attribute if not a.HasField("g")]
        del control.attribute[:], control.input[:], control.output[:]
        control.attribute.extend(plain)
        control.output.extend(scope.get(n, n) for n in node.output)
        given = [scope.get(n, n) for n in node.input]
        paths, formals, results = [], [], []
        for branch, name in enumerate(CONTROL[node.op_type]):
            stem = f"{prefix}{node.name or next((n for n in node.output if n), node.op_type)}/{name}"
            path, body = self.names.value(stem), bodies[name]
            inner = {**scope, **{n: self._flat_name(n, path) for n in dict.fromkeys(find_defined_names(body))}}
            formals = [inner[v.name] for v in _list_formals(body)]
            marker = helper.make_node("Body", given, [self.names.value(f"{path}/in"), *formals], name=path)
            marker.domain = DOMAIN
            marker.attribute.extend(plain)
            marker.attribute.extend(
                helper.make_attribute(k, v)
                for k, v in (("path", path), ("branch", branch), ("kind", node.op_type), ("ranks", _find_ranks(body)))
            )
            yield marker
            yield from self.nodes(body.node, inner, f"{path}/")
            paths.append(path)
            results += [inner.get(v.name, v.name) for v in body.output]
            self._keep(path, body, inner)
        states = {"If": 0, "Loop": len(given) - 2, "Scan": len(given) - _count_scanned(node)}[node.op_type]
        shown = given if node.op_type == "If" else formals[2 if node.op_type == "Loop" else 0 :][:states]
        control.input.extend([*shown, *results])
        unread = [*(k for k, n in enumerate(node.output) if not n), -1]  # an empty list has no type
        notes = {"paths": paths, "states": states, "unread": unread}
        control.attribute.extend(helper.make_attribute(k, v) for k, v in notes.items())
        yield control

    def _flat_name(self, name: str, path: str) -> str:
        """The name of a body's own value in the flat form: its own, or a new one where another scope has that."""
        found = self.names.value(f"{path}/{name}") if name in self.used else name
        self.used.add(found)
        return found

    def _keep(self, path: str, body: onnx.GraphProto, inner: Mapping[str, str]) -> None:
        """Weights and types of a body go to the graph, the rest of it into its frame."""
        frame = onnx.GraphProto(name=body.name, doc_string=body.doc_string)
        frame.metadata_props.extend(body.metadata_props)
        frame.input.extend(_rename_info(v, inner) for v in _list_formals(body))
        frame.output.extend(_rename_info(v, inner) for v in body.output)
        self.bodies[path] = frame
        self.homes |= {inner[n]: path for n in _find_weight_names(body)}
        for info in (*frame.input, *frame.output, *(_rename_info(v, inner) for v in body.value_info)):
            self.infos.setdefault(info.name, info)
        for t in body.initializer:
            self.initializers.append(onnx.TensorProto.FromString(t.SerializeToString()))
            self.initializers[-1].name = inner[t.name]
        for s in body.sparse_initializer:
            self.sparse.append(onnx.SparseTensorProto.FromString(s.SerializeToString()))
            self.sparse[-1].values.name = inner[s.values.name]


def _rename_info(info: onnx.ValueInfoProto, inner: Mapping[str, str]) -> onnx.ValueInfoProto:
    out = onnx.ValueInfoProto()
    out.CopyFrom(info)
    out.name = inner.get(info.name, info.name)
    return out


def _find_ranks(body: onnx.GraphProto) -> list[int]:
    """Ranks of the first two inputs: a Loop's counter and condition are numbers, or vectors of one."""
    return [len(v.type.tensor_type.shape.dim) for v in _list_formals(body)[:2]] + [0]


def _find_closed_names(graph: onnx.GraphProto, opset: int) -> Iterator[str]:
    """Names that bodies define which are not opened: in the file, no scope around them may have these."""
    for node in graph.node:
        for body in list_subgraphs(node):
            if not _can_open(node, opset):
                yield from find_defined_names(body)
            yield from _find_closed_names(body, opset)


def _find_weight_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of what a graph holds as a constant."""
    yield from (t.name for t in graph.initializer)
    yield from (o for n in graph.node if n.op_type == "Constant" for o in n.output)


@dataclass
class _Frame:
    """A body while it is put together."""

    marker: onnx.NodeProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)


def nest_bodies(
    graph: onnx.GraphProto, lies: Sequence[Chain], paths: Sequence[Chain], bodies: Bodies, homes: Homes, names: Names
) -> None:
    """Put the nodes back into their bodies; changes the graph. `lies` and `paths`: `find_chains` and `find_body_paths`
    of every node.

    A weight goes where it was (`homes`); a new one, to the innermost body that holds all its readers. `names` are all
    of the model, of which this graph may be a part.
    """
    frames = {p[0]: _Frame(n) for n, p in zip(graph.node, paths, strict=True) if n.domain == DOMAIN}
    made = {o for n in graph.node for o in n.output}
    infos = {v.name: v for v in graph.value_info if v.name in made}
    main: list[onnx.NodeProto] = []
    held: list[onnx.TensorProto] = []
    taken: set[str] = set()
    alive = {*find_defined_names(graph), *(n for node in graph.node for n in node.input)}

    def name_result(old: str) -> str:
        """The name in a body for a result that the body does not make: the old one where it is free."""
        found = names.value(f"{old}.given") if old in alive else old
        alive.add(found)
        return found

    read = _find_homes(graph, lies)
    for t in graph.initializer:
        around = ("", *read.get(t.name, ()))
        home = homes.get(t.name, around[-1])
        home = home if home in around else around[-1]
        (frames[home].weights if home else held).append(t)
    for node, chain, inner in zip(graph.node, lies, paths, strict=True):
        to = frames[chain[-1]].nodes if chain else main
        if node.domain != DOMAIN:
            to.append(_close_node(node, inner, frames, bodies, infos, taken, name_result) if inner else node)
    kept = [type(m).FromString(m.SerializeToString()) for m in main]
    weights = [type(t).FromString(t.SerializeToString()) for t in held]
    left = [v for n, v in infos.items() if n not in taken]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(weights)
    graph.value_info.extend(left)


def _find_homes(graph: onnx.GraphProto, lies: Sequence[Chain]) -> dict[str, Chain]:
    """The innermost body that holds all readers of a name."""
    out: dict[str, Chain] = {}
    for node, chain in zip(graph.node, lies, strict=True):
        for name in node.input:
            before = out.get(name, chain)
            same = next((k for k, (a, b) in enumerate(zip(before, chain, strict=False)) if a != b), None)
            out[name] = before[: min(len(before), len(chain)) if same is None else same]
    return out


def _close_node(
    node: onnx.NodeProto, paths: Chain, frames: Mapping[str, _Frame], bodies: Bodies,
    infos: Mapping[str, onnx.ValueInfoProto], taken: set[str], name_result: Callable[[str], str],
) -> onnx.NodeProto:  # fmt: skip
    """A control node with its bodies in it."""
    out = onnx.NodeProto()
    out.CopyFrom(node)
    results = list(node.input)[-sum(len(bodies[p].output) for p in paths) :]
    del out.attribute[:], out.input[:]
    out.input.extend(frames[paths[0]].marker.input)
    out.attribute.extend(a for a in node.attribute if a.name not in NOTE_ATTRIBUTES)
    for name, path in zip(CONTROL[node.op_type], paths, strict=True):
        count = len(bodies[path].output)
        body = _make_body(frames[path], bodies[path], results[:count], infos, taken, name_result)
        results = results[count:]
        out.attribute.append(helper.make_attribute(name, body))
    return out


def _make_body(
    found: _Frame, frame: onnx.GraphProto, results: Sequence[str],
    infos: Mapping[str, onnx.ValueInfoProto], taken: set[str], name_result: Callable[[str], str],
) -> onnx.GraphProto:  # fmt: skip
    out = onnx.GraphProto()
    out.CopyFrom(frame)
    del out.input[:], out.output[:]
    formals = list(found.marker.output)[1:]
    out.input.extend(infos.get(n, old) for n, old in zip(formals, frame.input, strict=True))
    out.node.extend(found.nodes)
    out.initializer.extend(found.weights)
    made = {o for n in found.nodes for o in n.output if o}
    given: set[str] = set()
    for name, old in zip(results, frame.output, strict=True):
        info = onnx.ValueInfoProto()
        info.CopyFrom(infos.get(name, old))
        if name != old.name and name not in infos:  # what is given here has no recorded shape
            info.type.tensor_type.ClearField("shape")
        info.name = name
        if name not in made or name in given:  # a constant, an input, what lies outside: bodies give what they make
            info.name = name_result(old.name)
            out.node.append(helper.make_node("Identity", [name], [info.name]))
        given.add(info.name)
        out.output.append(info)
    inside = made | {t.name for t in found.weights} | set(formals)
    taken |= inside
    out.value_info.extend(infos[n] for n in sorted(inside - given - set(formals)) if n in infos)
    return out
