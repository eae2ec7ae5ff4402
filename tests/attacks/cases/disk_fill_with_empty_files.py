"""Makes empty files, which take no space but use up the disk's inodes."""

import signal

import kit

EXPECTED = "crashed", "MB of files; the limit is 8 MB"
SETTINGS = {"budget_s": 15.0, "limits": {"scratch_mb": 8}}

for number in range(3000):
    (kit.SCRATCH / str(number)).touch()
signal.pause()
