"""The journal on disk: append-only, hash-chained, fsynced, one writer, in segments.

Guarantees: `append` returns after the lines are on disk (fsync), so what was acknowledged survives a
crash of process and machine; a line that was being written when the machine died is cut off on the next
open and reported; damage anywhere else, a segment that is missing or in another's place included, refuses to
load and names file and line; a second writer is refused. Readers need no lock and may follow a live journal
across segments. Lines of older versions are read through `migrations`. Not covered: a disk that loses what it
acknowledged, and whole lines taken away at the very end, which no line after them vouches for.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from autohyp.errors import JournalDamagedError, JournalError, JournalWriteError
from autohyp.journal.events import Draft, Entry, LineOutOfPlaceError, decode_line, encode_line
from autohyp.journal.migrations import NewerFormatError
from autohyp.journal.segments import (
    START,
    Position,
    Segment,
    first_missing,
    open_segment,
    prefix_hasher,
    sealed_numbers,
    sealed_path,
    take_lock,
    unfinished_seal,
)
from autohyp.records import utc_now

if TYPE_CHECKING:
    from hashlib import _Hash as Hasher

__all__ = [
    "SEGMENT_BYTES",
    "JournalReader",
    "JournalWriter",
    "TornTail",
    "collector_paused",
    "fsync_directory",
    "read_journal",
]

SEGMENT_BYTES = 64 << 20
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


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
    """Reads entries from `start` and, called again, those that came since; never writes.

    Bytes after the last newline are a line being written, or a torn one: they are left for the next call.
    A `hasher` is fed every line that was read.
    """

    def __init__(self, path: Path, start: Position = START, hasher: Hasher | None = None) -> None:
        self.path = path
        self.file = path
        self.segment, self.offset = start.segment, start.offset
        self.last_seq, self.last_hash = start.seq, start.hash
        self._hasher = hasher

    @property
    def position(self) -> Position:
        """After the last line read; another reader may start there."""
        return Position(self.segment, self.offset, self.last_seq, self.last_hash)

    def read(self) -> Iterator[Entry]:
        """New entries in order.

        Raises JournalDamagedError, and JournalError when there is no such journal, it cannot be read, or
        only a newer autohyp can read it.
        """
        while True:
            segment = self._open()
            with segment.file as file:
                try:
                    for line in file:
                        if not line.endswith(b"\n"):
                            self._check_tail(line, segment.is_sealed)
                            return
                        yield self._entry(line)
                except OSError as error:
                    raise JournalError(f"{self.file}: cannot be read: {error.strerror}") from None
            if not segment.is_sealed:
                return
            self.segment, self.offset = self.segment + 1, 0

    def refuse(self, reason: str) -> JournalDamagedError:
        """The error for an entry just yielded that cannot follow what came before."""
        number = self._line_number() - 1
        return JournalDamagedError(
            f"{self.file}: line {number} cannot follow what came before: {reason}; "
            "`autohyp doctor` shows what can be saved",
            number,
        )

    def _open(self) -> Segment:
        """The segment to go on in, at the right place."""
        segment = open_segment(self.path, self.segment)
        try:
            return self._at_place(segment)
        except BaseException:
            if segment is not None:
                segment.file.close()
            raise

    def _at_place(self, segment: Segment | None) -> Segment:
        self.file = segment.path if segment else self.path
        lost = None if segment and segment.is_sealed else first_missing(self.path, self.segment)
        if lost or segment is None:
            self.file, self.offset = lost or self.path, 0
            raise self._damage("the whole file is missing")
        if os.fstat(segment.file.fileno()).st_size < self.offset:
            raise JournalError(
                f"{self.file}: is shorter than what was read of it; read it again from the start"
            )
        segment.file.seek(self.offset)
        return segment

    def _check_tail(self, tail: bytes, is_sealed: bool) -> None:
        """A line that is whole but for its last byte was acknowledged once: its newline was damaged."""
        if is_sealed:
            raise self._damage("it is not whole")
        try:
            decode_line(tail[:-1], self.last_seq + 1, self.last_hash)
        except ValueError:
            return
        raise self._damage("it does not end in a newline")

    def _line_number(self) -> int:
        """Of the line at `offset`, within its file; counted only when somebody asks."""
        number, remaining = 1, self.offset
        with suppress(OSError), self.file.open("rb") as file:
            while chunk := file.read(min(remaining, 1 << 20)):
                number += chunk.count(b"\n")
                remaining -= len(chunk)
        return number

    def _damage(self, reason: str) -> JournalDamagedError:
        number = self._line_number()
        return JournalDamagedError(
            f"{self.file}: line {number} is damaged: {reason}; `autohyp doctor` shows what can be saved",
            number,
        )

    def _entry(self, line: bytes) -> Entry:
        number = self.last_seq + 1
        try:
            entry = decode_line(line[:-1], number, self.last_hash)
        except NewerFormatError as error:
            place = f"{self.file}: line {self._line_number()}"
            raise JournalError(f"{place} {error}: install a newer autohyp") from None
        except LineOutOfPlaceError as error:
            raise self._damage(f"{error}{self._suspects()}") from None
        except ValueError as error:
            raise self._damage(" ".join(str(error).split())[:200]) from None
        if self._hasher is not None:
            self._hasher.update(line)
        self.offset += len(line)
        self.last_seq, self.last_hash = number, entry.hash
        return entry

    def _suspects(self) -> str:
        """The files to look at when a segment does not begin where the one before it ended."""
        if self.offset:
            return ""
        names = [] if self.file != self.path else [f"{sealed_path(self.path, self.segment).name} is missing"]
        if self.segment > 1:
            names.append(f"the end of {sealed_path(self.path, self.segment - 1).name} is")
        return f" (or {', or '.join(names)})" if names else ""


def read_journal(path: Path) -> list[Entry]:
    """All entries of a journal; an unfinished last line is left out."""
    with collector_paused():
        return list(JournalReader(path).read())


class JournalWriter:
    """The one writer of a journal; opening repairs a torn tail and leaves `entries` to replay.

    With a `start`, the lines before it are not read: `hasher` must be `prefix_hasher(path, start)`, made and
    compared by the caller (without one it is made here and compared with nothing).
    """

    def __init__(
        self,
        path: Path,
        *,
        start: Position = START,
        hasher: Hasher | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.path = path
        self._segment_bytes = segment_bytes
        self._fd = -1
        self._lock_fd = take_lock(path)
        try:
            self._open_current()
            self._hasher = prefix_hasher(path, start) if hasher is None else hasher.copy()
            reader = JournalReader(path, start, self._hasher)
            with collector_paused():
                self.entries = list(reader.read())
            self._segment, self._size = reader.segment, reader.offset
            self._seq, self._hash = reader.last_seq, reader.last_hash
            self.torn_tail = self._repair()
            fsync_directory(path.parent)
        except BaseException:
            self.close()
            raise
        self._broken: str | None = None

    @property
    def position(self) -> Position:
        """The end of what is durable."""
        return Position(self._segment, self._size, self._seq, self._hash)

    def digest(self) -> str:
        """`prefix_digest(path, position)` without reading anything."""
        return self._hasher.hexdigest()

    def _open_current(self) -> None:
        """Open the segment to write, begin the first one; a seal that a crash left unfinished is undone."""
        try:
            if (second_name := unfinished_seal(self.path)) is not None:
                second_name.unlink()
            self._fd = os.open(self.path, _FLAGS if sealed_numbers(self.path) else _FLAGS | os.O_CREAT, 0o644)
        except FileNotFoundError:
            raise JournalDamagedError(
                f"{self.path}: line 1 is damaged: the whole file is missing; `autohyp doctor` shows what can "
                "be saved",
                1,
            ) from None
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be written: {error.strerror}") from None

    def _repair(self) -> TornTail | None:
        torn = os.fstat(self._fd).st_size - self._size
        if torn:
            os.ftruncate(self._fd, self._size)
        # Whole lines may be there that a killed writer never fsynced: whoever sends one again is told that it
        # is recorded, so it must be.
        os.fsync(self._fd)
        return TornTail(self._seq + 1, torn) if torn else None

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
        # Before a line and not after one: so every sealed segment is followed by a line that vouches for its
        # end.
        if self._size > self._segment_bytes:
            self._seal()
        try:
            written = 0
            while written < len(payload):
                written += os.write(self._fd, payload[written:])
        except OSError as error:
            self._take_back(error)
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._give_up(error)
        self._hasher.update(payload)
        self._size += len(payload)
        self._broken = None

    def _give_up(self, error: OSError) -> NoReturn:
        self._broken = f"{self.path}: the disk failed ({error.strerror}); start again from a healthy one"
        raise JournalError(self._broken) from None

    def _seal(self) -> None:
        """Name the full segment, then give its old name to a new one. What the disk refuses is put off, and
        the segment grows longer: a file system may know no links, a folder take no new names."""
        sealed = sealed_path(self.path, self._segment)
        try:
            os.link(self.path, sealed)
        except OSError:
            return
        try:
            following = self._begin_segment()
        except OSError as error:
            self._unseal(sealed, error)
            return
        with suppress(OSError):  # against mistakes only
            os.fchmod(self._fd, 0o444)
        os.close(self._fd)
        self._fd, self._segment, self._size = following, self._segment + 1, 0
        self._fsync_folder()

    def _unseal(self, sealed: Path, error: OSError) -> None:
        try:
            os.unlink(sealed)
        except OSError:
            self._give_up(error)

    def _begin_segment(self) -> int:
        name = self.path.with_name(f".{self.path.name}.next")
        fd = os.open(name, _FLAGS | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            # A power cut must not keep the old name's new file without the new name of the old file.
            self._fsync_folder()
            os.rename(name, self.path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _fsync_folder(self) -> None:
        try:
            fsync_directory(self.path.parent)
        except OSError as error:
            self._give_up(error)

    def _take_back(self, error: OSError) -> NoReturn:
        problem = f"{self.path}: cannot be written: {error.strerror}"
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._broken = f"{problem}; nor can what was half-written be taken back: open the journal again"
            raise JournalWriteError(self._broken) from None
        self._broken = None
        raise JournalWriteError(f"{problem}; nothing of this change was recorded") from None

    def close(self) -> None:
        """Give up the lock; idempotent."""
        self._broken = f"{self.path}: the journal was closed; open it again"
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def fsync_directory(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
