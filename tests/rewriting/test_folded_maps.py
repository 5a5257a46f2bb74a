"""Factors and expressions of constants go into the weights, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from rewriting.test_redirected_channels import compile_exactly, save_graph, shape_of

import spa_compiler

Arrays = dict[str, Any]
make = helper.make_node


def count(model: onnx.ModelProto, op: str) -> int:
    return sum(n.op_type == op for n in model.graph.node)


def make_layers(file: Path, middle: list[onnx.NodeProto], more: Arrays, kind: str = "MatMul") -> Path:
    """A layer from x to h, nodes from h to r, and a layer from r to y."""
    rng = np.random.default_rng(0)
    if kind == "Conv":
        w = {
            "w1": rng.standard_normal((8, 3, 3, 3)),
            "b1": rng.standard_normal(8),
            "w2": rng.standard_normal((4, 8, 1, 1)),
        }
        first = [make("Conv", ["x", "w1", "b1"], ["h"], pads=[1] * 4)]
        return save_graph(file, [*first, *middle, make("Conv", ["r", "w2"], ["y"])], w | more,
                          ["n", 3, 6, 6], ["n", 4, 6, 6])  # fmt: skip
    w = {"w1": rng.standard_normal((6, 8)), "b1": rng.standard_normal(8), "w2": rng.standard_normal((8, 4))}
    first = [make("MatMul", ["x", "w1"], ["m"]), make("Add", ["m", "b1"], ["h"])]
    if kind == "Gemm":
        w["w1"], first = w["w1"].T, [make("Gemm", ["x", "w1", "b1"], ["h"], transB=1, alpha=0.5, beta=2.0)]
    return save_graph(file, [*first, *middle, make("MatMul", ["r", "w2"], ["y"])], w | more, ["n", 6], ["n", 4])


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Conv"])
@pytest.mark.parametrize("act", ["before", "after", "sigmoid before", "none"])
def test_a_gate_of_zeros_and_ones_leaves_no_product_and_no_channel(tmp_path: Path, kind: str, act: str) -> None:
    gate = np.array([1, 0, 1, 1, 0.5, 0, 2, 1])
    scale = make("Mul", ["g", "a" if "before" in act else "h"], ["r" if act != "after" else "a"])
    function = make("Sigmoid" if "sigmoid" in act else "Relu", ["h" if "before" in act else "a"],
                    ["a" if "before" in act else "r"])  # fmt: skip
    middle = {"none": [scale], "after": [scale, function]}.get(act, [function, scale])
    more = {"g": gate.reshape(-1, 1, 1) if kind == "Conv" else gate}
    model, report = compile_exactly(make_layers(tmp_path / "m.onnx", middle, more, kind))
    assert count(model, "Mul") == 0 and report["analysis"]["folded_maps"]["factors"] == 1
    widths = {t.name: list(t.dims) for t in model.graph.initializer}
    assert 6 in widths["w1"] and 6 in widths["w2"]  # both gates of 0 are gone
    assert {t.name for t in model.graph.output} == {"y"}


@pytest.mark.parametrize("plant", ["negative", "read twice", "output"])
def test_what_is_read_elsewhere_or_not_passed_stays(tmp_path: Path, plant: str) -> None:
    scale = -np.ones(8) if plant == "negative" else np.full(8, 0.5)
    middle = [make("Relu", ["h"], ["a"]), make("Mul", ["a", "g"], ["s"]), make("Sigmoid", ["s"], ["r"])]
    if plant == "read twice":
        middle[-1] = make("Add", ["q", "s"], ["r"])
        middle.insert(0, make("Sigmoid", ["h"], ["q"]))
    file = make_layers(tmp_path / "m.onnx", middle, {"g": scale})
    if plant == "output":
        proto = onnx.load(file)
        proto.graph.output.append(helper.make_tensor_value_info("h", 1, ["n", 8]))
        onnx.save(proto, file)
    found = spa_compiler.compile(file, 0.0, latency=False, quality=False)
    assert found.model.SerializeToString() == file.read_bytes()
    assert found.report["analysis"]["folded_maps"] is None


def test_a_scale_of_inputs_stays(tmp_path: Path) -> None:
    """The scale of pictures is read from the model's first nodes."""
    w = {"w": np.ones((6, 4)) * 0.1, "s": np.float32(0.25)}
    nodes = [make("Mul", ["x", "s"], ["a"]), make("MatMul", ["a", "w"], ["y"])]
    file = save_graph(tmp_path / "m.onnx", nodes, w, ["n", 6], ["n", 4])
    found = spa_compiler.compile(file, 0.0, latency=False, quality=False)
    assert found.model.SerializeToString() == file.read_bytes()


@pytest.mark.parametrize("form", ["low rank", "mask", "low rank and sparse"])
def test_expressions_of_constants_are_written_down(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(4)
    w = {"base": rng.standard_normal((16, 24)), "u": rng.standard_normal((16, 2)), "v": rng.standard_normal((2, 24)),
         "s": rng.standard_normal((16, 24)), "m": rng.integers(0, 2, (16, 24)), "w2": rng.standard_normal((24, 4)),
         }  # fmt: skip
    nodes = {
        "low rank": [make("MatMul", ["u", "v"], ["d"]), make("Add", ["base", "d"], ["w"])],
        "mask": [make("Mul", ["base", "m"], ["w"])],
        "low rank and sparse": [make("MatMul", ["u", "v"], ["d"]), make("Add", ["base", "d"], ["e"]),
                                make("Add", ["e", "s"], ["w"])],
    }[form]  # fmt: skip
    read = {i for n in nodes for i in n.input} | {"w2"}
    nodes += [make("MatMul", ["x", "w"], ["h"]), make("Relu", ["h"], ["r"]), make("MatMul", ["r", "w2"], ["y"])]
    file = save_graph(tmp_path / "m.onnx", nodes, {n: a for n, a in w.items() if n in read}, ["n", 16], ["n", 4])
    model, report = compile_exactly(file)
    assert [n.op_type for n in model.graph.node] == ["MatMul", "Relu", "MatMul"]
    assert report["analysis"]["folded_maps"] == {"factors": 0, "expressions": 1, "branches": 0}
    assert report["compiled"]["macs"] == 16 * 24 + 24 * 4
    if form == "low rank":
        assert {t.name for t in model.graph.initializer} == {"base", "w2"}  # the weight keeps its name
    assert shape_of(file) == [0, 16]


def test_a_weight_that_something_else_reads_is_not_written_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    w = {"base": rng.standard_normal((8, 8)), "m": rng.standard_normal((8, 1))}
    nodes = [make("Mul", ["base", "m"], ["w"]), make("MatMul", ["x", "w"], ["h"]), make("Relu", ["h"], ["r"]),
             make("MatMul", ["r", "base"], ["y"])]  # fmt: skip
    file = save_graph(tmp_path / "m.onnx", nodes, w, ["n", 8], ["n", 8])
    found = spa_compiler.compile(file, 0.0, latency=False, quality=False)
    assert found.model.SerializeToString() == file.read_bytes()


@pytest.mark.parametrize("kind", ["plain", "biased", "gemm", "gated", "scaled by one number"])
def test_low_rank_branches_are_one_with_their_weight(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(6)
    w = {"w": rng.standard_normal((16, 24)), "a": rng.standard_normal((16, 2)), "b": rng.standard_normal((2, 24)),
         "w2": rng.standard_normal((24, 4))}  # fmt: skip
    if kind == "gemm":
        w |= {"w": w["w"].T, "bias": rng.standard_normal(24)}
        nodes = [make("Gemm", ["x", "w", "bias"], ["p"], transB=1)]
    else:
        nodes = [make("MatMul", ["x", "w"], ["p" if kind != "biased" else "p0"])]
    if kind == "biased":
        w["bias"] = rng.standard_normal(24)
        nodes += [make("Add", ["bias", "p0"], ["p"])]
    nodes += [make("MatMul", ["x", "a"], ["i"])]
    if kind == "gated":
        w["g"] = np.array([0.0, 0.7])
    nodes += [make("Mul", ["i", "g"], ["j"])] if kind == "gated" else []
    nodes += [make("MatMul", ["j" if kind == "gated" else "i", "b"], ["q0" if "scaled" in kind else "q"])]
    if "scaled" in kind:
        w["s"] = np.float32(0.5)
        nodes += [make("Mul", ["q0", "s"], ["q"])]
    nodes += [make("Add", ["p", "q"], ["h"]), make("Relu", ["h"], ["r"]), make("MatMul", ["r", "w2"], ["y"])]
    file = save_graph(tmp_path / "m.onnx", nodes, w, ["n", 16], ["n", 4])
    model, report = compile_exactly(file)
    assert report["analysis"]["folded_maps"]["branches"] == 2
    assert report["compiled"]["macs"] == 16 * 24 + 24 * 4
    assert {t.name for t in model.graph.initializer} == {"w", "w2", *({"bias"} & w.keys())}


@pytest.mark.parametrize("bias", [True, False])
def test_a_chain_without_branches_stays(tmp_path: Path, bias: bool) -> None:
    rng = np.random.default_rng(7)
    w = {"a": rng.standard_normal((16, 40)), "b": rng.standard_normal((40, 16)), "c": rng.standard_normal(16)}
    nodes = [make("MatMul", ["x", "a"], ["h"]), make("MatMul", ["h", "b"], ["z" if bias else "y"])]
    nodes += [make("Add", ["z", "c"], ["y"])] if bias else []
    w = {n: a for n, a in w.items() if bias or n != "c"}
    file = save_graph(tmp_path / "m.onnx", nodes, w, ["n", 16], ["n", 16])
    found = spa_compiler.compile(file, 0.0, latency=False, quality=False)
    assert found.model.SerializeToString() == file.read_bytes()


def test_a_branch_that_is_no_smaller_together_stays(tmp_path: Path) -> None:
    """Two low-rank branches, and no whole matrix beside them."""
    rng = np.random.default_rng(7)
    w = {n: rng.standard_normal(s) for n, s in (("a", (16, 2)), ("b", (2, 16)), ("c", (16, 2)), ("d", (2, 16)))}
    nodes = [make("MatMul", ["x", "a"], ["h"]), make("MatMul", ["h", "b"], ["p"]), make("MatMul", ["x", "c"], ["i"]),
             make("MatMul", ["i", "d"], ["q"]), make("Add", ["p", "q"], ["y"])]  # fmt: skip
    file = save_graph(tmp_path / "m.onnx", nodes, w, ["n", 16], ["n", 16])
    found = spa_compiler.compile(file, 0.0, latency=False, quality=False)
    assert found.model.SerializeToString() == file.read_bytes()


@pytest.mark.parametrize(("kernel", "attributes", "branches"), [
    (1, {}, 1), (3, {"pads": [1] * 4}, 1), (3, {"pads": [2] * 4, "dilations": [2, 2]}, 1),
    (3, {"pads": [3] * 4, "dilations": [3, 3]}, 0),
])  # fmt: skip
@pytest.mark.parametrize("groups", [1, 4])
def test_parallel_kernels_are_one(
    tmp_path: Path, kernel: int, attributes: dict[str, Any], branches: int, groups: int
) -> None:
    rng = np.random.default_rng(8)
    w = {"w": rng.standard_normal((8, 4 // groups, 5, 5)), "c": rng.standard_normal(8),
         "v": rng.standard_normal((8, 4 // groups, kernel, kernel)), "w2": rng.standard_normal((3, 8, 1, 1)),
         }  # fmt: skip
    nodes = [make("Conv", ["x", "v"], ["q"], group=groups, **attributes),
             make("Conv", ["x", "w", "c"], ["p"], pads=[2] * 4, group=groups), make("Add", ["q", "p"], ["h"]),
             make("Relu", ["h"], ["r"]), make("Conv", ["r", "w2"], ["y"])]  # fmt: skip
    file = save_graph(tmp_path / "m.onnx", nodes, w, ["n", 4, 7, 7], ["n", 3, 7, 7])
    model, report = compile_exactly(file)
    assert (report["analysis"]["folded_maps"] or {"branches": 0})["branches"] == branches
    assert count(model, "Conv") == 3 - branches


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
@pytest.mark.parametrize("order", ["xf", "fx"])
@pytest.mark.parametrize("sign", ["Add", "Sub"])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_value_added_to_a_map_of_it_goes_into_the_map(
    tmp_path: Path, op: str, order: str, sign: str, groups: int
) -> None:
    rng = np.random.default_rng(11)
    w = {"w": rng.standard_normal((8, 8 // groups, 3, 3)), "w2": rng.standard_normal((3, 8, 1, 1))}
    shape, out, last, attributes = ["n", 8, 7, 7], ["n", 3, 7, 7], "Conv", {"pads": [1] * 4, "group": groups}
    if op == "MatMul":
        w = {"w": rng.standard_normal((8, 8)), "w2": rng.standard_normal((8, 3))}
        shape, out, last, attributes = ["n", 8], ["n", 3], "MatMul", {}
    nodes = [make("Tanh", ["x"], ["t"]), make(op, ["t", "w"], ["f"], **attributes),
             make(sign, ["t" if k == "x" else "f" for k in order], ["h"]), make("Relu", ["h"], ["r"]),
             make(last, ["r", "w2"], ["y"])]  # fmt: skip
    model, report = compile_exactly(save_graph(tmp_path / "m.onnx", nodes, w, shape, out))
    assert report["analysis"]["folded_maps"]["branches"] == 1
    assert [n.op_type for n in model.graph.node] == ["Tanh", op, "Relu", last]


def test_a_value_added_to_a_map_that_moves_it_or_is_read_twice_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    w = {"w": rng.standard_normal((8, 8, 3, 3)), "v": rng.standard_normal((8, 8, 1, 1))}
    shifted = [make("Conv", ["x", "w"], ["f"], pads=[2, 1, 0, 1])]
    read_twice = [make("Conv", ["x", "w"], ["f"], pads=[1] * 4), make("Relu", ["f"], ["z"])]
    for nodes, outputs, branches in ((shifted, ["y"], 1), (read_twice, ["y", "z"], 0)):
        shape = ["n", 8, 7, 7]
        file = save_graph(tmp_path / "m.onnx", [*nodes, make("Add", ["f", "x"], ["y"])], w, shape, shape)
        model = onnx.load(file)
        if len(outputs) == 2:
            model.graph.output.append(helper.make_tensor_value_info("z", 1, ["n", 8, 7, 7]))
            onnx.save(model, file)
        _, report = compile_exactly(file)
        assert (report["analysis"]["folded_maps"] or {"branches": 0})["branches"] == branches


def test_maps_with_a_norm_or_a_function_between_them_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    w = {"w": rng.standard_normal((8, 4, 3, 3)), "v": rng.standard_normal((8, 4, 1, 1))}
    w |= {n: rng.uniform(0.5, 1, 8) for n in "gbmv_"} | {"v": rng.standard_normal((8, 4, 1, 1))}
    nodes = [make("Conv", ["x", "w"], ["p"], pads=[1] * 4), make("Conv", ["x", "v"], ["q"]),
             make("BatchNormalization", ["p", "g", "b", "m", "_"], ["k"]), make("Add", ["k", "q"], ["y"])]  # fmt: skip
    file = save_graph(tmp_path / "m.onnx", nodes, w, ["n", 4, 7, 7], ["n", 8, 7, 7])
    found = spa_compiler.compile(file, 0.0, latency=False, quality=False)
    assert found.model.SerializeToString() == file.read_bytes()


def test_branches_of_other_sizes_stay(tmp_path: Path) -> None:
    """One number everywhere is added to all places."""
    rng = np.random.default_rng(10)
    w = {"w": rng.standard_normal((8, 4, 3, 3)), "v": rng.standard_normal((8, 4, 7, 7))}
    nodes = [
        make("Conv", ["x", "w"], ["p"], pads=[1] * 4),
        make("Conv", ["x", "v"], ["q"]),
        make("Add", ["p", "q"], ["y"]),
    ]
    file = save_graph(tmp_path / "m.onnx", nodes, w, ["n", 4, 7, 7], ["n", 8, 7, 7])
    found = spa_compiler.compile(file, 0.0, latency=False, quality=False)
    assert found.model.SerializeToString() == file.read_bytes()


@pytest.mark.parametrize("kind", ["MatMul", "Conv"])
def test_a_norm_that_is_written_as_a_product_and_a_sum_stays_for_calibration(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(3)
    shape = (8, 1, 1) if kind == "Conv" else (8,)
    middle = [make("Mul", ["h", "g"], ["s"]), make("Add", ["s", "t"], ["q"]), make("Relu", ["q"], ["r"])]
    more = {"g": rng.uniform(0.5, 2, shape), "t": rng.standard_normal(shape)}
    file = make_layers(tmp_path / "m.onnx", middle, more, kind)
    found = spa_compiler.compile(file, 0.0, latency=False, quality=False)
    assert found.model.SerializeToString() == file.read_bytes()
