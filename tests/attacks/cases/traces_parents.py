"""Traces other processes, and reads and writes their memory."""

import ctypes
import os

import kit

EXPECTED = "completed", ""

PTRACE_SEIZE, PROCESS_VM_READV = 0x4206, 310
libc = ctypes.CDLL(None, use_errno=True)
# Process 1 is not of the host: the first of the run's own namespace.
for victim in {kit.BYSTANDER, kit.LAUNCHER, os.getppid()} - {1}:
    kit.report(f"trace {victim}", libc.ptrace(PTRACE_SEIZE, victim, None, None) == 0)
    kit.report(f"read {victim}", libc.syscall(PROCESS_VM_READV, victim, None, 0, None, 0, 0) >= 0)
    for name in ("mem", "maps", "environ"):
        path = f"/proc/{victim}/{name}"
        kit.attempt(path, lambda path=path: os.open(path, os.O_RDONLY))
    kit.attempt(f"take from {victim}", lambda v=victim: libc.syscall(438, os.pidfd_open(v), 0, 0) >= 0)
kit.run()
