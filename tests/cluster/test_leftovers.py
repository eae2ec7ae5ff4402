"""What is ended and removed of a Ray session, whatever happens meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from autohyp.agents.ledger import Ledger, Request
from autohyp.cli.run import _record_lost_end
from autohyp.cluster import session as session_module
from autohyp.cluster.leftovers import end_session_processes, keeper, session_processes
from autohyp.cluster.session import _connect
from autohyp.execution.workspace import Workspace
from autohyp.journal import CampaignState, Draft, read_journal, replay
from autohyp.journal.events import CampaignEnded
from autohyp.paths import CampaignPaths
from autohyp.testing.campaigns import CampaignShape, write_campaign


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


@pytest.fixture
def lost(tmp_path: Path) -> CampaignPaths:
    """A campaign that is over, whose session lost its cluster before its end was recorded."""
    paths = write_campaign(tmp_path, CampaignShape(3, num_running=0))
    Workspace.create(paths.repository, {"train.py": "A = 1\n"}, "target")[0].close()
    ledger = Ledger(paths)
    ledger.commit([Request([Draft("end", CampaignEnded(reason="the limit is reached"))])])
    ledger.close()
    paths.live_workers.mkdir(parents=True)
    (paths.live_workers / "worker-0.json").write_text("{}")
    return paths


def state_of(paths: CampaignPaths) -> CampaignState:
    return replay(read_journal(paths.journal))


def test_the_end_is_recorded_once_the_lost_clusters_ledger_is_gone(lost: CampaignPaths) -> None:
    holds = (
        "import sys; from pathlib import Path; from autohyp.journal.segments import take_lock;"
        "take_lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holds, str(lost.journal)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ledger:
        assert ledger.stdout is not None
        assert ledger.stdout.readline() == "held\n"
        recording = threading.Thread(target=_record_lost_end, args=[lost, state_of(lost)])
        recording.start()
        ledger.communicate()
        recording.join()
    assert state_of(lost).sessions[-1].end_reason == "the limit is reached"
    assert not lost.live_workers.exists()
    num_entries = state_of(lost).version
    _record_lost_end(lost, state_of(lost))
    assert state_of(lost).version == num_entries


def test_a_ledger_that_does_not_go_is_left_to_the_next_session(
    lost: CampaignPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session_module, "LOST_TIMEOUT_S", 0.0)
    ledger = Ledger(lost)
    _record_lost_end(lost, state_of(lost))
    ledger.close()
    assert "the session's end could not be recorded" in capsys.readouterr().err
    assert state_of(lost).sessions[-1].end_reason == ""
    assert (lost.live_workers / "worker-0.json").exists()
