"""It ends, with numbers: infinities, NaN, denormals and huge values in weights, statistics, inputs and scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spa_compiler.passes import score

from laws import analyze_proto
from networks import CONV, DENSE
from spa_compiler.analysis.cost import CostModel
from spa_compiler.analysis.dead_channels import find_dead_channels
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.compensation.lockstep import compensate_weights
from spa_compiler.compensation.neuron_merging import merge_channels
from spa_compiler.compensation.options import Options
from spa_compiler.errors import UsageError, VerificationError
from spa_compiler.execution.finite import describe_flaw, divide_by_power, ignore_overflow, is_finite
from spa_compiler.ir.model import make_constant
from spa_compiler.ir.reader import from_proto
from spa_compiler.pipeline.passes import Pipeline
from spa_compiler.pipeline.state import State
from spa_compiler.planning import scores as scores_module
from spa_compiler.planning.allocation import Budget, allocate
from spa_compiler.planning.plan import Plan, make_best_plan
from spa_compiler.planning.scores import NotedScores, check_scores
from spa_compiler.planning.width_ladder import Limits
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.scoring import registry
from spa_compiler.scoring.obs import Part, plan_rounds, score_greedily
from spa_compiler.scoring.rank_correction import raise_low_rank
from spa_compiler.scoring.registry import find_criterion
from spa_compiler.statistics.moments import Moment, collect_moments
from spa_compiler.verification.proof import prove_rewrite
from zoo_base import Case, build, value

NORMED = Case(
    "(float[N,3,4,4] x) => (float[N,2,4,4] y) { a = Conv(x, w1)  n = BatchNormalization(a, s, t, mu, var)  r = Relu(n)"
    "  c = Conv(r, w2)  u = Add(c, a)  y = Conv(u, w3) }",
    {"w1": (6, 3, 1, 1), "s": (6,), "t": (6,), "mu": (6,), "var": (6,), "w2": (6, 6, 1, 1), "w3": (2, 6, 1, 1)},
    None,
)
SCORED = Case(
    "(float[N,5,6] x) => (float[N,5,4] y) { q = MatMul(x, wq)  k0 = MatMul(x, wk)  v = MatMul(x, wv)"
    "  k = Transpose <perm = [0, 2, 1]> (k0)  a = MatMul(q, k)  p = Softmax(a)  c = MatMul(p, v)  y = MatMul(c, wo) }",
    {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 4)},
    None,
)
RECURRENT = Case(
    "(float[4,N,3] x) => (float[4,N,2] y) { h, e = GRU <hidden_size = 5> (x, w, r)"
    "  s = Squeeze(h, one)  y = MatMul(s, wo) }",
    {"w": (1, 15, 3), "r": (1, 15, 5), "one": [1], "wo": (5, 2)},
    None,
)
EXPONENTIAL = Case(
    "(float[N,3,8,8] x) => (float[N,4,8,8] y) { a = Conv(x, w1, b1)  e = Exp(a)  c = Conv(e, w2)  r = Relu(c)"
    "  y = Conv(r, w3) }",
    {"w1": (8, 3, 1, 1), "b1": (8,), "w2": (8, 8, 1, 1), "w3": (4, 8, 1, 1)},
    None,
)
CASES = {
    "dense": (DENSE, (9, 5)),
    "conv": (CONV, (3, 3, 6, 6)),
    "normed": (NORMED, (3, 3, 4, 4)),
    "attention": (SCORED, (3, 5, 6)),
    "recurrent": (RECURRENT, (4, 3, 3)),
}
SPECIAL = st.sampled_from(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-42, 1e-38, 3e38, -3e38, 1e30, 1e19, -1e19, 1.0, 1e-10]
)
Spot = tuple[int, float]
SPOTS = st.lists(st.tuples(st.integers(0, 10_000), SPECIAL), max_size=4)
FACTOR = st.sampled_from([0.0, 1e-40, 1e-20, 1.0, 1.0, 1.0, 1e10, 1e19, 1e30])


def put(array: np.ndarray, spots: list[Spot], factor: float = 1.0) -> np.ndarray:
    """The array times a factor, with special values at some places."""
    with ignore_overflow():
        out = (array * np.asarray(factor, array.dtype)).astype(array.dtype)
        for at, special in spots:
            out.reshape(-1)[at % out.size] = special
    return out


def changed(case: Case, weight: str, spots: list[Spot], factor: float) -> onnx.ModelProto:
    return build(replace(case, inits={**case.inits, weight: put(value(weight, case.inits[weight]), spots, factor)}))


def weights_of(case: Case) -> list[str]:
    return [n for n, i in case.inits.items() if isinstance(i, tuple)]


def assert_scores(graph: DependencyGraph, found: scores_module.Scores) -> None:
    assert set(found) == {g.label for g in graph.groups}
    for g in graph.groups:
        assert found[g.label].shape == g.shape
        assert is_finite(found[g.label]), g.label


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(CASES)), weight=st.integers(0, 9), spots=SPOTS, factor=FACTOR, seen=SPOTS, scale=FACTOR
)
def test_every_criterion_scores_whatever_weights_and_inputs_hold(
    name: str, weight: int, spots: list[Spot], factor: float, seen: list[Spot], scale: float
) -> None:
    case, shape = CASES[name]
    names = weights_of(case)
    graph = analyze_proto(changed(case, names[weight % len(names)], spots, factor))
    rng = np.random.default_rng(weight)
    x = put(rng.standard_normal(shape).astype(np.float32), seen, scale)
    moments = collect_moments(graph, [{"x": x}, {"x": x[:1] if name != "recurrent" else x[:, :1]}])
    for chosen in registry.find_criteria():
        found = find_criterion(chosen)(graph, moments, np.random.default_rng(0))
        assert_scores(graph, found)
    with ignore_overflow():
        assert_scores(graph, raise_low_rank(graph, moments, find_criterion("obspa")(graph, moments, rng)))


def spoilt(moment: Moment, what: str, spots: list[Spot], factor: float) -> Moment:
    """A moment of which one of the statistics holds special values."""
    old = getattr(moment, what)
    new = put(np.asarray(old, np.float64).copy(), spots, factor)
    return replace(moment, **{what: float(new) if what == "energy" else new})


@settings(max_examples=80)
@given(
    name=st.sampled_from(["dense", "conv", "normed", "attention"]),
    what=st.sampled_from(["mean", "covariance", "weights", "gain", "energy", "shrinkage"]),
    which=st.integers(0, 9), spots=SPOTS, factor=FACTOR,
)  # fmt: skip
def test_statistics_from_elsewhere_give_finite_scores(
    name: str, what: str, which: int, spots: list[Spot], factor: float
) -> None:
    """Errors that a plug-in, or a defect, makes: symmetric or not, negative variances, what nothing can invert."""
    case, shape = CASES[name]
    graph = analyze_proto(build(case))
    taken = collect_moments(graph, [{"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}])
    at = sorted(taken.of)[which % len(taken.of)]
    moments = replace(taken, of={**taken.of, at: spoilt(taken.of[at], what, spots, factor)})
    for chosen in ("obspa", "flap"):
        assert_scores(graph, find_criterion(chosen)(graph, moments, np.random.default_rng(0)))


@given(size=st.integers(0, 400))
def test_rounds_take_every_channel_once(size: int) -> None:
    found = plan_rounds(size)
    assert sum(found) == size
    assert all(n > 0 for n in found)
    assert len(found) <= max(64, 32 * 9)


class Counted(Part):
    """A part that counts how often it is scored, with errors that are special values."""

    def __init__(self, error: np.ndarray) -> None:
        self.error, self.times = error, 0

    def score(self, out: np.ndarray) -> None:
        self.times += 1
        out += self.error.ravel()

    def remove(self, gone: np.ndarray) -> None:
        with ignore_overflow():
            self.error = self.error * np.float64(3e200)


@given(blocks=st.integers(1, 3), size=st.integers(1, 9), spots=SPOTS)
def test_greedy_removal_ends_whatever_the_errors_are(blocks: int, size: int, spots: list[Spot]) -> None:
    error = put(np.ones((blocks, size)), spots)
    part = Counted(error)
    with ignore_overflow():
        found = score_greedily([part], (blocks, size))
    assert part.times <= size
    assert np.isnan(found).all() or is_finite(found)
    if not is_finite(np.maximum(error, 0)):
        assert np.isnan(found).all()


@pytest.fixture(scope="module")
def small() -> DependencyGraph:
    return analyze_proto(build(NORMED))


@given(data=st.data(), ratio=st.sampled_from([0.1, 0.3, 0.5]), scope=st.sampled_from(["global", "uniform"]))
def test_allocation_ends_on_any_scores(small: DependencyGraph, data: st.DataObject, ratio: float, scope: str) -> None:
    number = st.one_of(st.floats(allow_nan=False, allow_infinity=False), SPECIAL)
    scores = {
        g.label: np.array([data.draw(number) for _ in range(int(np.prod(g.shape)))]).reshape(g.shape)
        for g in small.groups
    }
    fine = all(is_finite(s) for s in scores.values())
    try:
        with np.errstate(all="raise", under="ignore"):
            widths = allocate(small, CostModel(small), scores, Budget("macs", ratio), Limits(align=1), scope)
    except UsageError as e:
        assert not fine
        assert "are not finite" in str(e)
        return
    assert fine
    plan = make_best_plan(small, scores, widths)
    assert all(1 <= plan.count_kept(g) <= g.size for g in small.groups)


def test_scores_too_large_to_be_added_are_allocated_like_small_ones(small: DependencyGraph) -> None:
    plain = find_criterion("l2")(small, None, np.random.default_rng(0))
    huge = {n: s * 2.0**1020 for n, s in plain.items()}
    cost, budget = CostModel(small), Budget("macs", 0.5)
    found = [allocate(small, cost, scores, budget, Limits(align=1), "global") for scores in (plain, huge)]
    assert found[0] == found[1]


def test_scores_of_a_plug_in_are_checked(small: DependencyGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    label = small.groups[0].label

    def broken(graph: DependencyGraph, moments: object, rng: np.random.Generator) -> scores_module.Scores:
        return {label: np.full(graph.group(label).shape, np.nan)}

    monkeypatch.setattr(score, "find_criterion", lambda name: broken)
    state = replace(State.of(small.model), graph=small)
    with pytest.raises(UsageError, match=f"the criterion 'theirs': the scores of '{label}' are not finite"):
        score.Score(criterion="theirs").run(state)
    with pytest.raises(UsageError, match=r"theirs: group .* has shape \[6\], the scores have \[5\]"):
        check_scores(small, {label: np.zeros(5)}, "theirs")
    with pytest.raises(UsageError, match=r"the scores of .* are not numbers"):
        check_scores(small, {label: ["a"] * 6}, "theirs")


def test_values_that_overflow_are_named_and_their_groups_scored_by_weights() -> None:
    loud = replace(EXPONENTIAL, inits={**EXPONENTIAL.inits, "w1": 100 * value("w1", (8, 3, 1, 1))})
    text = "normalize,calibrate{source=white,samples=32},score{criterion=obspa},allocate{ratio=0.4},remove,compensate"
    state = Pipeline.parse(text).run(State.of(from_proto(build(loud), Path("m.onnx"))))
    notes = [n for n in state.notes if "scored by weights alone" in n]
    assert any("'e' is NaN or infinite on" in n and "inputs" in n for n in notes), notes
    assert sum("keep their old weights" in n for n in state.notes) == 1
    again = Pipeline.parse("compensate").run(replace(state, model=state.pruned or state.model))
    assert again.notes == state.notes, "a pass that runs again says the same once"
    assert any("'e'" in why for why in state.results["calibration"]["missed"].values())
    assert set(state.results["compensation"]["unfit"]) <= set(state.results["compensation"]["left"])
    assert not state.plan.is_empty
    assert all(is_finite(state.model.array(t)) for t in state.model.constants().values())


def test_one_value_that_overflows_leaves_other_groups_to_their_criterion() -> None:
    graph = analyze_proto(build(EXPONENTIAL))
    given_ = [{"x": np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32)}]
    moments = collect_moments(graph, given_)
    at = max(moments.of)
    flawed = replace(moments.of[at], mean=moments.of[at].mean * np.nan)
    found = find_criterion("flap")(graph, replace(moments, of={**moments.of, at: flawed}), np.random.default_rng(0))
    plain = find_criterion("flap")(graph, moments, np.random.default_rng(0))
    assert isinstance(found, NotedScores)
    touched = {g.label for g in graph.groups if not flawed.contracted.isdisjoint(g.dims)}
    assert set(found.notes) == touched
    assert touched < set(found)
    for label in set(found) - touched:
        np.testing.assert_array_equal(found[label], plain[label])


@settings(max_examples=30)
@given(name=st.sampled_from(sorted(CASES)), spots=SPOTS, scale=FACTOR, half=st.booleans())
def test_compensation_never_writes_what_is_not_finite(name: str, spots: list[Spot], scale: float, half: bool) -> None:
    case, shape = CASES[name]
    graph = analyze_proto(build(case))
    plan = Plan({g.label: np.arange(g.size) < (g.size + 1) // 2 for g in graph.groups if g.block is None})
    masks = plan.masks(graph)
    cut = rewrite(graph, masks)
    x = put(np.random.default_rng(0).standard_normal(shape).astype(np.float32), spots, scale)
    feeds = [{"x": x}, {"x": np.zeros_like(x)}] if half else [{"x": x}]
    model, outcome = compensate_weights(graph, masks, cut, feeds, Options())
    for name_, tensor in model.constants().items():
        assert is_finite(model.array(tensor)), name_
    if not is_finite(x):
        assert outcome.unfit
        assert outcome.left


def test_a_solution_that_its_type_cannot_hold_is_not_written() -> None:
    """Hardly any of the kept channels is left of what the removed ones gave: half precision overflows."""
    first = value("w1", (5, 8)).astype(np.float16)
    first[:, :2] *= np.float16(1e-4)
    case = Case(
        "(float16[N,5] x) => (float16[N,3] y) { a = MatMul(x, w1)  y = MatMul(a, w2) }",
        {"w1": first, "w2": np.float16(900) * value("w2", (8, 3)).astype(np.float16)}, None,
    )  # fmt: skip
    graph = analyze_proto(build(case))
    masks = Plan({g.label: np.arange(g.size) < 2 for g in graph.groups}).masks(graph)
    x = np.random.default_rng(0).standard_normal((50, 5)).astype(np.float16)
    model, outcome = compensate_weights(
        graph, masks, rewrite(graph, masks), [{"x": x}], Options(ridge=1e-9, shrink=False)
    )
    assert all(is_finite(model.array(t)) for t in model.constants().values())
    assert len(outcome.unfit) == 1


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["l1", "l2", "fpgm"])
def test_a_channel_with_a_weight_that_is_no_number_is_kept_first(name: str, special: float) -> None:
    weights = value("w1", (7, 5)).copy()
    weights[2, 3] = special
    graph = analyze_proto(build(replace(DENSE, inits={**DENSE.inits, "w1": weights})))
    (group,) = graph.groups
    found = find_criterion(name)(graph, None, np.random.default_rng(0))[group.label]
    assert found[2] == found.max()
    weights[2, 3] = 0
    clean = find_criterion(name)(analyze_proto(build(replace(DENSE, inits={**DENSE.inits, "w1": weights}))), None,
                            np.random.default_rng(0))[group.label]  # fmt: skip
    others = np.arange(7) != 2
    np.testing.assert_array_equal(np.argsort(found[others]), np.argsort(clean[others]))


def test_weights_that_are_no_numbers_are_in_the_notes() -> None:
    weights = value("w1", (7, 5)).copy()
    weights[2, 3] = np.nan
    model = from_proto(build(replace(DENSE, inits={**DENSE.inits, "w1": weights})), Path("m.onnx"))
    state = Pipeline.parse("normalize,score{criterion=l2}").run(State.of(model))
    assert any("1 weights hold NaN or infinite values (w1)" in n for n in state.notes)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-8, 1e8, 1e30])
def test_the_size_of_weights_does_not_decide(scale: float) -> None:
    """Neither squares that vanish nor squares that overflow: the order is that of weights of usual size."""
    whole = np.round(8 * value("w1", (7, 5)))  # denormals have few digits
    plain, scaled = (
        analyze_proto(build(replace(DENSE, inits={"w1": (whole * s).astype(np.float32), "b1": np.zeros(7, np.float32),
                                             "w2": DENSE.inits["w2"]})))
        for s in (np.float64(1), np.float64(scale))
    )  # fmt: skip
    for name in ("l1", "l2", "bn_scale"):
        a, b = (find_criterion(name)(g, None, np.random.default_rng(0))[g.groups[0].label] for g in (plain, scaled))
        np.testing.assert_allclose(a, b, rtol=0.3)


def test_zero_times_infinity_is_not_dead() -> None:
    reading = value("w2", (7, 3)).copy()
    reading[4] = 0
    weights = value("w1", (7, 5)).copy()
    assert find_dead_channels(analyze_proto(build(replace(DENSE, inits={**DENSE.inits, "w2": reading}))))
    weights[4, 0] = np.inf
    assert not find_dead_channels(
        analyze_proto(build(replace(DENSE, inits={**DENSE.inits, "w2": reading, "w1": weights})))
    )


@given(spots=SPOTS, factor=FACTOR)
def test_merging_writes_nothing_that_was_not_there(spots: list[Spot], factor: float) -> None:
    graph = analyze_proto(changed(DENSE, "w2", spots, factor))
    plan = Plan({g.label: np.arange(g.size) % 2 == 0 for g in graph.groups})
    before = is_finite(*(graph.model.array(t) for t in graph.model.constants().values()))
    model, _ = merge_channels(graph, plan, rewrite(graph, plan.masks(graph)))
    if before:
        assert is_finite(*(model.array(t) for t in model.constants().values()))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_balanced_values_keep_their_ratios_and_can_be_squared(values: list[float]) -> None:
    given_ = np.array(values)
    found = divide_by_power(given_)
    assert is_finite(found**2)
    largest = np.abs(given_).argmax()
    if given_[largest]:
        assert abs(found[largest]) >= 2.0**-21
        np.testing.assert_allclose(found / found[largest], given_ / given_[largest], rtol=1e-12, atol=1e-300)


def test_what_is_wrong_with_values_is_told() -> None:
    x = np.ones((4, 3), np.float32)
    x[1, 0], x[3, 2] = np.nan, np.inf
    assert describe_flaw([x[:2], x[2:]]) == "is NaN or infinite on 2 of 4 inputs"
    assert describe_flaw([np.full((2, 2), 3e25, np.float32)]) == "is up to 3e+25, which overflows when it is squared"


CHAIN = "a = MatMul(x, w1)  f = Add(a, b1)  c = Relu(f)  d = MatMul(c, w2)  e = Relu(d)  y = MatMul(e, w3)"


def make_chain(name: str, number: float) -> DependencyGraph:
    sizes: dict[str, tuple[int, ...]] = {"w1": (8, 6), "b1": (6,), "w2": (6, 5), "w3": (5, 4)}
    arrays = {n: value(n, s).copy() for n, s in sizes.items()}
    arrays[name].ravel()[1] = number
    return analyze_proto(build(Case(f"(float[N,8] x) => (float[N,4] y) {{ {CHAIN} }}", arrays, None)))


@pytest.mark.parametrize("number", [np.inf, -np.inf])
def test_an_infinite_weight_blames_no_group(number: float) -> None:
    """Rows in which it meets a number below 0 are finite behind Relu: on these the proof sees all groups."""
    graph = make_chain("w1", number)
    plan = Plan({g.label: np.arange(g.size) < g.size - 1 for g in graph.groups})
    masks = plan.masks(graph)
    small = rewrite(graph, masks)
    assert prove_rewrite(graph, masks, small).error < 1e-5
    wrong = small.constants()["w3"]
    wrong._values = make_constant("w3", small.array(wrong)[::-1])._values
    with pytest.raises(VerificationError, match="prune does not equal mask"):
        prove_rewrite(graph, masks, small)


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_where_nothing_is_finite_the_proof_sees_nothing(number: float) -> None:
    graph = make_chain("b1", number)
    plan = Plan({g.label: np.arange(g.size) < g.size - 1 for g in graph.groups})
    masks = plan.masks(graph)
    assert {*prove_rewrite(graph, masks, rewrite(graph, masks)).silent} == {g.label for g in graph.groups}
