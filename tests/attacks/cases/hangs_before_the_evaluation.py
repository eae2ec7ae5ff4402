"""Trains, then hangs silently."""

import signal

import kit

EXPECTED = "timed_out", "had not asked to be evaluated"
SETTINGS = {"budget_s": 0.2}
PATCHES = {"autohyp.execution.charging.MIN_TOLERANCE_S": 0.1}

kit.train()
signal.pause()
