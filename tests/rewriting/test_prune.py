"""The results of the rewrite: constants, attributes, shape operands, recorded shapes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from laws import Masks, analyze_proto, list_groups
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.rewriting.prune import rewrite
from zoo import CASES, build


def cut(graph: DependencyGraph, key: str, kept: list[int]) -> Masks:
    """A plan that keeps these channels of one group, in every block."""
    group = list_groups(graph)[key]
    mask = np.isin(np.arange(group.size), kept)
    if group.dims[0].unit:
        return {d: mask[i : i + 1] for i, d in enumerate(group.dims)}
    return {group.dims[0]: mask if group.block is None else np.stack([mask] * group.blocks)}


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def attribute(model: onnx.ModelProto, op: str, name: str) -> object:
    node = next(n for n in model.graph.node if n.op_type == op)
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}[name]


def test_constants_are_sliced_and_nothing_else_changes() -> None:
    graph = analyze_proto(build(CASES["conv"]))
    old = arrays(graph.model.proto())
    small = rewrite(graph, cut(graph, "b1:0 w1:0 w2:1", [1, 4])).proto()
    new = arrays(small)
    assert (new["w1"] == old["w1"][[1, 4]]).all() and (new["b1"] == old["b1"][[1, 4]]).all()
    assert (new["w2"] == old["w2"][:, [1, 4]]).all() and (new["b2"] == old["b2"]).all()
    assert arrays(graph.model.proto())["w1"].shape == old["w1"].shape, "the analysed model was changed"


def test_group_follows_the_blocks_that_are_left() -> None:
    graph = analyze_proto(build(CASES["grouped_conv"]))
    small = rewrite(graph, cut(graph, "b1:0 b2:0 w1:0 w2:0 w3:1", [0, 2])).proto()
    node = [n for n in small.graph.node if n.op_type == "Conv"][1]
    assert {a.name: a.i for a in node.attribute}["group"] == 2
    assert arrays(small)["w2"].shape == (8, 2, 3, 3)


def test_every_block_keeps_channels_of_its_own() -> None:
    graph = analyze_proto(build(CASES["grouped_conv"]))
    group = list_groups(graph)["b1:0 w1:0 w2:1"]
    mask = np.array([[True, False], [False, True], [False, True]])
    old, new = (arrays(m.proto()) for m in (graph.model, rewrite(graph, {group.dims[0]: mask})))
    assert (new["w1"] == old["w1"][[0, 3, 5]]).all()
    per_block = [old["w2"][4 * b : 4 * b + 4, [i]] for b, i in enumerate((0, 1, 1))]
    assert (new["w2"] == np.concatenate(per_block)).all()


def test_hidden_size_follows() -> None:
    graph = analyze_proto(build(CASES["gru_bidirectional_sum"]))
    small = rewrite(graph, cut(graph, "r:1 r:2 w:1 wo:0", [0, 2, 5])).proto()
    assert attribute(small, "GRU", "hidden_size") == 3


def test_entries_of_a_shape_that_do_not_change_stay() -> None:
    graph = analyze_proto(build(CASES["reshape_zero_minus_one"]))
    small = rewrite(graph, cut(graph, "w1:0 w2:0", [0, 1, 2])).proto()
    node = next(n for n in small.graph.node if n.op_type == "Reshape")
    assert arrays(small)[node.input[1]].tolist() == [0, 0, -1]


def test_the_scale_of_attention_is_written_before_its_size_changes() -> None:
    graph = analyze_proto(build(CASES["attention_23"]))
    small = rewrite(graph, cut(graph, "wk:1 wq:1", [0, 2])).proto()
    assert attribute(small, "Attention", "scale") == pytest.approx(1 / np.sqrt(3))


def test_recorded_shapes_follow_the_plan() -> None:
    model = build(CASES["conv"])
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, [1, 5, 4, 4]))
    graph = analyze_proto(model)
    small = rewrite(graph, cut(graph, "b1:0 w1:0 w2:1", [1, 4])).proto()
    (info,) = [v for v in small.graph.value_info if v.name == "a"]
    assert [d.dim_value for d in info.type.tensor_type.shape.dim] == [1, 2, 4, 4]
    onnx.checker.check_model(small, full_check=True)
