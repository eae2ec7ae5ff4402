"""Replaces the time of its own process, and stops it through the kernel where it may."""

import time

import kit

import prepare

EXPECTED = "timed_out", "had not asked to be evaluated"
SETTINGS = {"budget_s": 0.2}
PATCHES = {"autohyp.execution.charging.MIN_TOLERANCE_S": 0.1}

kit.attempt("set the clock", lambda: time.clock_settime(time.CLOCK_REALTIME, 0) or True)
time.monotonic = lambda: 0.0
clock = prepare.TrainingClock()
clock.start()
while not clock.expired:
    pass
