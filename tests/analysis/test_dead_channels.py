"""Channels that are removed without any loss: planted dead ones go, the rest stays, the outputs do not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import spa_compiler
from laws import analyze_proto, list_groups
from laws import outputs as run_outputs
from spa_compiler.analysis.dead_channels import find_dead_channels
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UsageError
from spa_compiler.execution.inputs import draw_random_inputs
from spa_compiler.planning.plan import Plan
from spa_compiler.rewriting.prune import rewrite
from zoo import CASES, Case, build

CONV = {"w1": (6, 3, 1, 1), "b1": (6,), "w2": (4, 6, 1, 1)}
KEY = "b1:0 w1:0 w2:1"


def chain(middle: str) -> Case:
    """Conv, something, Conv on images of 4 x 4."""
    text = f"(float[1,3,4,4] x) => (float[1,4,4,4] y) {{ a = Conv(x, w1, b1)  {middle}  y = Conv(b, w2) }}"
    return Case(text, CONV, None)


def planted(case: Case, **zeros: tuple[int, list[int]]) -> onnx.ModelProto:
    """The model of a case in which these channels (axis, indices) of these initializers are zero."""
    model = build(case)
    for t in model.graph.initializer:
        if t.name in zeros:
            axis, channels = zeros[t.name]
            values = numpy_helper.to_array(t).copy()
            np.moveaxis(values, axis, 0)[channels] = 0
            t.CopyFrom(numpy_helper.from_array(values, t.name))
    return model


def dead(model: onnx.ModelProto) -> list[int]:
    """Dead channels of the one group of `chain`."""
    graph = analyze_proto(model)
    found = find_dead_channels(graph)
    label = next((g.label for key, g in list_groups(graph).items() if "w1:0" in key), "")
    return np.flatnonzero(found[label]).tolist() if label in found else []


def change(graph: DependencyGraph) -> float:
    """Largest change of the outputs when the dead channels go, as a share of their scale."""
    assert graph.model.shapes is not None
    sizes = {n: pair[0] for n, pair in graph.model.shapes.sizes.items()}
    feed = draw_random_inputs(graph.model, sizes, np.random.default_rng(0))
    plan = Plan({n: ~mask for n, mask in find_dead_channels(graph).items()})
    before, after = (
        [np.nan_to_num(a) for a in run_outputs(m, feed)] for m in (graph.model, rewrite(graph, plan.masks(graph)))
    )
    return max(float(np.abs(a - b).max() / (np.abs(a).max() + 1e-9)) for a, b in zip(before, after, strict=True))


def test_channels_that_are_multiplied_by_zero_are_dead() -> None:
    assert dead(planted(chain("b = Sigmoid(a)"), w2=(1, [1, 4]))) == [1, 4]


@pytest.mark.parametrize("op", ["Relu", "LeakyRelu", "HardSwish", "Erf", "Gelu", "Neg", "Identity"])
def test_zero_channels_stay_dead_through_functions_that_keep_zero(op: str) -> None:
    case = chain(f"b = {op}(a)")
    model = planted(Case(case.text, case.inits, None, opset=20), w1=(0, [0, 5]), b1=(0, [0, 5]))
    assert dead(model) == [0, 5]


@pytest.mark.parametrize("op", ["Sigmoid", "Exp", "Cos", "HardSigmoid", "Softplus"])
def test_zero_channels_are_alive_behind_functions_that_move_zero(op: str) -> None:
    assert dead(planted(chain(f"b = {op}(a)"), w1=(0, [0, 5]), b1=(0, [0, 5]))) == []


def test_a_zero_weight_with_a_bias_is_alive() -> None:
    assert dead(planted(chain("b = Relu(a)"), w1=(0, [2]))) == []


@pytest.mark.parametrize(("low", "high", "found"), [(0.0, 6.0, [3]), (-1.0, 1.0, [3]), (0.1, 6.0, [])])
def test_a_clip_keeps_zero_when_its_range_holds_it(low: float, high: float, found: list[int]) -> None:
    case = chain("b = Clip(a, lo, hi)")
    model = planted(Case(case.text, {**CONV, "lo": low, "hi": high}, None), w1=(0, [3]), b1=(0, [3]))
    assert dead(model) == found


@pytest.mark.parametrize(("fill", "found"), [(0.0, [3]), (1.0, [])])
def test_padding_keeps_zero_when_it_pads_with_zeros(fill: float, found: list[int]) -> None:
    text = """(float[1,3,4,4] x) => (float[1,4,6,6] y) {
        a = Conv(x, w1, b1)  b = Pad(a, pads, fill)  y = Conv(b, w2) }"""
    case = Case(text, {**CONV, "pads": [0, 0, 1, 1, 0, 0, 1, 1], "fill": fill}, None)
    assert dead(planted(case, w1=(0, [3]), b1=(0, [3]))) == found


FILLED = {
    "zeros of a shape": ("b = ConstantOfShape(s)", 4),
    "ones of a shape": ("b = ConstantOfShape<value=float[1] {1.0}>(s)", 0),
    "a zero spread out": ("b = Expand(none, s)", 4),
    "zeros of a shape, spread out": ("z = ConstantOfShape(ones)  b = Expand(z, s)", 4),
    "passed on": ("z = ConstantOfShape(s)  b = Relu(z)", 4),
    "moved": ("z = ConstantOfShape(s)  b = Cos(z)", 0),
}


@pytest.mark.parametrize("batch", ["1", "N"])
@pytest.mark.parametrize("how", FILLED)
def test_channels_that_are_filled_with_zeros_are_dead(how: str, batch: str) -> None:
    text, found = FILLED[how]
    case = Case(
        f"""(float[{batch},3,4,4] x) => (float[{batch},4,4,4] y) {{
            a = Conv(x, w1)  n = Shape<start=0,end=1>(a)  s = Concat<axis=0>(n, five, side, side)  {text}
            c = Concat<axis=1>(a, b)  y = Conv(c, w2) }}""",
        {"w1": (6, 3, 1, 1), "w2": (4, 11, 1, 1), "five": [5], "side": [4], "none": 0.0, "ones": [1, 1, 1, 1]},
        None,
    )
    graph = analyze_proto(build(case))
    assert sum(int(m.sum()) for m in find_dead_channels(graph).values()) == found  # of five: a group keeps one channel
    assert change(graph) == 0


def test_a_batch_norm_with_gain_and_bias_zero_kills_its_channel() -> None:
    text = """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
        a = Conv(x, w1)  b = BatchNormalization(a, s, t, mu, var)  c = Relu(b)  y = Conv(c, w2) }"""
    sizes = dict.fromkeys(("s", "t", "mu", "var"), (6,))
    case = Case(text, {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1), **sizes}, None)
    assert dead(planted(case, s=(0, [2]), t=(0, [2]))) == [2]
    assert dead(planted(case, s=(0, [2]))) == []


def test_in_a_residual_sum_both_branches_have_to_be_zero() -> None:
    text = """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
        a = Conv(x, w1, b1)  c = Conv(x, w3, b3)  b = Add(a, c)  y = Conv(b, w2) }"""
    case = Case(text, {**CONV, "w3": (6, 3, 1, 1), "b3": (6,)}, None)
    zero = {"w1": (0, [1, 2]), "b1": (0, [1, 2])}
    assert dead(planted(case, **zero)) == []
    assert dead(planted(case, **zero, w3=(0, [2, 3]), b3=(0, [2, 3]))) == [2]


def test_a_product_is_zero_where_one_factor_is() -> None:
    text = """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
        a = Conv(x, w1, b1)  c = Conv(x, w3)  s = Sigmoid(c)  b = Mul(a, s)  y = Conv(b, w2) }"""
    case = Case(text, {**CONV, "w3": (6, 3, 1, 1)}, None)
    assert dead(planted(case, w1=(0, [4]), b1=(0, [4]))) == [4]


def test_channels_that_nothing_reads_are_dead() -> None:
    case = Case(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w1, b1)  b = Slice(a, start, end, axis)  y = Conv(b, w2) }""",
        {"w1": (9, 3, 1, 1), "b1": (9,), "w2": (4, 6, 1, 1), "start": [0], "end": [6], "axis": [1]},
        None,
    )
    graph = analyze_proto(build(case))
    unused = {n: int(m.sum()) for n, m in find_dead_channels(graph).items()}
    assert list(unused.values()) == [2]  # of three: a group keeps one channel
    assert change(graph) == 0


def test_the_zero_of_a_quantized_weight_is_not_a_zero() -> None:
    text = """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
        a = Conv(x, w1, b1)  b = Relu(a)  w = DequantizeLinear(q, sc, zp)  y = Conv(b, w) }"""
    inits = {"w1": (6, 3, 1, 1), "b1": (6,), "sc": np.array(0.1, np.float32), "zp": np.array(128, np.uint8)}
    weight = np.random.default_rng(0).integers(0, 255, (4, 6, 1, 1)).astype(np.uint8)
    weight[:, 2] = 0  # stands for -12.8
    graph = analyze_proto(build(Case(text, {**inits, "q": weight}, None)))
    assert change(graph) == 0
    assert not find_dead_channels(graph)


def test_a_group_is_never_erased_whole() -> None:
    model = planted(chain("b = Relu(a)"), w2=(1, list(range(6))))
    assert dead(model) == [1, 2, 3, 4, 5]
    assert change(analyze_proto(model)) == 0


@pytest.mark.parametrize("name", sorted(n for n in CASES if CASES[n].runs and CASES[n].groups))
def test_erasing_planted_zeros_changes_no_model(name: str) -> None:
    """Every other weight loses a third of one of its axes: what is found dead then is."""
    model = build(CASES[name])
    rng = np.random.default_rng(0)
    for t in model.graph.initializer:
        values = numpy_helper.to_array(t).copy()
        if values.dtype == np.float32 and t.name[0] != "s" and values.ndim and rng.random() < 0.8:
            axis = int(rng.integers(values.ndim))
            size = values.shape[axis]
            np.moveaxis(values, axis, 0)[rng.permutation(size)[: (size + 2) // 3]] = 0
            t.CopyFrom(numpy_helper.from_array(values, t.name))
    assert change(analyze_proto(model)) < 1e-5


def resnet_with_dead_channels(folder: Path, models: Path) -> tuple[Path, str]:
    """The shipped ResNet with three channels that are multiplied by zero, and their group."""
    source = folder / "resnet.onnx"
    graph = analyze_proto(onnx.load(models / "digits_resnet.onnx"))
    group = next(g for g in graph.groups if [m.role for m in g.members].count("in") == 1)
    reader = next(m for m in group.members if m.role == "in")
    model = onnx.load(models / "digits_resnet.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == reader.value)
    values = numpy_helper.to_array(tensor).copy()
    np.moveaxis(values, reader.axis, 0)[[1, 5, 9]] = 0
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, source)
    return source, group.label


def test_ratio_0_erases_dead_channels_and_nothing_else(tmp_path: Path, models: Path) -> None:
    source, label = resnet_with_dead_channels(tmp_path, models)
    result = spa_compiler.compile(source, ratio=0, output=tmp_path / "out.onnx")
    cut = {g["label"]: g["size"] - g["kept"] for g in result.report["groups"] if g["kept"] < g["size"]}
    assert cut == {label: 3}
    assert result.report["analysis"]["erased_channels"] == 3
    assert result.report["fidelity"]["cosine"] == pytest.approx(1, abs=1e-9)


def test_erase_leaves_what_the_options_protect(tmp_path: Path, models: Path) -> None:
    source, label = resnet_with_dead_channels(tmp_path, models)
    size = next(g for g in analyze_proto(onnx.load(source)).groups if g.label == label).size
    other = next(g.label for g in analyze_proto(onnx.load(source)).groups if g.label != label)

    def erased(**options: Any) -> int:
        report = spa_compiler.compile(source, ratio=0, **options).report
        assert sum(g["size"] - g["kept"] for g in report["groups"]) == report["analysis"]["erased_channels"]
        return int(report["analysis"]["erased_channels"])

    assert erased(exclude=(label,)) == erased(include=(other,)) == erased(min_keep=size) == 0
    assert erased(exclude=(other,)) == erased(include=(label,)) == erased(min_keep=size - 3) == 3
    assert erased(min_keep=size - 2) == 2
    with pytest.raises(UsageError, match="matches no group"):
        erased(exclude=("nothing",))


def test_erased_channels_count_towards_the_budget(tmp_path: Path, models: Path) -> None:
    source, label = resnet_with_dead_channels(tmp_path, models)
    result = spa_compiler.compile(source, ratio=0.3, scope="uniform", criterion="l2", latency=False, quality=False)
    kept = result.state.plan.keep[label]
    assert not kept[[1, 5, 9]].any()
    # blocks of 16 may cost twice what a budget may be missed by
    assert result.report["reached"]["macs"] == pytest.approx(0.3, abs=0.02)


def test_ratio_0_without_dead_channels_gives_the_same_bytes(tmp_path: Path, models: Path) -> None:
    for source in sorted(models.glob("*.onnx")):
        spa_compiler.compile(source, ratio=0, output=tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()


def recurrent_model(
    op: str, spoil: str = "", directions: int = 1, state: bool = True, **attributes: Any
) -> onnx.ModelProto:
    """A cell of eight units, of which 2 and 5 have a candidate gate of zeros, and a product with what it gives."""
    rng, gates = np.random.default_rng(0), {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    w = {"w": rng.standard_normal((directions, gates * 8, 3)), "r": rng.standard_normal((directions, gates * 8, 8)),
         "b": rng.standard_normal((directions, 2 * gates * 8)), "h": rng.standard_normal((directions, 2, 8)),
         "v": rng.standard_normal((8, 4))}  # fmt: skip
    last = (gates - 1) * 8 + np.array([2, 5])
    for name in ("w", "r"):
        w[name][:, last] = 0
    for both in (0, gates * 8):
        w["b"][:, both + last] = 0
    w["h"][:, :, [2, 5]] = 0
    if spoil:
        w[spoil][0, *(last[0],) if spoil != "h" else (0, 2)] += 1
    states = ["h", "h"][: 2 if op == "LSTM" else 1] if state else []
    nodes = [onnx.helper.make_node(op, ["x", "w", "r", "b", "", *states], ["y0"], hidden_size=8,
                                   direction="bidirectional" if directions == 2 else "forward", **attributes),
             onnx.helper.make_node("MatMul", ["y0", "v"], ["y"])]  # fmt: skip
    used = {i for n in nodes for i in n.input}
    graph = onnx.helper.make_graph(
        nodes, "g", [onnx.helper.make_tensor_value_info("x", 1, [5, 2, 3])],
        [onnx.helper.make_tensor_value_info("y", 1, [5, directions, 2, 4])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in w.items() if n in used],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize(("op", "attributes"), [
    ("RNN", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1}), ("LSTM", {}),
])  # fmt: skip
def test_recurrent_units_without_a_candidate_go(
    tmp_path: Path, op: str, attributes: dict[str, Any], state: bool, directions: int
) -> None:
    file = tmp_path / "m.onnx"
    onnx.save(recurrent_model(op, "", directions, state, **attributes), file)
    found = spa_compiler.compile(file, 0.0, latency=False, quality=False)
    assert found.report["analysis"]["erased_channels"] == 2
    assert [g["kept"] for g in found.report["groups"] if g["size"] == 8] == [6]
    x = {"x": np.random.default_rng(1).standard_normal((5, 2, 3)).astype(np.float32)}
    protos = (onnx.load(file), found.model)
    dense, small = (onnxruntime.InferenceSession(m.SerializeToString()).run(None, x) for m in protos)
    assert np.abs(dense[0] - small[0]).max() <= 1e-5


@pytest.mark.parametrize(("op", "spoil", "activations"), [
    ("RNN", "w", []), ("GRU", "r", []), ("LSTM", "b", []), ("GRU", "h", []), ("RNN", "", ["Sigmoid"]),
    ("LSTM", "", ["Sigmoid", "Sigmoid", "Tanh"]),
])  # fmt: skip
def test_recurrent_units_that_may_move_stay(op: str, spoil: str, activations: list[str]) -> None:
    graph = analyze_proto(recurrent_model(op, spoil, **({"activations": activations} if activations else {})))
    found = find_dead_channels(graph)
    assert sum(int(m.sum()) for m in found.values()) == (1 if spoil else 0)
