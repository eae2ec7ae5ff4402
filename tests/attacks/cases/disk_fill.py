"""Writes files until the disk is full."""

import kit

EXPECTED = "crashed", "MB of files; the limit is 8 MB"
SETTINGS = {"budget_s": 15.0, "limits": {"scratch_mb": 8}}

for number in range(100):
    (kit.SCRATCH / str(number)).write_bytes(b"x" * (1 << 20))
kit.connection().recv(1)
