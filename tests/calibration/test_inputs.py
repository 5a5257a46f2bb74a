"""Calibration inputs: kind and scale that a graph asks for, class balance, determinism, memory, files and scripts."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from networks import CLASSIFIER, CONV, DENSE, feeds, graph_of
from spa_compiler.calibration.inputs import (
    choose_confident,
    choose_source,
    draw_calibration,
    draw_unselected,
    guess_kind,
)
from spa_compiler.calibration.pixel_scale import MOST_AT_ONCE, count_at_once, split_chunks
from spa_compiler.calibration.sample_budget import measure_alive_bytes, plan_samples
from spa_compiler.calibration.user_inputs import load_calibration
from spa_compiler.errors import UsageError
from spa_compiler.execution.index_limits import find_index_limits
from spa_compiler.statistics.covariance import Gram
from spa_compiler.statistics.moments import collect_moments
from zoo import CASES, Case
from zoo_base import Init


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((3, 224, 224), "photographs"), ((96, 96, 3), "photographs"), ((1, 28, 28), "strokes"), ((784, 1), "strokes"),
        ((1, 96, 96), "photographs"), ((49, 10, 1), "mfcc"), ((1, 98, 40), "log_mel"), ((3072,), "scenes"),
        ((3, 63, 80), "scenes"), ((3, 64, 64), "photographs"), ((12288,), "photographs"), ((1, 8, 8), "strokes"),
        ((1, 1, 5), "features"), ((3, 1, 7), "features"), ((1, 2, 128), "features"), ((1, 1, 16000), "waveforms"),
        ((13,), "features"), ((1, 16000), "waveforms"), ((9, 128), "series"), ((16, 32, 32), "fields"),
    ],
)  # fmt: skip
def test_the_kind_is_read_from_the_shape(shape: tuple[int, ...], kind: str) -> None:
    assert guess_kind(shape) == kind


def test_the_same_seed_gives_the_same_inputs_and_moments() -> None:
    graph = graph_of(CLASSIFIER)
    first, second, other = (draw_calibration(graph, seed=s, samples=12) for s in (0, 0, 1))
    for a, b, c in zip(first.feeds, second.feeds, other.feeds, strict=True):
        np.testing.assert_array_equal(a["x"], b["x"])
        assert not np.array_equal(a["x"], c["x"])
    one, two = (collect_moments(graph, f.feeds, f.adjust) for f in (first, second))
    for site, moment in one.of.items():
        np.testing.assert_array_equal(moment.covariance, two.of[site].covariance)


def test_folded_exports_are_told_apart_and_named() -> None:
    calibration = draw_calibration(graph_of(CLASSIFIER), samples=8)
    assert calibration.adjust.shrink > 0 and not calibration.adjust.batch_norm
    assert "folded" in calibration.source and calibration.samples == 8


@pytest.mark.parametrize(("after", "seen"), [("Clip(a, zero, six)", True), ("Clip(a, six, six)", False)])
def test_a_clip_from_zero_is_a_relu(after: str, seen: bool) -> None:
    text = CLASSIFIER.text.replace("Relu(a)", after)
    inits = {**CLASSIFIER.inits, "zero": 0.0, "six": 6.0}
    assert (draw_calibration(graph_of(Case(text, inits, None)), samples=8).adjust.shrink > 0) == seen


def test_inputs_of_unknown_kind_are_called_a_guess_unless_the_kind_is_given() -> None:
    graph = graph_of(DENSE)
    assert (
        draw_calibration(graph, samples=8).is_guessed
        and not draw_calibration(graph, samples=8, kind="features").is_guessed
    )
    assert not draw_calibration(graph_of(CLASSIFIER), samples=8).is_guessed


def test_tiny_shapes_are_called_a_guess() -> None:
    case = Case("(float[N,1,1,5] x) => (float[N,1,1,3] y) { y = MatMul(x, w) }", {"w": (5, 3)}, None)
    assert draw_calibration(graph_of(case), samples=8).is_guessed


SIDE = (
    "(float[N,{c},16,16] x, float[N,{k}] z) => (float[N,3] y) {{ a = Conv (x, w1)  g = GlobalAveragePool (a)"
    "  f = Flatten (g)  h = MatMul (z, w2)  s = Add (f, h)  r = Relu (s)  y = MatMul (r, w3) }}"
)


@pytest.mark.parametrize(("numbers", "is_guess"), [(5, False), (5000, True)])
def test_inputs_are_a_guess_where_most_of_their_numbers_are(numbers: int, is_guess: bool) -> None:
    """An unknown input beside a picture is named; it does not make a guess of the picture."""
    inits = {"w1": (8, 3, 3, 3), "w2": (numbers, 8), "w3": (8, 3)}
    found = draw_calibration(graph_of(Case(SIDE.format(c=3, k=numbers), inits, None)), samples=8)
    assert found.is_guessed == is_guess
    assert "the graph does not say what 'z' is" in found.source
    apart = draw_unselected(graph_of(Case(SIDE.format(c=3, k=numbers), inits, None)))
    assert apart.is_guessed == is_guess


@pytest.mark.parametrize("case", [CLASSIFIER, DENSE, CASES["message_passing"]], ids=["picture", "table", "graph"])
def test_inputs_kept_apart_are_others_of_the_same_source(case: Case) -> None:
    first, again = (draw_calibration(graph_of(case)) for _ in range(2))
    assert first.apart is not None and again.apart is not None
    seen = {row.tobytes() for f in first.feeds for row in next(iter(f.values()))}
    apart, same = first.apart(4), again.apart(4)
    assert apart and {n: a.shape[1:] for n, a in apart[0].items()} == {
        n: a.shape[1:] for n, a in first.feeds[0].items()
    }
    for a, b in zip(apart, same, strict=True):
        for name, x in a.items():
            np.testing.assert_array_equal(x, b[name])
    if case is not CASES["message_passing"]:
        assert not seen & {row.tobytes() for f in apart for row in next(iter(f.values()))}


def test_ids_point_into_what_is_there() -> None:
    graph = graph_of(CASES["message_passing"])
    assert find_index_limits(graph.model) == {"e": 2}
    assert find_index_limits(graph.model, {"N": 1, "E": 5}) == {"e": 1}
    assert not find_index_limits(graph.model, fixed=True)
    assert all(f["e"].max() < len(f["x"]) for f in draw_calibration(graph).feeds)
    halves = Case("(bfloat16[N,4] x) => (bfloat16[N,4] y) { y = Relu(x) }", {}, None)
    assert not find_index_limits(graph_of(halves).model)


@pytest.mark.parametrize(("use", "low", "high"), [("Gather(w1, x)", 2, 3), ("Cast<to = 1>(x)", 2, 6)])
def test_whole_numbers_stay_in_the_range_that_is_given(use: str, low: int, high: int) -> None:
    text = f"(int64[N,4] x) => (float[N,2] y) {{ e = {use}  f = Flatten(e)  r = Reshape(f, s)  y = MatMul(r, w2) }}"
    graph = graph_of(Case(text, {"w1": (4, 4), "s": [-1, 4], "w2": (4, 2)}, None))
    x = np.concatenate([f["x"] for f in draw_calibration(graph, samples=64, ranges={"x": (2, 6)}).feeds])
    assert (x.min(), x.max()) == (low, high)
    assert all((f["x"] >= 0).all() for f in draw_calibration(graph, samples=64).feeds)


@pytest.mark.parametrize("shape", ["N", "N,6", "N,12,9", "N,3,16,16"])
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("bounds", [(0, 1), (1, 2), (0.2, 3.7)])
def test_both_ends_of_a_range_of_whole_numbers_are_drawn(shape: str, dtype: str, bounds: tuple[float, float]) -> None:
    """And nothing beyond them, where the ends are no whole numbers neither; flags take part."""
    if dtype == "bool":
        bounds = (0, 1)
    text = f"({dtype}[{shape}] x) => (float[{shape}] y) {{ y = Cast<to = 1>(x) }}"
    graph = graph_of(Case(text, {}, None))
    t = graph.model.header.graph.input[0].type
    source = choose_source(graph, "x", t, bounds, "")
    x = source.draw(400, np.random.default_rng(0))
    assert set(np.unique(x).tolist()) == set(range(math.ceil(bounds[0]), math.floor(bounds[1]) + 1))


def test_predicted_classes_are_balanced() -> None:
    graph = graph_of(CLASSIFIER)
    pool = {"x": 3 * np.random.default_rng(0).standard_normal((300, 3, 16, 16)).astype(np.float32)}
    pool["x"] += 4 * np.random.default_rng(1).standard_normal((300, 3, 1, 1)).astype(np.float32)
    rows = choose_confident(graph.model, pool, 30, 0, np.random.default_rng(0))
    assert len(rows) == 30 == len(set(rows.tolist()))


def test_a_fixed_batch_is_kept_and_the_rest_dropped() -> None:
    given = {"x": np.zeros((10, 4), np.float32)}
    assert [len(f["x"]) for f in split_chunks(given, 4)] == [4, 4]
    assert sum(len(f["x"]) for f in split_chunks(given, 0)) == 10


def test_less_memory_means_fewer_inputs() -> None:
    graph = graph_of(CLASSIFIER)
    per = max(measure_alive_bytes(graph))
    assert per >= 2 * 4 * 8 * 16 * 16
    assert plan_samples(graph, 0, 200 * per)[0].start == 100
    assert plan_samples(graph, 0, 1)[0].kept < plan_samples(graph, 0, 1 << 30)[0].kept


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    def peak(times: int) -> int:
        gram, rng = Gram(), np.random.default_rng(0)
        tracemalloc.start()
        for _ in range(times):
            gram.add(rng.standard_normal((500, 1, 40), np.float32))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(50) < 1.2 * peak(5)


def test_moments_are_the_mean_and_covariance_of_the_design() -> None:
    gram, rng = Gram(), np.random.default_rng(0)
    x = 100 + rng.standard_normal((900, 1, 5)).astype(np.float32)
    t = rng.standard_normal((900, 1, 2)).astype(np.float32)
    for part in np.split(np.arange(900), 3):
        gram.add(x[part], t[part])
    np.testing.assert_allclose(gram.mean()[0], x[:, 0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(gram.covariance()[0], np.cov(x[:, 0].T, bias=True), atol=1e-4)
    both = np.cov(np.concatenate([t[:, 0], x[:, 0]], axis=1).T, bias=True)
    np.testing.assert_allclose(gram.cross()[0], both[:2, 2:], atol=1e-4)
    np.testing.assert_allclose(gram.variance()[0], np.diag(both)[:2], atol=1e-4)


def test_only_groups_that_will_be_cut_leave_moments() -> None:
    graph = graph_of(CONV)
    given = feeds((4, 3, 6, 6))
    assert len(collect_moments(graph, given).of) == 1
    assert not collect_moments(graph, given, groups=[]).of


def test_a_resize_to_sizes_of_the_run_is_run_alone() -> None:
    text = """(float[N,3,4,4] x) => (float[N,2,4,4] y) {
        a = Conv(x, w1)  p = GlobalAveragePool(a)  s = Shape <start = 0, end = 2> (p)  z = Concat <axis = 0> (s, hw)
        r = Resize <mode = "linear"> (p, , , z)  y = Conv(r, w2) }"""
    graph = graph_of(Case(text, {"w1": (6, 3, 1, 1), "hw": [4, 4], "w2": (2, 6, 1, 1)}, {"w1:0 w2:1": 6}))
    given = [{"x": np.random.default_rng(n).standard_normal((n, 3, 4, 4)).astype(np.float32)} for n in (4, 4, 3)]
    found = collect_moments(graph, given)
    assert not found.missed and len(found.of) == 1


def test_inputs_from_a_file_a_folder_and_a_script(tmp_path: Path) -> None:
    graph = graph_of(DENSE)
    x = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x)
    np.savez(tmp_path / "b.npz", x=x)
    script = tmp_path / "inputs.py"
    script.write_text("import numpy as np\n\ndef batch():\n    return np.ones((6, 5), np.float32)\n")
    assert load_calibration(graph, str(tmp_path / "a.npz")).samples == 40
    assert load_calibration(graph, str(tmp_path)).samples == 80
    assert load_calibration(graph, f"{script}:batch").samples == 6
    assert not load_calibration(graph, str(tmp_path / "a.npz")).adjust.batch_norm


def test_an_input_may_have_the_name_of_an_argument_of_savez(tmp_path: Path) -> None:
    text = "(float[N,3] file) => (float[N,2] y) { h = MatMul(file, w) y = MatMul(h, v) }"
    case = Case(text, {"w": (3, 4), "v": (4, 2)}, None)
    script = tmp_path / "inputs.py"
    script.write_text("import numpy as np\n\ndef rows():\n    return {'file': np.ones((9, 3), np.float32)}\n")
    assert load_calibration(graph_of(case), f"{script}:rows").samples == 9


IDS = Case("(int64[N,4] x) => (float[N,4,2] y) { e = Gather(w1, x)  y = MatMul(e, w2) }",
           {"w1": (7, 5), "w2": (5, 2)}, None)  # fmt: skip


@pytest.mark.parametrize(
    ("case", "kind", "says"),
    [(IDS, "photographs", "change nothing"), (DENSE, "tokens", "input 'x'"), (CLASSIFIER, "waveforms", "input 'x'")],
)
def test_a_kind_that_is_for_no_input_is_refused(case: Case, kind: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"--calib {kind}: .*{says}"):
        draw_calibration(graph_of(case), kind=kind)


@pytest.mark.parametrize(("value", "says"), [(7.0, "ids below 7"), (-8.0, "ids below 7"), (0.5, "fractions")])
def test_numbers_that_are_no_ids_are_refused(tmp_path: Path, value: float, says: str) -> None:
    graph = graph_of(IDS)
    np.savez(tmp_path / "fit.npz", x=np.full((3, 4), 6.0))
    assert load_calibration(graph, str(tmp_path / "fit.npz")).feeds[0]["x"].dtype == np.int64
    np.savez(tmp_path / "odd.npz", x=np.full((3, 4), value))
    with pytest.raises(UsageError, match=says):
        load_calibration(graph, str(tmp_path / "odd.npz"))


@pytest.mark.parametrize("spec", ["missing.npz", "missing.py:f"])
def test_inputs_that_are_not_there_are_named(spec: str) -> None:
    with pytest.raises(UsageError, match="missing"):
        load_calibration(graph_of(DENSE), spec)


@pytest.mark.parametrize("shape", [(7,), (4, 6), (3, 5, 6), (2, 3, 4, 5)])
def test_white_noise_has_any_rank(shape: tuple[int, ...]) -> None:
    sizes = ",".join(map(str, shape))
    graph = graph_of(Case(f"(float[N,{sizes}] x) => (float[N,{sizes}] y) {{ y = Relu(x) }}", {}, None))
    x = np.concatenate([f["x"] for f in draw_calibration(graph, kind="white").feeds])
    assert x.shape[1:] == shape
    flat = (x - x.mean()).reshape(len(x), -1)
    correlation = np.corrcoef(flat.T)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.35


def test_a_fixed_batch_is_filled_or_asked_for(tmp_path: Path) -> None:
    case = Case("(float[4,5] x) => (float[4,2] y) { a = MatMul(x, w1)  r = Relu(a)  y = MatMul(r, w2) }",
                {"w1": (5, 6), "w2": (6, 2)}, None)  # fmt: skip
    graph = graph_of(case)
    assert [len(f["x"]) for f in draw_calibration(graph, samples=1).feeds] == [4]
    np.savez(tmp_path / "three.npz", x=np.zeros((3, 5), np.float32))
    with pytest.raises(UsageError, match="4 inputs at a time"):
        load_calibration(graph, str(tmp_path / "three.npz"))
    np.savez(tmp_path / "six.npz", x=np.zeros((6, 5), np.float32))
    assert load_calibration(graph, str(tmp_path / "six.npz"), samples=2).source.startswith("4 inputs")


def test_no_more_inputs_run_at_once_than_memory_has_room_for() -> None:
    """Every place of a row looks at every other: values are far larger than inputs."""
    text = """(float[N,64] x) => (float[N,64] y) {
        a = MatMul(x, w)  u = Unsqueeze(a, last)  v = Unsqueeze(a, first)  s = MatMul(u, v)  t = Tanh(s)
        m = ReduceMean<keepdims = 0, axes = [2]>(t)  y = MatMul(m, w2) }"""
    inits: dict[str, Init] = {"w": (64, 64), "w2": (64, 64), "first": [1], "last": [2]}
    graph = graph_of(Case(text, inits, None, opset=17))
    assert count_at_once(graph.model) == MOST_AT_ONCE
    graph.model.memory = 1 << 20
    assert 1 <= count_at_once(graph.model) <= (1 << 20) // (4 * 64 * 64)
    found = draw_calibration(graph, 0, 0, 10**9)
    assert found.apart is not None
    assert max(len(f["x"]) for f in found.apart(200)) <= count_at_once(graph.model)
    assert sum(len(f["x"]) for f in found.apart(200)) >= 200
