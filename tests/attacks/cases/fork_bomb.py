"""Doubles itself again and again (to a depth that spares the host, should it not be stopped)."""

import os
import signal

EXPECTED = "crashed", "processes and threads; the limit is 30"
SETTINGS = {"budget_s": 15.0, "limits": {"processes": 30}}

for _ in range(7):
    os.fork()
os.setsid() if os.getpid() != os.getsid(0) else None
signal.pause()
