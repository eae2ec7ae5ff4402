"""Ends and stops its parents, the launcher and a bystander."""

import os
import signal

import kit

EXPECTED = "completed", ""

for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
    kit.attempt(f"signal {number}", lambda number=number: os.kill(kit.BYSTANDER, number) or True)
# The launcher runs the tests, so the mere right to send it a signal is taken for success.
kit.attempt("signal the launcher", lambda: os.kill(kit.LAUNCHER, signal.SIGCONT) or True)
try:  # in a namespace of its own this is the first process there, which nothing inside can end
    os.kill(os.getppid(), signal.SIGKILL)
except OSError as error:
    print(error)
kit.run()
