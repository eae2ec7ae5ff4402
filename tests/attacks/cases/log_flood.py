"""Prints without end."""

import os

EXPECTED = "crashed", "printed more than"
SETTINGS = {"budget_s": 15.0, "log_limit_bytes": 100_000}

while True:
    os.write(1, b"\x1b[31mnoise\x00" * 4096)
