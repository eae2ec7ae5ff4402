"""A journal in segments as its writer sees it: sealing, dying in the middle of it, disks that refuse."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autohyp.errors import JournalError
from autohyp.journal import Draft, Entry, JournalWriter, read_journal, replay
from autohyp.journal import file as journal_file
from autohyp.journal.file import JournalReader
from autohyp.journal.segments import (
    prefix_digest,
    sealed_numbers,
    sealed_path,
)
from autohyp.paths import find_campaign
from autohyp.testing.campaigns import CampaignShape, campaign_entries

from .conftest import PROPERTY, all_bytes, files_of, keys

Note = Callable[[int], Draft]
pytestmark = pytest.mark.usefixtures("no_fsync")

# Sealing -------------------------------------------------------------------------------------


def test_a_full_segment_is_sealed_before_the_next_line(tmp_path: Path, note: Note) -> None:
    path = tmp_path / "journal.jsonl"
    with JournalWriter(path, segment_bytes=500) as writer:
        for number in range(12):
            writer.append([note(number)])
    sealed = files_of(path)[:-1]
    assert [file.name for file in sealed] == [f"journal.00000{number}.jsonl" for number in range(1, 6)]
    for file in sealed:
        lines = file.read_bytes().splitlines(keepends=True)
        assert sum(map(len, lines)) > 500
        assert sum(map(len, lines[:-1])) <= 500
        assert stat.S_IMODE(file.stat().st_mode) == 0o444
    assert path.stat().st_size, "a line vouches for the end of the last sealed segment"
    assert keys(read_journal(path)) == [f"note-{number}" for number in range(12)]


def test_opening_goes_on_where_the_last_writer_was(segmented: Path, note: Note) -> None:
    for number in (12, 13):
        with JournalWriter(segmented, segment_bytes=1) as writer:
            assert len(writer.entries) == number - 1
            assert writer.position.segment == len(files_of(segmented))
            writer.append([note(number)])
            assert writer.digest() == hashlib.sha256(all_bytes(segmented)).hexdigest()
    assert sealed_numbers(segmented) == [1, 2, 3, 4, 5]
    assert [entry.seq for entry in read_journal(segmented)] == list(range(1, 14))


def test_a_torn_tail_in_a_later_segment_is_cut_off_there(segmented: Path, note: Note) -> None:
    whole = all_bytes(segmented)
    segmented.write_bytes(segmented.read_bytes() + b'{"v":')
    with JournalWriter(segmented) as writer:
        assert writer.torn_tail is not None
        assert (writer.torn_tail.line_number, writer.torn_tail.num_bytes) == (12, 5)
        assert all_bytes(segmented) == whole
        writer.append([note(12)])
    assert len(read_journal(segmented)) == 12


# Crashes -------------------------------------------------------------------------------------


class KilledError(BaseException):
    """The process is gone at this moment."""


class Calls:
    """Stands in for `os`: calls `before` ahead of every call that changes or syncs a file."""

    NAMES = ("open", "write", "fsync", "link", "unlink", "rename", "fchmod", "close", "ftruncate")

    def __init__(self, before: Callable[[str], None]) -> None:
        self._before = before

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name not in self.NAMES:
            return real

        def call(*arguments: object) -> object:
            self._before(name)
            return real(*arguments)

        return call


class Killed(Calls):
    """Nothing is done any more from the call number `step` on."""

    def __init__(self, step: int) -> None:
        super().__init__(self._die)
        self.step = step
        self.calls: list[str] = []

    def _die(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) > self.step:
            raise KilledError(name)


def test_a_crash_at_any_step_of_sealing_and_beginning_anew_loses_nothing(
    tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in count():
        path = tmp_path / str(step) / "journal.jsonl"
        writer = JournalWriter(path, segment_bytes=1)
        writer.append([note(1)])
        process = Killed(step)
        with monkeypatch.context() as patch:
            patch.setattr(journal_file, "os", process)
            try:
                writer.append([note(2)])
                break
            except KilledError:
                pass
        with pytest.raises(JournalError, match="interrupted"):
            writer.append([note(2)])
        writer.close()
        survived = keys(read_journal(path))
        assert survived == ["note-1", "note-2"][: 1 + ("write" in process.calls[:step])]
        assert find_campaign(tmp_path, str(step)).journal == path
        with JournalWriter(path, segment_bytes=1) as again:
            assert keys(again.entries) == survived
            assert again.torn_tail is None
            again.append([note(3)])
        assert keys(read_journal(path)) == [*survived, "note-3"]
    folder = ["open", "fsync", "close"]
    begin = ["link", "open", *folder, "rename", "fchmod", "close", *folder]
    assert process.calls == [*begin, "write", "fsync"]


@settings(PROPERTY, max_examples=20)
@given(seed=st.integers(0, 50), segment_bytes=st.integers(2000, 30_000), data=st.data())
def test_a_campaign_cut_off_at_any_byte_is_the_campaign_up_to_the_last_whole_line(
    tmp_path_factory: pytest.TempPathFactory, seed: int, segment_bytes: int, data: st.DataObject
) -> None:
    """The machine dies at any moment of any campaign: what is replayed is what had been acknowledged."""
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    entries = list(campaign_entries(CampaignShape(num_experiments=5, seed=seed, crash_rate=0.2)))
    with JournalWriter(path, segment_bytes=segment_bytes) as writer:
        for entry in entries:
            writer.append([Draft(entry.key, entry.event)], entry.ts)
    files = files_of(path)
    last = data.draw(st.integers(0, len(files) - 1))
    content = files[last].read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    for file in files[last:]:
        file.unlink()
    path.write_bytes(content[:cut])
    whole = b"".join(file.read_bytes() for file in files[:last]) + content[: content.rfind(b"\n", 0, cut) + 1]
    with JournalWriter(path, segment_bytes=segment_bytes) as writer:
        assert all_bytes(path) == whole
        num_whole = whole.count(b"\n")
        assert replay(writer.entries) == replay(read_journal(path)) == replay(entries[:num_whole])
        for entry in entries[num_whole:]:
            writer.append([Draft(entry.key, entry.event)], entry.ts)
    assert replay(read_journal(path)) == replay(entries)


@pytest.mark.parametrize(("last_call", "num_sealed"), [("link", 0), ("rename", 1)])
def test_a_process_that_dies_in_the_middle_of_sealing_leaves_a_journal_that_opens(
    tmp_path: Path, note: Note, last_call: str, num_sealed: int
) -> None:
    """The same with a real process, the last thing it does being this call."""
    path = tmp_path / "journal.jsonl"
    child = os.fork()
    if not child:
        writer = JournalWriter(path, segment_bytes=1)
        writer.append([note(1)])
        real = getattr(os, last_call)
        setattr(os, last_call, lambda *names: (real(*names), os._exit(0)))
        writer.append([note(2)])
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert sealed_path(path, 1).exists()
    assert sealed_numbers(path) == [1][:num_sealed]
    reader = JournalReader(path)
    assert keys(list(reader.read())) == ["note-1"]
    with JournalWriter(path) as writer:
        assert sealed_path(path, 1).exists() == bool(num_sealed)
        writer.append([note(2)])
        assert prefix_digest(path, writer.position) == writer.digest()
    assert keys(list(reader.read())) == ["note-2"]
    assert keys(read_journal(path)) == ["note-1", "note-2"]


# A disk that refuses -------------------------------------------------------------------------


def refuse(call: str, error: int) -> Callable[[str], None]:
    def before(name: str) -> None:
        if name == call:
            raise OSError(error, os.strerror(error))

    return before


@pytest.mark.parametrize("call", ["link", "open", "rename"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES, errno.EOPNOTSUPP])
def test_a_segment_that_cannot_be_sealed_goes_on_growing(
    tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    path = tmp_path / "journal.jsonl"
    with JournalWriter(path, segment_bytes=1) as writer:
        writer.append([note(1)])
        with monkeypatch.context() as patch:
            patch.setattr(journal_file, "os", Calls(refuse(call, error)))
            writer.append([note(2)])
            writer.append([note(3)])
        assert files_of(path) == [path]
        assert keys(read_journal(path)) == ["note-1", "note-2", "note-3"]
        writer.append([note(4)])
        assert writer.digest() == hashlib.sha256(all_bytes(path)).hexdigest()
    assert sealed_numbers(path) == [1]
    assert keys(read_journal(path)) == ["note-1", "note-2", "note-3", "note-4"]


def fail_for_good(name: str) -> None:
    if name in ("rename", "unlink"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(fail_for_good, id="a seal that cannot be undone: readers may take it for whole"),
        pytest.param(refuse("fsync", errno.EIO), id="the folder's sync"),
    ],
)
def test_after_a_failure_of_unknown_outcome_the_writer_refuses_to_go_on(
    tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch, before: Callable[[str], None]
) -> None:
    path = tmp_path / "journal.jsonl"
    with JournalWriter(path, segment_bytes=1) as writer:
        writer.append([note(1)])
        with monkeypatch.context() as patch:
            patch.setattr(journal_file, "os", Calls(before))
            with pytest.raises(JournalError, match="the disk failed"):
                writer.append([note(2)])
        with pytest.raises(JournalError, match="the disk failed"):
            writer.append([note(3)])
    with JournalWriter(path) as again:
        again.append([note(4)])
    assert keys(read_journal(path)) == ["note-1", "note-4"]


# Being read meanwhile ------------------------------------------------------------------------


def test_a_reader_between_any_two_steps_of_the_writer_sees_every_entry_once(
    tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "research" / "mar8" / "journal.jsonl"
    writer = JournalWriter(path, segment_bytes=1)
    reader = JournalReader(path)
    seen: list[Entry] = []

    def look(name: str) -> None:
        seen.extend(reader.read())
        assert find_campaign(tmp_path / "research", None).tag == "mar8"
        assert prefix_digest(path, reader.position) == hashlib.sha256(all_bytes(path)).hexdigest()

    monkeypatch.setattr(journal_file, "os", Calls(look))
    written = [entry for number in range(6) for entry in writer.append([note(number), note(-number)])]
    writer.close()
    seen.extend(reader.read())
    assert seen == written
