"""The budget of doubt: what all comparisons of a campaign, and all looks at one of them, spend together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autohyp.policies.levels import level_at_look, level_of_comparison

RATE = 0.05


def test_a_campaign_that_keeps_nothing_spends_half_its_rate_and_never_more() -> None:
    spent = sum(level_of_comparison(number, (), RATE) for number in range(1, 200_000))
    assert 0.4 * RATE / 2 < spent < RATE / 2  # the rest is for those to come


@given(st.sets(st.integers(1, 300), max_size=12))
def test_all_levels_together_stay_below_the_rate_times_the_keeps(kept: set[int]) -> None:
    """What LORD++ rests on: the levels up to now are at most the rate times the keeps, one at least."""
    order, spent = sorted(kept), 0.0
    for number in range(1, 301):
        before = [each for each in order if each < number]
        level = level_of_comparison(number, before, RATE)
        assert 0 < level < RATE
        spent += level
        assert spent <= RATE * max(1, len(before))


def test_what_is_kept_later_changes_no_level() -> None:
    assert level_of_comparison(5, (5, 9), RATE) == level_of_comparison(5, (), RATE)


def test_a_keep_gives_new_budget() -> None:
    assert level_of_comparison(50, (49,), RATE) > 10 * level_of_comparison(50, (), RATE)


@pytest.mark.parametrize("max_runs", [1, 4, 16])
def test_the_looks_share_the_level_and_the_last_has_most(max_runs: int) -> None:
    looks = [level_at_look(0.01, number, max_runs) for number in range(1, max_runs + 1)]
    assert sum(looks) == pytest.approx(0.01)
    assert looks == sorted(looks)
    assert level_at_look(0.01, max_runs + 5, max_runs) == looks[-1]


def test_among_what_is_kept_little_is_without_effect() -> None:
    """Twenty campaigns of z-tests, a tenth with an effect: the share of false keeps, averaged."""
    draw, shares = random.Random(5), []
    for _ in range(20):
        kept: list[int] = []
        false = 0
        for number in range(1, 301):
            effect = 5.0 if draw.random() < 0.1 else 0.0
            p_value = _tail(draw.gauss(effect, 1.0))
            if p_value <= level_of_comparison(number, kept, 0.1):
                kept.append(number)
                false += effect == 0.0
        shares.append(false / max(1, len(kept)))
        assert len(kept) > 10
    assert sum(shares) / len(shares) <= 0.1


def _tail(z: float) -> float:
    from statistics import NormalDist

    return 1 - NormalDist().cdf(z)
