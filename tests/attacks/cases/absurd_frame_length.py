"""Announces a frame of an exabyte, to make the evaluator reserve it."""

import os

import kit
from scripted_client import HEADER, READY

EXPECTED = "invalid", "wrong shape"

kit.train()
os.write(int(os.environ["AUTOHYP_EVAL_FD"]), HEADER.pack(b"AHY1", READY, 1 << 60))
kit.connection().recv(1)
