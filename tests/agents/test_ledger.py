"""The ledger: recorded before acknowledged, once, together, or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from autohyp.agents import ledger as ledger_module
from autohyp.agents.ledger import Ledger, Request
from autohyp.errors import JournalError, JournalLockedError, JournalWriteError
from autohyp.journal import Draft, JournalWriter, read_journal, replay
from autohyp.journal import events as ev
from autohyp.journal import file as journal_file
from autohyp.paths import CampaignPaths
from autohyp.records import Progress, WorkerLive
from autohyp.testing.fakes import baseline_hypothesis, make_experiment, make_run


def created() -> Draft:
    event = ev.CampaignCreated(
        tag="t", objective="", config={}, target_sha256={}, data_sha256="", created_at="2026"
    )
    return Draft("campaign", event)


def note(number: int) -> Draft:
    return Draft(f"note-{number}", ev.NoteWritten(author="a", text=str(number)))


IMPOSSIBLE = Draft("bad", ev.RunLost(run_id="unheard-of", reason=""))


@pytest.fixture
def paths(tmp_path: Path) -> CampaignPaths:
    return CampaignPaths(tmp_path / "campaign")


@pytest.fixture
def ledger(paths: CampaignPaths) -> Iterator[Ledger]:
    ledger = Ledger(paths)
    ledger.append([created()])
    yield ledger
    ledger.close()


class Fsyncs:
    """Counts what the journal syncs, and fails on demand."""

    def __init__(self) -> None:
        self.count = 0
        self.error: int | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        if self.error == errno.ENOSPC:
            os.write(fd, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        self.count += 1
        if self.error == errno.EIO:
            raise OSError(errno.EIO, "Input/output error")
        os.fsync(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Fsyncs:
    disk = Fsyncs()
    monkeypatch.setattr(journal_file, "os", disk)
    return disk


def recorded(paths: CampaignPaths) -> list[str]:
    return [entry.key for entry in read_journal(paths.journal)]


def test_what_is_acknowledged_is_on_disk_and_survives_a_restart(ledger: Ledger, paths: CampaignPaths) -> None:
    ledger.append([note(1), note(2)])
    assert recorded(paths) == ["campaign", "note-1", "note-2"]
    before = ledger.state
    ledger.close()
    again = Ledger(paths)
    assert again.state == before
    assert again.torn_tail is None
    again.close()


def test_the_same_key_is_recorded_once_also_after_a_restart(ledger: Ledger, paths: CampaignPaths) -> None:
    ledger.append([note(1), note(1)])
    ledger.append([note(1)])
    ledger.close()
    again = Ledger(paths)
    again.append([note(1), note(2)])
    assert recorded(paths) == ["campaign", "note-1", "note-2"]
    assert again.state.version == 3
    again.close()


def test_several_requests_share_one_fsync(ledger: Ledger, paths: CampaignPaths, disk: Fsyncs) -> None:
    requests = [Request([note(n), note(n + 100)]) for n in range(20)]
    ledger.commit(requests)
    assert disk.count == 1
    assert all(request.error is None for request in requests)
    assert len(recorded(paths)) == 41
    ledger.commit([Request([note(3)])])
    assert disk.count == 1, "nothing new, nothing to sync"


def test_an_impossible_draft_is_refused_alone(ledger: Ledger, paths: CampaignPaths) -> None:
    requests = [
        Request([note(1)]),
        Request([note(2), IMPOSSIBLE, note(3)]),
        Request([note(4)]),
    ]
    ledger.commit(requests)
    assert [request.error is None for request in requests] == [True, False, True]
    assert recorded(paths) == ["campaign", "note-1", "note-2", "note-4"]
    assert ledger.state == replay(read_journal(paths.journal))
    with pytest.raises(JournalError, match="unheard-of is not in flight"):
        ledger.append([IMPOSSIBLE])
    assert recorded(paths)[-1] == "note-4"


def test_a_refused_key_may_come_again_when_it_is_possible(ledger: Ledger, paths: CampaignPaths) -> None:
    start = Draft("start", ev.RunStarted(run=make_run("exp-0001")))
    with pytest.raises(JournalError, match="no experiment"):
        ledger.append([start])
    ledger.append(
        [
            Draft("p", ev.HypothesisProposed(hypothesis=baseline_hypothesis())),
            Draft("c", ev.ExperimentCreated(experiment=make_experiment(1))),
            start,
        ]
    )
    assert recorded(paths)[-1] == "start"


def test_a_full_disk_takes_everything_back_and_the_same_drafts_succeed_later(
    ledger: Ledger, paths: CampaignPaths, disk: Fsyncs
) -> None:
    ledger.append([note(0)])
    before, size = replay(read_journal(paths.journal)), paths.journal.stat().st_size
    disk.error = errno.ENOSPC
    requests = [Request([note(1)]), Request([note(2)])]
    ledger.commit(requests)
    assert all("No space left" in str(request.error) for request in requests)
    assert ledger.state == before, "only what is durable is ever handed out"
    assert paths.journal.stat().st_size == size
    disk.error = None
    ledger.commit([Request([note(1)]), Request([note(2)])])
    assert recorded(paths) == ["campaign", "note-0", "note-1", "note-2"]
    assert ledger.state == replay(read_journal(paths.journal))


def test_while_the_journal_cannot_be_read_again_nothing_is_told_and_the_next_call_tries(
    ledger: Ledger, paths: CampaignPaths, disk: Fsyncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise JournalError("read-only")

    disk.error = errno.ENOSPC
    with monkeypatch.context() as patched:
        patched.setattr(ledger_module, "JournalWriter", refuse)
        with pytest.raises(JournalWriteError, match="No space left"):
            ledger.append([note(1)])
        disk.error = None
        with pytest.raises(JournalWriteError, match="read-only"):
            ledger.append([note(1)])
        with pytest.raises(JournalWriteError, match="read-only"):
            ledger.news(0)
    assert ledger.news(ledger.state.version + 1) is None
    assert ledger.state == replay(read_journal(paths.journal))
    ledger.append([note(1)])
    assert recorded(paths) == ["campaign", "note-1"]


def test_a_closed_ledger_takes_nothing_and_leaves_the_journal_to_others(
    ledger: Ledger, paths: CampaignPaths
) -> None:
    ledger.close()
    with pytest.raises(JournalError, match="was closed"):
        ledger.append([note(1)])
    Ledger(paths).close()


def test_a_failed_fsync_is_an_error_for_all_and_for_everything_after(
    ledger: Ledger, paths: CampaignPaths, disk: Fsyncs
) -> None:
    disk.error = errno.EIO
    with pytest.raises(JournalError, match="the disk failed"):
        ledger.append([note(1)])
    disk.error = None
    with pytest.raises(JournalError, match="the disk failed"):
        ledger.append([note(2)])
    assert "note-2" not in recorded(paths)


def test_a_torn_tail_is_reported(ledger: Ledger, paths: CampaignPaths) -> None:
    ledger.append([note(1)])
    ledger.close()
    data = paths.journal.read_bytes()
    paths.journal.write_bytes(data[:-5])
    again = Ledger(paths)
    assert again.torn_tail is not None
    assert again.torn_tail.line_number == 2
    again.append([note(1)])
    assert recorded(paths) == ["campaign", "torn:2", "note-1"]
    assert "unfinished" in again.state.notes[0][1].text
    again.close()


def test_a_second_ledger_is_refused(ledger: Ledger, paths: CampaignPaths) -> None:
    with pytest.raises(JournalLockedError):
        Ledger(paths)


def test_a_journal_that_cannot_be_replayed_is_refused_and_let_go(paths: CampaignPaths) -> None:
    with JournalWriter(paths.journal) as writer:
        writer.append([created(), IMPOSSIBLE])
    for _ in range(2):
        with pytest.raises(JournalError, match="is not in flight"):
            Ledger(paths)


# Heartbeats ----------------------------------------------------------------------------------


def live(**fields: object) -> WorkerLive:
    return WorkerLive.model_validate({"worker_id": "w0", "updated_at": "2026-01-01T00:00:00.100Z"} | fields)


def test_a_heartbeat_is_shown_at_most_once_a_second_but_each_change_of_state(paths: CampaignPaths) -> None:
    now_s = [100.0]
    ledger = Ledger(paths, clock=lambda: now_s[0])
    file = paths.live_workers / "w0.json"
    ledger.heartbeat(live(state="running", title="a", progress=Progress(phase="training", step=7)))
    shown = json.loads(file.read_text())
    assert (shown["state"], shown["title"], shown["progress"]["step"]) == ("running", "a", 7)
    now_s[0] += 0.5
    ledger.heartbeat(live(state="running", title="b"))
    assert json.loads(file.read_text())["title"] == "a", "the same second"
    assert ledger.live["w0"].title == "b"
    ledger.heartbeat(live(state="evaluating", title="c"))
    assert json.loads(file.read_text())["title"] == "c"
    now_s[0] += 1.0
    ledger.heartbeat(live(state="evaluating", title="d"))
    assert json.loads(file.read_text())["title"] == "d"
    ledger.close()


def test_the_files_of_a_large_fleet_are_written_less_often(
    paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    written: list[float] = []
    monkeypatch.setattr(ledger_module, "write_worker", lambda *_: written.append(now_s[0]))
    ledger = Ledger(paths, clock=lambda: now_s[0])
    for second in range(40):
        for number in range(200):
            state = ("running", "idle")[second % 2]
            ledger.heartbeat(live(worker_id=f"w{number}", state=state))
        now_s[0] += 1.0
    assert len(written) == 4 * 200, "each at once, then every ten seconds"
    ledger.close()


def test_a_heartbeat_that_cannot_be_shown_does_not_matter(ledger: Ledger, paths: CampaignPaths) -> None:
    paths.live_workers.parent.mkdir()
    paths.live_workers.write_text("a file where a folder belongs")
    ledger.heartbeat(live(state="running"))
    assert ledger.live["w0"].state == "running"
    assert ledger.state.version == 1, "never journaled"
