"""The proof sees the file itself, every index of every value, inside of the graph, and sizes of its own."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from spa_compiler.passes import normalize as step

from commands import QUICK, folder, last, run, run_spa
from laws import Masks, analyze_proto
from networks import graph_of
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import UnprovenError, VerificationError
from spa_compiler.ir.model import Model, make_constant
from spa_compiler.ir.reader import from_proto
from spa_compiler.planning.plan import Plan
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.verification import comparison, inside, proof
from spa_compiler.verification.comparison import FLOAT_TOLERANCE, SCALE_FLOOR, measure_difference
from spa_compiler.verification.feeds import draw_inputs
from spa_compiler.verification.fidelity import explain_variance, measure_fidelity
from spa_compiler.verification.proof import prove_rewrite
from spa_compiler.verification.runs import Side
from spa_compiler.verification.sizes import list_proof_sizes
from spa_compiler.verification.source import SourcePair
from zoo import CASES, Case, build
from zoo_base import Init

ROOT = Path(__file__).resolve().parents[2]
MLP = "a = Gemm(x, w1, b1)  b = Relu(a)  c = Gemm(b, w2, b2)"
WEIGHTS: dict[str, Init] = {"w1": (8, 16), "b1": (16,), "w2": (16, 4), "b2": (4,)}


def mlp(outputs: str, tail: str, body: str = MLP, **more: Init) -> onnx.ModelProto:
    """Two layers, and what follows them."""
    return build(Case(f"(float[N,8] x) => ({outputs}) {{ {body}  {tail} }}", {**WEIGHTS, **more}, None))


def third(graph: DependencyGraph) -> Masks:
    """Every group loses every third unit."""
    return Plan({g.label: np.arange(g.size) % 3 > 0 for g in graph.groups}).masks(graph)


def changed(model: Model, name: str, change: np.ndarray) -> Model:
    """The model with another weight in the place of one."""
    out = model.copy()
    tensor = out.constants()[name]
    tensor._values = make_constant(name, change.astype(np.float32))._values
    return out


def exchanged(model: Model, name: str, axis: int) -> Model:
    """The model with the first two channels of a weight exchanged."""
    array = model.array(model.constants()[name])
    order = np.arange(array.shape[axis])
    order[:2] = 1, 0
    return changed(model, name, array.take(order, axis))


# how two values are compared


def test_an_error_at_one_index_shows_beside_much_larger_numbers() -> None:
    boxes = np.array([[600.0, 400.0, 0.5], [300.0, 200.0, 0.25], [100.0, 500.0, 0.75]], np.float32)
    wrong = boxes.copy()
    wrong[1, 2] += 0.1
    assert measure_difference(boxes, boxes).error == 0
    assert measure_difference(np.vstack([wrong] * 8), np.vstack([boxes] * 8)).error > 10 * FLOAT_TOLERANCE


def test_a_wrong_class_shows_on_the_second_axis() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 5, 6, 6)).astype(np.float32)
    scores[:, 0] *= 1000
    wrong = scores.copy()
    wrong[:, 3] *= 1.001
    assert measure_difference(wrong, scores).error > 5e-4


def test_an_index_of_zeros_has_a_floor_from_rounding() -> None:
    reference = np.ones((4, 6), np.float32)
    reference[:, 2] = 0
    rounded, wrong = reference.copy(), reference.copy()
    rounded[:, 2], wrong[:, 2] = 1e-7, 1e-3
    assert measure_difference(rounded, reference).error < FLOAT_TOLERANCE < measure_difference(wrong, reference).error
    assert measure_difference(rounded, reference).error == pytest.approx(1e-7 / SCALE_FLOOR, rel=1e-3)


def test_one_large_entry_hides_nothing_at_its_index() -> None:
    reference = np.random.default_rng(0).uniform(0.5, 1.5, (40, 6)).astype(np.float32)
    reference[0] = -1e9
    wrong = reference.copy()
    wrong[7, 3] += 0.1
    assert measure_difference(reference, reference).error == 0
    assert measure_difference(wrong, reference).error > 1e-4


def test_what_is_not_finite_on_both_sides_is_not_compared() -> None:
    reference = np.array([[1.0, np.nan, np.inf, 2.0]], np.float32)
    assert measure_difference(reference, reference) == comparison.Difference(0.0, 2)
    assert measure_difference(np.full((2, 2), np.nan), np.full((2, 2), np.nan)) == comparison.Difference(0.0, 0)
    for wrong in ([[1.0, 0.0, np.inf, 2.0]], [[1.0, np.nan, -np.inf, 2.0]], [[np.nan, np.nan, np.inf, 2.0]]):
        assert measure_difference(np.array(wrong, np.float32), reference).error == np.inf


def test_maps_are_measured_as_the_matrix_that_they_are() -> None:
    """Behind a ZipMap a class that is near zero for one row is no more than the same class of all rows."""
    scores = np.array([[4.0, -3.0], [1e-6, 2.0], [-5.0, 1.0]], np.float32)
    off = scores + np.float32(4e-6)

    def zip_rows(values: NDArray[np.float32]) -> list[dict[str, float]]:
        return [dict(zip("ab", map(float, row), strict=True)) for row in values]

    assert measure_difference(zip_rows(off), zip_rows(scores)).error == measure_difference(off, scores).error
    assert measure_difference(off, scores).error < FLOAT_TOLERANCE
    other = [{k: v for k, v in row.items() if k != "b"} for row in zip_rows(scores)]
    assert measure_difference(other, zip_rows(scores)).error == float("inf")


def test_rounding_that_the_file_itself_makes_large_is_no_error_of_its_reading(tmp_path: Path) -> None:
    """Logits of ten thousand differ by a thousandth when they are added in another order, and so do probabilities."""
    w, scale = np.random.default_rng(7).standard_normal((8, 3)).astype(np.float32), np.float32(5000)
    text = "(float[n,8] x) => (float[n,3] y) {{ a = MatMul(x, w)  {}  y = Softmax({}) }}"
    file = graph_of(Case(text.format("b = Mul(a, k)", "b"), {"w": w, "k": np.full((), scale)}, None))

    def compare(by: float, seed: int) -> float | None:
        read = build(Case(text.format("", "a"), {"w": w * scale * np.float32(by)}, None))
        pair = SourcePair(file, file.model, Side(read, ROOT, ["y"], "the graph"), FLOAT_TOLERANCE)
        return pair.compare({"x": np.random.default_rng(seed).standard_normal((40, 8)).astype(np.float32)}, "")

    assert all((compare(1.0, seed) or 0) <= FLOAT_TOLERANCE for seed in range(4))
    with pytest.raises(VerificationError, match="is not what the file computes"):
        compare(-1.0, 0)


def test_sequences_maps_and_text_are_compared_entry_by_entry() -> None:
    one, other = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    assert measure_difference([one, other], [one, other]).error == 0
    assert measure_difference([one, one], [one, other]).error > FLOAT_TOLERANCE
    assert measure_difference([one], [one, other]).error == np.inf
    assert measure_difference({1: 0.5}, {1: 0.5}).error == 0 < measure_difference({1: 0.5}, {1: 0.6}).error
    assert measure_difference(np.array(["a"]), np.array(["b"])).error == np.inf


@given(st.integers(0, 99), st.integers(1, 4), st.integers(2, 6), st.floats(-6, 6), st.floats(-4, 4))
def test_an_error_is_a_share_of_its_own_index(seed: int, rank: int, size: int, power: float, beside: float) -> None:
    """It does not follow the unit of the whole, and a large neighbour does not make it small."""
    rng = np.random.default_rng(seed)
    reference = rng.uniform(0.5, 1.5, (size,) * rank)
    wrong = reference * (1 + 1e-3 * rng.uniform(0.5, 1, reference.shape))
    unit = 10.0**power
    error = measure_difference(wrong, reference).error
    assert measure_difference(unit * wrong, unit * reference).error == pytest.approx(error, rel=1e-6)
    assert 5e-5 < error < 1e-2
    large = np.ones(size)
    large[0] = 10.0 ** abs(beside)
    assert measure_difference(wrong * large, reference * large).error > 5e-5


# outputs that hide what lies before them

HIDING = {
    "argmax": ("int64[N] y", "y = ArgMax<axis=1,keepdims=0>(c)", {}),
    "a constant winner": ("int64[N] y", "z = Add(c, big)  y = ArgMax<axis=1,keepdims=0>(z)",
                          {"big": np.array([0, 0, 1000, 0], np.float32)}),
    "minus a billion": ("float[N,4] y", "y = Where(never, c, least)",
                        {"never": np.zeros(4, bool), "least": np.array(-1e9, np.float32)}),
    "not a number": ("float[N,4] y", "z = Abs(c)  n = Neg(z)  m = Sub(n, one)  y = Log(m)", {"one": 1.0}),
    "a sequence": ("seq(float[N,4]) y", "z = Mul(c, nothing)  y = SequenceConstruct(z)", {"nothing": 0.0}),
    "a dead second output": ("float[N,16] z, float[N,4] y", "z = Relu(x2)  y = Mul(c, nothing)", {"nothing": 0.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDING)
def test_outputs_hide_neither_a_right_nor_a_wrong_inside(name: str) -> None:
    outputs, tail, more = HIDING[name]
    body = MLP.replace("c = Gemm", "x2 = MatMul(x, v)  c = Gemm") if "x2" in tail else MLP
    extra: dict[str, Init] = {**more, **({"v": (8, 16)} if "x2" in tail else {})}
    graph = analyze_proto(mlp(outputs, tail, body, **extra))
    masks = third(graph)
    small = rewrite(graph, masks)
    found = prove_rewrite(graph, masks, small)
    assert found.error <= FLOAT_TOLERANCE and not found.silent and found.groups == 1
    for wrong in (exchanged(small, "w1", 1), exchanged(small, "w2", 0), exchanged(small, "b1", 0)):
        with pytest.raises(VerificationError, match="prune does not equal mask"):
            prove_rewrite(graph, masks, wrong)


def test_a_weight_that_no_drawn_input_reaches_is_compared() -> None:
    """Half of the units are off on every input that is drawn; what reads them is driven."""
    bias = np.where(np.arange(16) % 2, -100, 0).astype(np.float32)
    graph = analyze_proto(mlp("float[N,4] y", "y = Identity(c)", b1=bias))
    masks = Plan({graph.groups[0].label: np.arange(16) > 3}).masks(graph)
    small = rewrite(graph, masks)
    assert not prove_rewrite(graph, masks, small).silent
    array = small.array(small.constants()["w2"])
    wrong = array.copy()
    wrong[1] = np.roll(wrong[1], 1)
    assert small.array(small.constants()["b1"])[1] == -100
    with pytest.raises(VerificationError, match="prune does not equal mask"):
        prove_rewrite(graph, masks, changed(small, "w2", wrong))


def test_a_small_error_of_one_bias_is_caught() -> None:
    graph = analyze_proto(mlp("float[N,4] y", "y = Identity(c)"))
    masks = third(graph)
    small = rewrite(graph, masks)
    bias = small.array(small.constants()["b2"]) + np.array([0, 1e-3, 0, 0])
    with pytest.raises(VerificationError, match=r"value 'c' of Gemm 'c'"):
        prove_rewrite(graph, masks, changed(small, "b2", bias))


def test_the_report_says_how_much_of_the_inside_was_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = analyze_proto(mlp("float[N,4] y", "y = Identity(c)"))
    masks = third(graph)
    whole = prove_rewrite(graph, masks, rewrite(graph, masks))
    monkeypatch.setattr(inside, "MOST_BYTES", 300)
    part = prove_rewrite(graph, masks, rewrite(graph, masks))
    assert whole.inside == whole.inside_of == part.inside_of > part.inside


# power

SATURATED: dict[str, Init] = {"b1": np.full(16, -100, np.float32)}


def test_a_group_that_never_moves_is_silent() -> None:
    for more in (SATURATED, {"w2": np.zeros((16, 4), np.float32)}):
        graph = analyze_proto(mlp("float[N,4] y", "y = Identity(c)", **more))
        masks = third(graph)
        found = prove_rewrite(graph, masks, rewrite(graph, masks))
        assert found.silent == ("w1:1",) or not np.any(more.get("w2", 1))


def test_nothing_is_seen_behind_nan() -> None:
    body = "q = Abs(x)  n = Neg(q)  m = Sub(n, one)  h = Log(m)  " + MLP.replace("Gemm(x", "Gemm(h")
    graph = analyze_proto(mlp("float[N,4] y", "y = Identity(c)", body, one=1.0))
    masks = third(graph)
    assert prove_rewrite(graph, masks, rewrite(graph, masks)).silent == ("w1:1",)


def test_one_dead_group_beside_a_live_one_is_named() -> None:
    body = MLP + "  a2 = Gemm(x, v1, d1)  e = Relu(a2)  f = Gemm(e, v2)"
    more: dict[str, Init] = {"v1": (8, 10), "d1": np.full(10, -99, np.float32), "v2": (10, 4)}
    graph = analyze_proto(mlp("float[N,4] y", "y = Add(c, f)", body, **more))
    masks = third(graph)
    found = prove_rewrite(graph, masks, rewrite(graph, masks))
    assert (found.silent, found.groups) == (("v1:1",), 2)


def test_units_that_are_proven_to_be_zero_need_no_power(tmp_path: Path) -> None:
    first = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    first[:, 4:] = 0
    bias = np.zeros(16, np.float32)
    bias[:4] = 1
    for w1, b1 in ((first, bias), (0 * first, 0 * bias)):
        onnx.save(mlp("float[N,4] y", "y = Identity(c)", w1=w1, b1=b1), tmp_path / "m.onnx")
        result = run(tmp_path / "m.onnx", "--ratio", 0, *QUICK)
        assert result.exit_code == 0, result.output
        assert last(result).startswith("VERIFIED | quality ")


def test_exit_1_for_what_is_unproven_unless_it_is_allowed(tmp_path: Path) -> None:
    onnx.save(mlp("float[N,4] y", "y = Identity(c)", **SATURATED), tmp_path / "m.onnx")
    before = folder(tmp_path)
    result = run(tmp_path / "m.onnx", "--ratio", 0.5, *QUICK)
    assert (result.exit_code, last(result)) == (1, "UNPROVEN (1 of 1 groups) | nothing was written")
    assert "nothing moves with 'a hidden'" in result.stderr and "--allow-unproven" in result.stderr
    assert folder(tmp_path) == before
    plan = tmp_path / "plan.json"
    allowed = run(tmp_path / "m.onnx", "--ratio", 0.5, *QUICK, "--allow-unproven", "--save-plan", plan)
    assert allowed.exit_code == 0
    assert last(allowed).startswith("UNPROVEN (1 of 1 groups) | quality ")
    assert (tmp_path / "m.pruned.onnx").exists()
    pair = tmp_path / "m.onnx", tmp_path / "m.pruned.onnx", "--plan", plan
    again = run_spa("verify", *pair)
    assert (again.exit_code, last(again)) == (1, "UNPROVEN (1 of 1 groups)")
    assert "UNPROVEN (1 of 1 groups)" in run_spa("verify", *pair, "--allow-unproven").stdout


def test_other_kinds_of_inputs_are_tried_before_a_group_is_called_silent() -> None:
    """Only large inputs open these units."""
    graph = analyze_proto(mlp("float[N,4] y", "y = Identity(c)", b1=np.full(16, -12, np.float32)))
    masks = third(graph)
    small = rewrite(graph, masks)
    assert not prove_rewrite(graph, masks, small).silent
    with pytest.raises(VerificationError, match="prune does not equal mask"):
        prove_rewrite(graph, masks, exchanged(small, "w2", 0))


# the file itself


def normalize_wrongly(monkeypatch: pytest.MonkeyPatch, change: object) -> None:
    """The pass gives a graph that `change` has been at."""
    right = step.normalize

    def wrong(model: Model, sizes: dict[str, int]) -> tuple[Model, dict[str, int]]:
        out, changes = right(model, sizes)
        return change(out), changes  # type: ignore[operator]

    monkeypatch.setattr(step, "normalize", wrong)


def test_a_graph_that_is_read_wrongly_is_refused_and_the_value_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(mlp("float[N,4] y", "d = Tanh(c)  y = Mul(d, two)", two=2.0), tmp_path / "m.onnx")
    normalize_wrongly(monkeypatch, lambda model: exchanged(model, "b1", 0))
    before = folder(tmp_path)
    result = run(tmp_path / "m.onnx", "--ratio", 0.5, *QUICK)
    assert result.exit_code == 1
    assert "value 'a' of Gemm 'a' is the first that differs" in result.stderr
    assert str(tmp_path / "m.onnx") in result.stderr and "No --exclude avoids it" in result.stderr
    assert folder(tmp_path) == before


def test_a_length_that_was_never_analysed_is_compared_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is right up to a hundred tokens."""
    text = "(float[1,L,6] x) => (float[1,L,4] y) { p = Identity(x)  a = MatMul(p, w1)  b = Relu(a)  y = MatMul(b, w2) }"
    onnx.save(build(Case(text, {"w1": (6, 8), "w2": (8, 4)}, None)), tmp_path / "m.onnx")
    assert run(tmp_path / "m.onnx", "--ratio", 0.5, *QUICK).exit_code == 0

    def forget_long_ones(model: Model) -> Model:
        count, few, share, first = (gs.Variable(n) for n in ("count", "few", "share", "first"))
        x = model.graph.inputs[0]
        product = next(n for n in model.graph.nodes if n.op == "MatMul")
        product.inputs[0] = first
        model.graph.nodes = [
            gs.Node("Size", "size", {}, [x], [count]),
            gs.Node("Less", "less", {}, [count, make_constant("most", np.array(6 * 100, np.int64))], [few]),
            gs.Node("Cast", "cast", {"to": onnx.TensorProto.FLOAT}, [few], [share]),
            gs.Node("Mul", "mul", {}, [x, share], [first]),
            *model.graph.nodes,
        ]
        assert model.shapes is not None
        for known in (model.shapes.shape, model.shapes.dynamic, model.shapes.kind):
            known["first"] = known["x"]  # type: ignore[assignment]
        return model

    normalize_wrongly(monkeypatch, forget_long_ones)
    result = run(tmp_path / "m.onnx", "--ratio", 0.5, *QUICK, "-v")
    assert result.exit_code == 1, result.output
    assert " at L=" in result.stderr and "value 'a' of MatMul 'a' is the first that differs" in result.stderr


def test_a_default_that_a_run_may_replace_is_no_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that takes it for one is not what the file computes."""
    model = mlp("float[N,4] y", "z = Mul(t, half)  y = Mul(c, z)", t=1.0, half=0.5)
    assert analyze_proto(model).groups
    model.graph.input.append(onnx.helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, []))
    onnx.save(model, tmp_path / "m.onnx")

    def take_for_constant(found: Model) -> Model:
        tensors = found.graph.tensors()
        if "z" in tensors and tensors["z"].inputs:
            product = tensors["z"].inputs[0]
            product.inputs = [make_constant("one", np.array(1, np.float32)), product.inputs[1]]
        return found

    normalize_wrongly(monkeypatch, take_for_constant)
    result = run(tmp_path / "m.onnx", "--ratio", 0.5, *QUICK)
    assert result.exit_code == 1
    assert "is not what the file computes" in result.stderr


def test_a_size_that_follows_the_value_of_an_input_is_tried_with_several() -> None:
    text = "(float[N,2,8] x, int64[1] n) => (float[N,4] y) { s = Slice(x, from, n, axis)"
    text += "  p = ReduceSum<keepdims=0>(s, axis)"
    text += f"  {MLP.replace('Gemm(x', 'Gemm(p')}  y = Identity(c) }}"
    model = build(Case(text, {**WEIGHTS, "from": [0], "axis": [1]}, None))
    drawn = [int(draw_inputs(from_proto(model, Path("m.onnx")), {"N": 2}, seed)["n"][0]) for seed in range(3)]
    assert 1 in drawn[:2] and len(set(drawn)) == 3


def test_sizes_that_the_file_refuses_do_not_count(tmp_path: Path) -> None:
    text = """(float[N,3,H,H] x) => (float[N,4,H,H] y) { a = Conv<strides=[2,2],kernel_shape=[2,2]>(x, w1)  r = Relu(a)
        u = ConvTranspose<strides=[2,2],kernel_shape=[2,2]>(r, w2)  k = Conv(x, w3)  y = Add(u, k) }"""
    model = build(Case(text, {"w1": (8, 3, 2, 2), "w2": (8, 4, 2, 2), "w3": (4, 3, 1, 1)}, None))
    graph = analyze_proto(model)
    masks = third(graph)
    found = prove_rewrite(graph, masks, rewrite(graph, masks), source=from_proto(model, Path("m.onnx")))
    assert found.source_error is not None and found.source_error <= FLOAT_TOLERANCE
    assert any(sizes["H"] % 2 for sizes in found.refused)
    assert all(sizes["H"] % 2 == 0 for sizes in found.sizes)


def test_the_file_is_opened_with_its_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    onnx.save(mlp("float[N,4] y", "y = Sigmoid(c)"), inner / "m.onnx", save_as_external_data=True, size_threshold=64)
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "r.json"
    result = run("inner/m.onnx", "--ratio", 0.5, *QUICK, "--report", report)
    assert result.exit_code == 0, result.output
    proof_ = json.loads(report.read_text())["verification"]["prune_equals_mask"]
    assert proof_["source_error"] == 0 and proof_["sizes"]


def test_a_file_with_random_numbers_tells_nothing() -> None:
    """It differs from itself, so that only prune against mask can tell, where both draw the same."""
    text = "(float[N,8] x) => (float[N,4] y) { r = RandomNormalLike(x)  h = Add(x, r)  " + MLP.replace("(x", "(h")
    model = build(Case(text + "  y = Sigmoid(c) }", WEIGHTS, None))
    graph = analyze_proto(model)
    dense = Side(graph.model.proto(), Path(), ["y", "c"], "the dense model")
    pair = SourcePair(graph, from_proto(model, Path("m.onnx")), dense, FLOAT_TOLERANCE)
    assert pair.compare({"x": np.ones((2, 8), np.float32)}, "") == 0


def test_random_numbers_of_one_output_hide_nothing_in_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(mlp("float[N,4] y, float[N,4] z", "y = Identity(c)  r = RandomNormalLike(c)  z = Add(c, r)"),
              tmp_path / "m.onnx")  # fmt: skip
    assert run(tmp_path / "m.onnx", "--ratio", 0, *QUICK).exit_code == 0
    normalize_wrongly(monkeypatch, lambda model: exchanged(model, "b1", 0))
    result = run(tmp_path / "m.onnx", "--ratio", 0, *QUICK)
    assert result.exit_code == 1 and "value 'a' of Gemm 'a' is the first that differs" in result.stderr


@pytest.mark.parametrize("name", [n for n in CASES if n.endswith("_dynamic") and CASES[n].runs])
def test_masks_hold_at_sizes_that_the_analysis_did_not_use(name: str) -> None:
    model = build(CASES[name])
    graph = analyze_proto(model)
    keep = {g.label: np.broadcast_to(np.arange(g.size) > 0, g.shape) for g in graph.groups if g.size > 1}
    masks = Plan(keep).masks(graph)
    if not masks:
        pytest.skip("nothing can be cut")
    found = prove_rewrite(graph, masks, rewrite(graph, masks), source=from_proto(model, Path("m.onnx")))
    assert len(found.sizes) > 2
    assert found.error <= FLOAT_TOLERANCE


def test_sizes_have_ones_odd_primes_unequal_sides_and_long_ones() -> None:
    text = "(float[N,3,H,W] x) => (float[N,4,H,W] y) { a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }"
    graph = analyze_proto(build(Case(text, {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1)}, None)))
    found = list_proof_sizes(graph.model, 1e5)
    known = [{n: pair[k] for n, pair in graph.model.shapes.sizes.items()} for k in (0, 1)]  # type: ignore[union-attr]
    assert not [s for s in found if s in known]
    for name in ("N", "H", "W"):
        assert 1 in {s[name] for s in found}
        assert any(s[name] > 2 and all(s[name] % k for k in range(2, s[name])) for s in found)
        assert max(s[name] for s in found) > 128
    assert any(s["H"] != s["W"] for s in found) and any(s["H"] == s["W"] > 1 for s in found)
    heavy = list_proof_sizes(graph.model, 1e10)
    assert heavy and all(s["N"] * s["H"] * s["W"] < known[0]["N"] * known[0]["H"] * known[0]["W"] for s in heavy)


# who is to blame


def test_the_exclude_that_is_suggested_compiles_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "(float[N,8] x) => (float[N,4] y) { a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, v)  d = Relu(c)"
    text += "  y = MatMul(d, w3) }"
    model = build(Case(text, {"w1": (8, 9), "v": (9, 6), "w3": (6, 4)}, None))
    onnx.save(model, tmp_path / "m.onnx")

    def wrong(graph: DependencyGraph, masks: Masks) -> Model:
        """The wrong columns go of what one group's units are made from."""
        small = rewrite(graph, masks)
        return exchanged(small, "v", 1) if graph.group("v:1").dims[0] in masks else small

    monkeypatch.setattr(proof, "rewrite", wrong)
    monkeypatch.setattr("spa_compiler.passes.remove.rewrite", wrong)
    result = run(tmp_path / "m.onnx", "--ratio", 0.4, *QUICK)
    assert result.exit_code == 1
    assert "the culprit is the group 'v hidden'; the rest is proven with --exclude 'v hidden'" in result.stderr
    assert run(tmp_path / "m.onnx", "--ratio", 0.4, *QUICK, "--exclude", "v hidden").exit_code == 0


def test_where_no_exclude_helps_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = analyze_proto(mlp("float[N,4] y", "y = Identity(c)"))
    monkeypatch.setattr(proof, "rewrite", lambda graph, masks: exchanged(rewrite(graph, masks), "w1", 1))
    with pytest.raises(VerificationError, match="no --exclude was found that compiles the rest"):
        prove_rewrite(graph, third(graph), exchanged(rewrite(graph, third(graph)), "w1", 1))


def test_a_file_that_another_plan_made_is_told_from_a_wrong_rewrite(tmp_path: Path) -> None:
    onnx.save(mlp("float[N,4] y", "y = Identity(c)"), tmp_path / "m.onnx")
    plan = tmp_path / "p.json"
    assert run(tmp_path / "m.onnx", "--ratio", 0.5, *QUICK, "--save-plan", plan).exit_code == 0
    small = tmp_path / "m.pruned.onnx"
    assert run_spa("verify", tmp_path / "m.onnx", small, "--plan", plan).exit_code == 0
    model = onnx.load(small)
    weight = next(t for t in model.graph.initializer if t.name == "w2")
    weight.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(weight), 1, axis=0), "w2"))
    onnx.save(model, small)
    result = run_spa("verify", tmp_path / "m.onnx", small, "--plan", plan)
    assert result.exit_code == 1
    assert "in value 'c' of Gemm 'c'" in result.stderr and "not what this plan gives" in result.stderr


# fidelity


def test_fidelity_leaves_out_what_is_not_finite_and_does_not_call_it_alike() -> None:
    nan = [[np.full((2, 3), np.nan)]]
    assert measure_fidelity(nan, nan, "").cosine is None
    half = [[np.array([[1.0, np.nan], [2.0, 3.0]])]]
    assert measure_fidelity(half, half, "").cosine == pytest.approx(1)
    lost = measure_fidelity([[np.ones((2, 3))]], nan, "")
    assert (lost.cosine, lost.snr_db) == (0, -200)
    assert explain_variance([[np.ones((2, 3)) * np.arange(3)]], nan) == 0


def test_errors_of_the_library_say_what_is_unproven() -> None:
    error = UnprovenError(["w1:1", "w2:1"], 5)
    assert error.exit_code == 1 and isinstance(error, VerificationError)
    assert "2 of 5 groups" in str(error) and "'w2:1'" in str(error)


# mutants


def mutants() -> ModuleType:
    """tools/measure/mutants.py."""
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "tools" / "measure" / "mutants.py")
    assert spec is not None and spec.loader is not None
    sys.modules["mutants"] = made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_compiled_models_with_one_wrong_weight_are_refused() -> None:
    tool = mutants()
    paths = [ROOT / "models" / "digits_resnet.onnx"]
    names = "gpt2.dynamo18", "vit.legacy17", "gru.legacy13", "unet.legacy17"
    paths += [ROOT / "tests" / "exports" / f"{n}.onnx" for n in names]
    subjects = [tool.prepare(p) for p in paths]
    made, first, second, missed = tool.survey(subjects, 11, seed=7)
    assert sum(made.values()) >= 40 and all(made[k] for k in tool.KINDS)
    assert first == second == made, missed


def test_constants_that_are_not_finite_are_named_where_groups_cannot_be_seen() -> None:
    assert "(NaN or infinity in 'w2': nothing moves behind it)" in str(UnprovenError(["w1:1"], 2, ["w2"]))
    assert "infinity" not in str(UnprovenError(["w1:1"], 2))


SCAN = """f, e = Scan<num_scan_inputs = 1, body = l (float[1,6] s, float[N,6] p) => (float[1,6] t, float[N,6] o) {
    t = Tanh(s)  o = Sin(p) }>(z, q)"""
BRANCHES = """c = Greater(m, zero)  b = If(c) <then_branch = p () => (float[N,5,6] d) { d = Tanh(a) },
    else_branch = r () => (float[N,5,6] u) { u = Neg(a) }>"""


@pytest.mark.parametrize("choice", ["b = Tanh(a)", BRANCHES], ids=["plain", "branches"])
def test_bodies_that_declare_no_shape_run_behind_a_value_that_is_pushed(choice: str) -> None:
    """Onnxruntime asks for the ranks of a body's outputs, which follow from those of what it reads."""
    text = f"""(float[N,5,8] x) => (float[5,N,4] y) {{ g = MatMul(x, w1)  h = Add(g, low)  a = Relu(h)
        m = ReduceSum<keepdims = 0>(x)  {choice}  q = Transpose<perm = [1, 0, 2]>(b)  {SCAN}  y = MatMul(e, w2) }}"""
    low, state = np.full(6, -1e3, np.float32), np.zeros((1, 6), np.float32)
    model = build(Case(text, {"w1": (8, 6), "low": low, "z": state, "zero": 0.0, "w2": (6, 4)}, None))
    for body in (a.g for n in model.graph.node for a in n.attribute if a.HasField("g")):
        for held in (*body.input, *body.output):
            held.type.tensor_type.ClearField("shape")
    graph = analyze_proto(model)
    masks = Plan({g.label: np.arange(g.size) > 0 for g in graph.groups if g.size > 1}).masks(graph)
    assert masks and prove_rewrite(graph, masks, rewrite(graph, masks)).error < FLOAT_TOLERANCE


def test_rounding_is_told_from_errors_where_nothing_but_ids_is_fed() -> None:
    """No number of the inputs can be off by an ulp: those of the weights are."""
    rng = np.random.default_rng(7)
    table, w = rng.standard_normal((9, 8)).astype(np.float32), rng.standard_normal((8, 3)).astype(np.float32)
    text = "(int64[n] x) => (float[n,3] y) {{ e = Gather(t, x)  a = MatMul(e, w)  {}  y = Softmax({}) }}"
    scale = np.float32(5000)
    file = graph_of(Case(text.format("b = Mul(a, k)", "b"), {"t": table, "w": w, "k": np.full((), scale)}, None))

    def compare(by: float) -> float | None:
        read = build(Case(text.format("", "a"), {"t": table, "w": w * scale * np.float32(by)}, None))
        pair = SourcePair(file, file.model, Side(read, ROOT, ["y"], "the graph"), FLOAT_TOLERANCE)
        return pair.compare({"x": np.arange(9)}, "")

    assert (compare(1.0) or 0) <= FLOAT_TOLERANCE
    with pytest.raises(VerificationError, match="is not what the file computes"):
        compare(-1.0)
