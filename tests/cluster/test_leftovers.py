"""What is ended and removed of a Ray session, whatever happens meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from autohyp.cluster.leftovers import end_session_processes, keeper, session_processes
from autohyp.cluster.session import _connect


def test_an_ancestor_that_ends_while_it_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before, the keeper failed here when its driver died between two looks at it."""
    parent_of = psutil.Process.parent

    def parent(process: psutil.Process) -> psutil.Process | None:
        if process.pid != os.getpid():
            raise psutil.NoSuchProcess(process.pid)
        return parent_of(process)

    monkeypatch.setattr(psutil.Process, "parent", parent)
    session = str(tmp_path / "session_2026-01-01_00-00-00_0_0")
    assert session_processes(session) == []
    assert end_session_processes(session)


def test_nothing_is_left_of_an_attempt_to_start_ray_that_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "ray" / "session_2026-01-01_00-00-00_000000_1"
    started: list[subprocess.Popen[bytes]] = []

    def start(**_: object) -> str:
        if started:
            return "a context"
        folder.mkdir(parents=True)
        command = [sys.executable, "-c", "import time; time.sleep(600)", "/ray/", f"--logs={folder}/logs"]
        started.append(subprocess.Popen(command))
        raise ConnectionError("the node timed out")

    monkeypatch.setattr("ray.init", start)
    with keeper():
        assert _connect(2) == "a context"
    [process] = started
    assert not psutil.pid_exists(process.pid)
    process.wait()
    assert not folder.exists()


_STARTS_A_CLUSTER = """
import subprocess, sys
from autohyp.cluster.leftovers import keeper
with keeper():
    agent = "import sys, time; print('here', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", agent, "/ray/", "--logs=" + sys.argv[1] + "/logs"])
    process.wait()
"""


def test_a_driver_that_is_killed_while_ray_starts_leaves_nothing(tmp_path: Path) -> None:
    """Before, the keeper came after Ray: what had been started by then stayed for ever."""
    folder = tmp_path / "ray" / "session_2026-01-01_00-00-00_000000_1"
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", _STARTS_A_CLUSTER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "here\n"
        followers = psutil.Process(driver.pid).children()
        assert len(followers) == 2
        driver.kill()
    _, alive = psutil.wait_procs(followers, timeout=60)
    assert alive == []
    assert not folder.exists()
