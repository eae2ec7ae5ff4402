"""Who used the processor: the CPU time of every process of a campaign, sampled while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

__all__ = ["CpuProfile", "profiled"]

INTERVAL_S = 0.5
_OF_RAY = {"raylet": "raylet", "gcs_server": "gcs", "log_monitor": "log monitor", "dashboard": "dashboard"}


@dataclass
class CpuProfile:
    """(wall time, CPU seconds by role so far) at every sample; the roles of one kind are added up."""

    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def cores(self, begin: float, end: float) -> dict[str, float]:
        """Cores in use by role between two wall times, most first."""
        inside = [(at, used) for at, used in self.samples if begin <= at <= end]
        if len(inside) < 2:
            return {}
        (first_at, first), (last_at, last) = inside[0], inside[-1]
        used = {role: (last[role] - first.get(role, 0.0)) / (last_at - first_at) for role in last}
        return dict(sorted(used.items(), key=lambda item: -item[1]))

    def words(self, begin: float, end: float, least: float = 0.01) -> str:
        """The same as a line of text."""
        cores = {role: used for role, used in self.cores(begin, end).items() if used >= least}
        return ", ".join(f"{role} {used:.2f}" for role, used in cores.items()) + " cores"


@contextmanager
def profiled(root_pid: int) -> Iterator[CpuProfile]:
    """Sample that process and all below it until the end of the context."""
    profile, over = CpuProfile(), threading.Event()
    known: dict[int, float] = {}
    roles: dict[int, str] = {}

    def sample() -> None:
        with suppress(psutil.Error):
            root = psutil.Process(root_pid)
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    known[process.pid] = times.user + times.system
                    roles[process.pid] = "driver" if process.pid == root_pid else _role(process)
        used: dict[str, float] = {}
        for pid, cpu_s in known.items():
            used[roles[pid]] = used.get(roles[pid], 0.0) + cpu_s
        profile.samples.append((time.time(), used))

    def watch() -> None:
        while not over.wait(INTERVAL_S):
            sample()

    thread = threading.Thread(target=watch, name="cpu-profile", daemon=True)
    thread.start()
    try:
        yield profile
    finally:
        over.set()
        thread.join()


def _role(process: psutil.Process) -> str:
    """What the process is for: Ray names its workers by what they run."""
    words = process.cmdline()
    title = words[0] if words else ""
    if title.startswith("ray::"):
        return title.removeprefix("ray::").split("(")[0].split(".")[0].removesuffix("Actor") or "ray worker"
    line = " ".join(words[:4])
    return next((role for name, role in _OF_RAY.items() if name in line), "other")
