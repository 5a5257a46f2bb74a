"""Correction for drawn pictures: errors of groups whose values vary along few directions are raised, others stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from networks import CLASSIFIER, DENSE, graph_of
from spa_compiler.algebra.masks import NO_CHANNEL
from spa_compiler.calibration.settings import CALIBRATION
from spa_compiler.calibration.user_inputs import load_calibration
from spa_compiler.ir.reader import from_proto
from spa_compiler.pipeline.passes import Pipeline
from spa_compiler.pipeline.state import State
from spa_compiler.scoring.rank_correction import iterate_covariances, measure_rank_share, raise_low_rank
from spa_compiler.scoring.settings import SCORING
from zoo_base import Case, build

WIDE = Case(CLASSIFIER.text, {**CLASSIFIER.inits, "w1": (64, 3, 3, 3), "b1": (64,), "w2": (3, 64)}, None)


def covariance(rank: int, d: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rows = np.linalg.qr(np.random.default_rng(0).standard_normal((d, rank)))[0]
    return np.asarray(rows @ rows.T)


@pytest.mark.parametrize(("rank", "d"), [(1, 1), (1, 40), (7, 40), (40, 40)])
def test_a_projection_has_its_rank_in_directions(rank: int, d: int) -> None:
    assert measure_rank_share(covariance(rank, d)) == pytest.approx(rank / d)
    assert measure_rank_share(1e-3 * covariance(rank, d)) == pytest.approx(rank / d)


def test_constant_values_hide_nothing() -> None:
    assert measure_rank_share(np.zeros((5, 5))) == 1


def test_variances_that_overflow_when_squared_have_directions() -> None:
    assert measure_rank_share(np.float32(1e20) * np.eye(4, dtype=np.float32)) == pytest.approx(1)


def test_places_of_one_channel_are_no_directions_of_their_own() -> None:
    """Two places (the columns 0, 1 and 2, 3 and so on) that always say the same: as many directions as one of them."""
    moment = scored("calibrate{source=uniform}").moments
    assert moment is not None
    one, twice = covariance(7, 20), np.kron(covariance(7, 20), np.ones((2, 2)))
    some = replace(next(iter(moment.of.values())), covariance=twice[None], channels=np.arange(20).repeat(2)[None])
    assert measure_rank_share(twice) == pytest.approx(7 / 40)
    (found,) = iterate_covariances(some, np.arange(20))
    assert measure_rank_share(found) == pytest.approx(measure_rank_share(one)) == pytest.approx(7 / 20)
    (rest,) = iterate_covariances(some, np.where(np.arange(20) < 5, np.arange(20), NO_CHANNEL))
    assert np.allclose(rest, 2 * one[:5, :5])


def scored(text: str) -> State:
    source = State.of(from_proto(build(WIDE), Path("test.onnx")))
    return Pipeline.parse(f"normalize,{text},score{{criterion=obspa}}").run(source)


def test_only_what_few_directions_explain_is_raised() -> None:
    state = scored("calibrate{source=uniform}")
    graph, moments, scores = state.require_graph(), state.moments, state.scores
    assert moments is not None
    (group,) = graph.groups
    (site, moment), *_ = [(k, m) for k, m in moments.of.items() if not m.contracted.isdisjoint(group.dims)]
    d = moment.covariance.shape[-1]
    wide = replace(moments, of={site: replace(moment, covariance=covariance(d, d)[None])})
    few = replace(moments, of={site: replace(moment, covariance=1e-6 * covariance(1, d)[None])})
    assert np.array_equal(raise_low_rank(graph, wide, scores)[group.label], scores[group.label])
    assert np.allclose(raise_low_rank(graph, few, scores)[group.label], SCORING.known_share * d * scores[group.label])


def test_drawn_and_few_pictures_are_doubted_and_many_given_ones_are_not(tmp_path: Path) -> None:
    drawn = scored("calibrate{samples=24}")
    enough = CALIBRATION.trusted_pictures
    x = np.random.default_rng(0).standard_normal((enough, 1, 1, 1)) * np.ones((1, 3, 16, 16))  # few directions
    for n, name in ((enough, "many.npz"), (enough - 1, "few.npz")):
        np.savez(tmp_path / name, x=x[:n].astype(np.float32))
    few, many = (scored(f'calibrate{{source="{tmp_path / f"{n}.npz"}"}}') for n in ("few", "many"))
    for state in (drawn, few, many):
        assert state.moments is not None
        plain = Pipeline.parse("score{criterion=obspa}").run(replace(state, calibration=None)).scores
        raised = raise_low_rank(state.require_graph(), state.moments, plain)
        wanted = plain if state is many else raised
        assert all(np.array_equal(state.scores[n], wanted[n]) for n in plain)
    assert any(not np.array_equal(many.scores[n], raised[n]) for n in raised)


def test_few_rows_of_no_pictures_are_believed(tmp_path: Path) -> None:
    graph = graph_of(DENSE)
    np.savez(tmp_path / "x.npz", x=np.ones((9, 5), np.float32))
    assert not load_calibration(graph, str(tmp_path / "x.npz")).has_low_rank
