"""Two graphs side by side: only weights that compensation writes may be otherwise; any other change is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from laws import analyze_proto
from spa_compiler.compiler import compile_file
from spa_compiler.errors import VerificationError
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import load
from spa_compiler.pipeline.options import Options
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.verification.structure import compare_structure, reopen
from zoo import CASES, Case, build
from zoo_base import Init

TEXT = """(float[N,3,6,6] x, float[N,8] side) => (float[N,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)  n = BatchNormalization(a, g, b, m, v)  r = Relu(n)  c = Conv<group=1>(r, w2)
    k = Clip(c, low)  p = GlobalAveragePool(k)  f = Reshape(p, to)  s = MatMul(f, w3)  t = MatMul(side, w4)
    u = Add(s, t)  q = Mul(u, t)  y = Gemm(q, w5, b5) }"""
WEIGHTS: dict[str, Init] = {
    "w1": (8, 3, 3, 3), "b1": (8,), "g": (8,), "b": (8,), "m": (8,), "v": np.ones(8, np.float32), "w2": (6, 8, 1, 1),
    "low": np.array(-1, np.float32), "to": [0, 6], "w3": (6, 4), "w4": (8, 4), "w5": (4, 5), "b5": (5,),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, bytes]:
    """The graph that a plan makes of a small network, and the compiled and compensated file."""
    tmp_path = tmp_path_factory.mktemp("structure")
    onnx.save(build(Case(TEXT, WEIGHTS, None)), tmp_path / "m.onnx")
    options = Options(ratio=0.4, latency=False, quality=False, samples=16, calib="features", compensate=True)
    found = compile_file(tmp_path / "m.onnx", tmp_path / "o.onnx", options)
    graph = found.state.require_graph()
    return rewrite(graph, found.state.plan.masks(graph)), (tmp_path / "o.onnx").read_bytes()


@pytest.fixture
def pair(made: tuple[Model, bytes]) -> tuple[Model, onnx.ModelProto]:
    """The same, with a file that a test may change."""
    return made[0], onnx.ModelProto.FromString(made[1])


Pair = tuple[Model, onnx.ModelProto]


def compare(pair: Pair, strict: bool = False) -> tuple[list[str], list[str]]:
    """Names of the weights that differ, and of the biases that were added."""
    expected, file = pair
    found = compare_structure(reopen(expected.proto(), expected), reopen(file, expected), strict)
    assert found.nodes == len(expected.graph.nodes)
    return sorted(found.solved), sorted(found.added)


def test_a_graph_equals_itself_bit_for_bit() -> None:
    graph = analyze_proto(build(Case(TEXT, WEIGHTS, None)))
    model = graph.model
    found = compare_structure(model, reopen(model.proto(), model), strict=True)
    assert found.is_same
    assert (found.nodes, found.equal) == (len(model.graph.nodes), len(WEIGHTS))


def test_weights_and_biases_of_compensation_are_the_only_difference(pair: Pair) -> None:
    solved, added = compare(pair)
    assert {"w2"} <= set(solved) <= {"w1", "b1", "w2", "w3", "w4", "w5", "b5"}
    assert added
    with pytest.raises(VerificationError, match="the structure differs"):
        compare(pair, strict=True)


def find_node(file: onnx.ModelProto, op: str) -> onnx.NodeProto:
    return next(n for n in file.graph.node if n.op_type == op)


def put(file: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Other numbers in an initializer."""
    tensor = next(t for t in file.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


def change_operator(file: onnx.ModelProto) -> None:
    find_node(file, "Relu").op_type = "Sigmoid"


def change_attribute(file: onnx.ModelProto) -> None:
    next(a for a in find_node(file, "Conv").attribute if a.name == "pads").ints[:] = [2, 2, 0, 0]


def change_factor(file: onnx.ModelProto) -> None:
    find_node(file, "Gemm").attribute.append(onnx.helper.make_attribute("alpha", 2.0))


def change_wire(file: onnx.ModelProto) -> None:
    node = find_node(file, "Mul")
    node.input[1] = node.input[0]


def change_sides(file: onnx.ModelProto) -> None:
    node = find_node(file, "Mul")
    node.input[:] = [node.input[1], node.input[0]]


def skip_node(file: onnx.ModelProto) -> None:
    find_node(file, "GlobalAveragePool").input[0] = find_node(file, "Clip").input[0]


def add_node(file: onnx.ModelProto) -> None:
    gemm = find_node(file, "Gemm")
    file.graph.node.insert(len(file.graph.node) - 1, onnx.helper.make_node("Relu", [gemm.input[0]], ["more"]))
    gemm.input[0] = "more"


def add_bias_elsewhere(file: onnx.ModelProto) -> None:
    gemm = find_node(file, "Gemm")
    file.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    file.graph.node.insert(len(file.graph.node) - 1, onnx.helper.make_node("Add", [gemm.input[0], "one"], ["more"]))
    gemm.input[0] = "more"


def answer_from_memory(file: onnx.ModelProto) -> None:
    """A constant in place of what a branch computes."""
    mul = find_node(file, "Mul")
    file.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "learnt"))
    mul.input[1] = "learnt"


def feed_memory(file: onnx.ModelProto) -> None:
    """A constant in place of what a product reads."""
    file.graph.initializer.append(numpy_helper.from_array(np.ones((1, 4), np.float32), "learnt"))
    find_node(file, "Gemm").input[0] = "learnt"


CHANGES: list[Callable[[onnx.ModelProto], None]] = [
    change_operator, change_attribute, change_factor, change_wire, change_sides, skip_node, add_node,
    add_bias_elsewhere, answer_from_memory, feed_memory,
    lambda f: put(f, "to", lambda a: np.array([-1, a[1]])),
    lambda f: put(f, "low", lambda a: a - 1),
    lambda f: put(f, "v", lambda a: a * 2),
    lambda f: put(f, "g", lambda a: a * 2),
    lambda f: put(f, "w3", lambda a: a.astype(np.float64)),
    lambda f: put(f, "w2", lambda a: a[:-1]),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_what_is_no_weight_has_to_be_the_same(change: Callable[[onnx.ModelProto], None], pair: Pair) -> None:
    change(pair[1])
    with pytest.raises(VerificationError, match="the structure differs"):
        compare(pair)


def test_names_inside_and_the_order_of_nodes_do_not_matter(pair: Pair) -> None:
    solved, file = compare(pair), pair[1]
    outer = {v.name for v in (*file.graph.input, *file.graph.output)}
    for node in file.graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [n if n in outer or not n else f"renamed {n}" for n in names]
    for tensor in file.graph.initializer:
        tensor.name = f"renamed {tensor.name}"
    del file.graph.value_info[:]
    assert [len(s) for s in compare(pair)] == [len(s) for s in solved]


SHOWN = "gru lstm_state_input scan_carries_state gemm_nt_c_scalar moe dynamic_quantized qdq_per_channel".split()


@pytest.mark.parametrize("name", sorted(set(SHOWN) & CASES.keys()) + sorted(CASES)[5::60])
def test_every_kind_of_compensated_file_has_the_structure_of_its_plan(name: str, tmp_path: Path) -> None:
    if not CASES[name].runs:
        pytest.skip("no file can hold it")
    onnx.save(build(CASES[name]), tmp_path / "m.onnx")
    text = "normalize,erase,calibrate{samples=16},score{criterion=obspa},allocate{ratio=0.3},remove,"
    options = Options(pipeline=f"{text}verify{{allow_unproven=true}},compensate", latency=False, quality=False)
    try:
        found = compile_file(tmp_path / "m.onnx", tmp_path / "o.onnx", options)
    except Exception:  # nothing to prune, or no budget that small groups can meet
        pytest.skip("nothing is removed")
    graph = found.state.require_graph()
    expected = rewrite(graph, found.state.plan.masks(graph))
    result = compare_structure(reopen(expected.proto(), expected), load(tmp_path / "o.onnx"))
    assert result.equal + len(result.solved) > 0
    again = compare_structure(reopen(found.model, graph.model), load(tmp_path / "o.onnx"), strict=True)
    assert again.is_same
