"""The files of a journal: one being written, and those that were full and sealed before it.

`journal.jsonl` is always the segment being written. When it is long enough it gets the name
`journal.000001.jsonl` (the next number), and then an empty file takes its place; a sealed segment never
changes again. Sequence numbers and the hash chain go on across segments. `journal.lock` beside them belongs
to the one writer. A file with both names is one whose sealing was not finished: it is still being written. So
there is a `journal.jsonl` at every moment, and one that is not there was taken away.

Guarantees: `open_segment` returns the segment of that number, also while a writer seals; `prefix_digest`
covers every byte before a position. Not covered: what the lines say (`file`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from autohyp.errors import JournalError, JournalLockedError
from autohyp.journal.events import GENESIS

if TYPE_CHECKING:
    from hashlib import _Hash as Hasher

__all__ = [
    "START",
    "Position",
    "Segment",
    "first_missing",
    "lock_path",
    "open_segment",
    "prefix_digest",
    "prefix_hasher",
    "sealed_numbers",
    "sealed_path",
    "take_lock",
    "unfinished_seal",
]

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Position:
    """A place between two lines: in segment `segment` (from 1) after `offset` bytes; `seq` and `hash` are
    those of the line before."""

    segment: int
    offset: int
    seq: int
    hash: str


START = Position(1, 0, 0, GENESIS)


@dataclass(frozen=True)
class Segment:
    """An open segment; one that `is_sealed` has its last line."""

    path: Path
    file: BinaryIO
    is_sealed: bool


def sealed_path(path: Path, number: int) -> Path:
    """Where segment `number` of the journal at `path` is once it is sealed."""
    return path.with_name(f"{path.stem}.{number:06d}{path.suffix}")


def lock_path(path: Path) -> Path:
    """The file whose lock the writer holds; it is never removed."""
    return path.with_suffix(".lock")


def sealed_numbers(path: Path) -> list[int]:
    """The numbers of the sealed segments there are, ascending."""
    numbers = _numbers(path)
    return numbers[:-1] if numbers and _same_file(sealed_path(path, numbers[-1]), path) else numbers


def unfinished_seal(path: Path) -> Path | None:
    """The second name of the segment being written, when a crash left it with two."""
    numbers = _numbers(path)
    last = sealed_path(path, numbers[-1]) if numbers else path
    return last if last != path and _same_file(last, path) else None


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


def _numbers(path: Path) -> list[int]:
    name = re.compile(rf"{re.escape(path.stem)}\.(\d{{6,}}){re.escape(path.suffix)}")
    try:
        matches = [name.fullmatch(entry.name) for entry in path.parent.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in matches if match)


def open_segment(path: Path, number: int) -> Segment | None:
    """Open segment `number`, None when it is missing; all before it are taken to be sealed.

    Raises JournalError when there is no journal at all, or when it cannot be read.
    """
    # In this order: `path` is this segment when it is opened, unless it is sealed already afterwards.
    current, name = _open(path), sealed_path(path, number)
    try:
        sealed = _open(name)
    except BaseException:
        if current is not None:
            current.close()
        raise
    if current is not None and (sealed is None or _is_one(current, sealed)):
        if sealed is not None:
            sealed.close()
        return Segment(path, current, is_sealed=False)
    if current is not None:
        current.close()
    if sealed is not None:
        return Segment(name, sealed, is_sealed=True)
    if not _numbers(path):
        raise JournalError(f"{path}: no journal there")
    return None


def _is_one(one: BinaryIO, other: BinaryIO) -> bool:
    return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
    except PermissionError:
        raise JournalError(f"{path}: not readable by this user") from None
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}") from None


def first_missing(path: Path, number: int) -> Path | None:
    """The sealed file whose absence makes it impossible that segment `number` is the one being written."""
    numbers = sealed_numbers(path)
    if number > 1 and number - 1 not in numbers:
        return sealed_path(path, number - 1)
    sealed = sealed_path(path, number)
    # Asked again after listing: a writer may have sealed it, and the next one, since it was looked for.
    return sealed if any(later > number for later in numbers) and not sealed.exists() else None


def prefix_hasher(path: Path, position: Position) -> Hasher:
    """SHA-256 over all bytes of the journal before `position`, ready to go on with those after it.

    Raises JournalError when they are not all there. The interpreter is free for other threads meanwhile.
    """
    hasher = hashlib.sha256()
    for number in range(1, position.segment):
        _hash_segment(hasher, path, number, None)
    if position.offset:
        _hash_segment(hasher, path, position.segment, position.offset)
    return hasher


def prefix_digest(path: Path, position: Position) -> str:
    """`prefix_hasher` as 64 hexadecimal digits."""
    return prefix_hasher(path, position).hexdigest()


def _hash_segment(hasher: Hasher, path: Path, number: int, num_bytes: int | None) -> None:
    """Add a segment's first `num_bytes`; None is all of a sealed one."""
    segment = open_segment(path, number)
    if segment is None:
        raise JournalError(f"{path}: segment {number} is missing")
    with segment.file as file:
        if num_bytes is None and not segment.is_sealed:
            raise JournalError(f"{sealed_path(path, number)}: missing")
        remaining = num_bytes
        while chunk := file.read(_CHUNK_BYTES if remaining is None else min(_CHUNK_BYTES, remaining)):
            hasher.update(chunk)
            remaining = None if remaining is None else remaining - len(chunk)
    if remaining:
        raise JournalError(f"{segment.path}: {remaining} of {num_bytes} bytes are missing")


def take_lock(path: Path) -> int:
    """Lock the journal at `path` for writing; closing the returned descriptor, or dying, unlocks it.

    Raises JournalLockedError when another process, or another writer in this one, holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise JournalError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise JournalLockedError(
            f"{path}: another autohyp writes this campaign; `autohyp stop` ends it"
        ) from None
    except OSError as error:
        os.close(fd)
        raise JournalError(f"{lock_path(path)}: cannot be locked: {error.strerror}") from None
    return fd
