"""Ends with exit code 0 in the middle of training and says nothing."""

import os

import kit

EXPECTED = "crashed", "ended without asking to be evaluated"

kit.train()
os._exit(0)
