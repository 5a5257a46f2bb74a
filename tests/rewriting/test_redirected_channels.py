"""Channels that hold nothing of their own are read from where they come, exactly, and then erased."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import spa_compiler
from spa_compiler.analysis.channel_multiples import ONE, find_row_multiples

Arrays = dict[str, Any]


def save_graph(file: Path, nodes: list[onnx.NodeProto], weights: Arrays, shape: list[Any], out: list[Any]) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(w, np.float32), n) for n, w in weights.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, out)],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


def compile_exactly(file: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """At ratio 0; checked against the file at once."""
    found = spa_compiler.compile(file, 0.0, latency=False, quality=False)
    feed = {"x": np.random.default_rng(5).standard_normal((2, *shape_of(file)[1:])).astype(np.float32)}
    dense = onnxruntime.InferenceSession(file).run(None, feed)[0]
    small = onnxruntime.InferenceSession(found.model.SerializeToString()).run(None, feed)[0]
    assert np.abs(dense - small).max() <= 1e-5 * max(1.0, np.abs(dense).max())
    return found.model, found.report


def shape_of(file: Path) -> list[int]:
    dims = onnx.load(file).graph.input[0].type.tensor_type.shape.dim
    return [d.dim_value for d in dims]


def widths_of(model: onnx.ModelProto, op: str) -> list[int]:
    arrays = {t.name: t.dims for t in model.graph.initializer}
    return [arrays[n.input[1]][0] for n in model.graph.node if n.op_type == op]


def make_convolutions(
    file: Path, rng: np.random.Generator, act: str, pad: int, norm: bool, plant: Any, bias: bool = True
) -> Path:
    """Two convolutions with a function between them; `plant` changes the weights of the first."""
    w = {"w1": rng.standard_normal((12, 3, 3, 3)), "b1": rng.standard_normal(12),
         "w2": rng.standard_normal((5, 12, 3, 3)), "b2": rng.standard_normal(5)}  # fmt: skip
    if norm:
        w |= {"g": rng.uniform(0.5, 2, 12), "b": rng.standard_normal(12), "m": rng.standard_normal(12),
              "v": rng.uniform(0.5, 2, 12)}  # fmt: skip
    plant(w)
    last = ["r", "w2", "b2"] if bias else ["r", "w2"]
    if not bias:
        del w["b2"]
    nodes = [helper.make_node("Conv", ["x", "w1", "b1"], ["c"], pads=[1] * 4)]
    nodes += [helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"])] if norm else []
    nodes += [
        helper.make_node(act, ["n" if norm else "c"], ["r"]),
        helper.make_node("Conv", last, ["y"], pads=[pad] * 4),
    ]
    side = 9 if pad else 7
    return save_graph(file, nodes, w, ["n", 3, 9, 9], ["n", 5, side, side])


def test_rows_are_found_whatever_their_order_and_sign() -> None:
    rng = np.random.default_rng(0)
    rows, shift = rng.standard_normal((40, 6)), rng.standard_normal(40)
    for j, k, by in ((30, 3, -2.0), (31, 3, 0.5), (7, 20, 3.0)):
        rows[j], shift[j] = by * rows[k], by * shift[k]
    rows[11] = 0
    found = find_row_multiples(rows, shift)
    assert found.root[[3, 7, 11, 20, 30, 31]].tolist() == [3, 7, ONE, 7, 3, 3]
    assert found.factor[[30, 31, 20, 11]] == pytest.approx([-2.0, 0.5, 1 / 3, shift[11]])
    assert (found.root == np.arange(40)).sum() == 36


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("act", ["Relu", "Sigmoid", "Tanh", "HardSwish"])
def test_channels_of_one_number_go(tmp_path: Path, act: str, pad: int, bias: bool) -> None:
    def plant(w: Arrays) -> None:
        w["g"][[1, 4, 5]] = 0
        w["b"][[1, 4, 5]] = [0.7, -0.4, 1.3]

    file = make_convolutions(tmp_path / "m.onnx", np.random.default_rng(1), act, pad, True, plant, bias)
    model, report = compile_exactly(file)
    # under padding one channel that holds a number stays, and stands for the others
    assert widths_of(model, "Conv") == [10 if pad else 9, 5]
    assert report["analysis"]["redirected"]["channels"] == (2 if pad else 3)
    assert report["dense"]["params"] > report["compiled"]["params"]


@pytest.mark.parametrize(("act", "factor", "goes"), [
    ("Relu", 2.0, True), ("Relu", -2.0, False), ("Sigmoid", 1.0, True), ("Sigmoid", 2.0, False),
    ("Identity", -0.5, True),
])  # fmt: skip
def test_multiples_go_where_the_function_passes_them(tmp_path: Path, act: str, factor: float, goes: bool) -> None:
    def plant(w: Arrays) -> None:
        w["w1"][8], w["b1"][8] = factor * w["w1"][2], factor * w["b1"][2]

    file = make_convolutions(tmp_path / "m.onnx", np.random.default_rng(2), act, 1, False, plant)
    model, _ = compile_exactly(file)
    assert widths_of(model, "Conv")[0] == (11 if goes else 12)


def test_a_channel_that_another_reader_needs_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    w = {"w1": rng.standard_normal((6, 8)), "w2": rng.standard_normal((8, 4)), "w3": rng.standard_normal((8, 4)),
         "s": np.ones((1, 8))}  # fmt: skip
    w["w1"][:, 5] = 2 * w["w1"][:, 1]
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("MatMul", ["r", "w2"], ["a"]), helper.make_node("Sigmoid", ["h"], ["q"]),
             helper.make_node("MatMul", ["q", "w3"], ["b"]), helper.make_node("Add", ["a", "b"], ["y"])]  # fmt: skip
    file = save_graph(tmp_path / "m.onnx", nodes, w, ["n", 6], ["n", 4])
    found = spa_compiler.compile(file, 0.0, latency=False, quality=False)
    assert found.report["status"] == "VERIFIED" and found.model.SerializeToString() == file.read_bytes()


@pytest.mark.parametrize("norm", [True, False])
def test_a_branch_that_is_zero_goes_whole(tmp_path: Path, norm: bool) -> None:
    rng = np.random.default_rng(4)
    w = {"w0": rng.standard_normal((6, 3, 3, 3)), "wa": rng.standard_normal((6, 6, 3, 3)),
         "wb": rng.standard_normal((6, 6, 3, 3)), "w3": rng.standard_normal((4, 6, 1, 1))}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["t"], pads=[1] * 4),
        helper.make_node("Conv", ["t", "wa"], ["a"], pads=[1] * 4), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "wb"], ["d"], pads=[1] * 4),
    ]  # fmt: skip
    if norm:
        w |= {"g": np.zeros(6), "be": np.zeros(6), "m": rng.standard_normal(6), "v": np.ones(6)}
        nodes.append(helper.make_node("BatchNormalization", ["d", "g", "be", "m", "v"], ["z"]))
    else:
        w["wb"][:] = 0
    nodes += [helper.make_node("Add", ["z" if norm else "d", "t"], ["s"]), helper.make_node("Conv", ["s", "w3"], ["y"])]
    file = save_graph(tmp_path / "m.onnx", nodes, w, ["n", 3, 8, 8], ["n", 4, 8, 8])
    model, report = compile_exactly(file)
    assert [n.op_type for n in model.graph.node if n.op_type != "Identity"] == ["Conv", "Conv"]
    assert report["reached"]["macs"] > 0.7


def test_half_of_the_given_model_goes_also_where_a_part_went_without_loss(tmp_path: Path) -> None:
    def plant(w: Arrays) -> None:
        w["w1"][6:9], w["b1"][6:9] = w["w1"][0:3], w["b1"][0:3]

    file = make_convolutions(tmp_path / "m.onnx", np.random.default_rng(6), "Relu", 1, False, plant)
    found = spa_compiler.compile(file, 0.5, criterion="l2", latency=False, quality=False, align=1)
    assert found.report["reached"]["macs"] == pytest.approx(0.5, abs=0.09)
    assert found.report["asked"]["ratio"] == 0.5


@settings(max_examples=25)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from(["Relu", "Sigmoid", "Abs", "LeakyRelu", "Identity"]),
    st.integers(0, 1), st.booleans(),
)  # fmt: skip
def test_what_is_redirected_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, act: str, pad: int, norm: bool
) -> None:
    rng = np.random.default_rng(seed)

    def plant(w: Arrays) -> None:
        for j in rng.choice(12, rng.integers(0, 7), replace=False):
            k, by = rng.integers(0, 12), rng.choice([1.0, 2.0, -1.0, 0.5, 0.0])
            w["w1"][j], w["b1"][j] = by * w["w1"][k], by * w["b1"][k] + (by == 0) * rng.choice([0.0, 1.0, -0.5])
            if norm and rng.random() < 0.5:
                for n in ("g", "b", "m", "v"):
                    w[n][j] = w[n][k]

    compile_exactly(make_convolutions(tmp_path_factory.mktemp("m") / "m.onnx", rng, act, pad, norm, plant))


def test_what_is_left_alone_is_not_read_from_elsewhere(tmp_path: Path) -> None:
    def plant(w: Arrays) -> None:
        w["w1"][8], w["b1"][8] = w["w1"][2], w["b1"][2]

    file = make_convolutions(tmp_path / "m.onnx", np.random.default_rng(2), "Relu", 1, False, plant)
    found = spa_compiler.compile(file, 0.0, exclude=["w1"], latency=False, quality=False)
    assert found.model.SerializeToString() == file.read_bytes()
    taken = spa_compiler.compile(file, 0.0, include=["w1"], latency=False, quality=False)
    assert taken.report["analysis"]["redirected"] == {"channels": 1, "terms": 0}
