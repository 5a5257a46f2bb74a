"""Search over the share to remove: what is found holds, the next larger step does not, and trials are few."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spa_compiler.errors import BudgetError, NothingToPrune
from spa_compiler.planning.search import (
    MOST_REMOVED,
    MOST_TRIALS,
    NEAR,
    RATIO_DIGITS,
    Trial,
    choose_knee,
    find_knee,
    find_largest_ratio,
)


def try_curve(curve: Callable[[float], float], reach: float = 1.0, least: float = 0.0) -> Callable[[float], Trial]:
    """Trials of a model whose drop is a function of the share; more than `reach` cannot go, nor less than `least`."""

    def try_ratio(ratio: float) -> Trial:
        if ratio > reach:
            raise BudgetError("out of reach")
        if ratio < least:
            raise NothingToPrune("less than one unit")
        return Trial(ratio, ratio, curve(ratio))

    return try_ratio


@given(st.floats(0.5, 200), st.floats(1.2, 4), st.floats(0.2, 20))
def test_a_smooth_curve_is_met_from_below(height: float, power: float, limit: float) -> None:
    wanted = (limit / height) ** (1 / power)
    found = find_largest_ratio(try_curve(lambda r: height * r**power), limit)
    assert len(found.trials) <= MOST_TRIALS
    assert all(a.ratio != b.ratio for i, a in enumerate(found.trials) for b in found.trials[:i])
    if found.best is not None:
        assert found.best.drop <= limit
        assert found.best.ratio >= min(wanted, MOST_REMOVED) - 0.12
    else:
        assert wanted < 0.05


@given(st.lists(st.floats(-2, 50), min_size=20, max_size=20), st.floats(0.1, 10))
def test_what_is_kept_holds_whatever_the_curve_is(drops: list[float], limit: float) -> None:
    found = find_largest_ratio(try_curve(lambda r: drops[min(int(r * 20), 19)]), limit)
    holding = [t for t in found.trials if t.drop <= limit]
    assert found.best == max(holding, key=lambda t: t.ratio, default=None)


@pytest.mark.parametrize("reach", [0.05, 0.2, 0.5, 0.9])
def test_what_is_out_of_reach_is_an_upper_end(reach: float) -> None:
    found = find_largest_ratio(try_curve(lambda r: 0.1, reach), 1.0)
    assert found.best is not None
    assert reach - max(NEAR, 0.1 * reach) - 0.05 <= found.best.ratio <= reach


def test_where_one_unit_is_too_much_nothing_is_found() -> None:
    assert find_largest_ratio(try_curve(lambda r: 30.0, least=0.15), 1.0).best is None


@pytest.mark.parametrize("planted", [0.2, 0.4, 0.6])
def test_the_knee_is_where_redundancy_ends(planted: float) -> None:
    found = find_knee(try_curve(lambda r: 0.0 if r <= planted else min(90.0, 300 * (r - planted))))
    assert found.best is not None
    assert abs(found.best.ratio - planted) <= 0.05 + 10**-RATIO_DIGITS


def test_a_curve_without_a_drop_has_its_knee_at_the_end() -> None:
    assert choose_knee([Trial(r, r, 0.0) for r in (0.1, 0.4, 0.7)]).ratio == 0.7
    assert find_knee(try_curve(lambda r: 0.0, reach=0.55)).best == Trial(0.5, 0.5, 0.0)
    assert find_knee(try_curve(lambda r: 0.0, reach=0.01)).best is None
