"""Starts threads instead of processes."""

import signal
import threading

EXPECTED = "crashed", "processes and threads; the limit is 30"
SETTINGS = {"budget_s": 15.0, "limits": {"processes": 30}}

for _ in range(100):
    threading.Thread(target=signal.sigwait, args=({signal.SIGUSR1},), daemon=True).start()
signal.pause()
