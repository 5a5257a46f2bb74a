"""Contractions of many columns: least squares by rows is that by covariances, and scores look at parts of columns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from networks import feeds, graph_of, outputs
from spa_compiler.algebra.expr import Dim, Prod
from spa_compiler.compensation.lockstep import Options, compensate_weights
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.scoring.obs import Part, obspa
from spa_compiler.statistics import wide_columns
from spa_compiler.statistics.covariance import Gram, Source
from spa_compiler.statistics.moments import collect_moments
from spa_compiler.statistics.wide_columns import SampledRows, gather_evidence, split_columns
from zoo_base import Case

FEW = 40**2
"""Entries that covariances have at most here."""
KERNEL = Case(
    "(float[N,3,9,9] x) => (float[N,4,5,5] y) { a = Conv <pads = [1,1,1,1]> (x, w1, b1)  r = Relu(a)"
    "  y = Conv (r, w2) }",
    {"w1": (12, 3, 3, 3), "b1": (12,), "w2": (4, 12, 5, 5)},
    None,
)


@given(
    st.integers(1, 3), st.integers(2, 30), st.integers(1, 40), st.integers(1, 4), st.booleans(), st.booleans(),
    st.sampled_from([1e-2, 0.1, 10.0]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_least_squares_by_rows_is_that_by_covariances(
    blocks: int, n: int, d: int, m: int, is_shrunk: bool, about_zero: bool, ridge: float, seed: int
) -> None:
    """The identity holds for fewer rows than columns and for more."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, blocks, d)) @ rng.standard_normal((d, d)) + 3).astype(np.float32)
    t, before = rng.standard_normal((n, blocks, m)).astype(np.float32), rng.standard_normal((blocks, m, d))
    gram, rows = Gram(), SampledRows(x, t, n)
    gram.add(x, t)
    gram.inputs = n
    scale = np.sqrt(np.trace(gram.covariance(about_zero=about_zero), axis1=1, axis2=2).max() / d) + 1e-3
    found, expected = (e.solve(before, ridge, is_shrunk, about_zero) for e in (rows, gram))
    np.testing.assert_allclose(found * scale, expected * scale, rtol=1e-2, atol=1e-2 * (1 + scale))
    np.testing.assert_allclose(rows.mean(), gram.mean(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        rows.measure_error(before), gram.measure_error(before), rtol=1e-2, atol=1e-3 * (1 + scale**2)
    )
    np.testing.assert_allclose(rows.variance(), gram.variance(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        rows.measure_variance(before), gram.measure_variance(before), rtol=1e-2, atol=1e-3 * (1 + scale**2)
    )


@given(st.integers(1, 20), st.integers(1, 30), st.sampled_from([1, 2, 7]))
def test_parts_hold_every_column_once_and_are_small_together(channels: int, places: int, blocks: int) -> None:
    dim = Dim(blocks * channels)
    read = np.repeat(np.arange(blocks * channels).reshape(blocks, channels), places, axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wide_columns, "LARGEST_COVARIANCE", FEW)
        parts = split_columns(dim, frozenset([dim]), read)
    d = channels * places
    every = [np.arange(d)[part] for part in parts]
    assert np.sort(np.concatenate(every)).tolist() == list(range(d))
    assert len(parts) == 1 or blocks * sum(len(p) ** 2 for p in every) <= FEW + 3 * blocks * d
    for part in every[:-1]:  # all channels of a place before the next place
        counts = np.bincount(read[0, part], minlength=channels)
        assert counts.max() - counts.min() <= 1


def test_a_flattened_map_is_cut_into_places_too() -> None:
    channel, place = Dim(6), Dim(50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wide_columns, "LARGEST_COVARIANCE", FEW)
        parts = split_columns(Prod((channel, place)), frozenset([channel]), np.arange(300)[None])
    assert len(parts) > 1
    for part in parts:
        counts = np.bincount(np.arange(300)[part] // 50, minlength=6)
        assert counts.max() - counts.min() <= 1


@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_an_error_is_no_larger_than_what_its_parts_say_times_their_number(
    places: int, m: int, channels: int, seed: int
) -> None:
    """Errors of the parts add up coherently at the worst."""
    rng = np.random.default_rng(seed)
    d = channels * places
    x = rng.standard_normal((3 * d, d)) @ rng.standard_normal((d, d))
    h, w = x.T @ x / len(x), rng.standard_normal((d, m))

    def score(columns: np.ndarray) -> np.ndarray:
        """Errors of channels of which the columns are read place by place."""
        each = columns % channels
        reads = [np.flatnonzero(each == c) for c in range(channels)]
        out = np.zeros(channels)
        inverse = np.linalg.inv(h[np.ix_(columns, columns)])
        Part(inverse, w[columns], [(np.arange(channels), np.array(reads))]).score(out)
        return out

    whole = score(np.arange(d))
    parts = sum(score(np.arange(channels) + k * channels) for k in range(places))
    assert (whole <= places * parts * (1 + 1e-6) + 1e-9).all()


def test_a_wide_convolution_is_scored_in_parts_and_solved_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, few = graph_of(KERNEL), feeds((60, 3, 9, 9))
    whole = collect_moments(graph, few)
    monkeypatch.setattr(wide_columns, "LARGEST_COVARIANCE", FEW)
    parted = collect_moments(graph, few)
    (site,) = whole.of
    every = parted.of[site].every
    assert len(every) == math.ceil(300**2 / FEW)
    assert sum(m.covariance.size for m in every) <= FEW
    for moment in every:  # the same numbers, of fewer columns
        same = [int(np.flatnonzero((whole.of[site].weights[0] == w[:, None]).all(0))[0]) for w in moment.weights[0].T]
        expected = whole.of[site].covariance[0][np.ix_(same, same)]
        np.testing.assert_allclose(moment.covariance[0], expected, rtol=1e-3, atol=1e-4 * expected.max())
    label = graph.groups[0].label
    by_parts = obspa(graph, parted, np.random.default_rng(0))[label]
    by_all = obspa(graph, whole, np.random.default_rng(0))[label]
    assert np.corrcoef(np.argsort(np.argsort(by_parts)), np.argsort(np.argsort(by_all)))[0, 1] > 0.5
    masks = {d: np.arange(d.size) % 3 > 0 for d in graph.groups[0].dims}
    small = rewrite(graph, masks)
    better, outcome = compensate_weights(graph, masks, small, few, Options())
    assert outcome.solved == 2  # and the contraction that gives the channels
    fresh = feeds((40, 3, 9, 9), 1, seed=9)
    dense, plain, solved = (outputs(m, fresh) for m in (graph.model, small, better))
    assert np.square(solved - dense).mean() < 0.8 * np.square(plain - dense).mean()


def test_few_wide_rows_are_taken_where_many_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_columns, "LARGEST_COVARIANCE", FEW)
    monkeypatch.setattr(wide_columns, "ROW_ENTRIES", 100 * 30)
    data = np.random.default_rng(0).standard_normal((500, 1, 100)).astype(np.float32)
    source = Source([500], lambda _, rows: [data[rows], data[rows, :, :2]], 500, (0,))
    found = gather_evidence(source, 1, 100)
    assert isinstance(found, SampledRows)
    assert found.x.shape == (30, 1, 100)
    assert found.independent == 30
