"""The journal on disk: nothing acknowledged is lost, nothing damaged is believed, nobody else writes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autohyp.errors import JournalDamagedError, JournalError, JournalLockedError
from autohyp.journal import Draft, JournalWriter, read_journal
from autohyp.journal import file as journal_file
from autohyp.journal.events import FORMAT_VERSION, GENESIS, NoteWritten, ToolChanged, encode_line
from autohyp.journal.file import JournalReader
from autohyp.records import Tool, ToolStatus

Note = Callable[[int], Draft]


def line_number_at(data: bytes, position: int) -> int:
    return data[:position].count(b"\n") + 1


# Damage --------------------------------------------------------------------------------------


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mask=st.integers(1, 255))
def test_every_changed_byte_is_noticed_and_its_line_named(journal: Path, mask: int) -> None:
    intact = journal.read_bytes()
    damaged_path = journal.with_name("damaged.jsonl")
    damaged_path.write_bytes(intact)
    with damaged_path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(intact):
            os.pwrite(file.fileno(), bytes([byte ^ mask]), position)
            with pytest.raises(JournalDamagedError, match=r"line \d+ is damaged") as caught:
                read_journal(damaged_path)
            assert caught.value.line_number == line_number_at(intact, position)
            os.pwrite(file.fileno(), bytes([byte]), position)


@pytest.mark.parametrize("mask", [1, 0x80, ord("}") ^ ord("\n")])
def test_the_writer_refuses_a_damaged_journal_and_leaves_it_as_it_is(journal: Path, mask: int) -> None:
    intact = journal.read_bytes()
    for position in (0, len(intact) // 2, len(intact) - 70, len(intact) - 2, len(intact) - 1):
        changed = bytearray(intact)
        changed[position] ^= mask
        journal.write_bytes(changed)
        with pytest.raises(JournalDamagedError):
            JournalWriter(journal)
        assert journal.read_bytes() == changed
    journal.write_bytes(intact)
    JournalWriter(journal).close()


def test_missing_repeated_and_swapped_lines_are_noticed(journal: Path) -> None:
    first, second, third = journal.read_bytes().splitlines(keepends=True)
    for lines, number in (
        ((second, third), 1),
        ((first, third), 2),
        ((first, second, second, third), 3),
        ((first, third, second), 2),
    ):
        journal.write_bytes(b"".join(lines))
        with pytest.raises(JournalDamagedError) as caught:
            read_journal(journal)
        assert caught.value.line_number == number


@pytest.mark.parametrize(
    ("field", "value", "reason", "is_damage"),
    [
        ("v", FORMAT_VERSION + 1, f"format version {FORMAT_VERSION + 1}.* install a newer autohyp$", False),
        ("v", 0, "format version 0 never was", True),
        ("type", "moon_landing", "does not know, 'moon_landing': install a newer autohyp$", False),
        ("seq", 7, "seq 7", True),
        ("data", {"author": 1}, "damaged", True),
    ],
)
def test_a_line_that_this_version_cannot_read_says_so(
    tmp_path: Path, note: Note, field: str, value: object, reason: str, is_damage: bool
) -> None:
    """Hashed properly, so that it is the content that is refused. What is only newer is not damaged, and
    must not be set aside."""
    line, _ = encode_line(1, "2026-01-01", note(1), GENESIS)
    fields = json.loads(line)
    del fields["hash"]
    fields[field] = value
    body = json.dumps(fields, separators=(",", ":")).encode()[:-1]
    path = tmp_path / "journal.jsonl"
    path.write_bytes(body + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n')
    before = path.read_bytes()
    for load in (read_journal, JournalWriter):
        with pytest.raises(JournalError, match=rf"journal.jsonl: line 1 .*{reason}") as caught:
            load(path)
        assert isinstance(caught.value, JournalDamagedError) == is_damage
    assert path.read_bytes() == before


def test_no_journal_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal there"):
        read_journal(tmp_path / "journal.jsonl")


# The torn tail -------------------------------------------------------------------------------


def test_a_tail_torn_anywhere_is_cut_off_and_reported_and_the_next_append_counts(
    journal: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flaw of others: the next append glued to the torn line, and both lost."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a thousand times, and not what this is about
    intact = journal.read_bytes()
    for cut in range(len(intact)):
        kept = intact[: intact.rfind(b"\n", 0, cut) + 1]
        journal.write_bytes(intact[:cut])
        num_whole = kept.count(b"\n")
        assert len(read_journal(journal)) == num_whole, "readers leave the torn line out"
        with JournalWriter(journal) as writer:
            torn = writer.torn_tail
            assert len(writer.entries) == num_whole
            assert (
                (torn.line_number, torn.num_bytes) == (num_whole + 1, cut - len(kept))
                if torn
                else cut == len(kept)
            )
            assert journal.read_bytes() == kept, "repaired before anything is appended"
            writer.append([note(99)])
        entries = read_journal(journal)
        assert len(entries) == num_whole + 1
        assert entries[-1].key == "note-99"


def test_garbage_after_the_last_line_is_cut_off(journal: Path) -> None:
    """A file system may leave zeros where a write was to be."""
    intact = journal.read_bytes()
    journal.write_bytes(intact + b"\0" * 4096)
    with JournalWriter(journal) as writer:
        assert writer.torn_tail is not None
        assert writer.torn_tail.num_bytes == 4096
    assert journal.read_bytes() == intact


def test_an_intact_journal_reports_no_torn_tail(journal: Path) -> None:
    with JournalWriter(journal) as writer:
        assert writer.torn_tail is None
        assert [entry.seq for entry in writer.entries] == [1, 2, 3]


# One writer ----------------------------------------------------------------------------------


def test_a_second_writer_is_refused_until_the_first_is_closed(journal: Path, note: Note) -> None:
    first = JournalWriter(journal)
    with pytest.raises(JournalLockedError, match="another autohyp writes this campaign"):
        JournalWriter(journal)
    first.append([note(3)])
    first.close()
    first.close()
    with JournalWriter(journal) as second:
        assert len(second.entries) == 4


_OTHER_PROCESS = """
import os, pathlib, sys
from autohyp.errors import JournalLockedError
from autohyp.journal import JournalWriter
for line in sys.stdin:
    try:
        JournalWriter(pathlib.Path(line.strip()))
        print("opened", flush=True)
        os._exit(0)  # dies without closing
    except JournalLockedError:
        print("refused", flush=True)
"""


def test_a_writer_in_another_process_is_refused_and_a_dead_one_does_not_block(journal: Path) -> None:
    command = [sys.executable, "-c", _OTHER_PROCESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def ask() -> str:
            print(journal, file=other.stdin, flush=True)
            return other.stdout.readline().strip()

        with JournalWriter(journal):
            assert ask() == "refused"
        assert ask() == "opened"
    JournalWriter(journal).close()


def test_a_refused_open_leaves_no_lock_behind(journal: Path) -> None:
    intact = journal.read_bytes()
    journal.write_bytes(b"x" + intact[1:])
    with pytest.raises(JournalDamagedError):
        JournalWriter(journal)
    journal.write_bytes(intact)
    JournalWriter(journal).close()


# A disk that refuses -------------------------------------------------------------------------


class Disk:
    """Stands in for `os` in the journal: takes `room` more bytes, fails fsync or ftruncate on demand."""

    def __init__(
        self, room: int | None = None, *, fsync_fails: bool = False, truncate_fails: bool = False
    ) -> None:
        self.room, self.fsync_fails, self.truncate_fails = room, fsync_fails, truncate_fails
        self.num_fsyncs = 0

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        if self.room is None:
            return os.write(fd, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(fd, data[: self.room])
        self.room -= written
        return written

    def fsync(self, fd: int) -> None:
        self.num_fsyncs += 1
        if self.fsync_fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fsync(fd)

    def ftruncate(self, fd: int, length: int) -> None:
        if self.truncate_fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.ftruncate(fd, length)


def test_a_full_disk_leaves_nothing_half_written_wherever_it_fills_up(
    journal: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    intact = journal.read_bytes()
    with JournalWriter(journal) as writer:
        for room in range(0, 600, 7):
            with monkeypatch.context() as patch:
                patch.setattr(journal_file, "os", Disk(room))
                with pytest.raises(JournalError, match="No space left on device; nothing of this change"):
                    writer.append([note(3), note(4)])
            assert journal.read_bytes() == intact
        writer.append([note(5)])
    assert [entry.key for entry in read_journal(journal)] == ["campaign", "note-1", "note-2", "note-5"]


def test_a_write_that_comes_in_pieces_is_completed(
    journal: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dribbling(Disk):
        def write(self, fd: int, data: bytes) -> int:
            return os.write(fd, data[:3])

    with JournalWriter(journal) as writer, monkeypatch.context() as patch:
        patch.setattr(journal_file, "os", Dribbling())
        writer.append([note(3)])
    assert read_journal(journal)[-1].key == "note-3"


def test_after_a_failed_fsync_the_writer_refuses_to_go_on(
    journal: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what reached the disk; a later fsync may succeed without it (fsyncgate, 2018)."""
    with JournalWriter(journal) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(journal_file, "os", Disk(fsync_fails=True))
            with pytest.raises(JournalError, match="the disk failed"):
                writer.append([note(3)])
        with pytest.raises(JournalError, match="the disk failed"):
            writer.append([note(4)])


def test_a_half_written_line_that_cannot_be_taken_back_ends_the_writer(
    journal: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JournalWriter(journal) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(journal_file, "os", Disk(room=20, truncate_fails=True))
            with pytest.raises(JournalError, match="nor can what was half-written be taken back"):
                writer.append([note(3)])
        with pytest.raises(JournalError, match="open the journal again"):
            writer.append([note(4)])
    with JournalWriter(journal) as again:
        assert again.torn_tail is not None
        again.append([note(4)])
    assert read_journal(journal)[-1].key == "note-4"


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_an_interrupt_in_the_middle_of_an_append_never_leads_to_a_broken_chain(
    journal: Path, note: Note, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Interrupted(Disk):
        def write(self, fd: int, data: bytes) -> int:
            written = os.write(fd, data)
            if where == "write":
                raise KeyboardInterrupt
            return written

        def fsync(self, fd: int) -> None:
            raise KeyboardInterrupt

    with JournalWriter(journal) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(journal_file, "os", Interrupted())
            with pytest.raises(KeyboardInterrupt):
                writer.append([note(3)])
        with pytest.raises(JournalError, match="interrupted"):
            writer.append([note(4)])
    with JournalWriter(journal) as again:
        again.append([note(4)])
    assert [entry.key for entry in read_journal(journal)][-2:] == ["note-3", "note-4"]


def test_an_event_that_is_no_json_is_refused_and_nothing_is_written(journal: Path, note: Note) -> None:
    intact = journal.read_bytes()
    tool = Tool(tool_id="t", title="t", status=ToolStatus.REQUESTED, problem="p")
    unchecked = tool.model_copy(update={"worth": {"share": float("nan")}})
    with JournalWriter(journal) as writer:
        with pytest.raises(JournalError, match="tool_changed cannot be written as JSON"):
            writer.append([note(3), Draft("nan", ToolChanged.model_construct(tool=unchecked))])
        assert journal.read_bytes() == intact
        assert writer.append([note(4)])[0].seq == 4


def test_a_closed_writer_and_a_folder_in_the_way_are_one_line(
    journal: Path, note: Note, tmp_path: Path
) -> None:
    writer = JournalWriter(journal)
    writer.close()
    with pytest.raises(JournalError):
        writer.append([note(3)])
    with pytest.raises(JournalError, match="was closed"):
        writer.append([note(4)])
    (tmp_path / "folder").mkdir()
    with pytest.raises(JournalError, match="cannot be written: Is a directory"):
        JournalWriter(tmp_path / "folder")
    with pytest.raises(JournalError, match="cannot be read: Is a directory"):
        read_journal(tmp_path / "folder")
    with pytest.raises(JournalError, match="cannot be written: File exists"):
        JournalWriter(journal / "journal.jsonl")


def test_the_lock_is_on_a_file_that_stays(journal: Path, note: Note) -> None:
    """On the journal itself it would go with the first segment that is sealed."""
    lock = journal.with_name("journal.lock")
    before = lock.stat().st_ino
    with JournalWriter(journal, segment_bytes=1) as writer:
        writer.append([note(3)])
        writer.append([note(4)])
        with pytest.raises(JournalLockedError):
            JournalWriter(journal)
    assert lock.stat().st_ino == before
    JournalWriter(journal).close()


def test_a_reader_is_told_when_what_it_read_was_taken_away(journal: Path) -> None:
    reader = JournalReader(journal)
    list(reader.read())
    journal.write_bytes(journal.read_bytes()[:100])
    with pytest.raises(JournalError, match="is shorter than what was read of it"):
        list(reader.read())


def test_all_drafts_of_an_append_share_one_fsync(
    journal: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    with JournalWriter(journal) as writer, monkeypatch.context() as patch:
        patch.setattr(journal_file, "os", disk)
        writer.append([note(number) for number in range(3, 50)])
        assert disk.num_fsyncs == 1


# Following -----------------------------------------------------------------------------------


def test_a_reader_follows_a_live_journal_and_waits_for_whole_lines(journal: Path, note: Note) -> None:
    reader = JournalReader(journal)
    assert [entry.seq for entry in reader.read()] == [1, 2, 3]
    assert list(reader.read()) == []
    with JournalWriter(journal) as writer:
        writer.append([note(3)])
    whole = journal.read_bytes()
    line = whole[reader.offset :]
    journal.write_bytes(whole[:-1])
    assert list(reader.read()) == [], "all but the newline is there: not yet"
    journal.write_bytes(whole)
    assert [entry.key for entry in reader.read()] == ["note-3"]
    assert reader.offset == len(whole)
    assert line.endswith(b"\n")


@settings(max_examples=60)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    author=st.text(max_size=5).filter(lambda text: text.isprintable()),
    ts=st.just("2026-01-01T00:00:00.000Z"),
)
def test_any_text_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, text: str, author: str, ts: str
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    event = NoteWritten(author=author, text=text)
    with JournalWriter(path) as writer:
        [entry] = writer.append([Draft(text, event)], ts)
    assert read_journal(path) == [entry]
    assert entry.event == event
    assert entry.ts == ts


def test_the_line_is_plain_json_with_the_fields_of_the_format(journal: Path) -> None:
    lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
    assert list(lines[0]) == ["v", "seq", "ts", "type", "key", "data", "prev", "hash"]
    assert lines[0]["prev"] == "0" * 64
    assert [line["prev"] for line in lines[1:]] == [line["hash"] for line in lines[:-1]]
