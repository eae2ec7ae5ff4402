"""Real kills of every part of a session: what was acknowledged stays, it goes on, and nothing is left."""

from __future__ import annotations

import json
import os
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

from autohyp.cluster.leftovers import session_processes
from autohyp.journal import CampaignState, read_journal, replay
from autohyp.journal.events import RunLost
from autohyp.records import RunResult, RunStatus
from autohyp.testing.objectives import write_target

from .conftest import Campaign

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

DEADLINE_S = 120.0


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[Campaign]:
    """All is real but the training; two workers, each in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUTOHYP_")}
    made = Campaign(tmp_path / "campaign", environment | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"})
    write_target(made.folder)
    config: dict[str, Any] = {
        "tag": "tiny",
        "profile": "cpu",
        "researchers": ["random"],
        "run": {"budget_s": 1.0, "constants": {}},
        "workers": {"count": 2, "max_faults": 9},
        "simulation": {"trainer": "autohyp.testing.objectives:bowl", "workers_per_process": 1},
        "ray": {"dashboard": False},
    }
    (made.folder / "campaign.yaml").write_text(yaml.safe_dump(config))
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def entries_of(campaign: Campaign) -> list[Any]:
    return list(read_journal(campaign.root / "journal.jsonl"))


def state_of(campaign: Campaign) -> CampaignState:
    return replay(entries_of(campaign))


def results_of(state: CampaignState) -> list[RunResult]:
    return [result for entry in state.experiments.values() for result in entry.results]


def wait_for(wanted: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """What a condition gives once it holds."""
    deadline = time.monotonic() + deadline_s
    while not (found := wanted()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


def role_of(driver: subprocess.Popen[str], title: str) -> psutil.Process | None:
    """The actor process of a session whose title begins so."""
    for process in psutil.Process(driver.pid).children(recursive=True):
        with suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith(f"ray::{title}"):
                return process
    return None


def start(campaign: Campaign, *arguments: str) -> subprocess.Popen[str]:
    """A driver that got one more result."""
    process = campaign.start(*arguments)
    campaign.read_until(process, lambda line: "val_bpb" in line)
    return process


def end_of(campaign: Campaign, process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = process.stdout.read()
    process.wait()
    return said


def stop(campaign: Campaign, process: subprocess.Popen[str]) -> None:
    """As Ctrl-C, and nothing is left."""
    process.send_signal(signal.SIGINT)
    said = end_of(campaign, process)
    assert process.returncode == 130, said
    assert campaign.left_behind() == []


def assert_kept(before: CampaignState, after: CampaignState) -> None:
    """Whatever was recorded is there, and no run is counted twice."""
    for experiment_id, entry in before.experiments.items():
        kept = after.experiments[experiment_id].results[: len(entry.results)]
        assert kept == entry.results
    run_ids = [result.run_id for result in results_of(after)]
    assert len(set(run_ids)) == len(run_ids)
    for entry in after.experiments.values():
        assert len({result.seed for result in entry.results}) == len(entry.results)


def test_every_role_may_be_killed(simulated: Campaign) -> None:
    driver = start(simulated, "run")
    for title in ("Observer", "Ledger", "ToolBuilder", "SimulatedWorkers"):
        before = state_of(simulated)
        victim = wait_for(lambda title=title: role_of(driver, title))
        victim.kill()
        wait_for(lambda before=before: state_of(simulated).num_results >= before.num_results + 3)
        assert_kept(before, state_of(simulated))
        assert driver.poll() is None
    stop(simulated, driver)
    state = state_of(simulated)
    assert not state.in_flight
    assert state.sessions[-1].end_reason == "interrupted"


def test_a_machine_that_slept_loses_nobody(simulated: Campaign) -> None:
    driver = start(simulated, "run")
    everybody = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    stopped = []
    for process in everybody:
        with suppress(psutil.Error):
            process.suspend()
            stopped.append(process)
    before = state_of(simulated)
    time.sleep(6)  # what is tested: longer than `workers.lost_after_s`
    for process in reversed(stopped):
        with suppress(psutil.Error):
            process.resume()
    wait_for(lambda: state_of(simulated).num_results >= before.num_results + 3)
    assert not any(
        isinstance(entry.event, RunLost) and entry.event.at_fault for entry in entries_of(simulated)
    )
    stop(simulated, driver)


def host_of(campaign: Campaign, run_id: str) -> psutil.Process | None:
    """The process that says it carries the run out."""
    for path in (campaign.root / "live" / "workers").glob("*.json"):
        live = json.loads(path.read_text())
        if run_id in json.dumps(live) and live["pid"] > 1:
            with suppress(psutil.Error):
                return psutil.Process(live["pid"])
    return None


def test_a_run_that_loses_its_worker_twice_is_a_crash_with_the_reason(simulated: Campaign) -> None:
    driver = start(simulated, "run")
    wait_for(lambda: state_of(simulated).champion_id)
    run = wait_for(
        lambda: next(
            (
                run
                for run in state_of(simulated).in_flight.values()
                if not run.experiment_id.endswith("baseline")
            ),
            None,
        )
    )
    for attempt in (1, 2):
        run_id = f"{run.run_id[:-1]}{attempt}"
        wait_for(lambda run_id=run_id: host_of(simulated, run_id)).kill()
    crash = wait_for(
        lambda: next(
            (each for each in results_of(state_of(simulated)) if each.run_id == f"{run.run_id[:-1]}2"), None
        )
    )
    assert crash.status is RunStatus.CRASHED
    assert "lost its worker again" in crash.reason
    stop(simulated, driver)


def test_driver_and_head_may_be_killed(simulated: Campaign) -> None:
    # The driver alone: its keeper ends the rest, and removes Ray's folder.
    driver = start(simulated, "run")
    facts = json.loads((simulated.root / "live" / "driver.json").read_text())
    assert facts["pid"] == driver.pid
    driver.kill()
    driver.wait()
    before = state_of(simulated)
    wait_for(lambda: not Path(facts["session_dir"]).exists())
    assert session_processes(facts["session_dir"]) == []
    _, alive = psutil.wait_procs(simulated.seen, timeout=15)
    assert alive == []

    # Everything but what Ray itself leaves behind: the next session ends that.
    driver = start(simulated, "resume")
    assert_kept(before, state_of(simulated))
    facts = json.loads((simulated.root / "live" / "driver.json").read_text())
    family = psutil.Process(driver.pid).children(recursive=True)
    for process in (psutil.Process(driver.pid), *family):
        with suppress(psutil.Error, IndexError):
            if not process.cmdline()[0].startswith(("ray::Dashboard", "ray::RuntimeEnv")):
                process.kill()
    driver.wait()
    before = state_of(simulated)
    driver = start(simulated, "resume")
    assert session_processes(facts["session_dir"]) == []
    assert not Path(facts["session_dir"]).exists()
    assert_kept(before, state_of(simulated))

    # The head: the driver says so in one line, and ends.
    before = state_of(simulated)
    for process in psutil.Process(driver.pid).children():
        if process.name() in ("gcs_server", "raylet"):
            process.kill()
    said = end_of(simulated, driver)
    assert driver.returncode == 7, said
    assert "autohyp resume" in said.splitlines()[-1]
    _, alive = psutil.wait_procs(simulated.seen, timeout=15)
    assert alive == []

    driver = start(simulated, "resume")
    assert_kept(before, state_of(simulated))
    stop(simulated, driver)


def test_real_training_survives_the_loss_of_its_worker_and_of_its_evaluator(campaign: Campaign) -> None:
    driver = campaign.start("run", "--experiments", "2", "--workers", "1")
    campaign.read_until(driver, lambda line: "starts" in line)
    worker = wait_for(lambda: role_of(driver, "Worker"))
    wait_for(lambda: worker.children(recursive=True))
    started = worker.children(recursive=True)
    worker.kill()
    _, alive = psutil.wait_procs(started, timeout=15)
    assert alive == []

    wait_for(lambda: len(state_of(campaign).experiments) == 2 and state_of(campaign).in_flight, 120)
    (run,) = state_of(campaign).in_flight.values()
    evaluator = wait_for(
        lambda: next(
            (
                process
                for process in psutil.Process(driver.pid).children(recursive=True)
                if "autohyp.execution.evaluator" in " ".join(process.cmdline())
            ),
            None,
        )
    )
    evaluator.kill()
    said = end_of(campaign, driver)
    assert driver.returncode == 0, said
    state = state_of(campaign)
    lost = [entry.event for entry in entries_of(campaign) if isinstance(entry.event, RunLost)]
    assert [event.run_id for event in lost] == ["exp-0001-baseline.s42.a1"]
    by_run = {result.run_id: result for result in results_of(state)}
    assert by_run["exp-0001-baseline.s42.a2"].is_measured
    assert by_run[run.run_id].is_measured
    assert by_run[run.run_id].integrity["evaluator_was_replaced"] is True
    assert campaign.left_behind() == []
