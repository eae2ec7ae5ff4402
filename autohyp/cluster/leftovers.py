"""Processes that a Ray session left behind, and the keeper that ends them.

A cluster of our own must not outlive its driver, however that dies: after a SIGKILL Ray's agents stay for
ever. So the driver starts a keeper, `python -m autohyp.cluster.leftovers SESSION_DIR`, which reads a pipe
from it. At the pipe's end, which comes with the driver's, it ends every process of that Ray session, removes
the session's folder and is gone. What the keeper could not do, because somebody killed it too, the next
session does (`sweep`). A process belongs to a Ray session when it is Ray's and has the session's folder on
its command line or a file of it open, or descends from such a process; those of other sessions, and people
who read a log, are never touched. Not covered: other machines, whose raylets end by themselves.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from autohyp.agents.driver import driver_facts, driver_process
from autohyp.paths import CampaignPaths

__all__ = ["clear_session", "end_session_processes", "keeper", "own_sessions", "session_processes", "sweep"]

DEADLINE_S = 30.0
QUIET_S = 1.0
"""How long nothing may be found before all counts as ended: somebody may just be starting a process."""

KEEP = b"k"
RAY_NAMES = ("ray", "gcs_server")
SESSION_NAME = re.compile(r"session_\d{4}-\d\d-\d\d_.+")
SESSION_FOLDER = re.compile(r"/[^=]*?/session_\d{4}-\d\d-\d\d_[\w-]+")
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def session_processes(session_dir: str) -> list[psutil.Process]:
    """Every living process of the Ray session with this folder, but for the caller and its ancestors."""
    spared = _own_line()
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid not in spared and process.pid not in found and _belongs(process.pid, session_dir):
            found[process.pid] = process
            with suppress(psutil.Error):
                found |= {child.pid: child for child in process.children(recursive=True)}
    return [process for pid, process in found.items() if pid not in spared and _is_alive(process)]


def end_session_processes(session_dir: str) -> bool:
    """Kill them until none is found any more; False when some would not end."""
    deadline_s = time.monotonic() + DEADLINE_S
    quiet_since_s = time.monotonic()
    while time.monotonic() < deadline_s:
        processes = session_processes(session_dir)
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        if processes:
            psutil.wait_procs(processes, timeout=1)
            quiet_since_s = time.monotonic()
        elif time.monotonic() - quiet_since_s >= QUIET_S:
            return True
        time.sleep(0.1)
    return False


@contextmanager
def keeper(session_dir: str) -> Iterator[None]:
    """Have a keeper for the Ray session while the body runs, and wait for what it does at the end.

    An error keeps the session's folder, with Ray's logs; an interrupt is no error.
    """
    command = [sys.executable, "-m", "autohyp.cluster.leftovers", session_dir]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(PACKAGE_ROOT)},
    )
    assert process.stdin is not None
    try:
        yield
    except Exception:
        with suppress(OSError):
            process.stdin.write(KEEP)
        raise
    finally:
        with suppress(OSError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(DEADLINE_S)


def sweep(paths: CampaignPaths) -> None:
    """End what the campaign's last session left on this machine, if it was the only one on its cluster.

    Called by who drives the campaign next, before live/driver.json says so.
    """
    facts = driver_facts(paths)
    if facts is None or facts["host"] != socket.gethostname() or driver_process(paths) is not None:
        return
    session_dir = str(facts.get("session_dir") or "")
    if SESSION_NAME.fullmatch(Path(session_dir).name):
        clear_session(session_dir)


def own_sessions() -> set[str]:
    """The folders of the Ray sessions whose processes descend from this one."""
    words: list[str] = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            words += child.cmdline()
    return {found[0] for word in words for found in SESSION_FOLDER.finditer(word)}


def clear_session(session_dir: str) -> None:
    """End the session's processes and remove its folder."""
    if end_session_processes(session_dir):
        shutil.rmtree(session_dir, ignore_errors=True)
        latest = Path(session_dir).parent / "session_latest"
        with suppress(OSError):
            if latest.readlink().name == Path(session_dir).name:
                latest.unlink()


def _own_line() -> set[int]:
    """This process and its ancestors, as far as they live: a keeper asks just when its driver dies."""
    line: set[int] = set()
    process: psutil.Process | None = psutil.Process()
    with suppress(psutil.NoSuchProcess):
        while process is not None:
            line.add(process.pid)
            process = process.parent()
    return line


def _belongs(pid: int, session_dir: str) -> bool:
    """Whether it is one of Ray's and has the session's folder on its command line, or a file of it open."""
    process = Path("/proc") / str(pid)
    try:
        name = process.joinpath("comm").read_text(errors="replace")
        words = process.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
        if not name.startswith(RAY_NAMES) and not any("/ray/" in word for word in words[:4]):
            return False
        if any(_names(word, session_dir) for word in words):
            return True
        return any(_names(os.readlink(link), session_dir) for link in process.joinpath("fd").iterdir())
    except OSError:  # it is gone, or another user's
        return False


def _names(text: str, session_dir: str) -> bool:
    """Whether the folder or something in it is named; `/x/session_1` is not within `/x/session_12`."""
    return re.search(re.escape(session_dir.rstrip("/")) + r"(?![\w.-])", text) is not None


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _main() -> None:
    """The keeper: wait for the pipe's end, then clear up."""
    session_dir = sys.argv[1]
    if sys.stdin.buffer.read() == KEEP:
        end_session_processes(session_dir)
    else:
        clear_session(session_dir)


if __name__ == "__main__":
    _main()
