"""Calls its training a warm-up and starts the clock after it: beyond the allowance that is charged."""

import time

import kit

EXPECTED = "invalid|timed_out", "its budget is 0.2 s|into its budget of 0.2 s"
SETTINGS = {"budget_s": 0.2, "startup_allowance_s": 0.1}

time.sleep(1.6)
kit.run()
