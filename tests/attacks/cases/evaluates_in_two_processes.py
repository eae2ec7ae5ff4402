"""Lets two processes ask for the measurement over the same socket."""

import os

import kit
from scripted_client import READY, dump, send

EXPECTED = "invalid", "kind 1 where"

kit.train()
ready = dump(dtype="float32", device="cpu", device_batch_size=4)
for _ in range(2):
    child = os.fork()
    if child == 0:
        send(kit.connection(), READY, ready)
        os._exit(0)
    os.waitpid(child, 0)
