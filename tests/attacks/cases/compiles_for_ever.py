"""Hangs silently in what it calls compilation, and never starts its clock."""

import signal

EXPECTED = "timed_out", "had not asked to be evaluated"
SETTINGS = {"budget_s": 0.2, "startup_allowance_s": 0.2}
PATCHES = {"autohyp.execution.charging.MIN_TOLERANCE_S": 0.1}

signal.pause()
