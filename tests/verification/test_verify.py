"""The checks themselves: a wrong rewrite is caught and its group named, and the figures are those counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

import spa_compiler
from commands import check_report
from laws import Masks, analyze_proto, compare, random_masks
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import VerificationError
from spa_compiler.execution.session import open_quiet_session, open_session
from spa_compiler.ir.model import Model, make_constant
from spa_compiler.planning.plan import Plan
from spa_compiler.report.document import show_report
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.verification import proof
from spa_compiler.verification.comparison import FLOAT_TOLERANCE, HALF_TOLERANCE, choose_tolerance
from spa_compiler.verification.fidelity import explain_variance, measure_fidelity
from spa_compiler.verification.inside import Cuts
from spa_compiler.verification.latency import measure_latency
from spa_compiler.verification.proof import prove_rewrite
from spa_compiler.verification.replay import list_compared, list_decisions, list_taps
from spa_compiler.verification.signature import check_signature
from zoo import CASES, Case, build
from zoo_base import Init, value

TEXT = """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
    a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  d = Relu(c)  e = Conv(d, w3)  f = Relu(e)  y = Conv(f, w4) }"""
WEIGHTS = {"w1": (8, 3, 1, 1), "w2": (6, 8, 1, 1), "w3": (7, 6, 1, 1), "w4": (4, 7, 1, 1)}


def chain() -> tuple[DependencyGraph, Masks]:
    """Three groups, each of which loses every third channel."""
    graph = analyze_proto(build(Case(TEXT, dict(WEIGHTS), None)))
    return graph, Plan({g.label: np.arange(g.size) % 3 > 0 for g in graph.groups}).masks(graph)


def broken(name: str) -> Model:
    """The rewritten chain in which the channels of one weight are in the wrong order."""
    graph, masks = chain()
    small = rewrite(graph, masks)
    tensor = small.constants()[name]
    tensor._values = make_constant(name, np.roll(small.array(tensor), 1, axis=1))._values
    return small


def test_a_right_rewrite_passes_with_a_small_error_and_sees_every_group() -> None:
    graph, masks = chain()
    found = prove_rewrite(graph, masks, rewrite(graph, masks))
    assert found.error <= 1e-5
    assert found.checks == 2
    assert (found.groups, found.silent) == (3, ())
    assert found.inside == found.inside_of == 4


@pytest.mark.parametrize("name", ["w2", "w3", "w4"])
def test_channels_in_the_wrong_order_are_caught(name: str) -> None:
    graph, masks = chain()
    with pytest.raises(VerificationError, match="prune does not equal mask"):
        prove_rewrite(graph, masks, broken(name))


@pytest.mark.parametrize("culprit", ["w1:0", "w2:0", "w3:0"])
def test_the_group_that_breaks_is_found_by_bisection(culprit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: DependencyGraph, masks: Masks) -> Model:
        """A rewrite that cuts the wrong channels of one group's producer."""
        small = rewrite(graph, masks)
        if graph.group(culprit).dims[0] in masks:
            tensor = small.constants()[culprit[:-2]]
            tensor._values = make_constant(tensor.name, -small.array(tensor))._values
        return small

    graph, masks = chain()
    monkeypatch.setattr(proof, "rewrite", wrong)
    with pytest.raises(VerificationError, match=f"the culprit is the group '{graph.group(culprit).name}'"):
        prove_rewrite(graph, masks, wrong(graph, masks))


def test_a_rewrite_that_does_not_run_names_its_group_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: DependencyGraph, masks: Masks) -> Model:
        small = rewrite(graph, masks)
        if graph.group("w2:0").dims[0] in masks:
            tensor = small.constants()["w3"]
            tensor._values = make_constant("w3", np.ones(WEIGHTS["w3"], np.float32))._values
        return small

    graph, masks = chain()
    monkeypatch.setattr(proof, "rewrite", wrong)
    with pytest.raises(VerificationError, match=f"the culprit is the group '{graph.group('w2:0').name}'"):
        prove_rewrite(graph, masks, wrong(graph, masks))


def test_nothing_is_written_when_the_check_fails(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "choose_tolerance", lambda graph: -1.0)
    with pytest.raises(VerificationError) as e:
        spa_compiler.compile(models / "digits_gru.onnx", 0.3, tmp_path / "out.onnx", criterion="l2")
    assert any("in pass verify" in note for note in e.value.__notes__)
    assert not list(tmp_path.iterdir())


def test_models_with_symbols_are_checked_at_sizes_of_the_analysis_and_at_others() -> None:
    text = "(float[n,s,6] x) => (float[n,s,4] y) { a = MatMul(x, w1)  b = Relu(a)  y = MatMul(b, w2) }"
    graph = analyze_proto(build(Case(text, {"w1": (6, 8), "w2": (8, 4)}, None)))
    masks = Plan({graph.groups[0].label: np.arange(8) > 2}).masks(graph)
    found = prove_rewrite(graph, masks, rewrite(graph, masks))
    assert all(sizes.keys() == {"n", "s"} for sizes in found.sizes)
    assert {tuple(pair) for pair in graph.model.shapes.sizes.values()} == {
        tuple(sizes[n] for sizes in found.sizes[:2]) for n in ("n", "s")
    }
    others = found.sizes[2:]
    assert {"n": 1, "s": 1} in others
    assert max(sizes["s"] for sizes in others) > 128 and max(sizes["n"] for sizes in others) > 128
    assert any(sizes["s"] % 2 and sizes["s"] > 30 for sizes in others)


def test_outputs_behind_a_sigmoid_or_softmax_are_compared_before_it() -> None:
    text = """(float[1,6] x) => (float[1,4] y, float[4] z, float[1,4] u) {
        a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, v)  y = Softmax(c)  s = Sigmoid(c)  z = Reshape(s, to)
        d = MatMul(b, v2)  u = Tanh(d) }"""
    inits = {"w": (6, 5), "v": (5, 4), "v2": (5, 4), "to": [4]}
    assert list_taps(analyze_proto(build(Case(text, inits, None))).model) == ["c", "d"]


def session(model: onnx.ModelProto) -> object:
    return open_quiet_session(model.SerializeToString(), 1, 1)


@pytest.mark.parametrize("what", ["name", "size"])
def test_a_changed_signature_is_caught(what: str) -> None:
    before = build(Case("(float[1,3,4,4] x) => (float[1,4,4,4] y) { y = Conv(x, w) }", {"w": (4, 3, 1, 1)}, None))
    after = onnx.ModelProto()
    after.CopyFrom(before)
    if what == "name":
        after.graph.input[0].name = after.graph.node[0].input[0] = "image"
    else:
        for value in (after.graph.input[0], after.graph.output[0]):
            for d in value.type.tensor_type.shape.dim[2:]:
                d.dim_value = 5
    check_signature(session(before), session(before))  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="the signature changed"):
        check_signature(session(before), session(after))  # type: ignore[arg-type]


def test_an_output_size_that_the_file_leaves_open_may_become_known() -> None:
    text = "(float[n,3,4,4] x) => (float[n,4,{}] y) {{ a = Conv(x, w)  y = Reshape(a, to) }}"
    inits = {"w": (4, 3, 1, 1), "to": [0, 4, -1]}
    known, left, wrong = (build(Case(text.format(size), inits, None)) for size in (16, "m", 16))
    wrong.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    check_signature(session(left), session(known))  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="the signature changed"):  # a number stays, and so does an input's size
        check_signature(session(left), session(wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["optional(tensor(float))", "seq(tensor(float))"])
def test_what_holds_a_tensor_may_tell_its_shape_only_afterwards(kind: str) -> None:
    def make(what: str, shape: list[Any]) -> Any:
        return SimpleNamespace(get_inputs=list, get_outputs=lambda: [SimpleNamespace(name="y", type=what, shape=shape)])

    check_signature(make(kind, []), make(kind, [None, None, 4]))
    for other in (make(kind, [None, 5]), make(kind, [])):
        with pytest.raises(VerificationError, match="the signature changed"):
            check_signature(make(kind, [None, 4]), other)
    with pytest.raises(VerificationError, match="the signature changed"):
        check_signature(make("tensor(float)", []), make("tensor(float)", [4]))


def test_an_output_may_get_the_only_size_that_its_symbol_has() -> None:
    text = "(float[n,2,3] x) => (float[{},6] y) {{ y = Reshape(x, to) }}"
    open_, known = (build(Case(text.format(size), {"to": [0, 6]}, None)) for size in ("n", 2))
    check_signature(session(open_), session(known), {"n": 2})  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="the signature changed"):
        check_signature(session(open_), session(known), {"n": 3})  # type: ignore[arg-type]


def test_fidelity_is_cosine_noise_and_agreement_counted_by_hand() -> None:
    dense = [[np.array([[3.0, 4.0], [1.0, 0.0]])]]
    compiled = [[np.array([[4.0, 3.0], [1.0, 0.0]])]]
    found = measure_fidelity(dense, compiled, "by hand")
    assert found.cosine == pytest.approx((12 + 12 + 1) / 26)
    assert found.snr_db == pytest.approx(10 * np.log10(26 / 2))
    assert found.top1 == 0.5
    assert found.inputs == "by hand"


def test_equal_outputs_have_cosine_1_and_the_largest_ratio() -> None:
    found = measure_fidelity([[np.ones((2, 3))]], [[np.ones((2, 3))]], "")
    assert (found.cosine, found.snr_db, found.top1) == (pytest.approx(1), 200, 1)
    zeros = measure_fidelity([[np.zeros((2, 3))]], [[np.zeros((2, 3))]], "")
    assert zeros.cosine == 1


def test_agreement_is_told_of_matrices_only() -> None:
    assert measure_fidelity([[np.ones((2, 3, 4))]], [[np.ones((2, 3, 4))]], "").top1 is None


def test_latency_measures_both_in_turns() -> None:
    graph, masks = chain()
    sessions = [open_session(m.proto(), m.folder) for m in (graph.model, rewrite(graph, masks))]
    feed = {"x": np.zeros((1, 3, 4, 4), np.float32)}
    found = measure_latency(sessions[0], sessions[1], feed, 1, seconds=0.02)
    assert found.runs >= 5
    assert 0 < found.dense_min_ms <= found.dense_ms <= found.dense_p90_ms
    assert 0 < found.compiled_min_ms <= found.compiled_ms <= found.compiled_p90_ms
    assert found.sizes == {"x": [1, 3, 4, 4]}


def test_half_precision_weights_have_a_wider_tolerance() -> None:
    graph, _ = chain()
    assert choose_tolerance(graph) == FLOAT_TOLERANCE
    half = next((n for n in CASES if "fp16" in n or "float16" in n), None)
    if half:
        assert choose_tolerance(analyze_proto(build(CASES[half]))) == HALF_TOLERANCE


CHOOSING = """(float[4,8] x) => (float[4,1,3] y) {
    a = MatMul(x, w1)  b = Relu(a)  s = MatMul(b, w2)  v, i = TopK<axis=-1>(s, k)  t = Gather<axis=0>(table, i)
    c = MatMul(t, w3)  d = Relu(c)  y = MatMul(d, w4) }"""


def choosing(text: str = CHOOSING, **more: Init) -> tuple[DependencyGraph, Masks]:
    """Something is looked up for the best of five scores, of which two are equal and the best, and worked on."""
    sizes = {"w1": (8, 6), "w2": (6, 5), "k": [1], "table": (5, 3), "w3": (3, 6), "w4": (6, 3)}
    model = build(Case(text, {**sizes, **more}, None))
    scores = next(t for t in model.graph.initializer if t.name == "w2")
    values = numpy_helper.to_array(scores).copy()
    values[:, 3] = values[:, 4] = np.abs(values).max() * 2
    scores.CopyFrom(numpy_helper.from_array(values, "w2"))
    graph = analyze_proto(model)
    return graph, Plan({g.label: np.arange(g.size) % 3 > 0 for g in graph.groups}).masks(graph)


def changed(model: Model, name: str, change: np.ndarray) -> Model:
    """The model with something added to a weight."""
    tensor = model.constants()[name]
    tensor._values = make_constant(name, (model.array(tensor) + change).astype(np.float32))._values
    return model


def test_a_tie_that_rounding_turns_does_not_break_the_proof() -> None:
    graph, masks = choosing()
    assert list_decisions(graph) == ["v", "i"]
    assert list_compared(graph) == ["y", "s"] == list_compared(graph, later=True)
    small = changed(rewrite(graph, masks), "w2", np.array([0, 0, 0, 0, 1e-6]))  # now the last one wins
    found = prove_rewrite(graph, masks, small)
    assert found.error < FLOAT_TOLERANCE
    assert found.replayed == ("v", "i")
    assert prove_rewrite(graph, masks, rewrite(graph, masks)).replayed == ()


def test_the_report_says_when_decisions_were_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nearly(graph: DependencyGraph, masks: Masks) -> Model:
        return changed(rewrite(graph, masks), "w2", np.array([0, 0, 0, 0, 1e-6]))

    onnx.save(choosing()[0].model.proto(), tmp_path / "m.onnx")
    options = {"ratio": 0.3, "criterion": "l2", "latency": False}
    for removed, names in ((rewrite, []), (nearly, ["v", "i"])):
        monkeypatch.setattr("spa_compiler.passes.remove.rewrite", removed)
        report = spa_compiler.compile(tmp_path / "m.onnx", **options).report
        assert report["verification"]["prune_equals_mask"]["replayed"] == names
        check_report(report)
        show_report(report, Console(width=200))
        assert ("rounding changes one of the decisions (v, i)" in capsys.readouterr().out) == bool(names)


@pytest.mark.parametrize(("name", "by"), [("w2", [0, 0, 0, 0, 0.01]), ("w4", [0.01, 0, 0]), ("table", [0.01, 0])])
def test_what_decides_and_what_follows_is_still_proven(name: str, by: list[float]) -> None:
    graph, masks = choosing()
    with pytest.raises(VerificationError, match="prune does not equal mask"):
        prove_rewrite(graph, masks, changed(rewrite(graph, masks), name, np.array(by)))


QUANTISED = """(float[4,5] x) => (float[4,3] y) {
    a = MatMul(x, w1)  f = Floor(a)  h = Add(f, c)  q = QuantizeLinear(h, s, z)  d = DequantizeLinear(q, s, z)
    y = MatMul(d, w2) }"""


def quantised() -> tuple[DependencyGraph, Masks]:
    """All numbers lie halfway between two steps."""
    more = {"c": np.full(8, 0.5, np.float32), "s": 1.0, "z": np.array(0, np.int8)}
    graph = analyze_proto(build(Case(QUANTISED, {"w1": (5, 8), "w2": (8, 3), **more}, None)))
    return graph, Plan({g.label: np.arange(g.size) % 3 > 0 for g in graph.groups}).masks(graph)


def test_a_step_of_a_quantisation_that_rounding_turns_does_not_break_the_proof() -> None:
    graph, masks = quantised()
    assert (
        list_decisions(graph) == ["q"]
        and list_compared(graph) == ["y"]
        and list_compared(graph, later=True) == ["y", "h"]
    )
    found = prove_rewrite(graph, masks, changed(rewrite(graph, masks), "c", np.array(1e-6)))
    assert found.error < FLOAT_TOLERANCE and found.replayed == ("q",)


@pytest.mark.parametrize(("name", "by"), [("c", 1e-2), ("w2", 1e-2)])
def test_what_is_quantised_and_what_follows_is_still_proven(name: str, by: float) -> None:
    graph, masks = quantised()
    with pytest.raises(VerificationError, match="prune does not equal mask"):
        prove_rewrite(graph, masks, changed(rewrite(graph, masks), name, np.array(by)))


def test_products_of_integers_do_not_overflow_in_the_proof() -> None:
    text = """(float[4,16] x) => (float[4,6] y) { a = MatMul(x, w1)  r = Relu(a)  q, s, z = DynamicQuantizeLinear(r)
        i = MatMulInteger(q, w2, z)  c = Cast<to = 1>(i)  y = Mul(c, s) }"""
    large = np.random.default_rng(0).integers(100, 128, (24, 6)).astype(np.int8)
    graph = analyze_proto(build(Case(text, {"w1": (16, 24), "w2": large}, None)))
    masks = Plan({g.label: np.arange(g.size) % 3 > 0 for g in graph.groups}).masks(graph)
    assert prove_rewrite(graph, masks, rewrite(graph, masks)).error < FLOAT_TOLERANCE


@pytest.mark.parametrize("fill", [-1e4, -1e9, -np.inf])
@pytest.mark.parametrize("invalid", [1, 3])
def test_scores_in_place_of_invalid_ones_hide_no_wrong_score(fill: float, invalid: int) -> None:
    text = CHOOSING.replace("v, i = TopK<axis=-1>(s, k)", "m = Where(valid, s, fill)  v, i = TopK<axis=-1>(m, k)")
    assert text != CHOOSING
    valid = np.arange(5) >= invalid
    graph, masks = choosing(text, valid=valid, fill=np.array(fill, np.float32))
    small = rewrite(graph, masks)
    assert prove_rewrite(graph, masks, small).error < FLOAT_TOLERANCE
    with pytest.raises(VerificationError, match="prune does not equal mask"):
        prove_rewrite(graph, masks, changed(small, "w2", np.array([0, 0, 0, 0, 0.2])))


def test_what_a_body_decides_is_compared_by_what_the_model_gives() -> None:
    text = """(float[4,8] x) => (float[4,3] y) {
        a = MatMul(x, w1)  b = Relu(a)  s = MatMul(b, w2)  z = ReduceSum<keepdims=0>(s)  p = Greater(z, zero)
        i = If (p) <
            then_branch = t () => (j) { q = Relu(s)  v, j = TopK<axis=-1>(q, k) },
            else_branch = e () => (l) { u, l = TopK<axis=-1>(s, k) }
        >
        g = Gather<axis=0>(table, i)  y = Squeeze(g, one) }"""
    sizes: dict[str, Init] = {"w1": (8, 6), "w2": (6, 5), "k": [1], "table": (5, 3), "one": [1]}
    graph = analyze_proto(build(Case(text, {**sizes, "zero": np.zeros((), np.float32)}, None)))
    assert graph.groups
    assert not set(list_compared(graph)) & {"q", "t/q"}
    masks = Plan({g.label: np.arange(g.size) % 3 > 0 for g in graph.groups}).masks(graph)
    assert prove_rewrite(graph, masks, rewrite(graph, masks)).error < FLOAT_TOLERANCE


FUSED = [n for n, c in CASES.items() if c.stats and c.runs and "Normalization" in c.text]


@pytest.mark.parametrize("name", FUSED)
def test_a_normalisation_adds_its_own_epsilon(name: str) -> None:
    """Values are so small that it counts."""
    case, tiny = CASES[name], np.float32(0.01)
    small = {n: tiny * value(n, init) if isinstance(init, tuple) else init for n, init in case.inits.items()}
    graph = analyze_proto(build(replace(case, inits=small)))
    error, effect = compare(graph, random_masks(graph, np.random.default_rng(0)))
    assert error < 1e-3 < effect


def test_no_output_hides_another_one() -> None:
    """Neither a large one nor ids that are passed through."""
    rng = np.random.default_rng(0)
    ids, large, small = np.arange(4000, 4040).reshape(4, 10), 1e4 * rng.normal(size=(4, 9)), rng.normal(size=(4, 7))
    other = -small
    found = measure_fidelity([[ids, large, small]], [[ids, large, other]], "", ["ids", "large", "small"])
    assert found.cosine == pytest.approx(-1) and found.snr_db == pytest.approx(-10 * np.log10(4))
    assert set(found.outputs) == {"large", "small"}
    assert found.outputs["large"].cosine == pytest.approx(1) and found.outputs["large"].snr_db == 200


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_an_output_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(1)
    a, b, off = rng.normal(size=(16, 5)), rng.normal(size=(16, 5)), 0.3 * rng.normal(size=(16, 5))
    dense, compiled = [[a, scale * b]], [[a + off, scale * (b - off)]]
    plain = measure_fidelity([[a, b]], [[a + off, b - off]], "")
    found = measure_fidelity(dense, compiled, "")
    assert (found.cosine, found.snr_db) == (pytest.approx(plain.cosine), pytest.approx(plain.snr_db))
    assert explain_variance(dense, compiled) == pytest.approx(explain_variance([[a, b]], [[a + off, b - off]]))


def test_integers_are_compared_only_where_they_are_numbers() -> None:
    ids = np.arange(6, dtype=np.int64).reshape(2, 3)
    assert measure_fidelity([[ids]], [[ids + 1]], "").cosine is None
    codes = np.array([[0, 200]], np.uint8)
    assert measure_fidelity([[codes]], [[codes]], "").cosine == pytest.approx(1)
    half = measure_fidelity([[np.ones((1, 2), np.float32), codes]], [[np.ones((1, 2), np.float32), codes // 2]], "")
    assert half.snr_db == 200


def test_what_explains_one_of_two_outputs_explains_half() -> None:
    a = np.random.default_rng(2).normal(size=(64, 3))
    mean = np.broadcast_to(a.mean(0), a.shape)
    assert explain_variance([[a, 1e3 * a]], [[mean, 1e3 * a]]) == pytest.approx(0.5)
    assert explain_variance([[a, np.ones((64, 2))]], [[a, np.ones((64, 2))]]) == pytest.approx(1)
    assert explain_variance([[a, np.ones((64, 2))]], [[a, np.zeros((64, 2))]]) == pytest.approx(0.5)


def test_a_decision_of_which_nobody_knows_what_stays_is_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs differ then, and the proof says so; it does not break."""
    known = Cuts.cut
    monkeypatch.setattr(Cuts, "cut", lambda self, name, a: None if name == "q" else known(self, name, a))
    graph, masks = quantised()
    with pytest.raises(VerificationError, match="prune does not equal mask"):
        prove_rewrite(graph, masks, changed(rewrite(graph, masks), "c", np.array(1e-6)))
