"""What a campaign's folder may go through between two sessions, and what the commands then say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autohyp.agents import ledger as ledger_module
from autohyp.agents.campaign import campaign_facts, create_campaign
from autohyp.agents.driver import DriverFile, driver_process
from autohyp.agents.ledger import Ledger
from autohyp.config import load_config
from autohyp.errors import ClusterError
from autohyp.execution.workspace import Workspace
from autohyp.journal import Draft, JournalWriter, read_journal, replay
from autohyp.journal import events as ev
from autohyp.paths import CampaignPaths, has_room
from autohyp.records import Hardware
from autohyp.testing.campaigns import CampaignShape, write_campaign
from autohyp.testing.fakes import STAND_IN_SOURCE
from autohyp.views import facts
from autohyp.views.status import standing
from autohyp.views.sync import sync_all
from autohyp.views.workers import Present

Call = Callable[..., Any]
LOOKS = (("status",), ("status", "--json"), ("report",))


def one_line(err: str) -> str:
    (line,) = err.splitlines()
    assert line.startswith("autohyp: ")
    return line


def begin(research: Path, **changes: Any) -> CampaignPaths:
    """A campaign that was begun and laid down at once; a simulated one needs no data."""
    simulation = {"trainer": "autohyp.testing.objectives:bowl"}
    config = load_config(None, {"profile": "cpu", "tag": "may1", "simulation": simulation} | changes)
    config = config.resolved(Hardware(cpus=2, memory_gb=4))
    target = {"train.py": STAND_IN_SOURCE, "prepare.py": '"""Stands in."""\n'}
    return create_campaign(research / "may1", config, target, campaign_facts(config))


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CampaignPaths:
    monkeypatch.chdir(tmp_path)
    return begin(tmp_path / "research")


def session(session_id: str, host: str = "h") -> Draft:
    hardware = Hardware(cpus=1, memory_gb=1)
    return Draft(
        session_id,
        ev.SessionStarted(session_id=session_id, host=host, hardware=hardware, sandbox="none", versions={}),
    )


def note(text: str) -> Draft:
    return Draft(text, ev.NoteWritten(author="a", text=text))


# The journal -----------------------------------------------------------------------------------


def test_a_missing_journal_is_one_line(call: Call, begun: CampaignPaths) -> None:
    begun.journal.unlink()
    for command in (("status",), ("resume",), ("stop",), ("pause",), ("report",)):
        outcome = call(*command, "--tag", "may1")
        assert outcome.code == 4
        assert "has no journal" in one_line(outcome.err)


@pytest.mark.parametrize("content", [b"", b'{"v":1,"seq":1,"ts":"2026'])
def test_an_empty_journal_is_one_line_and_is_not_gone_on_with(
    call: Call, begun: CampaignPaths, content: bytes
) -> None:
    begun.journal.write_bytes(content)
    outcome = call("resume")
    assert outcome.code == 4
    assert "the journal is empty" in one_line(outcome.err)
    assert call("status").code == 0
    assert not begun.driver.exists()


# The folder ------------------------------------------------------------------------------------


@pytest.fixture
def read_only(begun: CampaignPaths) -> Iterator[CampaignPaths]:
    """The campaign under a mount that takes no writes: file permissions would not stop root."""
    folder = str(begun.root.parent)
    commands = [["mount", "--bind", folder, folder], ["mount", "-o", "remount,ro,bind", folder]]
    for command in commands:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            subprocess.run(["umount", folder], capture_output=True, check=False)
            pytest.skip("this user cannot mount")
    yield begun
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_read_only_folder_can_be_looked_at_and_nothing_else(call: Call, read_only: CampaignPaths) -> None:
    for command in LOOKS:
        assert call(*command).code == 0
    for command in (("resume",), ("sync",)):
        outcome = call(*command)
        assert outcome.code == 4
        line = one_line(outcome.err)
        assert "Read-only file system" in line
        assert "research/may1" in line
    outcome = call("run", "--tag", "other", "--profile", "cpu", "--research", str(read_only.root.parent))
    assert outcome.code != 0
    assert not (read_only.root.parent / "other").exists()


def test_a_full_disk_is_seen(tmp_path: Path) -> None:
    assert has_room(tmp_path)
    assert has_room(tmp_path / "not there"), "nobody can tell: the attempt will"
    assert not has_room(Path("/proc")), "a disk without room"


def test_a_folder_that_was_copied_from_another_machine_can_be_looked_at_and_taken_up(
    call: Call, begun: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JournalWriter(begun.journal) as writer:
        writer.append([session("s1", host="elsewhere")])
    DriverFile(begun, ray_address="192.0.2.7:6379", session_dir="/tmp/ray/session_x")
    facts_there = json.loads(begun.driver.read_text()) | {"host": "elsewhere"}
    begun.driver.write_text(json.dumps(facts_there))
    os.utime(begun.driver, (1, 1))
    assert driver_process(begun) is None
    for command in (*LOOKS, ("sync",)):
        assert call(*command).code == 0
    for command in ("stop", "pause"):
        assert "its last driver ran on elsewhere" in one_line(call(command).err)


def test_data_that_is_not_here_is_named_with_the_way_out(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    (data / "meta.json").write_text(
        json.dumps({"profile": "cpu", "data_sha256": "1" * 64, "sequence_len": 64})
    )
    begin(tmp_path / "research", simulation=None, data={"directory": str(data)}, sandbox={"backend": "none"})
    moved = tmp_path / "moved"
    data.rename(moved)
    outcome = call("resume")
    assert outcome.code == 3
    line = one_line(outcome.err)
    assert str(data) in line
    assert "--data-dir" in line
    (moved / "meta.json").write_text(
        json.dumps({"profile": "cpu", "data_sha256": "2" * 64, "sequence_len": 64})
    )
    outcome = call("resume", "--data-dir", moved)
    assert outcome.code == 3
    assert "was measured on other data" in one_line(outcome.err)


def test_another_prepare_py_is_refused(call: Call, begun: CampaignPaths) -> None:
    repository = str(begun.repository)
    blob = subprocess.run(
        ["git", "-C", repository, "hash-object", "-w", "--stdin"],
        input="# another metric\n", capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    listed = subprocess.run(
        ["git", "-C", repository, "ls-tree", "champion"], capture_output=True, text=True, check=True
    ).stdout
    changed = "".join(
        f"100644 blob {blob}\tprepare.py\n" if line.endswith("prepare.py") else f"{line}\n"
        for line in listed.splitlines()
    )
    tree = subprocess.run(
        ["git", "-C", repository, "mktree"], input=changed, capture_output=True, text=True, check=True
    ).stdout.strip()
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    commit = subprocess.run(
        ["git", "-C", repository, *identity, "commit-tree", tree, "-m", "x"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    workspace = Workspace(begun.repository)
    workspace.set_champion(commit)
    workspace.close()
    outcome = call("resume")
    assert outcome.code == 2
    assert "prepare.py in its repository is not the one it began with" in one_line(outcome.err)


def test_a_folder_that_was_moved_and_renamed_is_found_by_its_new_name(
    call: Call, begun: CampaignPaths, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(begun.root, moved)
    for command in (*LOOKS, ("sync",)):
        assert call(*command, "--research", moved.parent, "--tag", "renamed").code == 0


def test_a_campaign_that_is_driven_is_refused_at_once_with_the_process(
    call: Call, begun: CampaignPaths
) -> None:
    from autohyp.agents.driver import claim_driver

    with claim_driver(begun):
        outcome = call("resume")
    assert outcome.code == 4
    assert f"campaign may1 runs already (process {os.getpid()})" in one_line(outcome.err)


def test_an_edited_campaign_yaml_changes_nothing_and_is_told(
    call: Call, begun: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autohyp.cli import run

    seen: list[Any] = []
    monkeypatch.setattr(run, "_session", lambda paths, config, console: seen.append(config) or 0)
    outcome = call("resume")
    assert (outcome.code, outcome.out) == (0, "")
    begun.config.write_text(begun.config.read_text().replace("seed: 42", "seed: 7"))
    outcome = call("resume", "--experiments", "5", "--usd", "3", "--usd-per-gpu-hour", "2")
    assert "was edited, which changes nothing" in outcome.out
    assert seen[1].seed == 42
    assert seen[1].limits.max_experiments == 5
    assert seen[1].limits.max_usd == 3
    outcome = call("resume", "--usd", "3")
    assert outcome.code == 2
    assert "max_usd needs usd_per_gpu_hour" in one_line(outcome.err)


def test_a_campaign_that_met_its_limit_is_ended_once_and_then_refused_with_its_files_up_to_date(
    call: Call, begun: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autohyp.cluster import session as cluster_session

    def start(*_: object) -> None:
        raise ClusterError("a session begins")

    monkeypatch.setattr(cluster_session, "local_cluster", start)
    outcome = call("resume", "--hours", "0.0001")
    assert outcome.code == 7, "its last driver was killed before it recorded the end"
    # As when the cluster's head is lost and the roles live on for long enough to come to the end.
    with JournalWriter(begun.journal) as writer:
        reason = "the limit of 0.0001 hours is reached"
        writer.append([session("s1"), Draft("end", ev.CampaignEnded(reason=reason))])
    begun.live_workers.mkdir(parents=True)
    (begun.live_workers / "worker-0.json").write_text("{}")
    outcome = call("resume", "--hours", "0.0001")
    assert outcome.code == 4
    assert "the limit of 0.0001 hours is reached; give it more, as in `autohyp resume" in one_line(
        outcome.err
    )
    assert (begun.root / "research_brief.json").is_file()
    assert replay(read_journal(begun.journal)).sessions[-1].end_reason == reason
    assert not begun.live_workers.exists()


# The clock -------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_keeps_the_order_and_makes_no_time_negative(
    begun: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter(f"2026-05-01T{clock}.000Z" for clock in ("12:00:00", "12:10:00", "07:00:00", "07:30:00"))
    monkeypatch.setattr(ledger_module, "utc_now", lambda: next(moments))
    ledger = Ledger(begun)
    for draft in (session("s1"), note("first"), note("second"), session("s2")):
        ledger.append([draft])
    ledger.close()
    entries = read_journal(begun.journal)
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5, 6]
    state = replay(entries)
    assert [text.text for _, text in state.notes] == ["first", "second"]
    assert facts.elapsed_s(state) == 600.0
    assert facts.elapsed_s(state, now="2026-05-01T07:00:00.000Z") >= 600.0
    sync_all(begun, state)


def test_a_time_far_in_the_future_is_no_sign_of_life(begun: CampaignPaths) -> None:
    with JournalWriter(begun.journal) as writer:
        writer.append([session("s1")], ts="2026-05-01T12:00:00.000Z")
    state = replay(read_journal(begun.journal))
    now = "2026-05-01T07:00:00.000Z"
    assert standing(state, [], now) == "silent"
    assert standing(state, [], now, Present(driver_seen_at="2026-05-01T06:59:58.000+00:00")) == "running"


# What was asked --------------------------------------------------------------------------------


def test_views_and_exports_know_pauses_stops_and_drained_workers(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = write_campaign(tmp_path / "research", CampaignShape(num_experiments=4, num_running=1))
    now = "2026-05-01T12:00:00.000Z"
    drained = ev.WorkerDrained(worker_id="worker-1", reason="it failed 3 times in a row")
    stop = ev.StopRequested(session_id="session-1", now=False, author="anna", reason="it was stopped by anna")
    with JournalWriter(paths.journal) as writer:
        writer.append([Draft("p", ev.PauseChanged(paused=True, author="anna")), Draft("d", drained)], ts=now)
    state = replay(read_journal(paths.journal))
    assert standing(state, [], now) == "paused"
    monkeypatch.setattr("autohyp.cli.look.utc_now", lambda: now)
    shown = call("status").out
    assert "PAUSED: 1 run let finish; `autohyp unpause` goes on" in shown
    document = json.loads(call("status", "--json").out)
    assert document["standing"] == "paused"
    assert document["drained_workers"] == {"worker-1": "it failed 3 times in a row"}
    assert call("sync").code == 0

    with JournalWriter(paths.journal) as writer:
        writer.append([Draft("s", stop)], ts=now)
    assert "stopping: it was stopped by anna, 1 run let finish" in call("status").out
    with JournalWriter(paths.journal) as writer:
        writer.append([Draft("e", ev.SessionEnded(session_id="session-1", reason=stop.reason))], ts=now)
    said = call("status", "--watch").out
    assert "PAUSED: nothing new starts" in said
    assert "stopping when what runs has finished: it was stopped by anna" in said
    assert "worker-1 gets no more runs: it failed 3 times in a row" in said
    assert call("sync").code == 0
    for command in LOOKS:
        assert call(*command).code == 0
