"""Grants itself a budget of an hour."""

import prepare

EXPECTED = "timed_out", "had not asked to be evaluated .* of its budget of 0.2 s|into its budget of 0.2 s"
SETTINGS = {"budget_s": 0.2}
PATCHES = {"autohyp.execution.charging.MIN_TOLERANCE_S": 0.1}

prepare.TIME_BUDGET = 3600.0
clock = prepare.TrainingClock()
clock.start()
while not clock.expired:
    pass
