"""Pictures that BatchNormalization sees as it saw those of training: the loss, its descent, and where there is none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from networks import graph_of
from spa_compiler.analysis.dependency_graph import DependencyGraph, analyze
from spa_compiler.autodiff.reverse_mode import Unknown
from spa_compiler.calibration import bn_matching
from spa_compiler.calibration.bn_matching import Match, differentiate_roughness
from spa_compiler.calibration.inputs import draw_calibration
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.execution.session import add_outputs, open_session
from spa_compiler.ir.reader import from_proto
from zoo_base import Case, build

NORMED = Case(
    "(float[N,3,16,16] x) => (float[N,3] y) {"
    "  a = Conv <pads = [1,1,1,1]> (x, w1)  b = BatchNormalization (a, s1, t1, mu1, var1)  r = Relu (b)"
    "  c = Conv <pads = [1,1,1,1]> (r, w2)  d = BatchNormalization (c, s2, t2, mu2, var2)  e = Add (d, r)"
    "  p = GlobalAveragePool (e)  f = Flatten (p)  y = Gemm <transB = 1> (f, w3, b3) }",
    {
        "w1": (8, 3, 3, 3), "s1": (8,), "t1": (8,), "mu1": (8,), "var1": (8,),
        "w2": (8, 8, 3, 3), "s2": (8,), "t2": (8,), "mu2": (8,), "var2": (8,),
        "w3": (3, 8), "b3": (3,),
    },
    None,
)  # fmt: skip


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 3, 16, 16)).astype(np.float32)


def values(graph: DependencyGraph, x: np.ndarray) -> dict[str, np.ndarray]:
    """The values that the two BatchNormalizations read."""
    session = open_session(add_outputs(graph.model.proto(), ["a", "c"]), graph.model.folder)
    return dict(zip("ac", session.run(["a", "c"], {"x": x}), strict=True))


def test_the_loss_is_the_distance_from_the_stored_statistics() -> None:
    graph = graph_of(NORMED)
    match, x = Match(graph, 1 << 30), pictures(CALIBRATION.pictures_per_set)
    loss, derivative = match.session.run(None, {"x": x})
    held = {n: graph.model.array(t) for n, t in graph.model.constants().items()}
    wanted = []
    for name, mean, variance in (("a", "mu1", "var1"), ("c", "mu2", "var2")):
        found, scale = values(graph, x)[name], held[variance] + 1e-5
        away = (found.mean((0, 2, 3)) - held[mean]) ** 2 + (found.std((0, 2, 3)) - np.sqrt(scale)) ** 2
        wanted.append((away / scale).mean())
    assert loss == pytest.approx(np.mean(wanted), rel=1e-4)
    step = 1e-3 * derivative / np.abs(derivative).max()
    ends = [match.session.run(None, {"x": x + s * step})[0] for s in (1, -1)]
    assert (ends[0] - ends[1]) / 2 == pytest.approx((derivative * step).sum() / x.size, rel=0.02)


def test_a_few_steps_bring_the_statistics_near(monkeypatch: pytest.MonkeyPatch) -> None:
    hopeless = Match(graph_of(NORMED), 1 << 30).refine(pictures(CALIBRATION.pictures_per_set))[1]
    assert hopeless > CALIBRATION.hopeless_loss > CALIBRATION.matched_loss  # random statistics: not all steps are taken
    monkeypatch.setattr(bn_matching, "CALIBRATION", replace(CALIBRATION, hopeless_loss=np.inf))
    match, x = Match(graph_of(NORMED), 1 << 30), pictures(2 * CALIBRATION.pictures_per_set + 5)
    moved, loss = match.refine(x)
    before = match.session.run(None, {"x": x[: CALIBRATION.pictures_per_set]})[0]
    assert loss < 0.75 * before and loss < hopeless
    np.testing.assert_array_equal(moved[-5:], x[-5:])
    assert not (moved[:-5] == x[:-5]).all(axis=(1, 2, 3)).any()
    assert x.min() <= moved.min() and moved.max() <= x.max()
    np.testing.assert_array_equal(match.refine(x)[0], moved)


def test_the_derivative_of_roughness_is_the_limit_of_differences() -> None:
    x, way = (np.random.default_rng(s).standard_normal((2, 3, 5, 4)) for s in (0, 1))

    def rough(x: np.ndarray) -> float:
        return float((np.diff(x, axis=2) ** 2).sum() + (np.diff(x, axis=3) ** 2).sum())

    assert (rough(x + 1e-4 * way) - rough(x - 1e-4 * way)) / 2e-4 == pytest.approx(
        (differentiate_roughness(x) * way).sum()
    )


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("Relu (b)", "Softmax <axis = 1> (b)", "Softmax"),
        ("(float[N,3,16,16] x)", "(float[N,3,16,16] x, float[N,3] z)", "several inputs"),
        ("BatchNormalization", "InstanceNormalization", "no BatchNormalization"),
        ("b = BatchNormalization (a", "b, m, v = BatchNormalization <training_mode = 1> (a", "training mode"),
    ],
)
def test_what_has_no_derivative_is_drawn_as_before(old: str, new: str, why: str) -> None:
    text = NORMED.text.replace(old, new)
    if "Instance" in new:
        text = text.replace(", mu1, var1", "").replace(", mu2, var2", "")
    graph = graph_of(Case(text, {n: i for n, i in NORMED.inits.items() if n in text}, None))
    with pytest.raises(Unknown, match=why):
        Match(graph, 1 << 30)
    source = draw_calibration(graph, samples=192).source
    assert "of them matched" not in source
    assert ("not matched" in source and why in source) == (why in ("Softmax", "training mode"))


def test_without_room_or_time_nothing_is_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(NORMED)
    with pytest.raises(Unknown, match="memory"):
        Match(graph, 1 << 16)
    unmatched = draw_calibration(graph, samples=192, effort=1e-4).source
    assert "the work that matching may take is enough for" in unmatched
    (named,) = re.findall(r"--matching ([0-9.]+)", unmatched)
    assert 0 < float(named) <= 1 and "of them matched" not in unmatched
    assert "by their number" in draw_calibration(graph, samples=8).source


def test_the_message_names_the_effort_that_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it names the reason is another one, or there is none; a tenth less is not enough."""
    monkeypatch.setattr(bn_matching, "MATCHING_MACS", 2e8)
    graph = graph_of(NORMED)
    (named,) = re.findall(r"--matching ([0-9.]+)", draw_calibration(graph, samples=192).source)
    assert float(named) > 1
    assert "--matching" not in draw_calibration(graph, samples=192, effort=float(named)).source
    assert "--matching" in draw_calibration(graph, samples=192, effort=0.9 * float(named)).source


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_an_older_opset_has_the_same_loss_and_derivative(opset: int) -> None:
    """All that matching reads means the same in both: the model is converted for it, and for nothing else."""
    proto = build(NORMED)
    proto.opset_import[0].version = opset
    old = analyze(normalize(from_proto(proto, Path("m.onnx")))[0])
    x = pictures(CALIBRATION.pictures_per_set)
    found, right = (Match(g, 1 << 30).session.run(None, {"x": x}) for g in (old, graph_of(NORMED)))
    for a, b in zip(found, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    assert old.model.opset[""] == opset


def test_a_model_of_one_input_at_a_time_is_matched_in_sets() -> None:
    graph = graph_of(Case(NORMED.text.replace("float[N,", "float[1,"), NORMED.inits, None))
    match = Match(graph, 1 << 30)
    assert match.session.run(None, {"x": pictures(CALIBRATION.pictures_per_set)})[1].shape == (
        CALIBRATION.pictures_per_set,
        3,
        16,
        16,
    )


def test_most_pictures_are_matched_and_values_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    near = replace(CALIBRATION, matched_loss=10.0)  # nothing was trained here: there is no picture that fits
    monkeypatch.setattr(bn_matching, "CALIBRATION", near)
    graph = graph_of(NORMED)
    first, second = (draw_calibration(graph, samples=192) for _ in range(2))
    assert first.source.endswith("144 of them matched to the statistics that BatchNormalization holds")
    assert first.samples == 192 and first.has_low_rank and not first.adjust.batch_norm
    for a, b in zip(first.feeds, second.feeds, strict=True):
        np.testing.assert_array_equal(a["x"], b["x"])
    monkeypatch.setattr(bn_matching, "count_affordable", lambda *given, **options: 24 * 96)
    assert draw_calibration(graph, samples=192).samples == 192  # no fewer than were asked for
    monkeypatch.setattr(bn_matching, "CALIBRATION", replace(CALIBRATION, matched_loss=0.0))
    assert (far := draw_calibration(graph, samples=192)).adjust.batch_norm and "away" in far.source
