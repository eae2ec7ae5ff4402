"""Takes memory in System V segments and lets go of them: they stay, in nobody's account."""

import ctypes

import kit

EXPECTED = "completed", ""
SETTINGS = {"limits": {"memory_mb": 300}}

libc = ctypes.CDLL(None, use_errno=True)
kit.report("a segment", libc.shmget(0, 4096, 0o1600) >= 0)
kit.run()
