"""Tries to set its clock back by a second start event."""

import time

import kit

import prepare

EXPECTED = "invalid|timed_out", "its budget is 0.2 s|into its budget of 0.2 s"
SETTINGS = {"budget_s": 0.2}

kit.train()
time.sleep(1.4)
prepare.TrainingClock().start()
kit.evaluate()
