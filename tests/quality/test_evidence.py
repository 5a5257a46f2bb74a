"""Evidence: numbers that are counted by hand, and laws that hold for any two models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from spa_compiler.quality.evidence import collect_evidence, read_log_probabilities

LOGITS = hnp.arrays(np.float32, (6, 3), elements=st.floats(-8, 8, width=32))


def test_agreement_and_expected_loss_are_counted_by_hand() -> None:
    dense = np.log(np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.5, 0.5]]))
    compiled = np.log(np.array([[0.4, 0.6], [0.8, 0.2], [0.2, 0.8], [0.5, 0.5]]))
    found = collect_evidence([[dense]], [[compiled]])
    assert (found.samples, found.classes) == (4, 2)
    assert found.agreement == 0.75
    assert found.expected_loss == pytest.approx((0.6 - 0.4) / 4)
    assert found.confidence == pytest.approx((0.6 + 0.9 + 0.7 + 0.5) / 4)


@given(LOGITS)
def test_a_model_beside_itself_loses_nothing(x: NDArray[np.float32]) -> None:
    found = collect_evidence([[x]], [[x]])
    assert (found.explained_variance, found.agreement, found.expected_loss) == (1, 1, 0)
    assert found.divergence == pytest.approx(0, abs=1e-12)


@given(LOGITS, LOGITS, st.floats(-5, 5))
def test_a_constant_added_to_logits_is_no_difference(
    x: NDArray[np.float32], y: NDArray[np.float32], shift: float
) -> None:
    plain, moved = collect_evidence([[x]], [[y]]), collect_evidence([[x]], [[y.astype(np.float64) + shift]])
    assert moved.divergence == pytest.approx(plain.divergence, abs=1e-5)
    assert moved.explained_variance == pytest.approx(plain.explained_variance, abs=1e-3)


@given(LOGITS, LOGITS)
def test_the_dense_answer_is_never_less_probable_than_another(x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
    found = collect_evidence([[x]], [[y]])
    assert found.expected_loss is not None and -1e-12 <= found.expected_loss <= 1
    assert found.divergence is not None and found.divergence >= 0


@given(LOGITS)
def test_how_the_rows_are_batched_is_no_matter(x: NDArray[np.float32]) -> None:
    y = np.roll(x, 1, 1)
    assert collect_evidence([[x[:2]], [x[2:]]], [[y[:2]], [y[2:]]]) == collect_evidence([[x]], [[y]])


@pytest.mark.parametrize(
    "output",
    [np.zeros((4, 1)), np.zeros((4, 3, 5, 5)), np.zeros(4), np.full((4, 3), np.nan), np.zeros((4, 3), np.int64)],
    ids=["one column", "maps", "one axis", "not finite", "integers"],
)
def test_what_is_no_distribution_over_classes_has_none(output: Any) -> None:
    assert read_log_probabilities([[output]]) is None
    assert collect_evidence([[output]], [[output]]).agreement is None


def test_a_compiled_model_that_gives_no_numbers_has_lost_everything() -> None:
    found = collect_evidence([[np.eye(3)]], [[np.full((3, 3), np.nan)]])
    assert (found.agreement, found.explained_variance, found.expected_loss) == (0, 0, 1)
