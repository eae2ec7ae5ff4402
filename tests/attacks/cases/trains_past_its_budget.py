"""Trains on after its budget, then asks to be evaluated as if nothing had happened."""

import time

import kit

EXPECTED = "invalid|timed_out", "its budget is 0.2 s|into its budget of 0.2 s"
SETTINGS = {"budget_s": 0.2}

kit.train()
time.sleep(1.4)
kit.run()
