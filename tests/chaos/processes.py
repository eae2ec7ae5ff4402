"""Finds the processes of one campaign by the part they play, kills them, and sees what is left of them.

Ray overwrites its workers' command lines and environments with their titles, so a process belongs to a lane
when it works in the lane's folder, names it in its command line, or descends from one that does. No other
process is ever touched; one is killed only while it is still the one that was found (pid and start time).
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Found", "Herd", "Part", "kill"]


class Part:
    """The parts that are killed."""

    TRAINING = "training process"
    EVALUATOR = "evaluator"
    SANDBOX = "sandbox"
    WORKER = "worker"
    OBSERVER = "observer"
    SCRIBE = "scribe"
    TOOL_BUILDER = "tool builder"
    LEDGER = "ledger"
    NODE = "worker node's raylet"
    DRIVER = "driver"
    HEAD = "head"
    GCS = "head's gcs"


@dataclass(frozen=True)
class Found:
    """A living process of the lane, as it looked when it was found."""

    process: psutil.Process
    parent_pid: int
    words: tuple[str, ...]

    @property
    def title(self) -> str:
        return " ".join(self.words)

    def runs(self, program: str) -> bool:
        return bool(self.words) and os.path.basename(self.words[0]) == program


def _is_role(*names: str) -> Callable[[Found], bool]:
    """Ray's title of an actor's process: `ray::LedgerActor.append`, at first `ray::ledger:LedgerActor.x`."""
    pattern = re.compile(rf"ray::(\S+:)?({'|'.join(names)})(Actor|\b)")
    return lambda found: pattern.match(found.title) is not None


_BY_TITLE: dict[str, Callable[[Found], bool]] = {
    Part.LEDGER: _is_role("Ledger"),
    Part.OBSERVER: _is_role("Observer"),
    Part.SCRIBE: _is_role("Scribe"),
    Part.TOOL_BUILDER: _is_role("ToolBuilder"),
    Part.WORKER: _is_role("Worker", "SimulatedWorkers"),
    Part.EVALUATOR: lambda found: "autohyp.execution.evaluator" in found.words,
    Part.TRAINING: lambda found: found.words[-1:] == ("train.py",) and "bwrap" not in found.title,
    Part.SANDBOX: lambda found: found.runs("bwrap"),
    Part.NODE: lambda found: found.runs("raylet") and "--head" not in found.words,
    Part.GCS: lambda found: found.runs("gcs_server"),
}


class Herd:
    """All processes of a lane: those that work in `folder` but for `own`, the harness's helpers."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._seen: dict[psutil.Process, str] = {}
        self.own: set[int] = {os.getpid()}

    def look(self) -> list[Found]:
        """The lane's processes now; each is remembered until it is gone."""
        everyone = {found.process.pid: found for found in _all_processes()}
        known = {process.pid for process in self._seen}
        members: dict[int, bool] = {}

        def belongs(pid: int) -> bool:
            if pid not in members:
                members[pid] = False  # a loop cannot happen, a reused pid might make one
                found = everyone.get(pid)
                members[pid] = found is not None and (
                    (pid in known and found.process in self._seen)
                    or self._works_here(found)
                    or belongs(found.parent_pid)
                )
            return members[pid]

        present = [found for pid, found in everyone.items() if pid not in self.own and belongs(pid)]
        for found in present:
            self._seen[found.process] = found.title[:160]
        return present

    def of(self, part: str) -> list[list[Found]]:
        """Each thing of this kind that could be killed, as the processes that make it up."""
        present = self.look()
        if part == Part.HEAD:
            rays = [f for f in present if f.title.startswith("ray::") or "/ray/" in f.title]
            # The driver's keeper names the session's folder, and is what ends the rest of it.
            whole = [f for f in rays if "autohyp.cluster.leftovers" not in f.words]
            return [whole] if any(_BY_TITLE[Part.GCS](found) for found in whole) else []
        chosen = [found for found in present if _BY_TITLE[part](found)]
        if part == Part.SANDBOX:  # bwrap's own child is bwrap too: with the outer one both must go
            outer = {found.process.pid for found in chosen}
            chosen = [found for found in chosen if found.parent_pid not in outer]
        return [[found] for found in chosen]

    def left(self) -> dict[psutil.Process, str]:
        """What is still alive of all that was ever seen, and of what is there now."""
        self.look()
        self._seen = {process: title for process, title in self._seen.items() if _is_alive(process)}
        return {process: title for process, title in self._seen.items() if process.pid not in self.own}

    def wait_gone(self, timeout_s: float, ended_by_us: tuple[str, ...] = ()) -> dict[psutil.Process, str]:
        """Wait until everything is gone, ending whatever has a title that begins so; returns what is not."""
        deadline = time.monotonic() + timeout_s
        while (left := self.left()) and time.monotonic() < deadline:
            kill(found for found in self.look() if found.title.startswith(ended_by_us))
            time.sleep(0.1)
        return left

    def _works_here(self, found: Found) -> bool:
        if self._folder in found.title:
            return True
        with suppress(OSError):
            return os.readlink(f"/proc/{found.process.pid}/cwd").startswith(self._folder)
        return False


def kill(victims: Iterable[Found]) -> list[int]:
    """SIGKILL; returns the pids that were still there."""
    killed = []
    for found in victims:
        with suppress(psutil.Error):
            if _is_alive(found.process):
                found.process.send_signal(signal.SIGKILL)
                killed.append(found.process.pid)
    return killed


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _all_processes() -> list[Found]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                words = tuple(word for word in process.cmdline() if word)
                found.append(Found(process, process.ppid(), words))
    return found
