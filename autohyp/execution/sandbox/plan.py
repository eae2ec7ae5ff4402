"""What the launching process tells the supervisor, and how the two talk.

Plan and reports travel as `marshal` data between two processes of ours that run the same
interpreter; nothing sandboxed can reach either channel. (`json` would cost the supervisor 15 ms of
imports.) Imported by the supervisor of every run, so it imports little.
"""

from __future__ import annotations

import marshal
import os

__all__ = ["ENDED", "FAILED", "STARTED", "LandlockRules", "Plan", "decode_reports", "encode_report"]

STARTED, FAILED, ENDED = "started", "failed", "ended"

LandlockRules = list[tuple[str, int]]
"""(path, allowed rights): see `kernel.Access`."""


class Plan:
    """One launch, fully worked out."""

    __slots__ = (
        "command",
        "cwd",
        "environment",
        "landlock_abi",
        "landlock_rules",
        "memory_mb",
        "parent_pid",
        "pass_fds",
        "processes",
        "rlimits",
        "scratch_mb",
        "status_fds",
        "stdout_fd",
        "writable",
    )

    def __init__(
        self,
        *,
        command: list[str],
        cwd: str,
        environment: dict[str, str],
        stdout_fd: int,
        pass_fds: list[int],
        parent_pid: int,
        rlimits: list[tuple[int, int]],
        memory_mb: int | None,
        processes: int | None,
        scratch_mb: int | None,
        writable: list[str],
        landlock_abi: int = 0,
        landlock_rules: LandlockRules | None = None,
        status_fds: tuple[int, int] | None = None,
    ) -> None:
        self.command = command
        self.cwd = cwd
        self.environment = environment
        self.stdout_fd = stdout_fd
        self.pass_fds = pass_fds
        self.parent_pid = parent_pid
        self.rlimits = rlimits
        """(resource, bound) pairs for `setrlimit`."""
        self.memory_mb = memory_mb
        self.processes = processes
        self.scratch_mb = scratch_mb
        self.writable = writable
        self.landlock_abi = landlock_abi
        """0 when the command confines itself (bubblewrap) or is not confined."""
        self.landlock_rules = landlock_rules or []
        self.status_fds = status_fds
        """Read and write end of the pipe that bubblewrap reports on."""

    def to_bytes(self) -> bytes:
        """The plan as the supervisor reads it."""
        return marshal.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def from_fd(cls, descriptor: int) -> Plan:
        """Read a plan from the start of an open file."""
        size = os.fstat(descriptor).st_size
        return cls(**marshal.loads(os.pread(descriptor, size, 0)))


def encode_report(kind: str, **values: object) -> bytes:
    """One report as a length-prefixed frame."""
    body = marshal.dumps({"kind": kind, **values})
    return len(body).to_bytes(4, "little") + body


def decode_reports(received: bytes) -> list[dict[str, object]]:
    """The complete reports in what has been received so far."""
    reports = []
    while len(received) >= 4:
        end = 4 + int.from_bytes(received[:4], "little")
        if len(received) < end:
            break
        reports.append(marshal.loads(received[4:end]))
        received = received[end:]
    return reports
