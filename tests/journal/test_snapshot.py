"""Snapshots: the same state as a replay, never one that the journal does not vouch for."""

from __future__ import annotations

from pathlib import Path

import pytest

from autohyp.agents import ledger as ledger_module
from autohyp.agents.ledger import Ledger
from autohyp.errors import JournalDamagedError
from autohyp.journal import CampaignState, Draft, read_journal, replay
from autohyp.journal import snapshot as snapshot_module
from autohyp.journal.events import NoteWritten, RunFinished, RunsRequested, RunStarted
from autohyp.journal.follow import Follower
from autohyp.journal.segments import sealed_path
from autohyp.journal.snapshot import SnapshotWriter, load_snapshot, snapshot_paths
from autohyp.paths import CampaignPaths
from autohyp.testing.campaigns import CampaignShape, write_campaign
from autohyp.testing.fakes import make_result, make_run

SHAPE = CampaignShape(num_experiments=30, num_running=3)


@pytest.fixture
def paths(tmp_path: Path) -> CampaignPaths:
    """A campaign with a snapshot of all of it."""
    paths = write_campaign(tmp_path, SHAPE)
    Ledger(paths).close()
    return paths


def note(number: int) -> Draft:
    return Draft(f"note-{number}", NoteWritten(author="me", text=str(number)))


def assert_same(state: CampaignState, paths: CampaignPaths) -> None:
    """Equal to a replay of the whole journal, in contents and in order."""
    expected = replay(read_journal(paths.journal))
    assert state == expected
    for name in ("experiments", "queue", "open", "waiting", "ready", "in_flight"):
        assert list(getattr(state, name)) == list(getattr(expected, name)), name


def test_a_snapshot_gives_the_state_that_a_replay_gives(paths: CampaignPaths) -> None:
    snapshot = load_snapshot(paths.journal)
    assert snapshot is not None
    assert snapshot.position.seq == snapshot.state.version == len(read_journal(paths.journal))
    assert_same(snapshot.state, paths)


def test_what_came_after_the_snapshot_is_replayed(paths: CampaignPaths) -> None:
    ledger = Ledger(paths)
    run = next(iter(ledger.state.in_flight.values()))
    ledger.append([Draft("finish", RunFinished(result=make_result(run, 1.2))), note(1)])
    assert_same(ledger.state, paths)
    follower = Follower(paths.journal)
    assert_same(follower.update(), paths)
    ledger.append([note(2)])
    assert_same(follower.update(), paths)
    ledger.close()


def test_an_open_run_is_one_object_in_both_indices_again(paths: CampaignPaths) -> None:
    """A run in flight is reached through its experiment and through the state."""
    snapshot = load_snapshot(paths.journal)
    assert snapshot is not None
    for run in snapshot.state.in_flight.values():
        assert snapshot.state.experiments[run.experiment_id].active[run.run_id] is run


def test_a_settled_experiment_that_is_run_again_is_stored_again(paths: CampaignPaths) -> None:
    ledger = Ledger(paths)
    champion = ledger.state.champion
    assert champion is not None
    name, seed = champion.experiment_id, 4711
    assert ledger.state.experiments.packed(name) is not None
    run = make_run(name, seed)
    ledger.append(
        [
            Draft("again", RunsRequested(experiment_id=name, seeds=(seed,), reason="r")),
            Draft("start", RunStarted(run=run)),
            Draft("finish", RunFinished(result=make_result(run, 1.1))),
        ]
    )
    ledger.close()
    snapshot = load_snapshot(paths.journal)
    assert snapshot is not None
    assert snapshot.state.experiments[name].scores[seed] == 1.1
    assert_same(snapshot.state, paths)


def test_snapshots_are_taken_as_a_campaign_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "SNAPSHOT_ENTRIES", 10)
    paths = write_campaign(tmp_path, SHAPE)
    ledger = Ledger(paths)
    for number in range(25):
        ledger.append([note(number)])
    snapshot = load_snapshot(paths.journal)
    assert snapshot is not None
    assert 0 <= ledger.state.version - snapshot.state.version < 10
    ledger.close()


def test_keys_are_remembered_across_a_snapshot(paths: CampaignPaths) -> None:
    ledger = Ledger(paths)
    ledger.append([note(1)])
    ledger.close()
    again = Ledger(paths)
    version = again.state.version
    again.append([note(1)])
    assert again.state.version == version
    again.close()


@pytest.mark.parametrize("which", [0, 1], ids=["head", "records"])
def test_a_damaged_snapshot_is_not_used(paths: CampaignPaths, which: int) -> None:
    path = snapshot_paths(paths.journal)[which]
    intact = path.read_bytes()
    for offset in range(0, len(intact), max(1, len(intact) // 40)):
        damaged = bytearray(intact)
        damaged[offset] ^= 0x04
        path.write_bytes(damaged)
        snapshot = load_snapshot(paths.journal)
        assert snapshot is None or snapshot.state == replay(read_journal(paths.journal)), offset
    path.write_bytes(intact[: len(intact) // 2])
    assert load_snapshot(paths.journal) is None
    path.unlink()
    ledger = Ledger(paths)
    assert_same(ledger.state, paths)
    ledger.close()
    assert load_snapshot(paths.journal) is not None, "made anew"


def test_a_changed_byte_before_the_snapshot_is_noticed_and_named(paths: CampaignPaths) -> None:
    intact = paths.journal.read_bytes()
    third_line = intact.index(b"\n", intact.index(b"\n") + 1) + 1
    damaged = bytearray(intact)
    damaged[third_line + 40] ^= 0x01
    paths.journal.write_bytes(damaged)
    with pytest.raises(JournalDamagedError, match="line 3 is damaged"):
        Ledger(paths)


def test_a_missing_segment_before_the_snapshot_is_noticed(paths: CampaignPaths) -> None:
    sealed = sealed_path(paths.journal, 1)
    paths.journal.rename(sealed)
    assert load_snapshot(paths.journal) is not None, "sealing changes no byte"
    sealed.rename(sealed.with_name("elsewhere"))
    paths.journal.write_bytes(b"")
    assert load_snapshot(paths.journal) is None


def test_a_journal_that_is_shorter_than_its_snapshot_is_read_from_its_beginning(paths: CampaignPaths) -> None:
    lines = paths.journal.read_bytes().splitlines(keepends=True)
    paths.journal.write_bytes(b"".join(lines[:-2]))
    for verify in (True, False):
        assert load_snapshot(paths.journal, verify=verify) is None
    ledger = Ledger(paths)
    assert ledger.state.version == len(lines) - 2
    ledger.close()


def test_a_crash_between_the_two_files_leaves_the_snapshot_before(
    paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_snapshot(paths.journal)
    assert before is not None
    ledger = Ledger(paths)
    for run in list(ledger.state.in_flight.values()):
        ledger.append([Draft(f"finish:{run.run_id}", RunFinished(result=make_result(run, 1.2)))])

    append = SnapshotWriter._append

    def append_and_die(self: SnapshotWriter, state: CampaignState) -> None:
        append(self, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SnapshotWriter, "_append", append_and_die)
        with pytest.raises(KeyboardInterrupt):
            ledger.close()
    after = load_snapshot(paths.journal)
    assert after is not None
    assert after.position == before.position
    assert_same(Follower(paths.journal).update(), paths)


def test_a_snapshot_of_other_code_is_not_used(paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "_schema", lambda: "of another version")
    assert load_snapshot(paths.journal) is None
