"""Sends the launcher events without end, absurd ones among them, before it is measured honestly."""

import os

import kit

EXPECTED = "completed", ""

ODD = b'{"event":"step","step":1e400,"loss":NaN}\n{"event":["start"]}\n[1]\n\xff\n{"event":"result"}\n'

kit.train()
for _ in range(40):
    os.write(int(os.environ["AUTOHYP_CLOCK_FD"]), ODD * 100 + b"[" * 70_000 + b"\n")
kit.summary(kit.evaluate())
