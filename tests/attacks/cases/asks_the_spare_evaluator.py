"""Turns to the second socket, at which an evaluator answers only when the first one broke."""

import os
import socket

import kit
from scripted_client import serve

EXPECTED = "timed_out", "had not asked to be evaluated"
SETTINGS = {"budget_s": 0.2}
PATCHES = {"autohyp.execution.charging.MIN_TOLERANCE_S": 0.1}

kit.train()
with socket.socket(fileno=os.dup(int(os.environ["AUTOHYP_EVAL_SPARE_FD"]))) as spare:
    kit.report("a number from the spare", serve(spare, kit.model()))
