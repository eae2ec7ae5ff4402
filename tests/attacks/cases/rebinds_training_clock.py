"""Trains by a clock that stands still."""

import prepare

EXPECTED = "timed_out", "had not asked to be evaluated"
SETTINGS = {"budget_s": 0.2}
PATCHES = {"autohyp.execution.charging.MIN_TOLERANCE_S": 0.1}


class Stopped(prepare.TrainingClock):
    elapsed_s = 0.0


prepare.TrainingClock = Stopped
clock = prepare.TrainingClock()
clock.start()
while not clock.expired:
    pass
