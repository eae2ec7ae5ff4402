"""What is wrong with a journal, and setting the damaged rest aside.

A journal is damaged where a line is not what was written (its hash says so) or cannot follow from the lines
before. Everything up to there is intact and is kept; repairing moves the rest, bytes unchanged, into
`journal.damaged-<n>.jsonl` beside it. An unfinished last line is no damage: it was never acknowledged, and
the next driver cuts it off.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from autohyp.errors import JournalDamagedError, JournalError, JournalLockedError
from autohyp.journal.file import JournalReader
from autohyp.journal.state import CampaignState

__all__ = ["JournalHealth", "inspect_journal", "repair_journal"]


@dataclass(frozen=True)
class JournalHealth:
    """What a journal holds; `damaged_line` counts from 1 and is None when all is well."""

    num_intact: int
    intact_bytes: int
    total_bytes: int
    damaged_line: int | None = None
    reason: str = ""
    num_lost_lines: int = 0

    @property
    def torn_bytes(self) -> int:
        """Bytes of an unfinished last line."""
        return 0 if self.damaged_line is not None else self.total_bytes - self.intact_bytes


def inspect_journal(path: Path) -> JournalHealth:
    """Read the whole journal; raises JournalError when it cannot be read at all."""
    reader, state = JournalReader(path), CampaignState()
    intact_bytes = 0
    try:
        for entry in reader.read():
            _apply(path, state, entry)
            intact_bytes = reader.offset
    except JournalDamagedError as error:
        rest = _read_from(path, intact_bytes)
        return JournalHealth(
            num_intact=state.version,
            intact_bytes=intact_bytes,
            total_bytes=intact_bytes + len(rest),
            damaged_line=error.line_number,
            reason=str(error),
            num_lost_lines=len(rest.splitlines()),
        )
    return JournalHealth(state.version, intact_bytes, path.stat().st_size)


def _apply(path: Path, state: CampaignState, entry: object) -> None:
    try:
        state.apply(entry)  # type: ignore[arg-type]
    except JournalError as error:
        line = state.version + 1
        raise JournalDamagedError(
            f"{path}: line {line} cannot follow what came before: {error}", line
        ) from None


def _read_from(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def repair_journal(path: Path) -> tuple[JournalHealth, Path | None]:
    """Set the damaged rest aside; returns what was found and the new file, None when there was no damage.

    The rest is on disk under its new name before the journal is cut, so that a crash in between loses
    nothing. Raises JournalLockedError while a campaign runs on this journal.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise JournalError(f"{path}: cannot be repaired: {error.strerror}") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalLockedError(f"{path}: the campaign is running; `autohyp stop` ends it") from None
        health = inspect_journal(path)
        if health.damaged_line is None:
            return health, None
        aside = _set_aside(path, _read_from(path, health.intact_bytes))
        os.ftruncate(fd, health.intact_bytes)
        os.fsync(fd)
        return health, aside
    finally:
        os.close(fd)


def _set_aside(path: Path, rest: bytes) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    with aside.open("xb") as file:
        file.write(rest)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return aside
