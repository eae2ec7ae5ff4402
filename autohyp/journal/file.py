"""The journal on disk: append-only, hash-chained, fsynced, one writer.

Guarantees: `append` returns after the lines are on disk (fsync), so what was acknowledged survives a
crash of process and machine; a line that was being written when the machine died is cut off on the next
open and reported; damage anywhere else refuses to load and names the line; a second writer is
refused. Readers need no lock and may follow a live journal. Not covered: a disk that loses
what it acknowledged.
"""

from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from autohyp.errors import JournalDamagedError, JournalError, JournalLockedError
from autohyp.journal.events import GENESIS, Draft, Entry, decode_line, encode_line
from autohyp.records import utc_now

__all__ = ["JournalReader", "JournalWriter", "TornTail", "collector_paused", "read_journal"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection within: a long journal becomes millions of objects, none of them garbage, and
    looking through them again and again took more than half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class TornTail:
    """The unfinished last line that was cut off on opening: it was never acknowledged."""

    line_number: int
    num_bytes: int


class JournalReader:
    """Reads entries from the start and, called again, those that came since; never writes.

    Bytes after the last newline are a line being written, or a torn one: they are left for the next call.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.last_seq = 0
        self.last_hash = GENESIS

    def read(self) -> Iterator[Entry]:
        """New entries in order. Raises JournalDamagedError, JournalError when there is no such file."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        self._check_tail(line)
                        return
                    yield self._entry(line)
        except FileNotFoundError:
            raise JournalError(f"{self.path}: no journal there") from None
        except PermissionError:
            raise JournalError(f"{self.path}: not readable by this user") from None

    def _check_tail(self, tail: bytes) -> None:
        """A line that is whole but for its last byte was acknowledged once: its newline was damaged."""
        try:
            decode_line(tail[:-1], self.last_seq + 1, self.last_hash)
        except ValueError:
            return
        raise self._damage("it does not end in a newline")

    def _damage(self, reason: str) -> JournalDamagedError:
        number = self.last_seq + 1
        return JournalDamagedError(
            f"{self.path}: line {number} is damaged: {reason}; `autohyp doctor` shows what can be saved",
            number,
        )

    def _entry(self, line: bytes) -> Entry:
        number = self.last_seq + 1
        try:
            entry = decode_line(line[:-1], number, self.last_hash)
        except ValueError as error:
            raise self._damage(" ".join(str(error).split())[:200]) from None
        self.offset += len(line)
        self.last_seq, self.last_hash = number, entry.hash
        return entry


def read_journal(path: Path) -> list[Entry]:
    """All entries of a journal; an unfinished last line is left out."""
    with collector_paused():
        return list(JournalReader(path).read())


class JournalWriter:
    """The one writer of a journal; opening repairs a torn tail and leaves `entries` to replay."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JournalError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            self._lock()
            reader = JournalReader(path)
            with collector_paused():
                self.entries = list(reader.read())
            self._seq, self._hash = reader.last_seq, reader.last_hash
            self.torn_tail = self._repair(reader.offset)
            _fsync_directory(path.parent)
        except BaseException:
            os.close(self._fd)
            raise
        self._size = reader.offset
        self._broken: str | None = None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalLockedError(
                f"{self.path}: another autohyp writes this campaign; `autohyp stop` ends it"
            ) from None

    def _repair(self, intact_bytes: int) -> TornTail | None:
        torn = os.fstat(self._fd).st_size - intact_bytes
        if not torn:
            return None
        os.ftruncate(self._fd, intact_bytes)
        os.fsync(self._fd)
        return TornTail(self._seq + 1, torn)

    def append(self, drafts: Sequence[Draft], ts: str | None = None) -> list[Entry]:
        """Write all drafts with one fsync; on return they are durable.

        When the disk refuses, what was half-written is taken back and JournalError is raised. After a failed
        fsync nobody knows what reached the disk, so the writer then refuses all further appends.
        """
        if self._broken:
            raise JournalError(self._broken)
        seq, previous, ts = self._seq, self._hash, ts or utc_now()
        lines, entries = [], []
        for draft in drafts:
            seq += 1
            try:
                line, previous = encode_line(seq, ts, draft, previous)
            except ValueError as error:
                raise JournalError(f"{draft.event.type} cannot be written as JSON: {error}") from None
            lines.append(line)
            entries.append(Entry(seq, ts, draft.key, draft.event, previous))
        self._write(b"".join(lines))
        self._seq, self._hash = seq, previous
        return entries

    def _write(self, payload: bytes) -> None:
        # Until all is done: whatever interrupts this leaves a writer that refuses to go on.
        self._broken = f"{self.path}: an earlier write was interrupted; open the journal again"
        try:
            written = 0
            while written < len(payload):
                written += os.write(self._fd, payload[written:])
        except OSError as error:
            self._take_back(error)
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._broken = f"{self.path}: the disk failed ({error.strerror}); start again from a healthy one"
            raise JournalError(self._broken) from None
        self._size += len(payload)
        self._broken = None

    def _take_back(self, error: OSError) -> NoReturn:
        problem = f"{self.path}: cannot be written: {error.strerror}"
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._broken = f"{problem}; nor can what was half-written be taken back: open the journal again"
            raise JournalError(self._broken) from None
        self._broken = None
        raise JournalError(f"{problem}; nothing of this change was recorded") from None

    def close(self) -> None:
        """Give up the lock; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
