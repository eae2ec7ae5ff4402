"""Changes settings of the kernel that run programs for it outside."""

import os

import kit

EXPECTED = "completed", ""

PATHS = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper",
    "/sys/fs/cgroup/cgroup.procs",
)

for path in PATHS:
    kit.attempt(path, lambda path=path: os.open(path, os.O_WRONLY))
kit.run()
