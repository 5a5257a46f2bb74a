"""Weights that are stored in a shorter type, behind a Cast, stay so when they are updated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import spa_compiler
from spa_compiler.compensation.apply import put_weight
from spa_compiler.ir.reader import from_proto

SHORT = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def save_network(file: Path, kind: int, shared: bool, scale: float = 1.0) -> Path:
    """Two convolutions and a matrix product whose weights are cast; `shared`: one weight is read twice."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {"a": (12, 3, 3, 3), "b": (12, 12, 3, 3), "b_bias": (12,), "c": (12, 5)}
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    tensors = [onnx.numpy_helper.from_array((scale * 0.3 * rng.standard_normal(s)).astype(dtype), f"{n}_short")
               for n, s in weights.items()]  # fmt: skip
    nodes = [helper.make_node("Cast", [f"{n}_short"], [n], to=1) for n in weights]
    nodes += [
        helper.make_node("Conv", ["x", "a"], ["p"], pads=[1] * 4), helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Conv", ["q", "b", "b_bias"], ["r"], pads=[1] * 4), helper.make_node("Relu", ["r"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["t"]), helper.make_node("Flatten", ["t"], ["u"]),
        helper.make_node("MatMul", ["u", "c"], ["y"]),
    ]  # fmt: skip
    outputs = [helper.make_tensor_value_info("y", 1, ["n", 5])]
    if shared:
        nodes.append(helper.make_node("MatMul", ["u", "c"], ["z"]))
        outputs.append(helper.make_tensor_value_info("z", 1, ["n", 5]))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", 3, 10, 10])], outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return file


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", SHORT)
def test_updated_weights_stay_as_short_as_they_were(tmp_path: Path, kind: str, shared: bool) -> None:
    source = save_network(tmp_path / "m.onnx", SHORT[kind], shared)
    options: dict[str, Any] = {"samples": 64, "align": 1, "latency": False, "quality": False, "allow_unproven": True}
    found = spa_compiler.compile(source, 0.4, tmp_path / "o.onnx", **options)
    assert found.report["compensation"]["solved"] >= 1
    held = [t for t in found.model.graph.initializer if len(t.dims) > 1]
    assert held and all(t.data_type == SHORT[kind] for t in held)
    assert (tmp_path / "o.onnx").stat().st_size < source.stat().st_size
    assert not any(n.op_type == "Add" for n in found.model.graph.node if "bias" in n.output[0] and "b_bias" in n.input)


def test_numbers_that_the_short_type_cannot_hold_are_written_in_full() -> None:
    short = np.full((2, 3), 6e4, np.float16)
    graph = helper.make_graph(
        [helper.make_node("Cast", ["w_short"], ["w"], to=1), helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", 1, ["n", 2])], [helper.make_tensor_value_info("y", 1, ["n", 3])],
        [onnx.numpy_helper.from_array(short, "w_short")],
    )  # fmt: skip
    model = from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), Path("m.onnx")
    )
    node = model.graph.nodes[-1]
    put_weight(model, node, 1, np.full((2, 3), 2e5, np.float32), "y.weight")
    assert model.array(node.inputs[1]).dtype == np.float32
    put_weight(model, model.graph.nodes[-1], 1, np.full((2, 3), 7.0, np.float32), "y.weight")
    assert (model.array(node.inputs[1]) == 7).all()
