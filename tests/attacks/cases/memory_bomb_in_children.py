"""Spreads what it takes over children, each of them below the limit."""

import os
import signal

EXPECTED = "crashed", "MB of memory; the limit is 150 MB"
SETTINGS = {"budget_s": 15.0, "limits": {"memory_mb": 150}}

for _ in range(4):
    if os.fork() == 0:
        taken = b"x" * (60 << 20)
        signal.pause()
signal.pause()
