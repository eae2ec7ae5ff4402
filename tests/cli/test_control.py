"""stop, pause and unpause against a campaign whose driver is this process and whose ledger is a stand-in."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from autohyp.agents.driver import DriverFile, claim_driver, driver_facts, driver_process
from autohyp.cli import control
from autohyp.cli.options import load_campaign
from autohyp.cluster import remote
from autohyp.errors import CampaignError, ClusterError, JournalError
from autohyp.journal import CampaignState, Draft, JournalWriter
from autohyp.journal.events import PauseChanged, SessionEnded, StopRequested
from autohyp.paths import CampaignPaths
from autohyp.testing.campaigns import CampaignShape, write_campaign

Call = Callable[..., Any]


class StandIn:
    """A campaign in progress: what `tell` hands over is recorded at once, and a stop ends it."""

    def __init__(self, paths: CampaignPaths) -> None:
        self.paths = paths
        self.error: Exception | None = None
        self.ends_on: type[PauseChanged | StopRequested] | None = StopRequested
        self.signals: list[int] = []

    def tell(self, driver: dict[str, Any], drafts: Sequence[Draft], timeout_s: float) -> None:
        assert driver["ray_address"] == "somewhere:1"
        if self.error is not None:
            raise self.error
        self.record(*drafts)
        if self.ends_on is not None and isinstance(drafts[0].event, self.ends_on):
            self.end("it was stopped")

    def record(self, *drafts: Draft) -> None:
        with JournalWriter(self.paths.journal) as writer:
            writer.append(drafts)

    def end(self, reason: str) -> None:
        self.record(Draft("end", SessionEnded(session_id="session-1", reason=reason)))
        self.paths.driver.unlink()

    def state(self) -> CampaignState:
        return load_campaign(self.paths.root.parent, None)[1]


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A campaign with two runs in flight that this process drives."""
    monkeypatch.chdir(tmp_path)
    paths = write_campaign(tmp_path / "research", CampaignShape(num_experiments=3, num_running=2))
    DriverFile(paths, ray_address="somewhere:1", namespace="n", session_id="session-1")
    stand_in = StandIn(paths)
    monkeypatch.setattr(remote, "tell", stand_in.tell)
    monkeypatch.setattr(control.getpass, "getuser", lambda: "anna")
    monkeypatch.setattr(control, "POLL_S", 0.01)
    return stand_in


def test_pause_and_unpause_are_recorded_with_who_asked(call: Call, running: StandIn) -> None:
    outcome = call("pause")
    assert outcome.code == 0
    assert "is paused: 2 runs are let finish" in outcome.out
    assert "autohyp unpause" in outcome.out
    assert running.state().paused
    again = call("pause")
    assert (again.code, again.out) == (4, "")
    assert "is paused already" in again.err

    assert call("unpause").code == 0
    assert not running.state().paused
    again = call("unpause")
    assert again.code == 4
    assert "is not paused" in again.err


def test_stop_lets_finish_what_runs_and_returns_when_the_driver_is_gone(call: Call, running: StandIn) -> None:
    outcome = call("stop")
    assert outcome.code == 0
    assert "it was stopped; `autohyp resume --tag mar8` goes on" in outcome.out
    stop = running.state().stop
    assert stop is not None
    assert (stop.now, stop.author, stop.reason) == (False, "anna", "it was stopped by anna")
    gone = call("stop")
    assert gone.code == 4
    assert "not running" in gone.err


def test_a_second_stop_now_hurries_a_stop_that_takes_too_long(call: Call, running: StandIn) -> None:
    running.ends_on = None
    outcome = call("stop", "--no-wait")
    assert outcome.code == 0
    assert "ends when what runs has finished" in outcome.out
    running.ends_on = StopRequested
    assert call("stop", "--now").code == 0
    stop = running.state().stop
    assert stop is not None
    assert stop.now


def test_stop_says_what_it_waits_for_and_may_be_interrupted(
    call: Call, running: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.ends_on = None
    names = [
        f"{run.experiment_id} seed {run.seed} on {run.worker_id}"
        for run in running.state().in_flight.values()
    ]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(control.time, "sleep", interrupt)
    outcome = call("stop")
    assert outcome.code == 130
    assert f"waiting for {', '.join(names)}" in " ".join(outcome.out.split())
    assert "it still ends when what runs has finished" in outcome.out


@pytest.mark.parametrize("error", [ClusterError("Ray at x did not answer"), JournalError("the disk is full")])
def test_a_cluster_that_does_not_answer_is_told_and_stop_now_ends_its_driver(
    call: Call, running: StandIn, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    running.error = error
    outcome = call("stop")
    assert outcome.code == error.exit_code  # type: ignore[attr-defined]
    assert f"{error}; `autohyp stop --now` ends its driver all the same" in outcome.err

    received: list[int] = []

    def end(number: int, frame: object) -> None:
        received.append(number)
        running.end("interrupted")

    previous = signal.signal(signal.SIGTERM, end)
    try:
        assert call("stop", "--now").code == 0
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert received == [signal.SIGTERM]


@pytest.mark.parametrize("options", [(), ("--now",), ("--no-wait",)])
def test_a_session_that_ends_by_itself_meanwhile_needs_no_stop(
    call: Call, running: StandIn, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """Its ledger is gone already, and its driver still writes the last files."""
    running.error = ClusterError("Ray at somewhere:1 could not be reached: there is no ledger")
    running.record(Draft("end", SessionEnded(session_id="session-1", reason="the limit is reached")))
    monkeypatch.setattr(control.time, "sleep", lambda seconds: running.paths.driver.unlink(missing_ok=True))
    outcome = call("stop", *options)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out


@pytest.mark.parametrize("command", ["stop", "pause", "unpause"])
def test_a_campaign_that_does_not_run_is_one_line(
    call: Call, running: StandIn, command: str, tmp_path: Path
) -> None:
    facts = json.loads(running.paths.driver.read_text())
    for changed, words in (
        ({"host": "elsewhere"}, "its last driver ran on elsewhere, `autohyp resume` takes it up here"),
        ({"created": 1.0}, "`autohyp resume` goes on with it"),
    ):
        running.paths.driver.write_text(json.dumps(facts | changed))
        outcome = call(command)
        assert (outcome.code, outcome.out) == (4, "")
        assert len(outcome.err.splitlines()) == 1
        assert "mar8 is not running on this machine" in outcome.err
        assert words in outcome.err or changed == {"created": 1.0}
    running.paths.driver.unlink()
    assert "`autohyp resume` goes on with it" in call(command).err


def test_a_campaign_is_driven_once_and_the_second_is_told_the_pid(running: StandIn) -> None:
    paths = running.paths
    running.paths.driver.unlink()
    with claim_driver(paths):
        process = driver_process(paths)
        assert process is not None
        with (
            pytest.raises(CampaignError, match=f"runs already .process {process.pid}.*autohyp stop"),
            claim_driver(paths),
        ):
            pass
        assert driver_process(paths) is not None, "the refused one changed nothing"
    assert driver_process(paths) is None
    with claim_driver(paths):
        pass


def test_a_claim_is_taken_over_from_a_dead_driver_whose_traces_are_cleared_up_first(running: StandIn) -> None:
    facts = json.loads(running.paths.driver.read_text()) | {"created": 1.0, "session_dir": "/tmp/gone"}
    running.paths.driver.write_text(json.dumps(facts))
    seen: list[dict[str, Any] | None] = []
    with claim_driver(running.paths, clear_up=lambda paths: seen.append(driver_facts(paths))):
        assert seen == [facts]
        assert driver_process(running.paths) is not None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"pid": "x", "created": 1, "host": 3}', "\x00"])
def test_a_driver_file_that_is_damaged_names_nobody(running: StandIn, text: str) -> None:
    running.paths.driver.write_text(text)
    assert driver_process(running.paths) is None
