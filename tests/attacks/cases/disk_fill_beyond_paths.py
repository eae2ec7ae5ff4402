"""Writes files so deep in folders that their paths are too long to be looked at."""

import os

import kit

EXPECTED = "crashed", "folders that cannot be measured"
SETTINGS = {"budget_s": 15.0, "limits": {"scratch_mb": 8}}

os.chdir(kit.SCRATCH)
for _ in range(20):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
for number in range(40):
    with open(str(number), "wb") as file:
        file.write(b"x" * (1 << 20))
kit.connection().recv(1)
