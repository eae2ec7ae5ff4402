"""Keeps the evaluator waiting within a frame, a byte at a time, and reads nothing."""

import os
import time

import kit

EXPECTED = "timed_out", "had not asked to be evaluated"
SETTINGS = {"budget_s": 0.2}
PATCHES = {"autohyp.execution.charging.MIN_TOLERANCE_S": 0.1}

kit.train()
for byte in b"AHY1\1\0\0\0\377\0\0":
    os.write(int(os.environ["AUTOHYP_EVAL_FD"]), bytes([byte]))
    time.sleep(0.2)
