"""What a run is charged, by a clock that the test moves."""

from __future__ import annotations

import pytest

from autohyp.execution.charging import BudgetClock


def clock() -> BudgetClock:
    return BudgetClock(launched_s=100.0, budget_s=30.0, startup_allowance_s=10.0)


def test_training_is_charged_from_start_to_evaluation() -> None:
    run = clock()
    run.start(104.0)
    run.stop(133.5)
    assert run.startup_s(140.0) == 4.0
    assert run.charged_s(140.0) == 29.5
    assert not run.is_over(run.charged_s(140.0))


@pytest.mark.parametrize("start_s", [None, 125.0])
def test_a_late_or_missing_start_gains_the_allowance_only(start_s: float | None) -> None:
    run = clock()
    if start_s:
        run.start(start_s)
    assert run.charged_s(109.0) == 0.0
    assert not run.is_training(109.0)
    assert run.is_training(110.0)
    assert run.charged_s(141.5) == 31.5
    assert run.is_over(31.5)


def test_only_the_first_start_and_stop_count() -> None:
    run = clock()
    for now_s in (103.0, 120.0):
        run.start(now_s)
    for now_s in (130.0, 131.0):
        run.stop(now_s)
    assert run.charged_s(140.0) == 27.0
    assert not run.is_training(140.0)


def test_an_evaluation_without_training_costs_nothing() -> None:
    run = clock()
    run.stop(102.0)
    assert run.charged_s(102.0) == 0.0
    assert run.startup_s(102.0) == 2.0


def test_tolerance_is_a_second_or_two_per_cent() -> None:
    assert clock().tolerance_s == 1.0
    assert clock().kill_at_s == 142.0
    assert BudgetClock(0.0, 300.0, 180.0).tolerance_s == 6.0
