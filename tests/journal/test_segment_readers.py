"""A journal in segments as readers see it: followed, begun anywhere, digested, and every damage named."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autohyp.errors import JournalDamagedError, JournalError
from autohyp.journal import Draft, Entry, JournalWriter, read_journal, segments
from autohyp.journal.file import JournalReader
from autohyp.journal.segments import (
    START,
    Position,
    prefix_digest,
    prefix_hasher,
    sealed_numbers,
    sealed_path,
)

from .conftest import PROPERTY, all_bytes, files_of

Note = Callable[[int], Draft]
pytestmark = pytest.mark.usefixtures("no_fsync")

# Following -----------------------------------------------------------------------------------


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("read"), st.integers(0, 6)),
        st.tuples(st.just("reopen"), st.integers(0, 0)),
        st.tuples(st.just("move"), st.integers(0, 0)),
        st.tuples(st.just("tear"), st.integers(1, 300)),
    ),
    max_size=25,
)


@PROPERTY
@given(steps=STEPS, segment_bytes=st.integers(0, 1500))
def test_any_sequence_of_appends_seals_and_reads_yields_every_entry_once(
    tmp_path_factory: pytest.TempPathFactory, note: Note, steps: list[tuple[str, int]], segment_bytes: int
) -> None:
    """One reader is called now and then, stops anywhere, and is replaced by one that starts at its position;
    the writer is replaced by one that starts at any position it reached."""
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    writer = JournalWriter(path, segment_bytes=segment_bytes)
    reader, reached = JournalReader(path), [START]
    written: list[Entry] = []
    seen: list[Entry] = []
    for action, amount in steps:
        if action == "append":
            written += writer.append([note(len(written) + n) for n in range(amount)])
            reached.append(writer.position)
            assert writer.digest() == prefix_digest(path, writer.position)
        elif action == "read":
            seen += islice(reader.read(), amount)
        elif action == "move":
            reader = JournalReader(path, reader.position)
        else:
            writer.close()
            if action == "tear":
                with path.open("ab") as file:
                    file.write(b'{"v":' + b"x" * amount)
                seen += list(reader.read())
            start = reached[len(written) % len(reached)]
            writer = JournalWriter(path, start=start, segment_bytes=segment_bytes)
            assert writer.entries == written[start.seq :]
            assert (writer.torn_tail is not None) == (action == "tear")
            assert writer.digest() == prefix_digest(path, writer.position)
    seen += list(reader.read())
    writer.close()
    assert seen == written == read_journal(path)
    assert reader.position.seq == len(written)


def test_a_writer_between_any_two_steps_of_a_reader_is_followed(
    tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It seals one segment, or two, between looking for a file and opening it, or listing the folder."""
    path = tmp_path / "journal.jsonl"
    writer = JournalWriter(path, segment_bytes=1)
    written: list[Entry] = []
    seen: list[Entry] = []
    chance = random.Random(4)

    def write_some() -> None:
        for _ in range(chance.choice((0, 0, 1, 2, 3))):
            written.extend(writer.append([note(len(written))]))

    @contextmanager
    def writing_before(name: str) -> Iterator[None]:
        real = getattr(segments, name)

        def call(*arguments: object) -> object:
            write_some()
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(segments, name, call)
            yield

    write_some()
    reader = JournalReader(path)
    with writing_before("_open"), writing_before("sealed_numbers"), writing_before("sealed_path"):
        while len(written) < 150:
            seen += islice(reader.read(), chance.randint(0, 20))
    seen += list(reader.read())
    writer.close()
    assert seen == written


def test_readers_in_threads_follow_a_writer_that_seals_all_the_time(tmp_path: Path, note: Note) -> None:
    path, total, deadline = tmp_path / "journal.jsonl", 400, time.monotonic() + 60
    writer = JournalWriter(path, segment_bytes=700)
    seen: list[list[int]] = [[], []]
    problems: list[Exception] = []

    def follow(mine: list[int]) -> None:
        reader = JournalReader(path)
        try:
            while len(mine) < total and time.monotonic() < deadline:
                mine.extend(entry.seq for entry in reader.read())
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=follow, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    for number in range(total):
        writer.append([note(number)])
    for thread in threads:
        thread.join()
    writer.close()
    assert problems == []
    assert seen == [list(range(1, total + 1))] * 2
    assert len(sealed_numbers(path)) > 50


# Damage --------------------------------------------------------------------------------------


def test_every_changed_byte_in_every_segment_is_noticed_and_its_file_and_line_named(segmented: Path) -> None:
    chance = random.Random(1)
    for file in files_of(segmented):
        intact = file.read_bytes()
        file.chmod(0o644)
        for position in range(0, len(intact), 3):
            changed = bytearray(intact)
            changed[position] ^= chance.randint(1, 255)
            file.write_bytes(changed)
            line = intact[:position].count(b"\n") + 1
            with pytest.raises(JournalDamagedError, match=rf"{file.name}: line {line} is damaged") as caught:
                read_journal(segmented)
            assert caught.value.line_number == line
        file.write_bytes(intact)
    assert len(read_journal(segmented)) == 11


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_reader_that_starts_in_the_middle_names_the_same_line(segmented: Path, line: int) -> None:
    reader = JournalReader(segmented)
    positions = [reader.position, *(reader.position for _ in reader.read())]
    file = sealed_path(segmented, 2)
    lines = file.read_bytes().splitlines(keepends=True)
    file.chmod(0o644)
    file.write_bytes(b"".join([*lines[: line - 1], lines[line - 1].replace(b"fact", b"fict"), *lines[line:]]))
    for start in positions[: 3 + line]:
        with pytest.raises(JournalDamagedError, match=rf"journal.000002.jsonl: line {line} is damaged"):
            list(JournalReader(segmented, start).read())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing 0", "journal.jsonl: line 1 is damaged: the whole file is missing"),
        ("missing 1", "journal.000001.jsonl: line 1 is damaged: the whole file is missing"),
        ("missing 2", "journal.000002.jsonl: line 1 is damaged: the whole file is missing"),
        (
            "missing 3",
            "journal.jsonl: line 1 .* seq 10 where 7 belongs.*journal.000003.jsonl is missing, or the end of",
        ),
        ("swapped 1 2", "journal.000001.jsonl: line 1 .* says seq 4 where 1 belongs"),
        (
            "swapped 2 3",
            r"journal.000002.jsonl: line 1 .* says seq 7 .*\(or the end of journal.000001.jsonl is\)",
        ),
        (
            "cut 1",
            "journal.000002.jsonl: line 1 .* says seq 4 where 3 belongs.*the end of journal.000001.jsonl",
        ),
        ("cut 3", "journal.jsonl: line 1 .* says seq 10 where 9 belongs.*the end of journal.000003.jsonl"),
        ("torn 2", "journal.000002.jsonl: line 3 is damaged: it is not whole"),
        ("empty 2", "journal.000003.jsonl: line 1 .* the end of journal.000002.jsonl"),
        ("twice 2", "journal.000003.jsonl: line 1 .* says seq 4 where 7 belongs"),
    ],
)
def test_a_segment_that_is_missing_swapped_or_cut_is_named(
    segmented: Path, change: str, message: str
) -> None:
    what, first, *rest = change.split()
    file = sealed_path(segmented, int(first)) if int(first) else segmented
    file.chmod(0o644)
    content = file.read_bytes()
    end = content.rindex(b"\n", 0, -1) + 1
    if what == "missing":
        file.unlink()
    elif what == "swapped":
        other = sealed_path(segmented, int(rest[0]))
        file.rename(other.with_suffix(".tmp"))
        other.rename(file)
        other.with_suffix(".tmp").rename(other)
    elif what == "twice":
        sealed_path(segmented, 3).unlink()
        sealed_path(segmented, 3).write_bytes(content)
    else:
        file.write_bytes({"cut": content[:end], "torn": content[:-9], "empty": b""}[what])
    before = {name: name.read_bytes() for name in files_of(segmented)}
    for load in (read_journal, JournalWriter):
        with pytest.raises(JournalDamagedError, match=message):
            load(segmented)
    assert {name: name.read_bytes() for name in files_of(segmented)} == before


def test_without_any_segment_there_is_no_journal(segmented: Path) -> None:
    reader = JournalReader(segmented)
    list(reader.read())
    for file in files_of(segmented):
        file.unlink()
    for read in (reader.read, JournalReader(segmented).read):
        with pytest.raises(JournalError, match="no journal there"):
            list(read())


# Positions and digests -----------------------------------------------------------------------


def test_a_reader_may_start_after_any_line(segmented: Path) -> None:
    reader = JournalReader(segmented)
    positions = [START]
    for _ in reader.read():
        positions.append(reader.position)
    everything = read_journal(segmented)
    assert [position.seq for position in positions] == list(range(12))
    for position in positions:
        assert list(JournalReader(segmented, position).read()) == everything[position.seq :]


def test_the_digest_covers_every_byte_before_a_position_and_none_after(segmented: Path) -> None:
    reader, before = JournalReader(segmented), all_bytes(segmented)
    positions = [reader.position for entry in reader.read() if entry.seq % 2 == 0]
    lengths = [len(b"".join(before.splitlines(keepends=True)[: position.seq])) for position in positions]
    digests = [prefix_digest(segmented, position) for position in positions]
    assert digests == [hashlib.sha256(before[:length]).hexdigest() for length in lengths]
    begin = 0
    for file in files_of(segmented):
        intact = file.read_bytes()
        file.chmod(0o644)
        for offset in range(0, len(intact), 41):
            file.write_bytes(intact[:offset] + bytes([intact[offset] ^ 1]) + intact[offset + 1 :])
            noticed = [
                prefix_digest(segmented, position) != digest
                for position, digest in zip(positions, digests, strict=True)
            ]
            assert noticed == [begin + offset < length for length in lengths]
        file.write_bytes(intact)
        begin += len(intact)


def test_a_prefix_that_is_not_all_there_has_no_digest(segmented: Path) -> None:
    reader = JournalReader(segmented)
    list(reader.read())
    end = reader.position
    with pytest.raises(JournalError, match=r"5 of .* bytes are missing"):
        prefix_digest(segmented, Position(end.segment, end.offset + 5, end.seq, end.hash))
    sealed_path(segmented, 2).unlink()
    with pytest.raises(JournalError, match=r"journal.000002.jsonl: missing"):
        prefix_digest(segmented, end)


def test_opening_at_a_position_reads_only_what_comes_after_it(segmented: Path, note: Note) -> None:
    reader = JournalReader(segmented)
    position = next(reader.position for entry in reader.read() if entry.seq == 5)
    hasher = prefix_hasher(segmented, position)
    before = hasher.hexdigest()
    first = sealed_path(segmented, 1)
    intact = first.read_bytes()
    first.chmod(0o644)
    first.write_bytes(b"not looked at")
    with JournalWriter(segmented, start=position, hasher=hasher, segment_bytes=1) as writer:
        assert [entry.seq for entry in writer.entries] == [6, 7, 8, 9, 10, 11]
        writer.append([note(12)])
        first.write_bytes(intact)
        assert writer.digest() == hashlib.sha256(all_bytes(segmented)).hexdigest()
        assert writer.position == Position(5, segmented.stat().st_size, 12, read_journal(segmented)[-1].hash)
    assert hasher.hexdigest() == before, "the caller's own is left alone"


def test_the_lock_and_other_files_are_no_segments(segmented: Path) -> None:
    for name in (
        "journal.damaged-1.jsonl",
        "journal.snapshot",
        "journal.0001.jsonl",
        "xjournal.000009.jsonl",
    ):
        segmented.with_name(name).write_text("")
    assert sealed_numbers(segmented) == [1, 2, 3]
    assert sealed_path(segmented, 1234567).name == "journal.1234567.jsonl"
