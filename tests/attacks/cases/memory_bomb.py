"""Takes memory until somebody is killed."""

EXPECTED = "crashed", "MB of memory; the limit is 150 MB|MemoryError"
SETTINGS = {"budget_s": 15.0, "limits": {"memory_mb": 150}}

taken = []
while True:
    taken.append(b"x" * (10 << 20))
