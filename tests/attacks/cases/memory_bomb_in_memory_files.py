"""Takes memory that is mapped nowhere: files that exist in memory only."""

import os
import signal

EXPECTED = "crashed", "MB of memory; the limit is 100 MB"
SETTINGS = {"budget_s": 15.0, "limits": {"memory_mb": 100}}

for _ in range(20):
    os.write(os.memfd_create("bomb"), b"x" * (20 << 20))
signal.pause()
