"""Processes that a Ray session left behind, and the keeper that ends them.

A cluster of our own must not outlive its driver, however that dies: after a SIGKILL Ray's agents stay for
ever. So before the driver starts Ray it starts a keeper, `python -m autohyp.cluster.leftovers MARK`, which
reads a pipe from it. At the pipe's end, which comes with the driver's, it ends every process of that cluster,
removes its session's folder and is gone. What the keeper could not do, because somebody killed it too, the
next session does (`sweep`).

The keeper knows the cluster's processes by the mark that the driver had in its environment when Ray started,
which they inherit; from the moment when the driver tells it the session's folder, by that too. A process
belongs to a Ray session when it is Ray's and has the session's folder on its command line or a file of it
open, or descends from such a process; those of other sessions, and people who read a log, are never touched.
Not covered: other machines, whose raylets end by themselves.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from autohyp.agents.driver import driver_facts, driver_process
from autohyp.paths import CampaignPaths

__all__ = ["MARK", "end_cluster", "end_session_processes", "keeper", "session_processes", "sweep"]

MARK = "AUTOHYP_CLUSTER"
"""The variable that marks the processes of a cluster that this process starts."""
DEADLINE_S = 30.0
QUIET_S = 1.0
"""How long nothing may be found before all counts as ended: somebody may just be starting a process."""

KEEP = "keep"
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
    return _end_all(lambda: session_processes(session_dir))


def end_cluster(mark: str, session_dir: str = "", *, keeps_folder: bool = False) -> None:
    """End what carries the mark or belongs to the session, and remove the session's folder."""
    folders = {session_dir} - {""}

    def find() -> list[psutil.Process]:
        marked = _marked_processes(mark)
        folders.update(_session_folders(marked))
        return marked + (session_processes(session_dir) if session_dir else [])

    if _end_all(find) and not keeps_folder:
        for folder in folders:
            _remove_folder(folder)


def _end_all(find: Callable[[], list[psutil.Process]]) -> bool:
    deadline_s = time.monotonic() + DEADLINE_S
    quiet_since_s = time.monotonic()
    while time.monotonic() < deadline_s:
        processes = find()
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
def keeper() -> Iterator[Callable[[str], None]]:
    """Have a keeper for the cluster that is started in the body, and wait for what it does at the end.

    Gives the function that tells it the session's folder. An error keeps that folder, with Ray's logs; an
    interrupt is no error.
    """
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "autohyp.cluster.leftovers", mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(PACKAGE_ROOT)},
    )
    pipe = process.stdin
    assert pipe is not None

    def tell(line: str) -> None:
        with suppress(OSError):
            pipe.write(f"{line}\n".encode())
            pipe.flush()

    os.environ[MARK] = mark
    try:
        yield tell
    except Exception:
        tell(KEEP)
        raise
    finally:
        del os.environ[MARK]
        with suppress(OSError):
            pipe.close()
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
    if SESSION_NAME.fullmatch(Path(session_dir).name) and end_session_processes(session_dir):
        _remove_folder(session_dir)


def _marked_processes(mark: str) -> list[psutil.Process]:
    """Every living process that carries the mark, but for the caller and its ancestors."""
    spared, wanted = _own_line(), f"{MARK}={mark}".encode()
    found = []
    for process in psutil.process_iter():
        with suppress(OSError):  # it is gone, or another user's
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if process.pid not in spared and wanted in environment and _is_alive(process):
                found.append(process)
    return found


def _session_folders(processes: Iterable[psutil.Process]) -> set[str]:
    """The folders of Ray sessions that stand on their command lines."""
    words: list[str] = []
    for process in processes:
        with suppress(psutil.Error):
            words += process.cmdline()
    return {found[0] for word in words for found in SESSION_FOLDER.finditer(word)}


def _remove_folder(session_dir: str) -> None:
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
    told = sys.stdin.read().splitlines()
    session_dir = next((line for line in told if line != KEEP), "")
    end_cluster(sys.argv[1], session_dir, keeps_folder=KEEP in told)


if __name__ == "__main__":
    _main()
