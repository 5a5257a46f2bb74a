"""The time of the analysis grows with a model, not with its square."""

from __future__ import annotations

import pytest

from tools.measure.linearity import KINDS, measure


@pytest.mark.parametrize("kind", KINDS)
def test_eight_times_the_size_takes_no_more_than_a_multiple_of_the_time(kind: str) -> None:
    """Quadratic work would take 64 times as long; the shorter of two runs is compared."""
    make, (small, *_) = KINDS[kind]
    low, high = (min(sum(measure(make, n)[:2]) for _ in range(2)) for n in (small // 4, small * 2))
    assert high < 24 * max(low, 0.05)
