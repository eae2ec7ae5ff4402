"""Asks to be measured and hangs at the first question."""

import signal

import kit
from scripted_client import READY, dump, send

EXPECTED = "timed_out", "the evaluation was not finished within 0.3 s"
SETTINGS = {"evaluation_timeout_s": 0.3}

kit.train()
send(kit.connection(), READY, dump(dtype="float32", device="cpu", device_batch_size=4))
signal.pause()
