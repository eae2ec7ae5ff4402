"""Looks for the host's secrets in its own environment and in that of every process that it can see."""

import os
from pathlib import Path

import kit

EXPECTED = "completed", ""

SECRET = b"s3cret-of-the-host"

kit.report("own environment", [name for name, value in os.environb.items() if SECRET in value])
kit.report("first environment", SECRET in Path("/proc/self/environ").read_bytes())
for process in kit.other_processes():
    kit.attempt(f"{process}", lambda p=process: SECRET in (p / "environ").read_bytes())
kit.run()
