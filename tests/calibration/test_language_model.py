"""Likely token ids: found from the graph, causal by measurement, distributed as the model says, bounded, repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from networks import graph_of
from spa_compiler.analysis.dependency_graph import analyze
from spa_compiler.calibration import inputs, sample_budget
from spa_compiler.calibration.inputs import draw_calibration
from spa_compiler.calibration.language_model import Language, draw_classes, find_language
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.compensation.lockstep import compensate
from spa_compiler.execution.session import open_session
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import from_proto
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.statistics.moments import collect_moments
from zoo_base import Case, build

V, T = 6, 12
RNG = np.random.default_rng(0)
CHAIN = RNG.dirichlet(np.full(V, 0.3), V)  # the next id given this one
BIGRAM = Case(
    "(int64[N,12] ids) => (float[N,12,6] y) { e = Gather(table, ids)  h = MatMul(e, w1)  r = Relu(h)"
    "  y = MatMul(r, w2) }",
    {
        "table": np.eye(V, dtype=np.float32),
        "w1": np.concatenate([np.eye(V), np.eye(V)], 1).astype(np.float32),
        "w2": np.concatenate([np.log(CHAIN + 1e-6), np.zeros((V, V))]).astype(np.float32),
    },
    None,
)
"""Its next id depends on the last one only, by CHAIN."""
BOTH_WAYS = Case(BIGRAM.text.replace("y = MatMul(r, w2)", "z = MatMul(r, w2)  m = ReduceMean(z, one)  y = Add(z, m)"),
                 {**BIGRAM.inits, "one": [1]}, None)  # fmt: skip
CLASSIFIER = Case(
    "(int64[N,12] ids) => (float[N,4] y) { e = Gather(table, ids)  m = ReduceMean <keepdims = 0> (e, one)"
    "  h = MatMul(m, w1)  r = Relu(h)  y = MatMul(r, w2) }",
    {"table": (V, 5), "one": [1], "w1": (5, 8), "w2": (8, 4)},
    None,
)


def spoken(case: Case, n: int = 400) -> tuple[Language | None, np.ndarray]:
    model: Model = graph_of(case).model
    ids = np.random.default_rng(1).integers(0, V, (n, T))
    return find_language(model, {"ids": ids}, np.random.default_rng(0)), ids


def outputs(model: Model, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    session = open_session(model.proto(), model.folder)
    return np.concatenate([session.run(None, f)[0] for f in feeds])


def pairs(ids: np.ndarray) -> np.ndarray:
    """Frequency of the next id given each."""
    table = np.zeros((V, V))
    np.add.at(table, (ids[:, :-1], ids[:, 1:]), 1)
    return table / table.sum(1, keepdims=True)


def test_a_race_draws_from_the_distribution() -> None:
    p = np.array([0.5, 0.3, 0.2, 0.0])
    with np.errstate(divide="ignore"):
        drawn = draw_classes(np.broadcast_to(np.log(p).astype(np.float32), (20_000, 4)), np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20_000, p, atol=0.015)


def test_ids_follow_one_another_as_the_model_says() -> None:
    told, ids = spoken(BIGRAM)
    assert told is not None and told.causal and told.vocabulary == V
    likely = told.draw_ids({"ids": ids}, np.random.default_rng(0), T)
    assert likely.shape == ids.shape and likely.dtype == ids.dtype
    assert np.abs(pairs(likely) - CHAIN).max() < 0.08 < np.abs(pairs(ids) - CHAIN).max()


def test_few_sweeps_are_nearer_than_none() -> None:
    told, ids = spoken(BIGRAM)
    assert told is not None
    error = [np.abs(pairs(told.draw_ids({"ids": ids}, np.random.default_rng(0), k)) - CHAIN).mean() for k in (0, 1, 4)]
    assert error[2] < error[1] < error[0]


def test_what_depends_on_later_ids_is_not_causal() -> None:
    told, _ = spoken(BOTH_WAYS)
    assert told is not None and not told.causal
    assert "(tokens;" in draw_calibration(graph_of(BOTH_WAYS), samples=16).source


def test_a_classifier_speaks_no_language() -> None:
    assert spoken(CLASSIFIER)[0] is None
    assert "(tokens;" in draw_calibration(graph_of(CLASSIFIER), samples=16).source


def test_the_source_is_named_and_repeatable() -> None:
    graph = graph_of(BIGRAM)
    first, second, other = (draw_calibration(graph, seed=s, samples=64) for s in (0, 0, 1))
    assert first.source == "64 synthetic inputs (likely token ids, 8 sweeps; seed 0)"
    for a, b, c in zip(first.feeds, second.feeds, other.feeds, strict=True):
        np.testing.assert_array_equal(a["ids"], b["ids"])
        assert not np.array_equal(a["ids"], c["ids"])
    assert "(tokens;" in draw_calibration(graph, samples=64, kind="tokens").source


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_budget, "MOST_MACS", 1.0)
    found = draw_calibration(graph_of(BIGRAM), samples=64)
    assert "likely token ids, 1 sweeps" in found.source
    free = draw_calibration(graph_of(BIGRAM))
    assert free.samples == CALIBRATION.least_inputs  # by time; by ids it would be ENOUGH / 12


@pytest.mark.parametrize("case", [BIGRAM, CLASSIFIER], ids=["language", "classifier"])
def test_there_are_no_more_ids_than_positions_are_sampled(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LENGTH_ELEMENTS", 100 * T)
    assert draw_calibration(graph_of(case)).samples == 100
    assert draw_calibration(graph_of(case), samples=120).samples == 120


def test_a_fixed_batch_is_kept() -> None:
    fixed = Case(BIGRAM.text.replace("[N,", "[5,"), BIGRAM.inits, None)
    found = draw_calibration(graph_of(fixed), samples=23)
    assert [f["ids"].shape for f in found.feeds] == [(5, T)] * 4


FREE = Case(
    "(int64[N,L] ids, int64[N,L] attention_mask, int64[N,L] position_ids, int64[N,L] token_type_ids)"
    " => (float[N,L,6] y) { e = Gather(table, ids)  p = Gather(places, position_ids)  t = Gather(types, token_type_ids)"
    "  m = Cast <to = 1> (attention_mask)  u = Unsqueeze(m, last)  a = Add(e, p)  b = Add(a, t)  c = Mul(b, u)"
    "  h = MatMul(c, w1)  r = Relu(h)  y = MatMul(r, w2) }",
    {"table": (6, 5), "places": (40, 5), "types": (2, 5), "last": [2], "w1": (5, 8), "w2": (8, 6)},
    None,
)


def test_free_lengths_are_those_of_a_text_as_far_as_positions_go() -> None:
    """64 do not fit a table of 40 positions, 32 do; masks hide nothing, positions count, all are of one type."""
    found = draw_calibration(graph_of(FREE), samples=16)
    (feed,) = found.feeds
    assert "(likely token ids, 8 sweeps; seed 0)" in found.source and not found.is_guessed
    assert {a.shape for a in feed.values()} == {(16, 32)}
    assert (feed["attention_mask"] == 1).all() and (feed["token_type_ids"] == 0).all()
    assert (feed["position_ids"] == np.arange(32)).all()
    assert len(np.unique(feed["ids"])) == 6


@pytest.mark.parametrize(("axis", "length"), [("past + 1", 33), ("?", 32)])
def test_free_lengths_may_be_called_anything(axis: str, length: int) -> None:
    proto = build(FREE)
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[1].dim_param = axis
    model, _ = normalize(from_proto(proto, Path("test.onnx")))
    (feed,) = draw_calibration(analyze(model), samples=16).feeds
    assert feed["ids"].shape == (16, length)


def test_moments_and_compensation_take_the_longer_texts() -> None:
    graph = graph_of(FREE)
    found = draw_calibration(graph, samples=64)
    moments = collect_moments(graph, found.feeds)
    (group,) = (g for g in graph.groups if g.size == 8)
    mask = np.arange(8) < 5
    small = rewrite(graph, {group.dims[0]: mask})
    better = compensate(graph, {group.dims[0]: mask}, small, found.feeds)
    assert moments.missed == {}
    error = [np.square(outputs(m, found.feeds) - outputs(graph.model, found.feeds)).mean() for m in (small, better)]
    assert error[1] < 0.5 * error[0]
