"""Writes files, removes their names and holds them open."""

import os
import signal

import kit

EXPECTED = "crashed", "MB of files; the limit is 8 MB"
SETTINGS = {"budget_s": 15.0, "limits": {"scratch_mb": 8}}

held = []
for _ in range(40):
    file = open(kit.SCRATCH / "nameless", "wb")  # noqa: SIM115
    file.write(b"x" * (1 << 20))
    file.flush()
    os.unlink(kit.SCRATCH / "nameless")
    held.append(file)
signal.pause()
