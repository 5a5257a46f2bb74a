"""Names in a file do not matter: a name that the compiler makes up is one that the model does not have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from laws import analyze_proto, compare, outputs, random_masks
from spa_compiler import compile as compile_model
from spa_compiler.canonicalize.constant_sharing import retie_constants
from spa_compiler.errors import NothingToPrune
from spa_compiler.execution.inputs import draw_random_inputs
from spa_compiler.ir.names import Names
from spa_compiler.ir.reader import from_proto, load
from spa_compiler.ir.subgraphs import list_subgraphs
from spa_compiler.rewriting.masked_model import make_masked_model
from spa_compiler.rewriting.prune import rewrite
from zoo import CASES, Case, build, feeds

RUNNING = sorted(n for n, c in CASES.items() if c.runs and c.groups != {})
TOLERANCE = 1e-4
WEIGHTS = {"w1": (8, 16), "w2": (16, 4)}
OPTIONS = {"ratio": 0.3, "of": "channels", "criterion": "l2", "latency": False, "threads": 1}


def renamed(proto: onnx.ModelProto, values: Mapping[str, str], nodes: Mapping[str, str]) -> onnx.ModelProto:
    """The same model under other names."""
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    _rename(out.graph, values, nodes)
    onnx.checker.check_model(out)
    return out


def _rename(graph: onnx.GraphProto, values: Mapping[str, str], nodes: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [values.get(n, n) for n in node.input]
        node.output[:] = [values.get(n, n) for n in node.output]
        node.name = nodes.get(node.name, node.name)
        for body in list_subgraphs(node):
            _rename(body, values, nodes)
    for named in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        named.name = values.get(named.name, named.name)


def value_names(graph: onnx.GraphProto) -> set[str]:
    """Names of all values, those of bodies as well."""
    found = {t.name for t in (*graph.initializer, *graph.input)}
    for node in graph.node:
        found |= {*node.input, *node.output}.union(*map(value_names, list_subgraphs(node)))
    return found - {""}


def node_names(graph: onnx.GraphProto) -> set[str]:
    found = {n.name for n in graph.node if n.name}
    return found.union(*(node_names(body) for n in graph.node for body in list_subgraphs(n)))


def with_node_names(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Every node called like what it gives, as most exporters have it."""
    for node in proto.graph.node:
        node.name = next(n for n in node.output if n)
    return proto


@pytest.mark.parametrize("name", RUNNING)
def test_a_file_may_already_have_every_name_that_is_made_up(name: str) -> None:
    """Its values are given the names that the compiler made up for it: results and the law stay the same."""
    proto = with_node_names(build(CASES[name]))
    graph = analyze_proto(proto)
    masks = random_masks(graph, np.random.default_rng(0))
    written = [m.proto().graph for m in (rewrite(graph, masks), make_masked_model(graph, masks))]
    made = sorted(set().union(*map(value_names, written)) - value_names(proto.graph))
    fresh_nodes = sorted(set().union(*map(node_names, written)) - node_names(proto.graph))
    if not made and not fresh_nodes:
        return
    fixed = {v.name for v in (*proto.graph.input, *proto.graph.output)}
    free = sorted(value_names(proto.graph) - fixed, key=lambda n: (n not in graph.weights, n))
    values = dict(zip(free, made, strict=False))
    other = renamed(proto, values, dict(zip(sorted(node_names(proto.graph)), fresh_nodes, strict=False)))
    again = analyze_proto(other)
    assert len(again.groups) == len(graph.groups)
    assert compare(again, random_masks(again, np.random.default_rng(0)), 0)[0] < TOLERANCE
    assert again.model.shapes is not None
    sizes = {n: s[0] for n, s in again.model.shapes.sizes.items()}
    feed = draw_random_inputs(again.model, sizes, np.random.default_rng(1))
    before = outputs(from_proto(proto, Path("m.onnx")), feed)
    for a, b in zip(before, outputs(again.model, feed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RUNNING)
def test_what_was_compiled_can_be_compiled_again(name: str, tmp_path: Path) -> None:
    source = with_node_names(build(CASES[name]))
    onnx.save(source, tmp_path / "a.onnx")
    first = compile_model(tmp_path / "a.onnx", output=tmp_path / "b.onnx", **OPTIONS).model
    new = [names(first.graph) - names(source.graph) for names in (value_names, node_names)]
    if not any(new):  # a file like any other
        return
    try:
        again = compile_model(tmp_path / "b.onnx", **OPTIONS)
    except NothingToPrune:  # of a group of two channels one is left
        return
    assert again.report["verification"]["prune_equals_mask"]["error"] <= TOLERANCE


@pytest.mark.parametrize("name", ["scan_gru", "loop"])
def test_calibration_inside_bodies_takes_no_name_of_the_file(name: str, tmp_path: Path) -> None:
    proto = build(CASES[name])
    inner = sorted(value_names(proto.graph) - {v.name for v in (*proto.graph.input, *proto.graph.output)})
    taken = [f"tap{k}.{s}{tick}" for k in range(12) for s in (0, -1) for tick in ("", "'")]
    _check_default(renamed(proto, dict(zip(inner, taken, strict=False)), {}), proto, tmp_path)


def test_calibration_of_recurrent_cells_takes_no_name_of_the_file(tmp_path: Path) -> None:
    proto = build(CASES["gru_linear_before_reset"])
    inner = sorted(value_names(proto.graph) - {v.name for v in (*proto.graph.input, *proto.graph.output)})
    taken = [f"{n}{end}" for n in value_names(proto.graph) for end in (".steps", ".3")]
    _check_default(renamed(proto, dict(zip(inner, sorted(taken), strict=False)), {}), proto, tmp_path)


def _check_default(other: onnx.ModelProto, proto: onnx.ModelProto, folder: Path) -> None:
    """The default pipeline does the same to both."""
    found = []
    for k, model in enumerate((proto, other)):
        onnx.save(model, folder / f"{k}.onnx")
        found.append(
            compile_model(
                folder / f"{k}.onnx", ratio=0.3, of="channels", latency=False, quality=False, threads=1, samples=8
            )
        )
    a, b = found
    assert sorted(k.sum() for k in a.state.plan.keep.values()) == sorted(k.sum() for k in b.state.plan.keep.values())
    assert a.report["fidelity"]["cosine"] == pytest.approx(b.report["fidelity"]["cosine"], abs=1e-5)


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["a", "b", "a#2", "b#2", "a#3"])), st.sets(st.sampled_from(["a", "a#2", "b"])))
def test_no_name_is_given_twice(wanted: list[str], held: set[str]) -> None:
    names, again = Names(held), Names(held)
    made = [names.value(w) for w in wanted]
    assert len({*made, *held}) == len(made) + len(held)
    assert [again.value(w) for w in wanted] == made
    assert all(m.startswith(w) for m, w in zip(made, wanted, strict=True))


def test_a_copy_of_the_names_takes_nothing_from_them() -> None:
    names = Names()
    assert names.copy().value("a") == "a" == names.copy().value("a")


def test_names_of_bodies_functions_and_recorded_types_are_known() -> None:
    proto = build(CASES["scan_gru"])
    proto.graph.value_info.append(helper.make_tensor_value_info("stale", 1, [1]))
    body = [helper.make_node("Relu", ["f.in"], ["f.out"], "n")]
    proto.functions.append(helper.make_function("f", "f", ["f.in"], ["f.out"], body, []))
    names = Names.of(proto)
    for name in (*value_names(proto.graph), "stale", "f.in", "f.out"):
        assert names.value(name) == f"{name}#2"
    assert names.node("n") == "n#2"


def shared(second: str, kind: tuple[int, ...]) -> onnx.ModelProto:
    """A constant that is read twice beside one that has the name of its copy."""
    text = """(float[3,8] x) => (float[3,4] y) { p = Mul(x, c)  q = Add(p, c)  h = Sub(q, d)  a = MatMul(h, w1)
        b = Relu(a)  y = MatMul(b, w2) }"""
    proto = build(Case(text, {**WEIGHTS, "c": np.full(kind, 2, np.float32), "d": np.full(kind, 5, np.float32)}, None))
    return renamed(proto, {"d": second}, {})


@pytest.mark.parametrize("kind", [(), (8,)])
def test_a_constant_of_the_file_is_no_copy_for_its_name(kind: tuple[int, ...]) -> None:
    proto = shared("c.use1", kind)
    model = analyze_proto(proto).model.copy()
    feed = feeds(proto)
    want = outputs(from_proto(shared("d", kind), Path("m.onnx")), feed)
    np.testing.assert_allclose(outputs(model, feed)[0], want[0], rtol=1e-5)
    assert model.copies == {"c.use1#2": "c"}
    assert retie_constants(model) == 1
    np.testing.assert_allclose(outputs(model, feed)[0], want[0], rtol=1e-5)


def test_a_constant_that_equals_one_whose_copy_it_seems_to_be_stays_one_of_its_own(tmp_path: Path) -> None:
    """Twice the same numbers, once cut and once not: only what the compiler copied is put together again."""
    text = """(float[3,8] x) => (float[3,4] y) { h = Add(x, c)  a = MatMul(h, w1)  b = Relu(a)  d = MatMul(b, w2)
        e = Add(d, e0)  y = Relu(e) }"""
    proto = build(Case(text, {**WEIGHTS, "c": 2.0, "e0": 2.0}, None))
    model = analyze_proto(renamed(proto, {"e0": "c.use1"}, {})).model.copy()
    assert retie_constants(model) == 0 and {"c", "c.use1"} < set(model.constants())


def test_nodes_of_a_branch_that_is_always_taken_are_not_called_like_others() -> None:
    text = """(float[2,4] x) => (float[2,4] y) { a = MatMul(x, w1)  r = Relu(a)
        d = If(yes) <then_branch = t () => (float[2,6] e) { e = Neg(r) }, else_branch = f () => (float[2,6] g) {
        g = Relu(r) }>  y = MatMul(d, w2) }"""
    inits = {"w1": (4, 6), "w2": (6, 4), "yes": np.array(True)}
    proto = build(Case(text, inits, None))
    proto.graph.node[1].name = "act"
    branch = next(a.g for a in proto.graph.node[2].attribute if a.name == "then_branch")
    branch.node[0].name = "act"
    graph = analyze_proto(proto)
    names = [n.name for n in graph.model.proto().graph.node if n.name]
    assert sorted(names) == ["act", "act#2"]
    assert compare(graph, random_masks(graph, np.random.default_rng(0)))[0] < TOLERANCE


def test_functions_that_use_the_names_of_the_model_are_inlined_beside_them(tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["p"], ["h"], "n"), helper.make_node("Neg", ["h"], ["q"], "m")]
    function = helper.make_function("own", "act", ["p"], ["q"], body, [helper.make_opsetid("", 18)])
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], "n"),
        helper.make_node("act", ["h"], ["q"], "m", domain="own"),
        helper.make_node("act", ["q"], ["h__1"], "m2", domain="own"),
        helper.make_node("MatMul", ["h__1", "w2"], ["y"], "last"),
    ]
    rng = np.random.default_rng(0)
    tensors = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in WEIGHTS.items()]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", 1, [3, 8])], [info("y", 1, [3, 4])], tensors)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    proto = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=10)
    onnx.save(proto, tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    x = rng.normal(size=(3, 8)).astype(np.float32)
    w1, w2 = (numpy_helper.to_array(t) for t in tensors)
    want = -np.maximum(-np.maximum(x @ w1, 0), 0) @ w2
    np.testing.assert_allclose(outputs(model, {"x": x})[0], want, atol=1e-5)


def test_an_opened_body_brings_out_no_name_that_a_closed_one_has_for_itself() -> None:
    proto = build(CASES["sequence_map_inside"])
    branches = {a.name: a.g for n in proto.graph.node for a in n.attribute if n.op_type == "If"}
    closed = next(a.g for n in branches["then_branch"].node for a in n.attribute if n.op_type == "SequenceMap")
    other = branches["else_branch"]
    own = closed.node[0].output[0]
    _rename(other, {other.node[0].output[0]: own}, {})
    model = from_proto(proto, Path("m.onnx"))
    assert own not in {o for n in model.flat() for o in n.output}
