"""Steering a campaign that runs, from another terminal: all is real but the training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from autohyp.journal import CampaignState, read_journal, replay
from autohyp.testing.objectives import write_target

from .conftest import Campaign

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(480)]

DEADLINE_S = 60


def write_config(campaign: Campaign, **changes: dict[str, Any]) -> None:
    """Two simulated workers, runs of a second, and no limit."""
    config: dict[str, Any] = {
        "tag": "tiny",
        "profile": "cpu",
        "researchers": ["random"],
        "run": {"budget_s": 1.0, "constants": {}},
        "workers": {"count": 2},
        "simulation": {"trainer": "autohyp.testing.objectives:bowl"},
        "ray": {"dashboard": False},
    }
    campaign.folder.mkdir(parents=True, exist_ok=True)
    (campaign.folder / "campaign.yaml").write_text(yaml.safe_dump(config | changes))


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[Campaign]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUTOHYP_")}
    made = Campaign(tmp_path / "campaign", environment | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"})
    write_target(made.folder)
    write_config(made)
    yield made
    for process in made.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def state_of(campaign: Campaign) -> CampaignState:
    return replay(read_journal(campaign.root / "journal.jsonl"))


def wait_for(wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not wanted():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def start(campaign: Campaign, *arguments: str) -> subprocess.Popen[str]:
    """A driver whose first results are in."""
    process = campaign.start(*arguments)
    campaign.read_until(process, lambda line: "val_bpb" in line)
    return process


def finish(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = process.stdout.read()
    assert process.wait() == 0, said
    return said


def fill(ballast: Path) -> None:
    """Leave no byte on the disk."""
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def status(campaign: Campaign) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(campaign.run("status", "--json").stdout)
    return document


def test_stop_lets_what_runs_finish_and_resume_goes_on(simulated: Campaign) -> None:
    process = start(simulated, "run")
    done = simulated.run("stop")
    assert done.returncode == 0, done.stderr
    assert "it was stopped by" in done.stdout
    said = finish(process)
    assert "it was stopped by" in said
    state = state_of(simulated)
    assert state.stop is not None
    assert not state.in_flight
    assert state.num_begun == state.num_results, "every run that was begun has its result"
    assert state.ended is None
    assert simulated.left_behind() == []
    assert status(simulated)["standing"] == "stopped"

    resumed = start(simulated, "resume")
    wait_for(lambda: state_of(simulated).num_results > state.num_results)
    assert simulated.run("stop").returncode == 0
    finish(resumed)


def test_stop_now_gives_up_what_runs_also_during_a_stop_that_drains(simulated: Campaign) -> None:
    write_config(simulated, run={"budget_s": 600.0, "constants": {}})
    process = simulated.start("run")
    simulated.read_until(process, lambda line: "starts" in line)
    wait_for(lambda: len(state_of(simulated).in_flight) == 2)
    assert simulated.run("stop", "--no-wait").returncode == 0
    wait_for(lambda: status(simulated)["standing"] == "stopping")
    running = list(state_of(simulated).in_flight.values())
    assert len(running) == 2, "a drain gives nothing up"

    done = simulated.run("stop", "--now")
    assert done.returncode == 0, done.stderr
    finish(process)
    state = state_of(simulated)
    assert not state.in_flight
    assert state.num_results == 0
    for run in running:
        assert run.seed in state.experiments[run.experiment_id].pending_seeds, "it is run again on resume"
    assert simulated.left_behind() == []


def test_pause_starts_nothing_new_and_a_paused_campaign_that_is_stopped_resumes_unpaused(
    simulated: Campaign,
) -> None:
    process = start(simulated, "run")
    done = simulated.run("pause")
    assert done.returncode == 0, done.stderr
    assert "is paused" in done.stdout
    wait_for(lambda: not state_of(simulated).in_flight)
    before = state_of(simulated)
    assert status(simulated)["standing"] == "paused"
    assert "PAUSED" in simulated.run("status").stdout
    seen = simulated.read_until(process, lambda line: "PAUSED" in line)
    assert seen
    assert state_of(simulated).num_begun == before.num_begun, "nothing new starts"
    assert process.poll() is None, "the driver stays"

    assert simulated.run("unpause").returncode == 0
    wait_for(lambda: state_of(simulated).num_begun > before.num_begun)
    assert simulated.run("pause").returncode == 0
    wait_for(lambda: not state_of(simulated).in_flight)
    assert simulated.run("stop").returncode == 0
    finish(process)
    paused = state_of(simulated)
    assert paused.paused

    resumed = start(simulated, "resume", "--experiments", "1000")
    wait_for(lambda: state_of(simulated).num_results > paused.num_results)
    assert not state_of(simulated).paused
    assert "until 1000 experiments" in simulated.run("status").stdout
    assert simulated.run("stop", "--now").returncode == 0
    finish(resumed)


def test_a_cluster_that_does_not_answer_leaves_stop_now(simulated: Campaign) -> None:
    process = start(simulated, "run")
    servers = [child for child in psutil.Process(process.pid).children() if child.name() == "gcs_server"]
    assert len(servers) == 1
    servers[0].suspend()
    try:
        refused = simulated.run("stop")
        assert refused.returncode == 7
        assert len(refused.stderr.strip().splitlines()) == 1
        assert "autohyp stop --now" in refused.stderr
        assert simulated.run("stop", "--now", "--no-wait").returncode == 0
    finally:
        servers[0].resume()
    process.communicate()
    assert process.returncode == 130
    assert simulated.left_behind() == []


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"max_runs": 5}, "the limit of 5 runs is reached"),
        ({"max_hours": 8 / 3600}, "hours is reached"),
        ({"max_gpu_hours": 8 / 3600}, "worker hours is reached"),
        ({"max_usd": 8.0, "usd_per_gpu_hour": 3600.0}, "the limit of 8 US dollars is reached"),
    ],
)
def test_a_limit_ends_the_campaign_without_overshooting_and_says_which(
    simulated: Campaign, limit: dict[str, float], words: str
) -> None:
    write_config(simulated, limits=limit)
    done = simulated.run("run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert words in done.stdout
    state = state_of(simulated)
    assert state.ended is not None
    assert words in state.ended
    assert not state.in_flight
    assert state.num_results >= 2
    assert state.num_results <= limit.get("max_runs", 1e9)
    assert state.worker_s <= 8.0 * (2 if "max_hours" in limit else 1)

    again = simulated.run("resume")
    assert again.returncode == 4
    assert words in again.stderr
    assert "autohyp resume" in again.stderr
    more = simulated.run("resume", "--minutes", "0.1")
    assert more.returncode == 4, "a shorter session does not help"


def test_the_disk_fills_up_and_the_campaign_waits_for_room(simulated: Campaign) -> None:
    research = simulated.folder / "research"
    research.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(research)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        process = start(simulated, "run")
        ballast = research / "ballast"
        fill(ballast)
        simulated.read_until(process, lambda line: "DISK FULL" in line)
        full = state_of(simulated)
        assert process.poll() is None, "it waits"
        shown = status(simulated)
        assert shown["disk_is_full"]
        assert "DISK FULL" in simulated.run("status").stdout

        ballast.unlink()
        wait_for(lambda: state_of(simulated).num_results > full.num_results + 2)
        assert simulated.run("stop").returncode == 0
        finish(process)
        state = state_of(simulated)
        assert state.num_begun == state.num_results, "what was measured while the disk was full is not lost"
        assert simulated.run("sync").returncode == 0
    finally:
        subprocess.run(["umount", "--lazy", str(research)], check=True)


def test_a_campaign_that_was_killed_is_moved_and_renamed_and_goes_on(simulated: Campaign) -> None:
    process = start(simulated, "run")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = state_of(simulated)
    moved = simulated.folder / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(simulated.root, moved)
    for command in ("status", "report", "sync"):
        done = simulated.run(command, "--research", "elsewhere", "--tag", "renamed")
        assert done.returncode == 0, done.stderr
    done = simulated.run("resume", "--research", "elsewhere", "--minutes", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    state = replay(read_journal(moved / "journal.jsonl"))
    assert state.num_results >= before.num_results
    assert not state.in_flight
