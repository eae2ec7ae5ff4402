"""Leaves a daemon behind that goes on training when the run has ended."""

import os
import signal

import kit

EXPECTED = "completed", ""

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass
    os._exit(0)
os.wait()
kit.run()
